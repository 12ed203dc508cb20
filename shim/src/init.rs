//! Before `main`, and what the hooks look up once.

use core::ffi::c_void;
use core::fmt;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use rustix::mm::{MapFlags, ProtFlags};
use snapshim::drain::place_of;
use snapshim::origin::Place;
use snapshim::raw;

use crate::config::config;
use crate::create::Mmap;
use crate::log::{Level, say};
use crate::{arena, doors, hooks, process, thread};

#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = construct;

extern "C" fn construct() {
    let _signals = raw::SignalsBlocked::new();
    doors::detours::lead_on(hooks::outer_doors());
    if config().is_disabled {
        doors::detours::lead_on(hooks::doors());
        return;
    }
    arena::reserve();
    if !doors::detours::open(hooks::doors()) {
        see_libc_otherwise();
    }
    hooks::ring::filter();
    thread::watch_ends();
    process::note_pid();
}

/// libc's code cannot be patched: its own calls come in by other ways, as far as there are any.
fn see_libc_otherwise() {
    doors::note_libc_unseen();
    let stdio_comes_in = doors::streams::open(hooks::stream::DOORS);
    let (level, what) = match (stdio_comes_in, doors::streams::carry_dprintf()) {
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

/// What the kernel uses a block device for.
pub enum DeviceUser {
    Mount,
    Holder,
}

impl fmt::Display for DeviceUser {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Mount => "a file system is mounted from it",
            Self::Holder => "another block device is built on it",
        })
    }
}

/// What the kernel uses the block device for, if anything.
pub fn device_user(device: u64) -> Option<DeviceUser> {
    if is_mounted(device) {
        return Some(DeviceUser::Mount);
    }
    has_holders(device).then_some(DeviceUser::Holder)
}

/// proc_pid_mountinfo(5): the third field is major:minor.
fn is_mounted(device: u64) -> bool {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let Ok(file) = raw::open(c"/proc/self/mountinfo", rustix::fs::OFlags::RDONLY) else { return false };
    let mut buffer = [0u8; 512];
    // The field under way: its number, and the numbers before and behind its colon.
    let (mut field, mut numbers, mut behind) = (0, [0u32; 2], 0);
    loop {
        let Ok(count) = rustix::io::read(&file, &mut buffer) else { return false };
        if count == 0 {
            return false;
        }
        for byte in &buffer[..count] {
            match byte {
                b' ' if field == 2 && numbers == [major, minor] => return true,
                b' ' => field += 1,
                b'\n' => (field, numbers, behind) = (0, [0; 2], 0),
                b':' if field == 2 => behind = 1,
                b'0'..=b'9' if field == 2 => {
                    numbers[behind] = numbers[behind].wrapping_mul(10).wrapping_add(u32::from(byte - b'0'));
                }
                _ => {}
            }
        }
    }
}

fn has_holders(device: u64) -> bool {
    use fmt::Write;
    struct Path([u8; 64], usize);
    impl Write for Path {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0[self.1..self.1 + text.len()].copy_from_slice(text.as_bytes());
            self.1 += text.len();
            Ok(())
        }
    }
    let mut path = Path([0; 64], 0);
    let _ = write!(path, "/sys/dev/block/{}:{}/holders", rustix::fs::major(device), rustix::fs::minor(device));
    let path = core::ffi::CStr::from_bytes_until_nul(&path.0).unwrap_or(c"");
    let Ok(directory) = raw::open(path, rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::RDONLY) else {
        return false;
    };
    let mut buffer = [core::mem::MaybeUninit::uninit(); 512];
    let mut entries = rustix::fs::RawDir::new(directory, &mut buffer);
    while let Some(Ok(entry)) = entries.next() {
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            return true;
        }
    }
    false
}
