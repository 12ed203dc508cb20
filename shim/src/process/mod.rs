//! Process: what this image and this thread are, in the table and for the kernel.
//!
//! From the lowest on: [`agent_state`] (whether there is an agent), [`identity`] (this image), [`fd_table`] and [`descriptors`]
//! (its descriptor tables), [`first_thread`] (whether its first thread lives), [`log`] (messages, with [`log_line`], [`log_target`]
//! and [`said`]), [`errand`] (calls of a process at its limits), [`ptracer`] (who
//! may reach its memory), [`other_tables`] (tables of other
//! versions), [`membership`] (joining and leaving), [`thread`] (a writer slot for each), [`shared_mm`] (memory that a child shares)
//! and [`leaving`] (calls that a thread has jumped out of).
//!
//! May import: `interpose`, `base` and the core crate.
//!
//! Promises: a process joins on first need and from any hook, and one that cannot join says so in the table where it can. A forked
//! child never takes itself for its parent: what names the image lies in a page that fork wipes.
//!
//! Must not: know mappings of snapshots or of files; hold a descriptor that anything relies on.

pub mod agent_state;
pub mod descriptors;
pub mod errand;
pub mod fd_table;
pub mod first_thread;
pub mod identity;
pub mod leaving;
pub mod log;
pub mod log_line;
pub mod log_target;
pub mod membership;
pub mod other_tables;
pub mod ptracer;
pub mod said;
pub mod shared_mm;
pub mod thread;
