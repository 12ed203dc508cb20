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
