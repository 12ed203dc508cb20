//! Shared: the process's writable MAP_SHARED mappings, whose stores change files without a call.
//!
//! Imports `mapper`, `writer` and what is below them.

pub mod arm;
pub mod bounce;
pub mod bounce_messages;
pub mod calls;
pub mod eager;
pub mod fault;
pub mod fork;
pub mod kernel_store;
pub mod list;
pub mod protection;
pub mod robust_futex;
pub mod spare;
