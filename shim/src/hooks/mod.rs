//! Hooks: one file for each family of libc's calls. A hook says what its call would touch, hands it over, and answers as libc does.
//!
//! [`mod@file`] is the lowest; [`aio`], [`process`], [`signal`] and [`stdio`] may import it, and none of the others. Beside these
//! folders stand [`mmap`], [`mlockall`], [`syscall`] (the same calls made by number), [`namespace`], [`loader`] and the lists of
//! all hooks.
//!
//! A hook runs wherever the program makes a call: in a signal handler, under malloc's locks, before libc's constructors.
//!
//! May import: every folder but `c_api` and `constructor`.
//!
//! Promises: a hook allocates nothing, takes no lock that an application thread could hold, does not panic, and leaves errno to the
//! real call. What holds for a call by name holds for the same call by number.
//!
//! Must not: decide what a change means for a snapshot. Only the constructor imports the lists.

pub mod aio;
pub mod beside;
pub mod file;
pub mod loader;
pub mod mlockall;
pub mod mmap;
pub mod namespace;
pub mod process;
pub mod signal;
pub mod stdio;
pub mod syscall;

use beside::{EntryPoints, OF_FILES, each};

use crate::interpose::EntryPoint;

/// The calls beside those of [`OF_FILES`] that have an exported symbol and a detour.
static OF_PROCESSES: [EntryPoints; 13] = [
    aio::io_submit::ENTRY_POINTS,
    process::fork::ENTRY_POINTS,
    process::daemon::ENTRY_POINTS,
    process::exec::ENTRY_POINTS,
    process::exit::ENTRY_POINTS,
    signal::action::ENTRY_POINTS,
    signal::mask::ENTRY_POINTS,
    signal::wait::ENTRY_POINTS,
    signal::jump::ENTRY_POINTS,
    process::credentials::ENTRY_POINTS,
    process::confine::ENTRY_POINTS,
    process::prctl::ENTRY_POINTS,
    stdio::message::ENTRY_POINTS,
];

/// The calls that have an exported symbol alone: functions that change files by libc's own calls, of use where those do not reach
/// the hooks, and functions that make processes or load libraries.
static EXPORTED: [EntryPoints; 8] = [
    stdio::fopen::ENTRY_POINTS,
    file::open_fortified::ENTRY_POINTS,
    loader::ENTRY_POINTS,
    namespace::ENTRY_POINTS,
    process::spawn::ENTRY_POINTS,
    aio::posix_aio::ENTRY_POINTS,
    process::clone::ENTRY_POINTS,
    process::vfork::ENTRY_POINTS,
];

/// The entry points with an exported symbol and a detour.
pub fn entry_points() -> impl Iterator<Item = &'static EntryPoint> {
    each(&OF_FILES).chain(each(&OF_PROCESSES))
}

/// The entry points with an exported symbol alone.
pub fn coarse_entry_points() -> impl Iterator<Item = &'static EntryPoint> {
    each(&EXPORTED)
}
