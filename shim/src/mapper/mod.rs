//! Mapper: what the process does to its own snapshot mappings.
//!
//! - [`edit`]: munmap, mprotect, mremap and madvise over snapshots, and mappings in their place
//! - [`preserve_own`]: preserving in them before their pages are held by reference
//! - [`unmap`]: munmap of a snapshot whose writer is stopped
//! - [`keep`]: copying them whole, for a process that can do nothing more for them
//! - [`faults`]: memory whose faults the program answers (userfaultfd), which no snapshot may become
//!
//! May import: `origins`, `address_space`, `process`, `interpose`, `base` and the core crate.
//!
//! Promises: the generation of every segment concerned is odd while it changes, so a writer does not trust what it saw of it.
//! What was preserved stays, and newer bytes never come in.
//!
//! Must not: take a gate. The lock over the mappings, which the caller holds, comes before it.

pub mod edit;
pub mod faults;
pub mod keep;
pub mod preserve_own;
pub mod unmap;
