//! File systems: whether the files of one change by system calls and mappings on this machine alone.

use rustix::fd::BorrowedFd;
use snapshim::sys::filesystem::{ALLOWED, kind_of_file_system};

/// Whether a file is on a file system of [`ALLOWED`].
pub fn is_on_known_file_system(file: BorrowedFd<'_>) -> bool {
    kind_of_file_system(file).is_ok_and(|kind| ALLOWED.contains(&kind))
}

/// Whether a file's mappings are the device's own memory (DAX), without a page cache.
pub fn is_dax(file: BorrowedFd<'_>) -> bool {
    use rustix::fs::{AtFlags, StatxAttributes, StatxFlags, statx};
    statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::empty())
        .is_ok_and(|found| found.stx_attributes.contains(StatxAttributes::DAX))
}
