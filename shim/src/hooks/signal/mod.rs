//! Hooks of calls about signals: actions, masks, waiting, and the ways out of a handler.
//!
//! The calls pass unchanged until the shim handles faults ([`signals::install`](crate::signals::install)). From then on the shim
//! keeps the application's action for SIGSEGV, and masks go to the kernel with a substitute in place of SIGSEGV
//! ([`masks`](snapshim::sys::masks)).
//!
//! May import: every folder below `hooks`, and none of its other sub-folders.
//!
//! Promises: the application sees SIGSEGV as if it were its own: its action, whether it is blocked, and that it arrives.
//!
//! Must not: change what a call does while the shim handles no faults.

pub mod action;
pub mod jump;
pub mod mask;
pub mod sets;
pub mod wait;
