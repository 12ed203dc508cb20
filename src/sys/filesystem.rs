//! File systems: which of them hold files that change on this machine alone.

use rustix::fd::BorrowedFd;
use rustix::io::Errno;

/// File systems whose files change only by system calls and mappings on this machine (statfs(2), `f_type`).
pub const ALLOWED: [u64; 6] = [0xEF53, 0x5846_5342, 0x9123_683E, TMPFS, 0xF2F5_2010, OVERLAYFS];
/// TMPFS_MAGIC (linux/magic.h).
pub const TMPFS: u64 = 0x0102_1994;
/// OVERLAYFS_SUPER_MAGIC (linux/magic.h).
pub const OVERLAYFS: u64 = 0x794c_7630;

/// The `f_type` of the file system that a file is on.
pub fn kind_of_file_system(file: BorrowedFd<'_>) -> Result<u64, Errno> {
    rustix::fs::fstatfs(file).map(|found| found.f_type as u64)
}
