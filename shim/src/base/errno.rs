//! The calling thread's errno, and results as libc gives them.

/// A raw system call's result as libc gives it: errno set, -1.
pub fn as_libc(result: Result<usize, syscalls::Errno>) -> isize {
    match result {
        Ok(value) => value as isize,
        Err(error) => {
            set_errno(error.into_raw());
            -1
        }
    }
}

/// The calling thread's errno.
pub fn errno() -> i32 {
    // SAFETY: libc gives the address of the calling thread's errno.
    unsafe { *libc::__errno_location() }
}

/// Sets the calling thread's errno.
pub fn set_errno(errno: i32) {
    // SAFETY: libc gives the address of the calling thread's errno.
    unsafe { *libc::__errno_location() = errno };
}
