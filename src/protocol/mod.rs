//! The protocol.

pub mod limits;
