//! Hooks: one file a family of calls. Each says what its call would touch and hands it over; decisions live in the core.

pub mod aio;
pub mod file;
pub mod mmap;
pub mod process;
pub mod signal;
pub mod stdio;
pub mod syscall;

use crate::interpose::Door;
use crate::interpose::beside::Way;

/// Every door there is.
pub fn doors() -> impl Iterator<Item = &'static Door> {
    [
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
        aio::io_submit::DOORS,
        file::close::DOORS,
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
    ]
    .into_iter()
    .flatten()
    .copied()
}

/// The doors that are exported only: of functions that change files by libc's own calls, of use where those are not seen, and of
/// functions that make processes or load libraries.
pub fn outer_doors() -> impl Iterator<Item = &'static Door> {
    [
        stdio::fopen::DOORS,
        file::open_fortified::DOORS,
        process::namespace::DOORS,
        process::spawn::DOORS,
        aio::posix_aio::DOORS,
        process::clone::DOORS,
        process::vfork::DOORS,
    ]
    .into_iter()
    .flatten()
    .copied()
}

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
    doors
        .into_iter()
        .flatten()
        .map(|door| door.way())
        .chain(mmap::BESIDE.iter().copied())
        .chain([process::namespace::BESIDE])
}
