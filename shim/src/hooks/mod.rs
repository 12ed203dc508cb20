//! Hooks: one file for each family of libc calls.
//!
//! A hook says what its call would touch, hands that over, and answers as libc does. The protocol lives in the core, the path of
//! a write in `writer`, the changes of own mappings in `mapper` and `shared`. The files hold no state but their lists of entry
//! points.
//!
//! - [`mod@file`]: calls that change files, read into memory, or change what a descriptor means
//! - [`stdio`], [`aio`]: functions of stdio and asynchronous I/O
//! - [`mmap`]: mappings of this process
//! - [`process`], [`signal`]: processes, rights, namespaces; signals
//! - [`syscall`]: the same calls made by number
//!
//! A hook runs wherever the program makes a call: in a signal handler, under malloc's locks, before libc's constructors. So it
//! takes no memory from malloc, no lock of std, and leaves errno to the real call. Imports everything below; [`syscall`] imports
//! the other hooks.

pub mod aio;
pub mod beside;
pub mod file;
pub mod mmap;
pub mod process;
pub mod signal;
pub mod stdio;
pub mod syscall;

use crate::interpose::Door;

/// The entry points of one file.
type Doors = &'static [&'static Door];

/// The calls that change files, or what a descriptor means. They are the same in every libc ([`beside`]).
static OF_FILES: [Doors; 11] = [
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

/// The other calls that have an exported symbol and a detour.
static OF_PROCESSES: [Doors; 11] = [
    aio::io_submit::DOORS,
    process::fork::DOORS,
    process::daemon::DOORS,
    process::exec::DOORS,
    signal::action::DOORS,
    signal::mask::DOORS,
    signal::wait::DOORS,
    signal::jump::DOORS,
    process::credentials::DOORS,
    process::confine::DOORS,
    stdio::message::DOORS,
];

/// The calls that have an exported symbol alone: functions that change files by libc's own calls, of use where those do not reach
/// the hooks, and functions that make processes or load libraries.
static EXPORTED: [Doors; 7] = [
    stdio::fopen::DOORS,
    file::open_fortified::DOORS,
    process::namespace::DOORS,
    process::spawn::DOORS,
    aio::posix_aio::DOORS,
    process::clone::DOORS,
    process::vfork::DOORS,
];

fn each(lists: &'static [Doors]) -> impl Iterator<Item = &'static Door> {
    lists.iter().copied().flatten().copied()
}

/// The entry points with an exported symbol and a detour.
pub fn doors() -> impl Iterator<Item = &'static Door> {
    each(&OF_FILES).chain(each(&OF_PROCESSES))
}

/// The entry points with an exported symbol alone.
pub fn outer_doors() -> impl Iterator<Item = &'static Door> {
    each(&EXPORTED)
}
