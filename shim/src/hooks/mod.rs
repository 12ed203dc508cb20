//! Hooks: one file a family of calls. Each says what its call would touch and hands it over; decisions live in the core.

pub mod aio;
pub mod beside;
pub mod file;
pub mod mmap;
pub mod process;
pub mod signal;
pub mod stdio;
pub mod syscall;

use crate::interpose::Door;

/// The ways in of one file.
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

/// The other calls that come in by the exported symbol and by a detour.
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

/// The calls that come in by the exported symbol alone: functions that change files by libc's own calls, of use where those do not
/// come in, and functions that make processes or load libraries.
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

/// The doors that are opened by the exported symbol and by a detour.
pub fn doors() -> impl Iterator<Item = &'static Door> {
    each(&OF_FILES).chain(each(&OF_PROCESSES))
}

/// The doors that are opened by the exported symbol alone.
pub fn outer_doors() -> impl Iterator<Item = &'static Door> {
    each(&EXPORTED)
}
