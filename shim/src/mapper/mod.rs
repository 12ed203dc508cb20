//! Mapper: what the process does to its own snapshot mappings: munmap, mremap, mprotect, madvise, and mappings over them.
//!
//! Imports `writer`, `origins`, `address_space` and what is below them.

pub mod edit;
pub mod faults;
pub mod preserve_own;
