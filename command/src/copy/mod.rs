//! Copying a group of snapshots into files that get their names when all is well.
//!
//! `tree` says what there is to copy, `group` takes it at one instant. `direct` has the kernel copy the bytes into targets, piece
//! by piece, and gives each piece back at once: writers then no longer have to preserve it. Where they go into a pipe, whose reader
//! may be slow, a thread takes them out of the snapshots and another writes them (`pipeline`). `data` says where a snapshot has
//! bytes, `clone` where a clone of its file may lack them, `bounce` is memory that they go through, `target` a file that has no
//! name yet, `attributes` what a file has beside its bytes, and `place` gives all of them their names.
//!
//! Promise: no target gets its name before all bytes of all snapshots were read, and the library has said that they are exact.

pub mod attributes;
pub mod bounce;
pub mod clone;
pub mod data;
pub mod direct;
pub mod group;
pub mod pipeline;
pub mod place;
pub mod target;
pub mod tree;
