//! Process: who this image and this thread are, in the table and for the kernel.
//!
//! Imports `interpose`, `base` and the core crate. It knows no mapping: it attaches, claims a writer slot for each thread, and says in
//! the log what a person has to know.

pub mod descriptors;
pub mod errand;
pub mod fd_table;
pub mod identity;
pub mod leaving;
pub mod lending;
pub mod log;
pub mod membership;
pub mod other_tables;
pub mod presence;
pub mod thread;
