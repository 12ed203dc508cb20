//! Mapper: what the process does to its own snapshot mappings: munmap, mremap, mprotect, madvise, and mappings over them.
//!
//! - [`edit`]: the changes, under the lock of `address_space` and with the generation of every segment odd
//! - [`preserve_own`]: preserving in own snapshots before their pages are held by reference
//! - [`faults`]: userfaultfd(2), which no snapshot may be registered with
//!
//! Promise: no change of a mapping shows a byte that is newer than the snapshot. What the kernel would refuse for a file mapping is
//! refused. Imports `writer`, `origins`, `address_space` and what is below them.

pub mod edit;
pub mod faults;
pub mod preserve_own;
