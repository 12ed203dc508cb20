//! What a C function returns: its result, or the value that says "failed" and the reason in errno.

use core::ffi::{c_int, c_long, c_void};

use rustix::io::Errno;

use crate::base::errno::set_errno;

/// A result type of C functions that has one value for "failed".
pub trait Answer {
    /// What the function returns where it fails.
    const FAILED: Self;
}

impl Answer for c_int {
    const FAILED: Self = -1;
}

impl Answer for c_long {
    const FAILED: Self = -1;
}

impl Answer for isize {
    const FAILED: Self = -1;
}

/// As mmap(2) and its kin answer; functions that answer with a null pointer are no part of this.
impl Answer for *mut c_void {
    const FAILED: Self = libc::MAP_FAILED;
}

/// Sets errno and answers that the call failed.
pub fn fail<A: Answer>(errno: c_int) -> A {
    set_errno(errno);
    A::FAILED
}

/// The result of a call as C has it.
pub fn answer<A: Answer>(result: Result<A, Errno>) -> A {
    result.unwrap_or_else(|error| fail(error.raw_os_error()))
}

/// The same for a call that succeeds with 0.
pub fn status<A: Answer + Default>(result: Result<(), Errno>) -> A {
    answer(result.map(|()| A::default()))
}
