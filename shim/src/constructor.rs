//! Before `main`, and what the hooks look up once.

use core::ffi::{c_char, c_int, c_void};
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use rustix::fs::OFlags;
use rustix::mm::{MapFlags, ProtFlags};
use snapshim::drain::place_of;
use snapshim::origin::Place;
use snapshim::raw;

use crate::base::arena;
use crate::base::config::config;
use crate::base::mmap_call::Mmap;
use crate::process::log::{Level, say};
use crate::process::{identity, thread};
use crate::{hooks, interpose};

#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn(c_int, *mut *mut c_char, *mut *mut u8) = construct;

extern "C" fn construct(_: c_int, _: *mut *mut c_char, environment: *mut *mut u8) {
    let _signals = raw::SignalsBlocked::new();
    // Where the vDSO is, as the program was told and not as the kernel would say: valgrind takes it away and tells the program so.
    // Until then the time is asked by system call.
    // SAFETY: glibc gives constructors what the kernel, or who stands in for it, put on the stack: the auxiliary vector follows.
    unsafe { rustix::param::init(environment) };
    interpose::detours::lead_on(hooks::outer_doors());
    if config().is_disabled {
        interpose::detours::lead_on(hooks::doors());
        return;
    }
    arena::reserve();
    if !interpose::detours::open(hooks::doors(), hooks::mmap::INSIDE) {
        see_libc_otherwise();
    }
    hooks::aio::io_uring::filter();
    thread::watch_ends();
    identity::note_pid();
    identity::join_if_in_use();
}

/// libc's code cannot be patched: its own calls come in by other ways, as far as there are any.
fn see_libc_otherwise() {
    interpose::note_libc_unseen();
    let stdio_comes_in = interpose::stdio_vtables::open(hooks::stdio::vtable::DOORS);
    let (level, what) = match (stdio_comes_in, interpose::stdio_vtables::carry_dprintf()) {
        (true, true) => (Level::Info, "stdio is seen through its tables"),
        (true, false) => (
            Level::Warn,
            "stdio is seen through its tables; what dprintf writes to files is NOT held back from others' snapshots",
        ),
        (false, _) => (
            Level::Warn,
            "nor are the tables of stdio known; what stdio writes to files is NOT held back from others' snapshots",
        ),
    };
    say!(
        level,
        "process {}: libc's code cannot be patched here (SELinux or MemoryDenyWriteExecute); {what}",
        raw::own_pid()
    );
}

/// A page that cannot be read: what process_vm_writev(2) is told to copy from.
pub fn unreadable_page() -> *const c_void {
    static PAGE: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
    let page = PAGE.load(Ordering::Acquire);
    if !page.is_null() {
        return page;
    }
    let made = arena::unreadable_page().ok_or(()).or_else(|()| {
        // SAFETY: a new mapping at an address that the kernel chooses.
        unsafe {
            rustix::mm::mmap_anonymous(ptr::null_mut(), snapshim::PAGE as usize, ProtFlags::empty(), MapFlags::PRIVATE)
        }
    });
    let Ok(made) = made else { return ptr::without_provenance(usize::MAX & !0xfff) };
    match PAGE.compare_exchange(ptr::null_mut(), made, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => made,
        Err(first) => first,
    }
}

/// Lets processes of the same user unshare our pages where Yama would keep them from it (PR_SET_PTRACER, prctl(2)).
pub fn allow_access() {
    const PR_SET_PTRACER: usize = 0x5961_6d61;
    // SAFETY: the arguments are values; without Yama the kernel answers EINVAL.
    let _ = unsafe { syscalls::syscall!(syscalls::Sysno::prctl, PR_SET_PTRACER, usize::MAX, 0, 0, 0) };
}

/// Whether `SNAPSHIM_FILES` asks for a snapshot of what is mapped.
#[inline]
pub fn matches_files(mmap: &Mmap) -> bool {
    const TYPE: i32 = libc::MAP_SHARED | libc::MAP_PRIVATE;
    mmap.flags & (TYPE | libc::MAP_ANONYMOUS) == libc::MAP_PRIVATE && is_named(mmap.descriptor, config().files)
}

/// Whether `SNAPSHIM_SHARED_FILES` asks for a snapshot of what is mapped: shared, but never to be stored to.
#[inline]
pub fn matches_shared_files(mmap: &Mmap) -> bool {
    mmap.protection & libc::PROT_WRITE == 0
        && is_shared(mmap.flags)
        && is_named(mmap.descriptor, config().shared_files)
        && is_for_reading_only(mmap.descriptor)
}

/// MAP_SHARED_VALIDATE has the kernel judge flags that it ignores in other mappings: what is not ordinary is left to it.
fn is_shared(flags: i32) -> bool {
    const ORDINARY: i32 = libc::MAP_FIXED
        | libc::MAP_POPULATE
        | libc::MAP_LOCKED
        | libc::MAP_NORESERVE
        | libc::MAP_NONBLOCK
        | libc::MAP_STACK
        | libc::MAP_32BIT
        | libc::MAP_DENYWRITE
        | libc::MAP_EXECUTABLE;
    match flags & libc::MAP_TYPE {
        libc::MAP_SHARED => flags & libc::MAP_ANONYMOUS == 0,
        libc::MAP_SHARED_VALIDATE => flags & !(libc::MAP_TYPE | ORDINARY) == 0,
        _ => false,
    }
}

/// Whether nothing can ever be stored through what is mapped of the descriptor.
pub fn is_for_reading_only(descriptor: i32) -> bool {
    descriptor >= 0
        && rustix::fs::fcntl_getfl(raw::borrow(descriptor as u32))
            .is_ok_and(|flags| flags & OFlags::ACCMODE == OFlags::RDONLY)
}

#[inline]
fn is_named(descriptor: i32, patterns: &[u8]) -> bool {
    descriptor >= 0 && !patterns.is_empty() && is_matching_file(descriptor as u32, patterns)
}

#[cold]
fn is_matching_file(descriptor: u32, patterns: &[u8]) -> bool {
    let is_file = rustix::fs::fstat(raw::borrow(descriptor))
        .is_ok_and(|stat| matches!(place_of(&stat), Place::Origin(origin) if !origin.is_block_device()));
    if !is_file {
        return false;
    }
    // A path of PATH_MAX bytes would be more than a hook may take of the stack.
    let mut buffer = [core::mem::MaybeUninit::uninit(); 1000];
    let link = raw::ProcPath::own("fd").slash(descriptor);
    let Ok((path, _)) = rustix::fs::readlinkat_raw(rustix::fs::CWD, link.as_c_str(), &mut buffer) else { return false };
    patterns.split(|byte| *byte == b':').any(|pattern| matches_pattern(pattern, path))
}

/// A pattern without a slash is matched against the file's name, one with a slash against its whole path.
fn matches_pattern(pattern: &[u8], path: &[u8]) -> bool {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
    let subject = if pattern.contains(&b'/') { path } else { name };
    !pattern.is_empty() && fast_glob::glob_match(pattern, subject)
}
