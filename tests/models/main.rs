//! Models of the state machines: every interleaving (bounded) of the parties, on the code that the library runs.
//!
//! Run by `make models`; `make planted` runs each again with one step of the protocol left out, and wants it to fail.
//!
//! | state machine | in the core | models |
//! |---|---|---|
//! | active word, frames' phases, creation records | `protocol::gate`, `protocol::creation` | [`instant`] |
//! | a call that is found to go elsewhere, and its note | `protocol::gate`, `protocol::process` | [`elsewhere`] |
//! | a group's names | `protocol::creation` | [`group`] |
//! | a creation's intent | `protocol::creation::Intent` | [`instant`] |
//! | calls without a slot; the high-water marks of the records | `protocol::process`, `table::header` | [`instant`] |
//! | shared mappings and their arming | `protocol::sharing` | [`arming`] |
//! | generation, pushers, extents of a snapshot; segments split off | `protocol::snapshot` | [`mapping`] |
//! | marks of where snapshots stand | `protocol::place` | [`places`] |
//! | bytes that are stored into read-only snapshots | `protocol::bytes` | [`mapping`] |
//! | preserved bits, and the owners of their blocks | `protocol::preserved`, `protocol::block_owner` | [`bits`] |
//! | process records, forks, claims, slots, and their recovery | `protocol::process`, `protocol::holdings`, `protocol::writer_slot`
//! | [`reaping`] |
//! | requests to an agent, and its doorbell | `protocol::writer_slot`, `protocol::process` | [`asking`] |
//! | bytes at movable positions | `protocol::gate::UnplacedBytes` | [`positions`] |
//! | counted changes, observations of a file | `protocol::changes` | [`foreign_changes`] |
//! | unseen processes | `protocol::unseen` | [`unseen`] |
//! | a process's own ranges, its queues of direct writes | `protocol::own_ranges`, `protocol::aio_queues` | [`own`] |
//!
//! Some words have no model, because nothing follows from their order: words that one thread writes once for its image, and that
//! say nothing without its epoch (start, cookie, agent, whether there are queues or other stacks); counters of which only another
//! value is wanted (incarnations); ids of mappings, each of which one exchange makes larger than those before; the word that says
//! that the table is damaged; guesses that cost a look if they are wrong (headroom, cached files, what a process is said to hold
//! back, `Snapshot::flags` but for what a program's own thread sets under its lock). A thread may change a descriptor while
//! another thread writes through it: that is found out afterwards
//! (`tests/programs/write_calls.c`).

#![cfg(loom)]

mod arming;
mod asking;
mod bits;
mod elsewhere;
mod foreign_changes;
mod group;
mod instant;
mod mapping;
mod own;
mod places;
mod positions;
mod reaping;
mod unseen;
mod world;
