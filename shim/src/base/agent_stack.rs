//! The agent's stack, and by it whether the calling thread is the agent.
//!
//! The agent has no thread-local storage that could say so.

use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr};

use snapshim::sys::sync::Ordering;

use super::stack_pointer;

pub const STACK: usize = 64 << 10;

/// The stack of the agent that was started last.
static LAST_STACK: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
/// Whether that agent's thread is gone, so that the next one can have its stack.
static IS_LAST_STACK_FREE: AtomicBool = AtomicBool::new(false);

/// Makes the last agent's stack free: the kernel does not count its thread any more.
pub fn give_stack_back() {
    // Release: pairs with the Acquire in `take_stack`.
    IS_LAST_STACK_FREE.store(true, Ordering::Release);
}

/// A stack for the next agent: the last one's if it is free, else a new one with a guard page. `None`: there is no memory.
pub fn take_stack() -> Option<*mut c_void> {
    // Acquire: pairs with the Release in `give_stack_back`.
    if IS_LAST_STACK_FREE.swap(false, Ordering::Acquire) {
        return Some(LAST_STACK.load(Ordering::Relaxed));
    }
    let stack = crate::base::arena::memory(STACK)?;
    // SAFETY: our own memory; its lowest page becomes a guard.
    unsafe { rustix::mm::mprotect(stack, snapshim::PAGE as usize, rustix::mm::MprotectFlags::empty()) }.ok()?;
    LAST_STACK.store(stack, Ordering::Relaxed);
    Some(stack)
}

/// Whether the calling thread is the agent.
pub fn is_caller() -> bool {
    let start = LAST_STACK.load(Ordering::Relaxed) as u64;
    (start..start + STACK as u64).contains(&stack_pointer::stack_pointer())
}
