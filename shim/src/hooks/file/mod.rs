//! Calls that change files, read into memory, or change what a descriptor means.

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
