//! The system as the core sees it: atomics, system calls that pass through no hook, and what /proc says.
//!
//! Imports nothing of the crate but its own files; everything else may import it. The models compile [`sync`], [`futex`] and
//! [`mix`] alone.
//!
//! Promise: every function may run in any call, in a signal handler and before `main`. It allocates nothing, takes no lock and
//! leaves errno alone. Nothing here knows the table.
//!
//! Read [`sync`] first: the protocol is written over its atomics, and its list of faults names each step that a proof needs.

#[cfg(not(loom))]
pub mod clock;
#[cfg(not(loom))]
pub mod escaped;
#[cfg(not(loom))]
pub mod filesystem;
pub mod futex;
#[cfg(not(loom))]
pub mod masks;
pub mod mix;
#[cfg(not(loom))]
pub mod named;
#[cfg(not(loom))]
pub mod permission;
#[cfg(not(loom))]
pub mod probe;
#[cfg(not(loom))]
pub mod procfs;
#[cfg(not(loom))]
pub mod rare;
#[cfg(not(loom))]
pub mod raw;
#[cfg(not(loom))]
pub mod signal_block;
#[cfg(not(loom))]
pub mod stack_str;
pub mod sync;
#[cfg(not(loom))]
pub mod time_space;
#[cfg(not(loom))]
pub mod wait;
