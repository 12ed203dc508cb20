//! Hooks of calls about signals: actions, masks, waiting, and the ways out of a handler.
//!
//! May import: every folder below `hooks`, and none of its other sub-folders.
//!
//! Promises: the application sees SIGSEGV as if it were its own: its action, whether it is blocked, and that it comes.
//!
//! Must not: change what a call does while the shim handles no faults: it passes.

pub mod action;
pub mod jump;
pub mod mask;
pub mod sets;
pub mod wait;
