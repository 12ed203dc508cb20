//! The forms of open(2) that _FORTIFY_SOURCE uses. They end the program when O_CREAT comes without a mode, and else call open
//! inside: where libc's code cannot be patched, that is not seen.

use core::ffi::{c_char, c_int};

use syscalls::{Sysno, syscall};

use super::open::opened;
use crate::base::errno::as_libc;
use crate::interpose::{self, interpose};

interpose! {
    /// open(2) without a mode
    open64_2, c"__open64_2": __open_2 __open64_2 => fn(path: *const c_char, flags: c_int) -> c_int {
        // SAFETY: the application's arguments, as they are.
        raw |path, flags| as_libc(unsafe { syscall!(Sysno::openat, libc::AT_FDCWD, path, flags, 0) }) as c_int,
        hook on_open_2,
    }
    /// openat(2) without a mode
    openat64_2, c"__openat64_2": __openat_2 __openat64_2
    => fn(directory: c_int, path: *const c_char, flags: c_int) -> c_int {
        // SAFETY: the application's arguments, as they are.
        raw |directory, path, flags| as_libc(unsafe { syscall!(Sysno::openat, directory, path, flags, 0) }) as c_int,
        hook on_openat_2,
    }
}

fn on_open_2(real: open64_2::Function, path: *const c_char, flags: c_int) -> c_int {
    // SAFETY: the application's arguments, as they are but for O_TRUNC.
    unseen(flags, |flags| unsafe { real(path, flags) })
}

fn on_openat_2(real: openat64_2::Function, directory: c_int, path: *const c_char, flags: c_int) -> c_int {
    // SAFETY: the application's arguments, as they are but for O_TRUNC.
    unseen(flags, |flags| unsafe { real(directory, path, flags) })
}

fn unseen(flags: c_int, open: impl Fn(c_int) -> c_int) -> c_int {
    if interpose::is_libc_seen() { open(flags) } else { opened(flags, open) }
}
