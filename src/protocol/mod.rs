//! The protocol.

pub mod changes;
pub mod limits;
pub mod process_id;
