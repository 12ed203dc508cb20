//! Vacancies: finding a free process record, slot, or snapshot record.
//!
//! A process that finds none free looks for the dead and takes what they left. The arrays of
//! processes and slots grow where none is to be had.

use rustix::io::Errno;

use crate::protocol::limits::{PROCESSES, WRITERS};
use crate::protocol::origin::Origin;
use crate::protocol::process_id::{ProcessId, owner_index};
use crate::protocol::snapshot::StateWord;
use crate::sys::raw;
use crate::sys::sync::{AtomicU32, Ordering};
use crate::table::Table;

/// An array with no more records than this is looked through wholly for a free one. In a larger one as many are looked at, from
/// where a free one is likely: a full search for each of many threads would cost time by their square.
const FEW: usize = 256;

/// From this number of slots on, the slots of threads that ended without a word are freed each time as many have come again.
const MANY: usize = 1024;

/// The same of an array whose records have hints, a look at which costs little.
const MANY_HINTS: usize = 4096;

/// The indices, of `used` records, at which a free one is looked for, `few` at the most.
fn likely(used: usize, hint: usize, few: usize) -> impl Iterator<Item = usize> {
    let start = if used <= few || hint >= used { 0 } else { hint };
    (0..used.min(few)).map(move |step| (start + step) % used)
}

/// Whether `index` is one at which the dead are looked for before the array grows further. These indices lie ever farther apart.
fn is_landmark(index: usize, least: usize) -> bool {
    index >= least && index.is_power_of_two()
}

/// Whether the caller is the one that looks for the dead at the landmark `used`. Of threads that come there together one does so,
/// and the array grows for the others: it takes longer than their claims by far. If the one is killed, another does so a second
/// later.
fn takes_turn(last: &AtomicU32, used: usize, now: u64) -> bool {
    const TIME_BITS: u32 = 27;
    const ABOUT_A_MILLISECOND: u32 = 20;
    const SECOND: u32 = (1_000_000_000 >> ABOUT_A_MILLISECOND) as u32;
    let time = |word: u32| word & ((1 << TIME_BITS) - 1);
    let turn = used.ilog2() << TIME_BITS | time((now >> ABOUT_A_MILLISECOND) as u32);
    let seen = last.load(Ordering::Relaxed);
    let is_fresh = seen >> TIME_BITS == turn >> TIME_BITS && time(turn.wrapping_sub(seen)) < SECOND;
    // Relaxed: the word only spreads the work; the search itself reads everything anew.
    !is_fresh && last.compare_exchange(seen, turn, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

impl Table {
    /// Claims a free process record for `id`. It counts as used before it is claimed: a process that is killed in between is found.
    pub(crate) fn find_process(&self, id: ProcessId) -> Option<usize> {
        let claim = |index: &usize| {
            let record = &self.processes[*index];
            record.id().is_none()
                && {
                    self.header.note_process(*index as u32);
                    record.claim(id)
                }
                && {
                    self.hint_pid(*index as u32, id);
                    true
                }
        };
        let used = || self.header.processes_used().min(self.processes_backed());
        let hint = self.header.process_room.hint.load(Ordering::Relaxed) as usize;
        let mut free = likely(used(), hint, MANY_HINTS).filter(|index| self.may_be_free(*index));
        let found = free.find(claim).or_else(|| {
            if let Some(freed) = self.reap_a_few().filter(claim) {
                return Some(freed);
            }
            (used()..PROCESSES).take_while(|index| self.reach_process(*index)).find(claim)
        });
        let found = found.or_else(|| {
            self.reap_the_dead();
            (0..used()).find(claim)
        })?;
        self.header.process_room.hint.store(found as u32 + 1, Ordering::Relaxed);
        Some(found)
    }

    /// Takes a process out of the table that is dead, of those whose turn it is. A new process does so where no record is free,
    /// so that not one of them does it for all that died before. The result is the index of the record that is free then.
    fn reap_a_few(&self) -> Option<usize> {
        const LOOKED_AT: u32 = 4;
        let used = self.processes_used();
        let start = self.header.process_room.cursor.fetch_add(LOOKED_AT, Ordering::Relaxed) as usize;
        let mut turns = (0..used.len().min(LOOKED_AT as usize)).map(|step| start.wrapping_add(step) % used.len());
        // A process that is gone has no pid. What is left of the others is found where the table is full.
        turns.find_map(|index| {
            let id = used[index].id().filter(|id| id.pid() != 0 && raw::test_process(id.pid()) == Err(Errno::SRCH))?;
            self.reap_if_dead(id.owner_word(index as u32)).then_some(index)
        })
    }

    /// Slot `index` is about to be claimed for a thread of `owner`: it counts as used, and as one of that process's.
    pub(crate) fn note_writer(&self, owner: u64, index: u32) {
        self.header.note_writer(index);
        if let Some(process) = owner_index(owner).and_then(|index| self.process(index)) {
            process.holdings.note_slot(index);
        }
    }

    /// Claims a free slot for thread `tid` of process `owner`. Like a record, it counts as used before it is claimed.
    pub(crate) fn find_writer(&self, owner: u64, tid: u32) -> Option<usize> {
        let claim = |index: &usize| {
            let slot = &self.writers[*index];
            slot.lease().is_vacant() && {
                self.note_writer(owner, *index as u32);
                slot.claim(owner, tid)
            }
        };
        let used = || self.header.writers_used().min(self.writers_backed());
        let hint = self.header.writer_room.hint.load(Ordering::Relaxed) as usize;
        let found = likely(used(), hint, FEW).find(claim).or_else(|| {
            let reached = used();
            if is_landmark(reached, MANY) && takes_turn(&self.header.writer_room.cursor, reached, raw::now()) {
                self.free_abandoned_slots();
                if let Some(freed) = (0..used()).find(claim) {
                    return Some(freed);
                }
            }
            (used()..WRITERS).take_while(|index| self.reach_writer(*index)).find(claim)
        });
        let found = found.or_else(|| {
            self.free_abandoned_slots();
            (0..used()).find(claim)
        })?;
        self.header.writer_room.hint.store(found as u32 + 1, Ordering::Relaxed);
        Some(found)
    }
}

impl Table {
    /// A free snapshot record, claimed for a new incarnation of `origin` by the process that `claimer` refers to. Where all are
    /// taken, those of the dead are free again.
    pub fn obtain_snapshot(&self, claimer: u64, origin: Origin) -> Option<(u32, StateWord)> {
        self.claim_snapshot(claimer, origin).or_else(|| {
            self.reap_the_dead();
            self.claim_snapshot(claimer, origin)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_likely_begins_at_the_hint_and_goes_round() {
        assert_eq!(likely(0, 7, FEW).count(), 0);
        assert!(likely(3, 1, FEW).eq(0..3));
        let (first, count) = (likely(1000, 900, FEW).next(), likely(1000, 900, FEW).count());
        assert_eq!((first, count), (Some(900), FEW));
        assert_eq!(likely(1000, 900, FEW).nth(100), Some(0));
        assert_eq!(likely(1000, 1000, FEW).next(), Some(0));
    }

    #[test]
    fn one_looks_for_the_dead_at_a_landmark_in_a_second() {
        const MILLISECOND: u64 = 1_000_000;
        let last = AtomicU32::new(0);
        let takes = |used, milliseconds| takes_turn(&last, used, milliseconds * MILLISECOND);
        assert!(takes(1024, 5000) && !takes(1024, 5000) && !takes(1024, 5900));
        assert!(takes(2048, 5900) && !takes(2048, 5900));
        assert!(takes(2048, 7000) && takes(1024, 7000));
    }
}
