//! The core of snapshim: what every cooperating process agrees on.
//!
//! A process that holds a snapshot (the *mapper*) and a process that changes its origin (the *writer*) never talk to each other
//! directly: they meet in a table in shared memory. This crate owns that table and the protocol over it. It knows nothing of hooks,
//! allocates nothing, locks nothing, and holds no descriptor that it relies on. So it may run inside any call of any program, in a
//! signal handler, and before `main`.
//!
//! Five folders; each imports the folders before it and no other:
//!
//! 1. [`sys`]: atomics, raw system calls, /proc, waiting;
//! 2. [`protocol`]: the state machines, which make no system call; the models compile it, and of `sys` the atomics and the futex;
//! 3. [`table`]: the layout, how a process attaches to it, its accessors, and the pool of preserved bits;
//! 4. [`cooperate`]: waiting for others, judging whether they live, taking out what the dead left;
//! 5. [`preserve`]: how a page is kept.
//!
//! Read in this order: [`protocol::gate`] (a write announces itself), [`protocol::creation`] (an instant is chosen),
//! [`protocol::snapshot`] (what is promised), [`protocol::preserved`] (which pages have copies so far), [`protocol::sharing`]
//! (stores that make no call), [`cooperate::drain`] (a creation waits for the writers), then [`preserve`].
//!
//! docs/architecture.md shows this crate and the library together: layers, protocol, journeys of a call, words, facts about the
//! kernel.

#![cfg_attr(not(loom), no_std)]
#![cfg_attr(loom, warn(clippy::disallowed_types))]

#[cfg(not(loom))]
pub mod cooperate;
#[cfg(not(loom))]
pub mod preserve;
pub mod protocol;
pub mod sys;
#[cfg(not(loom))]
pub mod table;

/// Bytes in a page of x86-64, which knows no others.
pub const PAGE: u64 = 4096;
