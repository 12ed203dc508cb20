//! Writer: the path of a call that changes a file, from "announced" to "done".
//!
//! [`touch`] is what a call says of itself, [`reach`] where its bytes can land, [`slot`] the thread at the gate; [`enter`] puts
//! them together for a call with a descriptor, [`announced`] for a change without one. [`report`] has the messages, [`sequence`]
//! how many pages are preserved ahead of a sequential writer. [`dropped`] ends snapshots by hand, as a write that cannot preserve.
//!
//! May import: `address_space`, `signals`, `process`, `interpose`, `base` and the core crate.
//!
//! Promises: after the gate is passed (core: `gate`) no snapshot comes into being that the call may spoil, and what existing ones
//! need of its bytes is preserved before the real call is made. Holds no lock, allocates nothing, holds nothing that needs dropping
//! while the real call runs, and leaves errno to it.
//!
//! Must not: know which libc function was called.

pub mod announced;
pub mod dropped;
pub mod enter;
pub mod reach;
pub mod report;
pub mod sequence;
pub mod slot;
pub mod touch;
