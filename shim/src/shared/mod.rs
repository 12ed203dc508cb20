//! Shared: writable shared mappings of files, whose stores reach the file without a call.
//!
//! A mapping is put into the [`list`] when it is made. When a snapshot of its file is made, it is *armed* ([`arm`]): the kernel's
//! protection loses PROT_WRITE ([`protection`]), and the next store traps ([`fault`]): the pages of a chunk are preserved, the
//! chunk is opened, the store runs again. The application's own calls on such mappings come in through [`calls`]; what it asked for
//! stands in the list, what the kernel has may be less. Its calls that have the kernel store into such mappings come in through
//! [`kernel_store`]; what the kernel may have to store without a call is opened beforehand ([`robust_futex`]).
//! Where no store may trap any more all mappings are opened for good ([`stay_open`]).
//!
//! May import: `mapper`, `writer`, `origins`, `address_space`, `signals`, `process`, `interpose`, `base` and the core crate.
//!
//! The order: the lock of `address_space`, then the gate, then the list's lock. No thread that holds the list's lock waits for the
//! gate.
//!
//! Must not: start the agent, which arms from above: the function is handed in.

pub mod arm;
pub mod bounce;
pub mod bounce_messages;
pub mod calls;
pub mod fault;
pub mod fork;
pub mod kernel_store;
pub mod list;
pub mod prefault;
pub mod protection;
pub mod robust_futex;
pub mod spare;
pub mod stay_open;
