//! The page that a forked child finds wiped, for what is true of one process alone.
//!
//! One page serves all who need that: each process has it from its start.

use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use rustix::mm::{Advice, madvise};
use snapshim::PAGE;

use super::arena;

static PAGE_FOUND: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

/// Where the page says which of the library's own stacks are in use.
const STACKS_AT: usize = PAGE as usize - 64;
/// How many bytes, from the start of the page on, are for what names the image.
pub const FOR_IMAGE: usize = STACKS_AT;

/// A bit for each of the library's own stacks that is in use; `None` before the page is made.
pub fn stacks_in_use() -> Option<&'static AtomicU32> {
    // Acquire: pairs with the AcqRel in `page`: the page is mapped, and wiped at a fork.
    let page = PAGE_FOUND.load(Ordering::Acquire);
    // SAFETY: once set, the page is never unmapped; its end belongs to this word, and any bit pattern is valid.
    (!page.is_null()).then(|| unsafe { &*page.wrapping_byte_add(STACKS_AT).cast::<AtomicU32>() })
}

/// The page, made at the first call; zeros. `None`: there is no memory, or the kernel cannot wipe it at a fork.
pub fn page() -> Option<*mut c_void> {
    // Acquire: pairs with the AcqRel below.
    let known = PAGE_FOUND.load(Ordering::Acquire);
    if !known.is_null() {
        return Some(known);
    }
    let page = arena::memory(PAGE as usize)?;
    // SAFETY: memory of the arena, which only this function knows of yet.
    unsafe { madvise(page, PAGE as usize, Advice::LinuxWipeOnFork) }.ok()?;
    // AcqRel: pairs with itself and with the Acquires above. The first of two threads wins, and the page of the other is lost,
    // once.
    match PAGE_FOUND.compare_exchange(ptr::null_mut(), page, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => Some(page),
        Err(first) => Some(first),
    }
}
