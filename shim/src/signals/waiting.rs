//! Calls that wait with a mask of their own.

use core::cell::Cell;

use crate::base::stack_pointer::stack_pointer;

thread_local! {
    pub static WAITING: Cell<Waiting> = const { Cell::new(Waiting { stack: 0, mask: 0 }) };
}

/// A call that waits with a mask of its own (sigsuspend(2) and its kin), made at `stack`.
///
/// The frame of a handler that interrupts it tells only the mask that is restored afterwards.
#[derive(Clone, Copy)]
pub struct Waiting {
    pub stack: u64,
    pub mask: u64,
}

/// Makes such a call.
pub fn wait_with<R>(mask: u64, call: impl FnOnce() -> R) -> R {
    let before = WAITING.replace(Waiting { stack: stack_pointer(), mask });
    let result = call();
    WAITING.set(before);
    result
}
