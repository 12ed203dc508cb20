//! Hooks: one file a family of libc's calls. Each says what its call would touch, hands it over, and answers as libc would.
//!
//! [`mod@file`] is the lowest; [`aio`], [`process`], [`signal`] and [`stdio`] may import it, and none of the others. Here beside
//! them stand [`mmap`], [`syscall`] (the same calls by their numbers), [`namespace`] and the lists of all hooks.
//!
//! May import: every folder but `c_api` and `constructor`.
//!
//! Promises: a hook allocates nothing, takes no lock that an application thread could hold, does not panic, and leaves errno to the
//! real call. What holds for a call by its name holds for it by its number.
//!
//! Must not: decide what a change means for a snapshot. Only the constructor imports the lists.

pub mod aio;
pub mod beside;
pub mod file;
pub mod mmap;
pub mod namespace;
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
        namespace::DOORS,
        process::spawn::DOORS,
        aio::posix_aio::DOORS,
        process::clone::DOORS,
        process::vfork::DOORS,
    ]
    .into_iter()
    .flatten()
    .copied()
}
