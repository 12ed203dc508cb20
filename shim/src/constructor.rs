//! What runs before `main`: opens the entry points, reserves addresses, logs what the environment asks for in vain.
//!
//! Imported by no file.

use core::ffi::{c_char, c_int};

use snapshim::sys::{raw, signal_block};

use crate::base::config::config;
use crate::base::{arena, environment, heap, standard_error};
use crate::hooks::process::clone;
use crate::hooks::signal::{action, wait};
use crate::interpose::EntryPoint;
use crate::interpose::elf_symbols::Libraries;
use crate::process::log::{self, Level, say_once};
use crate::process::{membership, shared_mm, thread};
use crate::{hooks, interpose};

#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn(c_int, *mut *mut c_char, *mut *mut u8) = construct;

extern "C" fn construct(_: c_int, _: *mut *mut c_char, variables: *mut *mut u8) {
    let _signals = signal_block::SignalsBlocked::new();
    standard_error::note();
    // rustix learns from the auxiliary vector where the vDSO is, and asks for the time by system call until then. The kernel
    // itself must not be asked: valgrind takes the vDSO away, and changes the vector that the program sees. SAFETY: glibc passes
    // the environment that the kernel, or valgrind in its place, put on the stack; the vector follows it there.
    unsafe { rustix::param::init(variables) };
    // SAFETY: glibc passes the array of the program's variables, which lies on the first thread's stack.
    unsafe { environment::note(variables.cast_const().cast()) };
    if config().is_disabled {
        log::report_unusable();
        drop(find_next(hooks::coarse_entry_points().chain(hooks::entry_points())));
        // SAFETY: nothing else was allocated.
        unsafe { heap::give_back() };
        note_originals();
        return;
    }
    arena::reserve();
    open_entry_points();
    log::report_unusable();
    note_originals();
    hooks::aio::io_uring::filter();
    thread::watch_ends();
    shared_mm::note_pid();
    membership::join_if_in_use();
    hooks::loader::log_loaded();
}

fn open_entry_points() {
    let libraries = find_next(hooks::coarse_entry_points());
    let is_open = interpose::detours::open(&libraries, hooks::entry_points(), hooks::mmap::INSIDE);
    drop(libraries);
    // SAFETY: what is left are the detours, which are never looked at again, and which need their code alone.
    unsafe { heap::give_back() };
    if !is_open {
        see_libc_otherwise();
    }
}

fn find_next(entry_points: impl Iterator<Item = &'static EntryPoint>) -> Libraries {
    let libraries = Libraries::loaded();
    interpose::late::find_those_of_libc(&libraries);
    interpose::detours::find_next_of_each(&libraries, entry_points);
    libraries
}

/// Notes libc's functions that the shim calls itself.
fn note_originals() {
    let (sigaction, clone, ppoll) =
        (&action::sigaction::ENTRY_POINT, &clone::clone::ENTRY_POINT, &wait::ppoll::ENTRY_POINT);
    // SAFETY: each leads to libc's function of its name (its trampoline), to the next library's, or to the raw system call.
    unsafe { interpose::originals::note(sigaction.original(), clone.next(), ppoll.next()) };
}

/// For a process in which libc's code cannot be patched: has libc's own calls reach hooks by other ways, as far as there are any.
fn see_libc_otherwise() {
    interpose::note_libc_unseen();
    let stdio_comes_in = interpose::stdio_vtables::open(hooks::stdio::vtable::ENTRY_POINTS);
    let (level, what) = match (stdio_comes_in, interpose::stdio_vtables::carry_dprintf()) {
        (true, true) => (Level::Info, "stdio is seen through its tables"),
        (true, false) => (
            Level::Warn,
            "stdio is seen through its tables; what dprintf writes to files is NOT held back from others' snapshots",
        ),
        (false, _) => (
            Level::Warn,
            "nor are the tables of stdio known; what stdio writes to files is NOT held back from others' snapshots",
        ),
    };
    say_once!(
        level,
        "process {}: libc's code cannot be patched here (SELinux or MemoryDenyWriteExecute); {what}",
        raw::own_pid()
    );
}
