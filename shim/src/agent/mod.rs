//! Agent: the shim's one helper thread in a process that has snapshots, or has a file mapped shared and writable of which a
//! snapshot was made.
//!
//! [`start`] creates it, [`run`] is its loop, [`alone`] finds out whether it is the last thread, [`exclusion`] makes calls that
//! exclude it.
//!
//! May import: `shared`, `mapper`, `origins`, `address_space`, `signals`, `process`, `interpose`, `base` and the core crate.
//!
//! Promises: what writers and creations ask of this process is answered although all threads of the application are stopped in
//! calls. A process that needs no agent has none.
//!
//! Must not: use thread-local storage, call libc, take a lock that is waited for, or open a file in the application's descriptor
//! table.

pub mod alone;
pub mod exclusion;
pub mod run;
pub mod start;
