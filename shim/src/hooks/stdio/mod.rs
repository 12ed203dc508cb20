//! Hooks of stdio, whose writes inside libc no symbol reaches.
//!
//! May import: `hooks::file` and every folder below `hooks`.
//!
//! Promises: what a stream writes comes in once, by its table where libc's code cannot be patched, by `write` inside libc
//! elsewhere.
//!
//! Must not: keep state of a stream.

pub mod fopen;
pub mod message;
pub mod vtable;
