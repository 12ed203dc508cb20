//! Address space: the process's own snapshot mappings, as far as every layer above needs them.
//!
//! - [`lock`]: the one lock over these mappings, and walks over the segments that lie in a range of addresses
//! - [`reserved`]: addresses of given up snapshots into which a stopped writer may store a byte yet
//! - [`freeze`]: holds other threads' stores into a range back while it is copied
//!
//! May import: `signals`, `process`, `base` and the core crate.
//!
//! Promises: while [`lock::Mappings`] is held, no other thread of this process maps, unmaps or moves a snapshot, and signals are
//! blocked. The lock comes after the gate, and before the list of shared mappings.
//!
//! Must not: change a mapping (`mapper` does), nor park: parking_lot would allocate. No thread that holds the lock waits at the
//! gate, or for writers under way, but for one that stores bytes into that very range, for `SNAPSHIM_TIMEOUT_MS` at most: each call
//! on memory of the process would wait with it, and the creation may need the lock.

pub mod freeze;
pub mod lock;
pub mod reserved;
