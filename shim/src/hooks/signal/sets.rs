//! Sets of signals as libc and the kernel have them, and answers as libc gives them.

use core::ffi::c_int;

use libc::sigset_t;
use rustix::io::Errno;
use snapshim::sys::masks;

use crate::base::errno::set_errno;
use crate::signals;
use crate::signals::guarded;

/// Only libc has it; before the constructor has run nobody can ask.
pub fn not_here() -> c_int {
    set_errno(libc::ENOSYS);
    -1
}

pub fn answer(result: Result<(), Errno>) -> c_int {
    match result {
        Ok(()) => 0,
        Err(error) => {
            set_errno(error.raw_os_error());
            -1
        }
    }
}

/// The first word of a set, which is all that the kernel knows of it.
///
/// # Safety
/// `set` is one.
pub unsafe fn word(set: *const sigset_t) -> u64 {
    // SAFETY: the caller's promise; 128 bytes, of which eight are read.
    unsafe { set.cast::<u64>().read_unaligned() }
}

pub fn set_of(word: u64) -> sigset_t {
    // SAFETY: all-zero is an empty set; its first word is the kernel's.
    unsafe {
        let mut set: sigset_t = core::mem::zeroed();
        (&raw mut set).cast::<u64>().write(word);
        set
    }
}

/// Bytes in a mask, as the kernel wants to hear them.
pub const MASK: usize = 8;

/// Calls with a mask in place of the application's, which may be null.
#[inline]
pub fn with_mask<R>(mask: *const sigset_t, call: impl FnOnce(*const sigset_t) -> R) -> R {
    if mask.is_null() || !signals::is_installed() {
        return call(mask);
    }
    // An address that cannot be read is the kernel's to refuse.
    match guarded::load(mask.cast()) {
        Ok(word) => {
            let set = set_of(masks::to_kernel(word));
            call(&raw const set)
        }
        Err(_) => call(mask),
    }
}
