//! Snapshot: the creation of one, from the arguments of mmap to the committed mapping. Read `create.rs` first.
//!
//! - [`request`]: what is asked for, and whether the file may have snapshots
//! - [`create`]: the order of the steps, and what is undone where one fails
//! - [`part`]: what is made for one of the snapshots of a creation: its record and its mapping
//! - [`instant`]: the gate closes, the writers under way end, shared mappings are armed, the record is committed
//! - [`maps`]: whether a process that does not answer really has the origin mapped
//! - [`delays`]: what keeps a creation waiting, in words
//! - [`place`]: the kernel's mapping, with its tail page and the pages past the end of the file
//! - [`group`]: several snapshots at one instant
//! - [`finish`]: what comes after the instant: the place that MAP_FIXED asks for, locked and populated pages
//!
//! May import: `agent`, `shared`, `mapper`, `origins`, `address_space`, `process`, `base` and the core crate.
//!
//! Promises: the mapping that is returned shows the file as it was at one instant between the call and its return. Otherwise
//! nothing is mapped, the gate is open again, and the log says why.
//!
//! Must not: wait inside a call of the same thread: that is EDEADLK.

pub mod create;
mod delays;
mod finish;
pub mod group;
pub mod instant;
mod maps;
mod part;
pub mod place;
pub mod request;
