//! The hooks that every libc of the process has, as a list; and the entry points for a libc beside the program's own
//! ([`beside`](crate::interpose::beside)).

use super::{aio, file, mmap, syscall};
use crate::interpose::EntryPoint;
use crate::interpose::beside::EntryHook;

/// The entry points of one file.
pub type EntryPoints = &'static [&'static EntryPoint];

/// The calls that change files, or what a descriptor means. They have hooks in every libc.
pub static OF_FILES: [EntryPoints; 11] = [
    file::write::ENTRY_POINTS,
    file::read::ENTRY_POINTS,
    file::recv::ENTRY_POINTS,
    file::truncate::ENTRY_POINTS,
    file::utime::ENTRY_POINTS,
    file::open::ENTRY_POINTS,
    file::splice::ENTRY_POINTS,
    file::ioctl::ENTRY_POINTS,
    syscall::ENTRY_POINTS,
    aio::io_uring::ENTRY_POINTS,
    file::close::ENTRY_POINTS,
];

/// The entry points of several files.
pub fn each(lists: &'static [EntryPoints]) -> impl Iterator<Item = &'static EntryPoint> {
    lists.iter().copied().flatten().copied()
}

/// The calls that change files, mappings, or what a descriptor means.
///
/// Calls about processes and signals are left alone there: the hook would go on by the bare system call, and what libc does around
/// it would be lost.
pub fn hooks_beside() -> impl Iterator<Item = EntryHook> {
    each(&OF_FILES).map(EntryPoint::entry_hook).chain(mmap::BESIDE.iter().copied())
}
