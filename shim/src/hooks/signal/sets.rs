//! Sets of signals as libc and the kernel have them.

use libc::sigset_t;
use snapshim::sys::masks;

use crate::signals::{self, guarded};

/// The first word of a set, which is the whole set for the kernel.
///
/// # Safety
/// `set` is a valid set.
pub unsafe fn word(set: *const sigset_t) -> u64 {
    // SAFETY: the caller's promise; 128 bytes, of which eight are read.
    unsafe { set.cast::<u64>().read_unaligned() }
}

pub fn set_of(word: u64) -> sigset_t {
    // SAFETY: all-zero is an empty set; its first word is the kernel's set.
    unsafe {
        let mut set: sigset_t = core::mem::zeroed();
        (&raw mut set).cast::<u64>().write(word);
        set
    }
}

/// The bytes of a mask, which the kernel wants as an argument.
pub const MASK: usize = 8;

/// Makes `call` with the mask that the kernel gets in place of the application's. Null stays null.
#[inline]
pub fn with_mask<R>(mask: *const sigset_t, call: impl FnOnce(*const sigset_t) -> R) -> R {
    if mask.is_null() || !signals::is_installed() {
        return call(mask);
    }
    // The kernel refuses an address that cannot be read.
    match guarded::load(mask.cast()) {
        Ok(word) => {
            let set = set_of(masks::to_kernel(word));
            call(&raw const set)
        }
        Err(_) => call(mask),
    }
}
