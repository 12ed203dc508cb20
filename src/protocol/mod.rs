//! The protocol: state machines over atomics, by which processes that never talk to each other agree.
//!
//! Imports [`sys`](crate::sys) only, for atomics and the futex. It makes no other system call, knows no table, and waits for no
//! other thread. Each transition is decided by one compare-exchange or one store, so a process may die between any two steps.
//!
//! Promise: every step that a proof needs has a [`Fault`](crate::sys::sync::Fault) that leaves it out, and a model in tests/models
//! that fails without it. So nothing lives here that a model cannot compile.
//!
//! Read in this order: [`gate`] (a write announces itself), [`creation`] (an instant is chosen), [`snapshot`] (what is promised),
//! [`preserved`] (what has been kept so far) and [`sharing`] (stores that make no call). The other files are records of the table
//! ([`process`], [`holdings`], [`writer_slot`], [`cause`], [`place`], [`block_owner`], [`executing`], [`changes`], [`unseen`],
//! [`unreached`], [`mapping_ids`], [`origin_name`]), or what a process knows of itself ([`own_ranges`], [`aio_queues`]).

pub mod aio_queues;
pub mod block_owner;
pub mod bytes;
pub mod cause;
pub mod changes;
pub mod creation;
pub mod delay;
pub mod executing;
pub mod gate;
pub mod holdings;
pub mod limits;
pub mod mapping_ids;
pub mod origin;
pub mod origin_name;
pub mod own_ranges;
pub mod place;
pub mod preserved;
pub mod process;
pub mod process_id;
pub mod sharing;
pub mod snapshot;
pub mod unreached;
pub mod unseen;
pub mod writer_slot;
