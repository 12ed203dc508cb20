//! herror(3), which writes to standard error by a system call of its own. Every other message of libc's is written by `write` or
//! `writev`, which have their hooks.

use core::ffi::{CStr, c_char};

use libc::size_t;

use crate::interpose::interpose;
use crate::writer::enter::through_gate;
use crate::writer::touch::Plain;

interpose! {
    /// herror(3)
    herror, c"herror": herror => fn(prefix: *const c_char) -> () {
        next_or (),
        hook on_herror,
    }
}

/// More bytes than the longest message has in any language, with the text around it.
const LONGEST_MESSAGE: size_t = 1000;

fn on_herror(real: herror::Function, prefix: *const c_char) {
    // SAFETY: the argument is a C string or null, as herror(3) demands.
    let prefix_length = if prefix.is_null() { 0 } else { unsafe { CStr::from_ptr(prefix) }.count_bytes() };
    let touch = Plain { length: prefix_length + LONGEST_MESSAGE, offset: None };
    through_gate(libc::STDERR_FILENO, touch, || {
        // SAFETY: the application's argument, as it is.
        unsafe { real(prefix) };
        // herror(3) does not say how much it wrote.
        0
    });
}
