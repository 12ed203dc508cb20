//! The first page of the table: what it is, and the words that all processes meet at.

use super::room::{PageRoom, Room};
use crate::protocol::changes::Changes;
use crate::protocol::creation::Creations;
use crate::protocol::gate::{ActiveWord, UnplacedBytes};
use crate::protocol::limits::{PROCESSES, WRITERS};
use crate::protocol::mapping_ids::MappingIds;
use crate::protocol::origin::Origin;
use crate::protocol::sharing::Sharing;
use crate::protocol::snapshot::Splits;
use crate::protocol::unreached::Unreached;
use crate::protocol::unseen::Unseen;
use crate::sys::sync::{AtomicU32, AtomicU64, Ordering};

/// "snapshim" in ASCII.
pub const MAGIC: u64 = u64::from_le_bytes(*b"snapshim");

/// Counters of cooperating changes.
pub(super) const COUNTERS: usize = 256;

/// When the mappers were last searched for dead ones (CLOCK_MONOTONIC, nanoseconds; 0: never). All processes share it, so that one
/// of them searches each time, and the others do not pay for it.
#[derive(Debug, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout)]
#[repr(transparent)]
pub(crate) struct SearchClock(AtomicU64);

impl SearchClock {
    /// True for the one caller that searches `now`, because the last search, at the time that it is given, is not `fresh`.
    pub(crate) fn is_due(&self, now: u64, fresh: impl FnOnce(u64) -> bool) -> bool {
        let last = self.0.load(Ordering::Relaxed);
        // Relaxed: the word only spreads the work; the search itself reads everything anew.
        !fresh(last) && self.0.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Makes a search due at once.
    pub(crate) fn forget(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// `magic` and `layout` are written before the table is published and never change.
#[derive(Debug, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout)]
#[repr(C, align(4096))]
pub struct Header {
    pub(super) magic: AtomicU64,
    pub(super) layout: AtomicU64,
    /// Incarnations of snapshots handed out.
    lives: AtomicU32,
    /// Records below these indices may be in use; never lowered.
    processes: AtomicU32,
    writers: AtomicU32,
    reserved: AtomicU32,
    pub(super) mappings: MappingIds,
    pub(crate) unplaced: UnplacedBytes,
    pub(crate) splits: Splits,
    /// The pid namespace of the processes that meet here (inode of /proc/self/ns/pid).
    pub(super) namespace: AtomicU64,
    pub(crate) active: ActiveWord,
    /// Not 0: a process found the table damaged, and no process cooperates by it any more.
    damaged: AtomicU64,
    /// Counts the calls that children were forked in, and that go on in slots of the children, ever.
    continued: AtomicU64,
    pub(crate) search: SearchClock,
    reserved_line: [AtomicU64; 4],
    pub(crate) creations: Creations,
    /// Counters of the origins whose fingerprints begin with the index.
    changes: [Changes; COUNTERS],
    pub(crate) process_room: Room,
    pub(crate) writer_room: Room,
    /// The processes whose changes are not announced.
    pub(crate) unseen: Unseen,
    pub(super) unreached: Unreached,
    /// The pages of names that have memory.
    pub(super) name_room: PageRoom,
    rest: [AtomicU64; 26],
}

const _: () = assert!(size_of::<Header>() == 4096 && core::mem::offset_of!(Header, active) == 64);

impl Header {
    /// An incarnation that no snapshot has now.
    pub(crate) fn next_incarnation(&self) -> u32 {
        loop {
            let incarnation = self.lives.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
            if incarnation != 0 {
                return incarnation;
            }
        }
    }

    /// Whether a table of `layout` cannot be trusted.
    pub(super) fn is_damaged(&self, layout: u64) -> bool {
        // Relaxed: a process that sees it later leaves later.
        self.damaged.load(Ordering::Relaxed) != 0
            || self.magic.load(Ordering::Relaxed) != MAGIC
            || self.layout.load(Ordering::Relaxed) != layout
    }

    pub(super) fn declare_damaged(&self) {
        self.damaged.store(1, Ordering::Relaxed);
    }

    /// Counts a change of every origin that a process may have had mapped shared and writable.
    pub(crate) fn note_changes_of_sharer(&self, sharing: &Sharing) {
        const { assert!(COUNTERS == 256) };
        let counters = (0..=u8::MAX).zip(&self.changes);
        counters.filter(|(first, _)| sharing.includes_fingerprint_of(*first)).for_each(|(_, counter)| counter.note());
    }

    /// The counter of `origin`'s cooperating changes.
    pub(crate) fn changes_of(&self, origin: Origin) -> &Changes {
        &self.changes[(origin.fingerprint() >> 56) as usize % COUNTERS]
    }

    /// Notes that the calls of a thread that is about to fork stand in its child's slot as well.
    pub(crate) fn note_continued(&self) {
        // Release: pairs with the Acquire in `continued`: a creation that finds the parent's call over finds the count changed.
        self.continued.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn continued(&self) -> u64 {
        self.continued.load(Ordering::Acquire)
    }

    pub(crate) fn processes_used(&self) -> usize {
        (self.processes.load(Ordering::Acquire) as usize).min(PROCESSES)
    }

    pub(crate) fn writers_used(&self) -> usize {
        (self.writers.load(Ordering::Acquire) as usize).min(WRITERS)
    }

    // AcqRel: a scan that acquires the high-water mark sees every record claimed below it. The fence of an announcement orders the
    // rest.
    pub(crate) fn note_process(&self, index: u32) {
        self.processes.fetch_max(index + 1, Ordering::AcqRel);
    }

    pub(crate) fn note_writer(&self, index: u32) {
        self.writers.fetch_max(index + 1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_searches_unless_the_last_search_is_fresh() {
        let clock = SearchClock(AtomicU64::new(0));
        assert!(clock.is_due(5000, |last| last == 5000));
        assert!(!clock.is_due(5001, |last| last == 5000));
        assert!(clock.is_due(6000, |_| false) && clock.0.load(Ordering::Relaxed) == 6000);
        clock.forget();
        assert!(clock.is_due(6001, |last| last == 6000));
    }
}
