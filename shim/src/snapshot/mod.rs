//! Snapshot: making one, from the arguments of mmap to the committed mapping.
//!
//! [`create`] says what may be mapped and puts the steps in order, [`instant`] closes the gate, waits for writers, arms and
//! commits, [`place`] is the kernel's mapping.
//!
//! May import: `agent`, `shared`, `mapper`, `origins`, `address_space`, `process`, `base` and the core crate.
//!
//! Promises: the mapping that is returned shows the file as it was at one instant between the call and its return; else nothing is
//! mapped, the gate is open again, and the log says why.
//!
//! Must not: wait inside a call of the same thread: that is EDEADLK.

pub mod create;
pub mod instant;
pub mod place;
