//! Hooks of calls on descriptors and paths: they write, truncate, read into memory, copy, open, close, set times, or make requests.
//!
//! A call that changes a file goes through [`through_gate`](crate::writer::enter::through_gate) with the range that it
//! touches. A call by which the kernel stores into memory goes through [`kernel_store`](crate::shared::kernel_store), because that
//! memory may be an armed mapping or a snapshot.
//!
//! May import: every folder below `hooks`, and none of its other sub-folders.
//!
//! Promises: each call says how many bytes it would change, where, and of which file. All names of one operation lead to one
//! function.
//!
//! Must not: act before the gate is passed. A call by path is made on the file that was looked at, through /proc/self/fd.

pub mod close;
pub mod ioctl;
pub mod open;
pub mod open_fortified;
pub mod read;
pub mod recv;
pub mod requests;
pub mod splice;
pub mod truncate;
pub mod utime;
pub mod write;
