//! close(2), dup2(2) and their kin: a descriptor number may mean another file from now on.
//!
//! A creation that finds a writer blocked on a number looks that number up; it believes what it finds only if no such change came
//! in between.

use core::ffi::{c_int, c_uint};

use syscalls::{Sysno, syscall};

use crate::doors::{as_libc, interpose};
use crate::process;

interpose! {
    /// close(2)
    close, c"close": close __close => fn(fd: c_int) -> c_int {
        // SAFETY: the application's argument, as it is.
        raw |fd| as_libc(unsafe { syscall!(Sysno::close, fd) }) as c_int,
        hook on_close,
    }
    /// What fclose(3) and others call: close(2) that is no cancellation point
    close_nocancel, c"__close_nocancel": => fn(fd: c_int) -> c_int {
        // SAFETY: the caller's argument, as it is.
        raw |fd| as_libc(unsafe { syscall!(Sysno::close, fd) }) as c_int,
        hook on_close,
    }
    /// dup2(2)
    dup2, c"dup2": dup2 __dup2 => fn(old: c_int, new: c_int) -> c_int {
        raw |old, new| as_libc(raw_dup2(old, new)) as c_int,
        hook on_dup2,
    }
    /// dup3(2)
    dup3, c"dup3": dup3 __dup3 => fn(old: c_int, new: c_int, flags: c_int) -> c_int {
        // SAFETY: the application's arguments, as they are.
        raw |old, new, flags| as_libc(unsafe { syscall!(Sysno::dup3, old, new, flags) }) as c_int,
        hook on_dup3,
    }
    /// close_range(2)
    close_range, c"close_range": close_range => fn(first: c_uint, last: c_uint, flags: c_int) -> c_int {
        // SAFETY: the application's arguments, as they are.
        raw |first, last, flags| as_libc(unsafe { syscall!(Sysno::close_range, first, last, flags) }) as c_int,
        hook on_close_range,
    }
}

/// dup2(2) where dup3(2) has to do: equal numbers only have to be valid, which dup3 refuses.
fn raw_dup2(old: c_int, new: c_int) -> Result<usize, syscalls::Errno> {
    // SAFETY: the application's arguments, as they are.
    unsafe {
        if old == new {
            syscall!(Sysno::fcntl, old, libc::F_GETFD).map(|_| new as usize)
        } else {
            syscall!(Sysno::dup3, old, new, 0)
        }
    }
}

/// Counted before the call, in the record of an attached process; one that is not attached has no writer to be looked up.
#[inline]
pub fn count_change(fd: c_int) {
    if let Some(record) = process::attached().and_then(|own| own.record()) {
        record.change_descriptor(fd as u32);
    }
}

/// The same for every number.
pub fn count_all() {
    if let Some(record) = process::attached().and_then(|own| own.record()) {
        record.change_all_descriptors();
    }
}

fn on_close(real: unsafe extern "C-unwind" fn(c_int) -> c_int, fd: c_int) -> c_int {
    count_change(fd);
    // SAFETY: the application's argument, as it is.
    unsafe { real(fd) }
}

fn on_dup2(real: unsafe extern "C-unwind" fn(c_int, c_int) -> c_int, old: c_int, new: c_int) -> c_int {
    count_change(new);
    // SAFETY: the application's arguments, as they are.
    unsafe { real(old, new) }
}

fn on_dup3(
    real: unsafe extern "C-unwind" fn(c_int, c_int, c_int) -> c_int,
    old: c_int,
    new: c_int,
    flags: c_int,
) -> c_int {
    count_change(new);
    // SAFETY: the application's arguments, as they are.
    unsafe { real(old, new, flags) }
}

fn on_close_range(
    real: unsafe extern "C-unwind" fn(c_uint, c_uint, c_int) -> c_int,
    first: c_uint,
    last: c_uint,
    flags: c_int,
) -> c_int {
    count_all();
    // SAFETY: the application's arguments, as they are.
    unsafe { real(first, last, flags) }
}
