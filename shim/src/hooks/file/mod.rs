//! Hooks of calls on descriptors and paths: they write, cut, read into memory, copy, open, close, set times, or pass requests on.
//!
//! May import: every folder below `hooks`, and none of its other sub-folders.
//!
//! Promises: each call says how many bytes it would change, where, and of which file; all names of one operation come to one
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
