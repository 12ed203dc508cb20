//! Hooks of calls that make a process, replace one, or take from it what it could do: fork, clone, exec, credentials, confinement.
//!
//! May import: `hooks::file` and every folder below `hooks`.
//!
//! Promises: a child, and the image after exec, stand in the table before they can change a file. A process joins the table before
//! it shuts itself in.
//!
//! Must not: decide what a child inherits: `lifecycle` does.

pub mod clone;
pub mod confine;
pub mod credentials;
pub mod daemon;
pub mod exec;
pub mod exit;
pub mod fork;
pub mod prctl;
pub mod spawn;
pub mod vfork;
