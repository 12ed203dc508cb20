//! File systems: of which ones the files change by system calls and shared mappings alone.

use rustix::fd::BorrowedFd;
use rustix::io::Errno;

/// File systems whose files change only by system calls and mappings on this machine (statfs(2), `f_type`).
pub const ALLOWED: [u64; 6] = [0xEF53, 0x5846_5342, 0x9123_683E, TMPFS, 0xF2F5_2010, OVERLAYFS];
pub const TMPFS: u64 = 0x0102_1994;
pub const OVERLAYFS: u64 = 0x794c_7630;

pub fn kind_of_file_system(file: BorrowedFd<'_>) -> Result<u64, Errno> {
    rustix::fs::fstatfs(file).map(|found| found.f_type as u64)
}

/// Whether a file is on one of them.
pub fn is_on_known_file_system(file: BorrowedFd<'_>) -> bool {
    kind_of_file_system(file).is_ok_and(|kind| ALLOWED.contains(&kind))
}

pub fn is_dax(file: BorrowedFd<'_>) -> bool {
    use rustix::fs::{AtFlags, StatxAttributes, StatxFlags, statx};
    statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::empty())
        .is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::DAX))
}
