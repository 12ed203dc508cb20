//! Address space: the process's own mappings, held still.
//!
//! [`lock`] is the one lock over them, and the way to walk the pieces of own snapshots that lie in a range of addresses; [`freeze`]
//! holds other threads' stores into a range back while it is copied.
//!
//! May import: `signals`, `process`, `base` and the core crate.
//!
//! Promises: while [`lock::Mappings`] is held no other thread of this process maps, unmaps or moves what the shim knows of, and
//! signals are blocked. The lock comes before the gate, and before the list of shared mappings.
//!
//! Must not: change a mapping (`mapper` does), nor park: parking_lot would allocate.

pub mod freeze;
pub mod lock;
