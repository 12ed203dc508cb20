//! Address space: the lock over the process's own snapshot mappings, and the way to hold other threads' stores back.
//!
//! Imports `signals`, `process`, `interpose`, `base` and the core crate.

pub mod freeze;
pub mod lock;
