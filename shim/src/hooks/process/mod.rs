//! Calls that make processes, replace them, or take from a process what it could do.
//!
//! A fork is handed to [`lifecycle`](crate::lifecycle). A call that takes rights or the way to the table away joins the table first
//! ([`confine`], [`credentials`]).

pub mod clone;
pub mod confine;
pub mod credentials;
pub mod daemon;
pub mod exec;
pub mod fork;
pub mod namespace;
pub mod spawn;
pub mod vfork;
