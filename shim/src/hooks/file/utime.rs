//! utimensat(2) and its kin change no byte. They move the time of modification, by which foreign changes are found, so they are
//! announced.

use core::ffi::{c_char, c_int};

use libc::{timespec, timeval, utimbuf};
use snapshim::cooperate::locate::{target_at_path, target_of_descriptor};
use snapshim::protocol::origin::Target;
use syscalls::{Sysno, syscall};

use crate::base::errno::as_libc;
use crate::base::user_memory::read_value;
use crate::interpose::answer::fail;
use crate::interpose::interpose;
use crate::writer::enter::through_gate;
use crate::writer::touch::Touch;

interpose! {
    /// futimens(3)
    futimens, c"futimens": futimens => fn(fd: c_int, times: *const timespec) -> c_int {
        // SAFETY: the application's arguments, as they are.
        raw |fd, times| as_libc(unsafe { syscall!(Sysno::utimensat, fd, 0, times, 0) }) as c_int,
        hook on_futimens,
    }
    /// utimensat(2)
    utimensat, c"utimensat": utimensat
    => fn(directory: c_int, path: *const c_char, times: *const timespec, flags: c_int) -> c_int {
        raw |directory, path, times, flags| {
            // SAFETY: the application's arguments, as they are.
            as_libc(unsafe { syscall!(Sysno::utimensat, directory, path, times, flags) }) as c_int
        },
        hook on_utimensat,
    }
    /// utimes(2)
    utimes, c"utimes": utimes => fn(path: *const c_char, times: *const timeval) -> c_int {
        // SAFETY: the application's arguments, as they are.
        raw |path, times| as_libc(unsafe { syscall!(Sysno::utimes, path, times) }) as c_int,
        hook on_utimes,
    }
    /// lutimes(3), whose times have microseconds
    lutimes, c"lutimes": lutimes => fn(path: *const c_char, times: *const timeval) -> c_int {
        raw |path, times| at_nanoseconds(libc::AT_FDCWD, path, times, libc::AT_SYMLINK_NOFOLLOW),
        hook on_lutimes,
    }
    /// futimes(3)
    futimes, c"futimes": futimes => fn(fd: c_int, times: *const timeval) -> c_int {
        raw |fd, times| at_nanoseconds(fd, core::ptr::null(), times, 0),
        hook on_futimes,
    }
    /// futimesat(2)
    futimesat, c"futimesat": futimesat
    => fn(directory: c_int, path: *const c_char, times: *const timeval) -> c_int {
        // SAFETY: the application's arguments, as they are.
        raw |directory, path, times| as_libc(unsafe { syscall!(Sysno::futimesat, directory, path, times) }) as c_int,
        hook on_futimesat,
    }
    /// utime(2)
    utime, c"utime": utime => fn(path: *const c_char, times: *const utimbuf) -> c_int {
        // SAFETY: the application's arguments, as they are.
        raw |path, times| as_libc(unsafe { syscall!(Sysno::utime, path, times) }) as c_int,
        hook on_utime,
    }
}

/// utimensat(2) with a `struct timeval[2]`, refused where the kernel would refuse it.
fn at_nanoseconds(directory: c_int, path: *const c_char, times: *const timeval, flags: c_int) -> c_int {
    let mut ours = [[0i64; 2]; 2];
    if !times.is_null() {
        for (at, word) in ours.as_flattened_mut().iter_mut().enumerate() {
            let address = times as u64 + at as u64 * 8;
            let Some(read) = read_value(address) else {
                return fail(libc::EFAULT);
            };
            *word = read;
        }
        if ours.iter().any(|[_, microseconds]| !(0..1_000_000).contains(microseconds)) {
            return fail(libc::EINVAL);
        }
        for [_, fraction] in &mut ours {
            *fraction *= 1000;
        }
    }
    let times = if times.is_null() { core::ptr::null() } else { ours.as_ptr() };
    // SAFETY: the application's path, and null or the structure above.
    as_libc(unsafe { syscall!(Sysno::utimensat, directory, path, times, flags) }) as c_int
}

/// No byte of a file: the one that the path leads to, or the one behind the descriptor where the path is null.
struct NoByte {
    path: *const c_char,
    flags: c_int,
}

impl Touch for NoByte {
    fn length(&self) -> u64 {
        0
    }

    fn offset(&self) -> Option<i64> {
        Some(0)
    }

    fn target(&self, descriptor: u32) -> Target {
        if self.path.is_null() {
            target_of_descriptor(descriptor)
        } else {
            target_at_path(descriptor, self.path, self.flags as u32)
        }
    }
}

/// Makes `call`, which changes no byte of the file behind `descriptor` but may move its times.
pub fn without_bytes(descriptor: c_int, call: impl Fn() -> c_int) -> c_int {
    set(descriptor, core::ptr::null(), 0, call)
}

/// The path is looked up twice, here and by the call. If it leads to another file meanwhile, a snapshot becomes doubtful at worst.
fn set(directory: c_int, path: *const c_char, flags: c_int, call: impl Fn() -> c_int) -> c_int {
    through_gate(directory, NoByte { path, flags }, || call() as isize) as c_int
}

fn on_futimens(real: futimens::Function, fd: c_int, times: *const timespec) -> c_int {
    // SAFETY: the application's arguments, as they are.
    without_bytes(fd, || unsafe { real(fd, times) })
}

pub fn on_utimensat(
    real: utimensat::Function,
    directory: c_int,
    path: *const c_char,
    times: *const timespec,
    flags: c_int,
) -> c_int {
    // SAFETY: the application's arguments, as they are.
    set(directory, path, flags, || unsafe { real(directory, path, times, flags) })
}

pub fn on_utimes(real: utimes::Function, path: *const c_char, times: *const timeval) -> c_int {
    // SAFETY: the application's arguments, as they are.
    set(libc::AT_FDCWD, path, 0, || unsafe { real(path, times) })
}

fn on_lutimes(real: lutimes::Function, path: *const c_char, times: *const timeval) -> c_int {
    // SAFETY: the application's arguments, as they are.
    set(libc::AT_FDCWD, path, libc::AT_SYMLINK_NOFOLLOW, || unsafe { real(path, times) })
}

fn on_futimes(real: futimes::Function, fd: c_int, times: *const timeval) -> c_int {
    // SAFETY: the application's arguments, as they are.
    without_bytes(fd, || unsafe { real(fd, times) })
}

pub fn on_futimesat(real: futimesat::Function, directory: c_int, path: *const c_char, times: *const timeval) -> c_int {
    // SAFETY: the application's arguments, as they are.
    set(directory, path, 0, || unsafe { real(directory, path, times) })
}

pub fn on_utime(real: utime::Function, path: *const c_char, times: *const utimbuf) -> c_int {
    // SAFETY: the application's arguments, as they are.
    set(libc::AT_FDCWD, path, 0, || unsafe { real(path, times) })
}
