//! Calls that change files, read into memory, or change what a descriptor means.

pub mod read;
pub mod recv;
pub mod splice;
pub mod write;
