//! fopen(3) and freopen(3) with mode "w". Where libc's code cannot be patched, the open(2) with O_TRUNC inside does not reach its
//! hook, so the whole call counts as the truncation.

use core::ffi::{c_char, c_void};
use core::ptr::{null_mut, with_exposed_provenance_mut as pointer};

use crate::hooks::file::truncate::{truncate_by_name, truncate_in};
use crate::interpose::stdio_vtables::{Stream, descriptor_of};
use crate::interpose::{self, interpose};

interpose! {
    /// fopen(3)
    fopen64, c"fopen64": fopen fopen64 _IO_fopen => fn(path: *const c_char, mode: *const c_char) -> *mut c_void {
        next_or null_mut(),
        hook on_fopen,
    }
    /// freopen(3)
    freopen64, c"freopen64": freopen freopen64
    => fn(path: *const c_char, mode: *const c_char, stream: *mut Stream) -> *mut c_void {
        next_or null_mut(),
        hook on_freopen,
    }
}

fn on_fopen(real: fopen64::Function, path: *const c_char, mode: *const c_char) -> *mut c_void {
    // SAFETY: the application's arguments, as they are.
    let call = || unsafe { real(path, mode) };
    // SAFETY: the mode is a C string, as fopen(3) demands.
    if interpose::is_libc_seen() || !unsafe { truncates(mode) } {
        return call();
    }
    answer(truncate_by_name(libc::AT_FDCWD, path, || call().expose_provenance() as isize))
}

fn on_freopen(real: freopen64::Function, path: *const c_char, mode: *const c_char, stream: *mut Stream) -> *mut c_void {
    // SAFETY: the application's arguments, as they are.
    let call = || unsafe { real(path, mode, stream) };
    // SAFETY: the mode is a C string, as freopen(3) demands.
    if interpose::is_libc_seen() || !unsafe { truncates(mode) } {
        return call();
    }
    let call = || call().expose_provenance() as isize;
    if !path.is_null() {
        return answer(truncate_by_name(libc::AT_FDCWD, path, call));
    }
    // Without a path freopen(3) opens the stream's own file once more.
    // SAFETY: the stream is open, as freopen(3) demands.
    let descriptor = unsafe { descriptor_of(stream) };
    answer(truncate_in(descriptor, call))
}

/// The stream; null where the gate refused the call.
fn answer(result: isize) -> *mut c_void {
    if result == -1 { null_mut() } else { pointer(result as usize) }
}

/// Whether an existing file is truncated: "w" without "x" among the letters that libc looks at.
///
/// # Safety
/// `mode` is a C string.
unsafe fn truncates(mode: *const c_char) -> bool {
    const LETTERS: usize = 7;
    // SAFETY: the caller's promise; nothing after the NUL is read.
    let letters = (0..LETTERS).map(|at| unsafe { *mode.add(at) } as u8).take_while(|letter| *letter != 0);
    let (mut writes, mut excludes) = (false, false);
    for (at, letter) in letters.enumerate() {
        writes |= at == 0 && letter == b'w';
        excludes |= at > 0 && letter == b'x';
    }
    writes && !excludes
}
