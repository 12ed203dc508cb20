//! Holdings: where in the table that may stand which a process has, so that no process looks through all records for it.
//!
//! Each word says more than is true, never less: a place is noted before the record there is claimed, and stays noted for the life
//! of the image. So what a process had is found wherever it was killed. The process that claims a process record begins the words
//! anew, before anything is claimed for the new image.

use core::ops::Range;

use super::place::BUCKETS;
use crate::sys::sync::{AtomicU64, Fault, Ordering, planted};

/// All-zero: nothing. Whoever claims something for the process writes here: the process itself, or its parent before it exists.
#[cfg_attr(not(loom), derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout))]
#[cfg_attr(loom, derive(Default))]
#[derive(Debug)]
#[repr(C)]
pub struct Holdings {
    /// [`Places`] of its snapshots.
    places: AtomicU64,
    /// Its slots lie from the one index up to the other: first:32 | end:32. End 0: it has none.
    slots: AtomicU64,
    /// 1 once records of children were claimed.
    children: AtomicU64,
}

/// Buckets of snapshot records, a bit for as many as follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places(u64);

/// Buckets that have a bit together.
const TOGETHER: usize = BUCKETS.div_ceil(u64::BITS as usize);

impl Places {
    /// All buckets.
    pub const ALL: Self = Self(u64::MAX);

    /// The buckets.
    pub fn buckets(self) -> impl Iterator<Item = usize> {
        let with_bit = (0..u64::BITS as usize).filter(move |bit| self.0 >> bit & 1 == 1);
        with_bit.flat_map(|bit| bit * TOGETHER..((bit + 1) * TOGETHER).min(BUCKETS))
    }
}

impl Holdings {
    /// A new image has the record, and nothing yet.
    pub fn begin(&self) {
        // Release: pairs with the Acquire in `places`: a thread that finds the words begun anew finds the new image.
        for word in [&self.places, &self.slots, &self.children] {
            word.store(0, Ordering::Release);
        }
    }

    /// A snapshot record of `bucket` is about to be claimed.
    pub fn note_snapshot(&self, bucket: usize) {
        if planted(Fault::NotedHolding) {
            return;
        }
        // AcqRel: the note before the claim; pairs with the Acquire in `places`. A walk that has to find the record begins after
        // its publication.
        self.places.fetch_or(1 << (bucket / TOGETHER), Ordering::AcqRel);
    }

    /// Where snapshots may be.
    pub(super) fn places(&self) -> Places {
        // Acquire: pairs with the Release in `begin` and with the AcqRel in `note_snapshot`.
        Places(self.places.load(Ordering::Acquire))
    }

    /// Slot `index` is about to be claimed.
    pub fn note_slot(&self, index: u32) {
        let wider = |word: u64| {
            let (first, end) = ((word >> 32) as u32, word as u32);
            let (first, end) = if end == 0 { (index, index + 1) } else { (first.min(index), end.max(index + 1)) };
            u64::from(first) << 32 | u64::from(end)
        };
        let mut seen = self.slots.load(Ordering::Relaxed);
        // AcqRel: the note before the claim.
        while wider(seen) != seen {
            match self.slots.compare_exchange(seen, wider(seen), Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// The indices among which its slots are.
    #[must_use]
    pub fn slots(&self) -> Range<usize> {
        // Acquire: pairs with the AcqRel in `note_slot`.
        let word = self.slots.load(Ordering::Acquire);
        (word >> 32) as usize..word as u32 as usize
    }

    /// A record is about to be claimed for a child.
    pub fn note_child(&self) {
        // Release: the note before the claim; pairs with the Acquire in `has_children`.
        self.children.store(1, Ordering::Release);
    }

    /// Whether records may have been claimed for children.
    #[must_use]
    pub fn has_children(&self) -> bool {
        self.children.load(Ordering::Acquire) != 0
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_is_among_what_is_found() {
        let holdings: Holdings = zerocopy::FromZeros::new_zeroed();
        assert!(holdings.slots().is_empty() && !holdings.has_children());
        assert_eq!(holdings.places().buckets().count(), 0);
        for bucket in [0, 77, BUCKETS - 1] {
            holdings.note_snapshot(bucket);
            assert!(holdings.places().buckets().any(|noted| noted == bucket));
        }
        assert_eq!(holdings.places().buckets().count(), 3 * TOGETHER);
        assert!(Places::ALL.buckets().eq(0..BUCKETS));
        holdings.note_slot(7);
        assert_eq!(holdings.slots(), 7..8);
        holdings.note_slot(9);
        holdings.note_slot(0);
        assert_eq!(holdings.slots(), 0..10);
        holdings.note_child();
        assert!(holdings.has_children());
        holdings.begin();
        assert!(holdings.slots().is_empty() && !holdings.has_children() && holdings.places() == Places(0));
    }
}
