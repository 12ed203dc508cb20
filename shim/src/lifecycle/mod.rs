//! Lifecycle: what becomes of snapshots, calls and slots when the process forks, calls exec or ends.
//!
//! - [`fork`]: a fork from beginning to end
//! - [`inherit`]: the child's records of snapshots
//! - [`fork_in_handler`]: a fork inside a call that a handler interrupted
//! - [`exec`]: the end of this image
//! - [`environment`]: what the next one gets; whether the library will be in it, [`snapshim::cooperate::program`] says
//! - [`confinement`]: a filter of system calls that the process gives itself
//! - [`exit`]: the end of the process
//!
//! May import: `snapshot`, `mapper`, `agent`, `shared`, `origins`, `address_space`, `process`, `interpose`, `base` and the core
//! crate.
//!
//! Promises: a forked child has its parent's snapshots, exactly, or they fault there. No writer preserves in the image that follows
//! exec.
//!
//! Must not: depend on how the fork was called. clone(2), fork(3) and a fork by number lead to one function.

pub mod confinement;
pub mod environment;
pub mod exec;
pub mod exit;
pub mod fork;
pub mod fork_in_handler;
pub mod inherit;
