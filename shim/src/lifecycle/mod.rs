//! Lifecycle: what happens to snapshots, calls and slots when the process forks or execs.
//!
//! - [`fork`]: a fork of a process with snapshots is one creation, so the child's snapshots are exact
//! - [`inherit`]: the records that the child gets, and what becomes of the snapshots where it cannot get them
//! - [`fork_in_handler`]: a fork inside a call that a handler interrupted, which goes on in the child as well
//! - [`exec`]: the announcement that this image ends
//!
//! Promise: a child's snapshots are exact or they fault. Imports `snapshot` and what is below it; only `hooks` imports it.

pub mod exec;
pub mod fork;
pub mod fork_in_handler;
pub mod inherit;
