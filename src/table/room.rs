//! Room: the memory of the arrays that grow, of process records and of writer slots.
//!
//! The file has a hole where no record was ever used, so that what is not used costs nothing. On a full tmpfs even a look into a hole
//! is SIGBUS, so the memory is asked for before the first record in it counts as used, some at a time, and nobody looks behind what
//! has been asked for.

use core::mem::offset_of;
use core::ptr;

use rustix::mm::{Advice, madvise};

use super::Table;
use crate::protocol::limits::{PROCESSES, WRITERS};
use crate::protocol::process::Process;
use crate::protocol::process_id::ProcessId;
use crate::protocol::writer_slot::WriterSlot;
use crate::sys::sync::{AtomicU32, AtomicU64, Ordering};

/// Process records, and slots, that have memory from the start: as many as most ever use, so that a tmpfs that becomes full takes
/// none of them away.
const FIRST_PROCESSES: usize = 1024;
const FIRST_WRITERS: usize = 4096;
/// Those whose memory is asked for together.
const PROCESSES_AT_ONCE: usize = 64;
const WRITERS_AT_ONCE: usize = 32;
const _: () = assert!((PROCESSES_AT_ONCE * size_of::<Process>()).is_multiple_of(4096));
const _: () = assert!((WRITERS_AT_ONCE * size_of::<WriterSlot>()).is_multiple_of(4096));

/// The parts of the file that have memory from the start: what is looked at without asking.
pub(super) const BACKED: [(u64, u64); 2] = [
    (0, (offset_of!(Table, processes) + FIRST_PROCESSES * size_of::<Process>()) as u64),
    (offset_of!(Table, writers) as u64, (FIRST_WRITERS * size_of::<WriterSlot>()) as u64),
];

/// What is known of one array besides its mark. All-zero: the first records have memory, and any may be free.
#[derive(Debug, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout)]
#[repr(C)]
pub(super) struct Room {
    /// How many have memory:32 | its complement:32; never lowered. A word that is damaged leads nobody into a hole.
    backed: AtomicU64,
    /// Where a free one is likely.
    hint: AtomicU32,
    reserved: AtomicU32,
}

impl Room {
    /// How many records have memory; `first` have it from the start.
    #[inline]
    fn backed(&self, first: usize) -> usize {
        // Acquire: pairs with the AcqRel in `raise`.
        let word = self.backed.load(Ordering::Acquire);
        let count = word as u32;
        if (word >> 32) as u32 == !count { (count as usize).max(first) } else { first }
    }

    fn raise(&self, count: usize) {
        let wanted = count as u32;
        let mut seen = self.backed.load(Ordering::Relaxed);
        while wanted > seen as u32 || seen == 0 {
            let word = u64::from(!wanted) << 32 | u64::from(wanted);
            match self.backed.compare_exchange(seen, word, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// Whether the word is one that `raise` made.
    fn is_sound(&self, most: usize) -> bool {
        let word = self.backed.load(Ordering::Relaxed);
        word == 0 || (word >> 32) as u32 == !(word as u32) && (word as u32) as usize <= most.next_multiple_of(64)
    }

    /// Makes sure that record `index` of `records` has memory. False: the file system, or the process, has none left.
    fn reach<T>(&self, records: &[T], first: usize, at_once: usize, index: usize) -> bool {
        let backed = self.backed(first);
        if index < backed {
            return true;
        }
        let wanted = (index + 1).next_multiple_of(at_once);
        let Some(more) = records.get(backed..wanted.min(records.len())).filter(|more| !more.is_empty()) else {
            return false;
        };
        let address = ptr::from_ref(more).cast_mut().cast();
        // SAFETY: whole pages of the table's mapping, which lives as long as the process; populating changes no byte.
        let is_had = unsafe { madvise(address, size_of_val(more), Advice::LinuxPopulateWrite) }.is_ok();
        if is_had {
            self.raise(wanted);
        }
        is_had
    }
}

/// So many records are all looked at for a free one. Of more, as many from where one is likely: a full search for each of many
/// threads would cost time by their square.
const FEW: usize = 256;

/// From this number of slots on, those of threads that ended without a word are freed each time as many have come again.
const MANY: usize = 1024;

/// Where to look for a free one among `used`.
fn likely(used: usize, hint: usize) -> impl Iterator<Item = usize> {
    let start = if used <= FEW || hint >= used { 0 } else { hint };
    (0..used.min(FEW)).map(move |step| (start + step) % used)
}

/// Whether `index` is one of those, ever farther apart, at which the dead are looked for before the array grows further.
fn is_landmark(index: usize, least: usize) -> bool {
    index >= least && index.is_power_of_two()
}

impl Table {
    /// How many process records may be looked at.
    #[inline]
    pub(super) fn processes_backed(&self) -> usize {
        self.header.process_room.backed(FIRST_PROCESSES).min(PROCESSES)
    }

    /// How many writer slots may be looked at.
    #[inline]
    pub(super) fn writers_backed(&self) -> usize {
        self.header.writer_room.backed(FIRST_WRITERS).min(WRITERS)
    }

    /// Whether what is said of memory can be true.
    pub(super) fn is_room_sound(&self) -> bool {
        let header = &self.header;
        header.process_room.is_sound(PROCESSES)
            && header.writer_room.is_sound(WRITERS)
            && header.processes_used() <= self.processes_backed()
            && header.writers_used() <= self.writers_backed()
    }

    /// Makes sure that process record `index` has memory.
    fn reach_process(&self, index: usize) -> bool {
        self.header.process_room.reach(&self.processes, FIRST_PROCESSES, PROCESSES_AT_ONCE, index)
    }

    /// Makes sure that slot `index` has memory.
    pub(super) fn reach_writer(&self, index: usize) -> bool {
        self.header.writer_room.reach(&self.writers, FIRST_WRITERS, WRITERS_AT_ONCE, index)
    }

    /// Process record `index` is free.
    pub(super) fn note_free_process(&self, index: u32) {
        self.header.process_room.hint.store(index, Ordering::Relaxed);
    }

    /// Slot `index` is free.
    pub fn note_free_writer(&self, index: u32) {
        self.header.writer_room.hint.store(index, Ordering::Relaxed);
    }

    /// Claims a free process record for `id`. It counts as used before it is claimed: a process that is killed in between is found.
    pub(super) fn find_process(&self, id: ProcessId) -> Option<usize> {
        let claim = |index: &usize| {
            let record = &self.processes[*index];
            record.id().is_none() && {
                self.header.note_process(*index as u32);
                record.claim(id)
            }
        };
        let used = || self.header.processes_used().min(self.processes_backed());
        let hint = self.header.process_room.hint.load(Ordering::Relaxed) as usize;
        let found = likely(used(), hint).find(claim).or_else(|| {
            if is_landmark(used(), 32) {
                self.bury_the_dead();
                if let Some(freed) = (0..used()).find(claim) {
                    return Some(freed);
                }
            }
            (used()..PROCESSES).take_while(|index| self.reach_process(*index)).find(claim)
        });
        let found = found.or_else(|| {
            self.bury_the_dead();
            (0..used()).find(claim)
        })?;
        self.header.process_room.hint.store(found as u32 + 1, Ordering::Relaxed);
        Some(found)
    }

    /// Claims a free slot for thread `tid` of process `owner`. Like a record, it counts as used before.
    pub(super) fn find_writer(&self, owner: u64, tid: u32) -> Option<usize> {
        let claim = |index: &usize| {
            let slot = &self.writers[*index];
            slot.tenure().is_vacant() && {
                self.header.note_writer(*index as u32);
                slot.claim(owner, tid)
            }
        };
        let used = || self.header.writers_used().min(self.writers_backed());
        let hint = self.header.writer_room.hint.load(Ordering::Relaxed) as usize;
        let found = likely(used(), hint).find(claim).or_else(|| {
            if is_landmark(used(), MANY) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_likely_begins_at_the_hint_and_goes_round() {
        assert_eq!(likely(0, 7).count(), 0);
        assert!(likely(3, 1).eq(0..3));
        let (first, count) = (likely(1000, 900).next(), likely(1000, 900).count());
        assert_eq!((first, count), (Some(900), FEW));
        assert_eq!(likely(1000, 900).nth(100), Some(0));
        assert_eq!(likely(1000, 1000).next(), Some(0));
    }

    #[test]
    fn a_damaged_count_leads_nobody_into_a_hole() {
        let room = Room { backed: AtomicU64::new(0), hint: AtomicU32::new(0), reserved: AtomicU32::new(0) };
        assert!(room.is_sound(PROCESSES) && room.backed(64) == 64);
        room.raise(128);
        room.raise(64);
        assert!(room.is_sound(PROCESSES) && room.backed(64) == 128);
        room.backed.fetch_or(1 << 20, Ordering::Relaxed);
        assert!(!room.is_sound(PROCESSES) && room.backed(64) == 64);
    }
}
