//! Acting on the table together: waiting for others, judging whether they live, taking out what the dead left.
//!
//! Imports [`table`](crate::table), [`protocol`](crate::protocol) and [`sys`](crate::sys). The table answers what a record says;
//! this folder asks the system what is true: /proc, another process's memory, the kernel's mark of an exec.
//!
//! Promise: no process waits for the dead, and none waits for ever ([`drain`]). A process that cannot be looked at counts as alive
//! ([`liveness`]). Any process may take something out of the table, at any time and more than once, and be killed while it does
//! ([`recovery`]). A table that does not fit what a process knows of itself is declared damaged, and left ([`inspection`]).
//!
//! No page is preserved here, and no memory of the application is changed. Read [`drain`], [`liveness`] and [`recovery`] first.

pub mod aio_idle;
pub mod arming;
mod creations;
pub mod delays;
pub mod drain;
pub mod foreign;
pub mod inspection;
pub mod liveness;
pub mod locate;
pub mod program;
pub mod recovery;
pub mod remembered;
pub mod search;
pub mod segments;
pub mod shared_mm;
pub mod summon;
mod thread_state;
mod unreached;
pub mod unseen;
mod vacancies;
pub mod why;
