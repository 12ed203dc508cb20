//! Writer: the path of a call that changes a file, from "announced" to "done".
//!
//! Imports `origins`, `address_space`, `process`, `interpose`, `base` and the core crate. Holds no lock and allocates nothing.

pub mod announced;
pub mod enter;
pub mod reach;
pub mod report;
pub mod sequence;
pub mod slot;
pub mod touch;
