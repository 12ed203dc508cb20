//! Snapshot: the creation of one, from the arguments of mmap to the committed mapping. Read `create.rs` first.
//!
//! - [`create`]: what may be mapped, the order of the steps, and what is undone where one fails
//! - [`instant`]: the gate closes, the writers under way end, shared mappings are armed, the record is committed
//! - [`maps`]: whether a process that does not answer really has the origin mapped
//! - [`delays`]: what keeps a creation waiting, in words
//! - [`place`]: the kernel's mapping, with its tail page and the pages past the end of the file
//!
//! May import: `agent`, `shared`, `mapper`, `origins`, `address_space`, `process`, `base` and the core crate.
//!
//! Promises: the mapping that is returned shows the file as it was at one instant between the call and its return. Otherwise
//! nothing is mapped, the gate is open again, and the log says why.
//!
//! Must not: wait inside a call of the same thread: that is EDEADLK.

pub mod create;
mod delays;
pub mod instant;
mod maps;
pub mod place;
