//! How many records of each kind the table has room for.

/// Processes that can be attached at once: one less than the numbers of 16 bits, of which 0 is none.
pub const PROCESSES: usize = 65535;
/// Threads that can have a slot at once.
pub const WRITERS: usize = 65536;
/// Snapshot segments that can exist at once. A fork of a process that has many needs as many again.
pub const SNAPSHOTS: usize = 16384;
/// Snapshots that can be taken at one instant.
pub const GROUP: usize = SNAPSHOTS;
/// Creations that can be under way at once. A fork counts as one.
#[cfg(not(loom))]
pub const CREATIONS: usize = 16;
/// Creations that can be under way at once, in a model.
#[cfg(loom)]
pub const CREATIONS: usize = 2;
/// Blocks of preserved bits: 64 MiB of them, taken from the file system as they come into use.
pub const BLOCKS: usize = 16384;
