//! The core of snapshim: what every cooperating process agrees on.
//!
//! A process that holds a snapshot (the *mapper*) and a process that changes its origin (the *writer*) never talk to each other
//! directly; they meet in a table in shared memory. This crate owns that table and the protocol over it. It knows nothing of hooks,
//! allocates nothing, locks nothing and takes no descriptor that it relies on, so it may run inside any call of any program, in a
//! signal handler, and before `main`.
//!
//! Read in this order: [`gate`] (a write announces itself), [`creation`] (an instant is chosen), [`snapshot`] (what is promised),
//! [`preserved`] (what has been kept so far), [`sharing`] (stores that make no call), then `preserve` (how a page is kept).

#![cfg_attr(not(loom), no_std)]

#[cfg(not(loom))]
pub mod cooperate;
pub mod protocol;
pub mod sys;
#[cfg(not(loom))]
pub mod table;

#[cfg(not(loom))]
pub mod preserve;

/// Bytes in a page of x86-64, which knows no others.
pub const PAGE: u64 = 4096;
