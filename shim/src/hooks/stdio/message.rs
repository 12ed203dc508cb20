//! herror(3), which writes to standard error by a system call of its own. What else libc says there comes to `write` and `writev`
//! inside.

use core::ffi::{CStr, c_char};

use libc::size_t;

use crate::hooks::file::write::Plain;
use crate::interpose::{self, interpose};
use crate::writer::enter::change;

interpose! {
    /// herror(3)
    herror, c"herror": herror => fn(prefix: *const c_char) -> () {
        raw |prefix| {
            if let Some(function) = interpose::behind(c"herror") {
                // SAFETY: libc's function of that name, called with the application's argument.
                unsafe { core::mem::transmute::<*const (), Function>(function)(prefix) }
            }
        },
        hook on_herror,
    }
}

/// More than the longest message in any language, with what stands around it.
const LONGEST_MESSAGE: size_t = 1000;

fn on_herror(real: herror::Function, prefix: *const c_char) {
    // SAFETY: libc takes it for a C string, or null, just as well.
    let prefix_length = if prefix.is_null() { 0 } else { unsafe { CStr::from_ptr(prefix) }.count_bytes() };
    let touch = Plain { length: prefix_length + LONGEST_MESSAGE, offset: None };
    change(libc::STDERR_FILENO, touch, || {
        // SAFETY: the application's argument, as it is.
        unsafe { real(prefix) };
        // It does not say how much it wrote.
        0
    });
}
