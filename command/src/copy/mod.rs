//! Copying a group of snapshots into files that get their names when all is well.
//!
//! `tree` says what there is to copy, `group` takes it at one instant. A reader takes the bytes out of the snapshots, piece by
//! piece, and gives each piece back at once: writers then no longer have to preserve it. A writer puts them into targets. The two
//! meet in channels (`pipeline`). `data` says where a snapshot has bytes, `bounce` is the memory between the two, `target` a file
//! that has no name yet, `attributes` what a file has beside its bytes, and `place` gives all of them their names.
//!
//! Promise: no target gets its name before all bytes of all snapshots were read, and the library has said that they are exact.

pub mod attributes;
pub mod bounce;
pub mod data;
pub mod group;
pub mod pipeline;
pub mod place;
pub mod target;
pub mod tree;
