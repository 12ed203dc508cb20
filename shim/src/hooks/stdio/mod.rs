//! Hooks of stdio, and of libc's messages, whose inner calls reach no hook by a symbol.
//!
//! May import: `hooks::file` and every folder below `hooks`.
//!
//! Promises: a write of a stream reaches one hook: that of its table where libc's code cannot be patched, that of `write` inside
//! libc elsewhere.
//!
//! Must not: keep state of a stream.

pub mod fopen;
pub mod message;
pub mod vtable;
