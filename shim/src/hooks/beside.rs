//! The hooks that every libc of the process has, as a list; and the entry points for a libc beside the program's own
//! ([`beside`](crate::interpose::beside)).

use super::{aio, file, mmap, syscall};
use crate::interpose::Door;
use crate::interpose::beside::EntryHook;

/// The entry points of one file.
pub type Doors = &'static [&'static Door];

/// The calls that change files, or what a descriptor means. They have hooks in every libc.
pub static OF_FILES: [Doors; 11] = [
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

/// The entry points of several files.
pub fn each(lists: &'static [Doors]) -> impl Iterator<Item = &'static Door> {
    lists.iter().copied().flatten().copied()
}

/// The calls that change files, mappings, or what a descriptor means.
///
/// Calls about processes and signals are left alone there: the hook would go on by the bare system call, and what libc does around
/// it would be lost.
pub fn hooks_beside() -> impl Iterator<Item = EntryHook> {
    each(&OF_FILES).map(Door::entry_hook).chain(mmap::BESIDE.iter().copied())
}
