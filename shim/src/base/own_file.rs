//! The file that the library was loaded from.
//!
//! Each process that has the library loaded executes its pages. The kernel refuses to overwrite a program that is executed
//! (ETXTBSY, open(2)), but not a library.

use core::ffi::{CStr, c_void};
use core::sync::atomic::{AtomicU64, Ordering};

use snapshim::sys::procfs;

static DEVICE: AtomicU64 = AtomicU64::new(0);
/// 0: it has not been looked for; all bits: there is no such file any more.
static INODE: AtomicU64 = AtomicU64::new(0);

/// Whether this is the library's file. The first question takes a look at /proc.
pub fn is_own_file(device: u64, inode: u64) -> bool {
    // Acquire: pairs with the Release below; the device comes with the inode.
    let mut own = INODE.load(Ordering::Acquire);
    if own == 0 {
        own = find().unwrap_or(u64::MAX);
        INODE.store(own, Ordering::Release);
    }
    (DEVICE.load(Ordering::Relaxed), own) == (device, inode)
}

/// Looks the file up by the path that it is mapped by. A file that was replaced since has another name there, which is no file's.
fn find() -> Option<u64> {
    const LONGEST: usize = 512;
    let own = is_own_file as *const c_void as u64;
    procfs::find_line(c"/proc/self/maps", |line| {
        if !procfs::mapped_range(line)?.contains(&own) {
            return None;
        }
        let path = &line[line.iter().position(|byte| *byte == b'/')?..];
        let mut name = [0u8; LONGEST];
        name.get_mut(..path.len())?.copy_from_slice(path);
        rustix::fs::stat(CStr::from_bytes_until_nul(&name).ok()?).ok()
    })
    .ok()?
    .map(|stat| {
        DEVICE.store(stat.st_dev, Ordering::Relaxed);
        stat.st_ino
    })
}
