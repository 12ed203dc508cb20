//! Inspection: whether the table is what the cooperating processes made of it.
//!
//! A program that may write the file can write anything into it, and a program with a stray pointer does. Found damage is declared
//! in the header, and each process that sees that leaves the table. From then on no process vouches for a snapshot, and none acts
//! on memory by what a record says.

use core::ops::Range;

use super::liveness;
use crate::protocol::own_ranges::OwnRanges;
use crate::protocol::process_id::ProcessId;
use crate::protocol::snapshot::View;
use crate::sys::raw;
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

/// Rounds, and nanoseconds, before what does not fit counts as damage: another thread may be splitting a segment, and on a busy
/// machine it may have no processor for a while.
const ROUNDS: u32 = 40;
const PATIENCE: u64 = 250_000_000;

impl Table {
    /// Compares the table with what a process knows of itself, and declares it damaged if they differ. No thread of the process
    /// makes, moves or unmaps a snapshot meanwhile.
    pub fn inspect(&self, known: &Knowledge<'_>) {
        self.inspect_until(|| self.is_record_known(known) && self.shows_all(known));
    }

    /// The same as far as `addresses` are concerned: it costs what lies there.
    pub fn inspect_in(&self, known: &Knowledge<'_>, addresses: &Range<u64>) {
        self.inspect_until(|| {
            self.is_record_known(known)
                && (self.over_splits(|walk| self.shows_in(walk, known, addresses)) || known.own_ranges.are_given_back())
        });
    }

    /// Checks that walks over processes and writers would find every living process.
    pub fn inspect_reach(&self) {
        self.inspect_until(|| self.finds_all());
    }

    fn inspect_until(&self, is_as_known: impl Fn() -> bool) {
        let (mut backoff, begun, mut rounds) = (Backoff::default(), raw::now(), 0);
        while rounds < ROUNDS || raw::now() < begun + PATIENCE {
            if self.is_damaged() || is_as_known() {
                return;
            }
            rounds += 1;
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

    fn is_record_known(&self, known: &Knowledge<'_>) -> bool {
        let is_ours = self
            .process(known.index)
            .is_some_and(|record| record.id() == Some(known.id) && record.cookie(known.id) == Some(known.cookie));
        let is_mapper = known.own_ranges.pages() > 0;
        is_ours
            && (known.index as usize) < self.header.processes_used()
            && (!is_mapper || self.header.active.is_raised())
    }

    /// Whether the segments in the table are those that the process holds, and writers find them. A process that has given them
    /// back holds them until it ends, which may take a while on a busy machine.
    fn shows_all(&self, known: &Knowledge<'_>) -> bool {
        let is_all = self.over_splits(|walk| {
            let owner = known.id.owner_word(known.index);
            self.shown(walk.owned_by(owner), known).is_none_or(|pages| pages == known.own_ranges.pages())
        });
        is_all || known.own_ranges.are_given_back()
    }

    /// The same of those that touch `addresses`.
    fn shows_in(&self, walk: Walk<'_>, known: &Knowledge<'_>, addresses: &Range<u64>) -> bool {
        let owner = known.id.owner_word(known.index);
        let segments = || walk.held_in(owner, known.own_ranges, addresses);
        let mut at = addresses.start;
        // What is held and in no segment is missing.
        let is_covered = |(_, view): (u32, View)| {
            let gap = at..view.extent.address.min(addresses.end);
            at = view.extent.end();
            gap.is_empty() || !known.own_ranges.touches(&gap)
        };
        let are_covered = segments().all(is_covered);
        let is_end_covered = at >= addresses.end || !known.own_ranges.touches(&(at..addresses.end));
        self.shown(segments(), known).is_none_or(|pages| pages < u64::MAX && are_covered && is_end_covered)
    }

    /// How many pages `segments` show; `None`: one of them is changing. All of them are held, and writers find them, or it is as if
    /// there were more pages than any process holds.
    fn shown(&self, segments: impl Iterator<Item = (u32, View)>, known: &Knowledge<'_>) -> Option<u64> {
        let mut pages = 0u64;
        for (index, view) in segments {
            if view.head.is_changing() {
                return if known.own_ranges.is_changing() { None } else { Some(u64::MAX) };
            }
            let is_good = self.is_met(index, view.meta.origin, !view.is_relocated())
                && known.own_ranges.contains(&(view.extent.address..view.extent.end()));
            pages = pages.saturating_add(if is_good { view.extent.pages } else { u64::MAX });
        }
        Some(pages)
    }
}
