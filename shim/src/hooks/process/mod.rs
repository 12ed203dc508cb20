//! Calls that make processes, replace them, or take from a process what it could do.

pub mod clone;
pub mod confine;
pub mod credentials;
pub mod daemon;
pub mod exec;
pub mod fork;
pub mod namespace;
pub mod spawn;
pub mod vfork;
