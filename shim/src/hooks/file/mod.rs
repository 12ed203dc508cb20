//! Calls that change files, read into memory, or change what a descriptor means.
//!
//! A call that changes a file goes through [`change`](crate::writer::enter::change) with the range that it touches. A call by
//! which the kernel stores into memory goes through [`kernel_store`](crate::shared::kernel_store), because that memory may be an
//! armed mapping.

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
