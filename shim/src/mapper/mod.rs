//! Mapper: what the process does to its own snapshot mappings.
//!
//! [`edit`] is munmap, mprotect, mremap and madvise over snapshots, and mappings in their place; [`preserve_own`] preserves in
//! them; [`faults`] is memory that the program serves itself (userfaultfd), which none of them may become.
//!
//! May import: `origins`, `address_space`, `process`, `base` and the core crate.
//!
//! Promises: the generation of every piece concerned is odd while it changes, so pushers do not trust what they saw of it; what was
//! preserved stays, and newer bytes never come in.
//!
//! Must not: take a gate. The lock over the mappings, which the caller holds, comes before it.

pub mod edit;
pub mod faults;
pub mod preserve_own;
