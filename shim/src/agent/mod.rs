//! Agent: the shim's one helper thread in a process that has snapshots or writable shared mappings.
//!
//! [`start`] makes it, [`run`] is its loop, [`alone`] whether it is the last thread that is left, [`exclusion`] the calls that no
//! agent may live through.
//!
//! May import: `shared`, `mapper`, `origins`, `address_space`, `process`, `interpose`, `base` and the core crate.
//!
//! Promises: what writers and creations ask of this process is answered although all threads of the application are stopped in
//! calls. A process without need for it has none.
//!
//! Must not: use thread-local storage, call libc, take a lock that is waited for, or open a file in the application's descriptor
//! table.

pub mod alone;
pub mod exclusion;
pub mod run;
pub mod start;
