//! What stdio calls through its tables ([`stdio_vtables`]): the write and the close of a stream's file.
//!
//! These hooks are used only where libc's code cannot be patched. Elsewhere the system calls that these functions make reach
//! their own hooks.
//!
//! [`stdio_vtables`]: crate::interpose::stdio_vtables

use core::ffi::{c_int, c_void};

use libc::ssize_t;

use crate::interpose::interpose;
use crate::interpose::stdio_vtables::{Stream, descriptor_of, fail};
use crate::process::descriptors::changing;
use crate::writer::enter::through_gate;
use crate::writer::touch::Plain;

interpose! {
    /// Writes the whole buffer, in several write(2) if need be
    file_write, c"_IO_file_write": => fn(stream: *mut Stream, data: *const c_void, length: ssize_t) -> ssize_t {
        // No call arrives before the tables are changed, and then the original is known.
        raw |_stream, _data, _length| 0,
        hook on_file_write,
    }
    /// close(2)
    file_close, c"_IO_file_close": => fn(stream: *mut Stream) -> c_int {
        // As for `file_write`.
        raw |_stream| 0,
        hook on_file_close,
    }
}

fn on_file_write(real: file_write::Function, stream: *mut Stream, data: *const c_void, length: ssize_t) -> ssize_t {
    // SAFETY: stdio's own argument.
    let descriptor = unsafe { descriptor_of(stream) };
    let touch = Plain { length: length as usize, offset: None };
    // SAFETY: stdio's own arguments, as they are.
    match through_gate(descriptor, touch, || unsafe { real(stream, data, length) }) {
        // SAFETY: stdio locks a stream before it writes.
        refused if refused < 0 => unsafe { fail(stream) },
        written => written,
    }
}

fn on_file_close(real: file_close::Function, stream: *mut Stream) -> c_int {
    // SAFETY: stdio's own argument, as it is.
    unsafe { changing(descriptor_of(stream), || real(stream)) }
}
