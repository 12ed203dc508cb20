//! Calls that wait with another mask: sigsuspend(2) and its kin.

use core::cell::Cell;

use crate::base::stack_pointer::stack_pointer;

thread_local! {
    /// The call of the thread that is under way; its stack is 0 if there is none.
    pub static WAITING: Cell<Waiting> = const { Cell::new(Waiting { stack: 0, mask: 0 }) };
}

/// A call that waits with `mask`, made at `stack`.
///
/// If a handler interrupts the call, the signal frame has only the mask that is restored afterwards.
#[derive(Clone, Copy)]
pub struct Waiting {
    pub stack: u64,
    pub mask: u64,
}

/// Makes `call`, which waits with `mask`.
pub fn wait_with<R>(mask: u64, call: impl FnOnce() -> R) -> R {
    let before = WAITING.replace(Waiting { stack: stack_pointer(), mask });
    let result = call();
    WAITING.set(before);
    result
}
