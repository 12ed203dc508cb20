//! Snapshot: making one, from the checked arguments of mmap to the committed mapping.
//!
//! Imports `agent` and what is below it.

pub mod create;
pub mod instant;
pub mod place;
