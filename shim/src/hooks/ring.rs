//! io_uring: what it writes cannot be seen, so by default it is not there, and programs fall back to calls that can.

use core::ffi::{c_int, c_uint, c_void};
use core::sync::atomic::{AtomicBool, Ordering};

use snapshim::raw;

use crate::config::config;
use crate::doors::{interpose, set_errno};
use crate::log::{Level, say};

interpose! {
    /// liburing's io_uring_queue_init(3)
    queue_init, c"io_uring_queue_init": io_uring_queue_init
    => fn(entries: c_uint, ring: *mut c_void, flags: c_uint) -> c_int {
        raw |_entries, _ring, _flags| -libc::ENOSYS,
        hook on_queue_init,
    }
    /// liburing's io_uring_queue_init_params(3)
    queue_init_params, c"io_uring_queue_init_params": io_uring_queue_init_params
    => fn(entries: c_uint, ring: *mut c_void, parameters: *mut c_void) -> c_int {
        raw |_entries, _ring, _parameters| -libc::ENOSYS,
        hook on_queue_init_params,
    }
    /// liburing's io_uring_setup(2)
    setup, c"io_uring_setup": io_uring_setup => fn(entries: c_uint, parameters: *mut c_void) -> c_int {
        raw |_entries, _parameters| -libc::ENOSYS,
        hook on_setup,
    }
}

/// Whether `SNAPSHIM_IO_URING` leaves it at the default.
pub fn is_denied() -> bool {
    !config().allows_rings && !config().is_disabled
}

/// As a kernel without io_uring answers the system call.
pub fn deny() -> c_int {
    tell();
    set_errno(libc::ENOSYS);
    -1
}

fn tell() {
    static TOLD: AtomicBool = AtomicBool::new(false);
    if !TOLD.swap(true, Ordering::Relaxed) {
        say!(
            Level::Info,
            "process {}: io_uring is denied (ENOSYS), because what it writes cannot be held back from snapshots; \
             SNAPSHIM_IO_URING=allow permits it and loses that",
            raw::own_pid()
        );
    }
}

fn on_queue_init(real: queue_init::Function, entries: c_uint, ring: *mut c_void, flags: c_uint) -> c_int {
    if is_denied() {
        tell();
        return -libc::ENOSYS;
    }
    // SAFETY: the application's arguments, as they are.
    unsafe { real(entries, ring, flags) }
}

fn on_queue_init_params(
    real: queue_init_params::Function,
    entries: c_uint,
    ring: *mut c_void,
    parameters: *mut c_void,
) -> c_int {
    if is_denied() {
        tell();
        return -libc::ENOSYS;
    }
    // SAFETY: the application's arguments, as they are.
    unsafe { real(entries, ring, parameters) }
}

fn on_setup(real: setup::Function, entries: c_uint, parameters: *mut c_void) -> c_int {
    if is_denied() {
        tell();
        return -libc::ENOSYS;
    }
    // SAFETY: the application's arguments, as they are.
    unsafe { real(entries, parameters) }
}
