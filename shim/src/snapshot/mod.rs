//! Snapshot: the creation of one, from the arguments of mmap to the committed mapping.
//!
//! - [`create`]: what may be mapped, the order of the steps, and what is undone where one fails
//! - [`instant`]: the gate closes, the writers under way end, shared mappings are armed, the record is committed
//! - [`place`]: the kernel's mapping, with its tail page and the pages past the end of the file
//!
//! Promise: the mapping that [`create::create`] returns equals the file at one instant between its call and its return, or there
//! is no mapping. Imports `agent` and what is below it; `hooks` and `lifecycle` import it. Read `create.rs` first.

pub mod create;
pub mod instant;
pub mod place;
