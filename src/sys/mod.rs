//! The system as the core sees it: atomics, system calls that pass through no hook, and what /proc says.
//!
//! Imports nothing of the crate but its own files; everything else may import it. A model compiles [`futex`] alone.
//!
//! Promise: every function may run in any call, in a signal handler and before `main`. It allocates nothing, takes no lock, leaves
//! errno alone and keeps no descriptor open behind the caller's back.

#[cfg(not(loom))]
pub mod clock;
pub mod futex;
#[cfg(not(loom))]
pub mod procfs;
#[cfg(not(loom))]
pub mod signal_block;
#[cfg(not(loom))]
pub mod wait;
