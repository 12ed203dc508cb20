//! Lifecycle: what happens to snapshots, calls and slots when the process forks or execs.
//!
//! Imports `snapshot` and what is below it.

pub mod exec;
pub mod fork;
pub mod fork_in_handler;
pub mod inherit;
