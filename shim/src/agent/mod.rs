//! Agent: the shim's one helper thread in a process that has snapshots or writable shared mappings.
//!
//! Imports `shared`, `mapper`, `writer`, `origins` and what is below them.

pub mod alone;
pub mod exclusion;
pub mod run;
pub mod start;
