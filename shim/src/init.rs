//! Before `main`, and what the hooks look up once.

use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use rustix::mm::{MapFlags, ProtFlags};
use snapshim::drain::place_of;
use snapshim::origin::Place;
use snapshim::raw;

use crate::config::config;
use crate::create::Mmap;
use crate::{arena, doors, hooks, process, thread};

#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = construct;

extern "C" fn construct() {
    let _signals = raw::SignalsBlocked::new();
    if config().is_disabled {
        doors::detours::lead_on(hooks::doors());
        return;
    }
    arena::reserve();
    doors::detours::open(hooks::doors());
    thread::watch_ends();
    process::note_pid();
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
    mmap.flags & (TYPE | libc::MAP_ANONYMOUS) == libc::MAP_PRIVATE
        && mmap.descriptor >= 0
        && !config().files.is_empty()
        && is_matching_file(mmap.descriptor as u32)
}

#[cold]
fn is_matching_file(descriptor: u32) -> bool {
    let is_file = rustix::fs::fstat(raw::borrow(descriptor))
        .is_ok_and(|stat| matches!(place_of(&stat), Place::Origin(origin) if !origin.is_block_device()));
    if !is_file {
        return false;
    }
    // A path of PATH_MAX bytes would be more than a hook may take of the stack.
    let mut buffer = [core::mem::MaybeUninit::uninit(); 1000];
    let link = raw::ProcPath::own("fd").slash(descriptor);
    let Ok((path, _)) = rustix::fs::readlinkat_raw(rustix::fs::CWD, link.as_c_str(), &mut buffer) else { return false };
    config().files.split(|byte| *byte == b':').any(|pattern| matches_pattern(pattern, path))
}

/// A pattern without a slash is matched against the file's name, one with a slash against its whole path.
fn matches_pattern(pattern: &[u8], path: &[u8]) -> bool {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
    let subject = if pattern.contains(&b'/') { path } else { name };
    !pattern.is_empty() && fast_glob::glob_match(pattern, subject)
}
