//! Process: who this image and this thread are, in the table and for the kernel.
//!
//! From the lowest on: [`presence`] (is there an agent), [`identity`] (this image; it says nothing), [`fd_table`] and
//! [`descriptors`], [`log`] (what a person hears), [`errand`] and [`other_tables`], [`membership`] (joining and leaving),
//! [`thread`] (a writer slot for each), [`lending`] and [`leaving`].
//!
//! May import: `interpose`, `base` and the core crate.
//!
//! Promises: a process joins on first need and from any hook, and one that cannot join says so in the table where it can. A forked
//! child never takes itself for its parent: what names the image lies in a page that fork wipes.
//!
//! Must not: know mappings of snapshots or of files; hold a descriptor that anything relies on.

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
