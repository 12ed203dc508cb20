//! The ways in for a libc beside ([`beside`](crate::interpose::beside)), as a list.

use super::{aio, file, mmap, syscall};
use crate::interpose::beside::Way;

/// The ways in for a libc beside: the calls that change files, mappings, or what a descriptor means. Those about processes and
/// signals would lose by the bare system call what libc does around it.
pub fn ways_beside() -> impl Iterator<Item = Way> {
    let doors = [
        file::write::DOORS,
        file::read::DOORS,
        file::recv::DOORS,
        file::truncate::DOORS,
        file::utime::DOORS,
        file::open::DOORS,
        file::splice::DOORS,
        file::ioctl::DOORS,
        syscall::DOORS,
        aio::io_uring::DOORS,
        file::close::DOORS,
    ];
    doors.into_iter().flatten().map(|door| door.way()).chain(mmap::BESIDE.iter().copied())
}
