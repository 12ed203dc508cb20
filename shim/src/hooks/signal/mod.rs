//! Calls about signals: actions, masks, waiting, and the ways out of a handler.
//!
//! The calls pass unchanged until the shim handles faults ([`signals::install`](crate::signals::install)). From then on the
//! application's action for SIGSEGV is kept by the shim, and masks go to the kernel with a substitute in place of SIGSEGV
//! ([`masks`](snapshim::sys::masks)).

pub mod action;
pub mod jump;
pub mod mask;
pub mod sets;
pub mod wait;
