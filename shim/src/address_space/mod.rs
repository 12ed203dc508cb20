//! Address space: the process's own snapshot mappings, as far as every layer above needs them.
//!
//! - [`lock`]: the one lock over these mappings, and walks over their segments
//! - [`freeze`]: holds the stores of other threads back while a range is copied
//!
//! What changes a mapping lies higher, in `mapper`. Promise: while [`lock::Mappings`] is alive, no other thread of the process
//! makes, moves or unmaps a snapshot, and the process does not fork. Imports `signals`, `process`, `interpose`, `base` and the
//! core crate.

pub mod freeze;
pub mod lock;
