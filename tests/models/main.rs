//! Models of the state machines: every interleaving (bounded) of the parties, on the code that the library runs.
//!
//! Run by `make models`; `make planted` runs each again with one step of the protocol left out and wants it to fail.
//!
//! | state machine | in the core | models |
//! |---|---|---|
//! | active word, frames' phases, creation record | `protocol::gate`, `protocol::creation` | [`instant`] |
//! | a creation's intent | `protocol::creation::Intent` | [`instant`] |
//! | calls without a slot; the marks below which records are used | `protocol::process`, `table::header` | [`instant`] |
//! | shared mappings and their arming | `protocol::sharing` | [`arming`] |
//! | generation, pushers, places of a snapshot; pieces cut off | `protocol::snapshot` | [`mapping`] |
//! | bytes that are stored into read-only snapshots | `protocol::bytes` | [`mapping`] |
//! | preserved bits, and whose their blocks are | `protocol::preserved`, `protocol::block_owner` | [`bits`] |
//! | process records, births, claims, slots, and who takes them out | `protocol::process`, `protocol::writer_slot` | [`burial`] |
//! | requests to an agent, and its bell | `protocol::writer_slot`, `protocol::process` | [`asking`] |
//! | bytes at movable positions | `protocol::gate::Floating` | [`positions`] |
//! | counted changes, looks at a file | `protocol::changes` | [`foreign_changes`] |
//! | a process's own: where its snapshots lie, its queues of direct writes | `protocol::holdings`, `protocol::aio_queues` | [`own`] |
//!
//! Without one, because nothing follows from their order: words that one party writes once for its image and that are worth nothing
//! without its epoch (start, cookie, agent, whether there are queues or other stacks); counters of which only another value is
//! wanted (lives, ids of mappings); the mark that says that the table is damaged; guesses that cost a look if they are wrong
//! (headroom, kept files, `Snapshot::flags` but for what a program's own thread sets under its lock). Who changes a descriptor
//! while another thread writes through it is found out afterwards: `tests/programs/writing/calls.c`.

#![cfg(loom)]

mod arming;
mod asking;
mod bits;
mod burial;
mod foreign_changes;
mod instant;
mod mapping;
mod own;
mod positions;
mod unseen;
mod world;
