//! Inspection: whether the table is what the cooperating processes made of it.
//!
//! A program that may write the file can write anything into it, and a program with a stray pointer does. Found damage is declared
//! in the header, and each process that sees that leaves the table. From then on no process vouches for a snapshot, and none acts
//! on memory by what a record says.

use super::liveness;
use crate::protocol::own_ranges::OwnRanges;
use crate::protocol::process_id::ProcessId;
use crate::sys::sync::Ordering;
use crate::sys::wait::Backoff;
use crate::table::Table;
use crate::table::walk::Walk;

/// What a process knows of itself.
#[derive(Clone, Copy, Debug)]
pub struct Knowledge<'a> {
    /// Its id.
    pub id: ProcessId,
    /// Index of its record.
    pub index: u32,
    /// The address of the word by which other processes know it.
    pub cookie: u64,
    /// Where its snapshots lie.
    pub own_ranges: &'a OwnRanges,
}

/// Rounds before what does not fit counts as damage: another thread may be splitting a segment.
const ROUNDS: u32 = 40;

impl Table {
    /// Compares the table with what a process knows of itself, and declares it damaged if they differ. No thread of the process
    /// makes, moves or unmaps a snapshot meanwhile.
    pub fn inspect(&self, known: &Knowledge<'_>) {
        let mut backoff = Backoff::default();
        for _ in 0..ROUNDS {
            if self.is_damaged() || self.is_as_known(known) {
                return;
            }
            backoff.pause();
        }
        self.declare_damaged();
    }

    /// The same, and checks that walks over processes and writers would find every living process.
    pub fn inspect_all(&self, known: &Knowledge<'_>) {
        let mut backoff = Backoff::default();
        for _ in 0..ROUNDS {
            if self.is_damaged() || self.finds_all() {
                return self.inspect(known);
            }
            backoff.pause();
        }
        self.declare_damaged();
    }

    /// Whether every living process and its slots lie below the high-water marks.
    ///
    /// A process that was killed after it claimed a record, but before it raised the mark, lies beyond the mark: it is taken out
    /// here.
    fn finds_all(&self) -> bool {
        let processes = self.header.processes_used();
        let writers = self.header.writers_used();
        if !self.is_room_sound() {
            return false;
        }
        let are_processes_found =
            self.processes[..self.processes_backed()].iter().enumerate().skip(processes).all(|(index, record)| {
                record.id().is_none_or(|id| {
                    let is_dead = liveness::of(record, id) == liveness::Liveness::Dead;
                    if is_dead {
                        self.reap(index as u32, record, id);
                    }
                    is_dead
                })
            });
        are_processes_found
            && self.writers[writers..self.writers_backed()].iter().all(|slot| {
                let lease = slot.lease();
                let is_over = lease.is_vacant() || self.reap_if_dead(lease.process());
                if is_over {
                    slot.release(lease);
                }
                is_over
            })
    }

    fn is_as_known(&self, known: &Knowledge<'_>) -> bool {
        let is_record_ours = self
            .process(known.index)
            .is_some_and(|record| record.id() == Some(known.id) && record.cookie(known.id) == Some(known.cookie));
        is_record_ours && (known.index as usize) < self.header.processes_used() && self.shows(known)
    }

    /// Whether the segments in the table are those that the process holds, and writers find them. A process that has given them back
    /// holds them until it ends, which may take a while on a busy machine.
    fn shows(&self, known: &Knowledge<'_>) -> bool {
        self.over_splits(|walk| self.shows_in(walk, known)) || known.own_ranges.are_given_back()
    }

    fn shows_in(&self, walk: Walk<'_>, known: &Knowledge<'_>) -> bool {
        let owner = known.id.owner_word(known.index);
        let mut pages = 0;
        for (index, view) in walk.owned_by(owner) {
            if view.head.is_changing() {
                return known.own_ranges.is_changing();
            }
            let is_found = view.is_relocated()
                // Acquire: as in `Walk::of`.
                || self.origin_fingerprints[index as usize].load(Ordering::Acquire) == view.meta.origin.fingerprint();
            if !is_found || !known.own_ranges.contains(&(view.extent.address..view.extent.end())) {
                return false;
            }
            pages += view.extent.pages;
        }
        pages == known.own_ranges.pages() && (pages == 0 || self.header.active.is_raised())
    }
}
