//! The owner of a block of preserved bits: one incarnation of one snapshot. When that is over, the block is free.

use crate::sys::sync::{AtomicU64, Fault, Ordering, planted};

/// All-zero is "free".
#[cfg_attr(not(loom), derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout))]
#[cfg_attr(loom, derive(Default))]
#[derive(Debug)]
#[repr(transparent)]
pub struct BlockOwner(AtomicU64);

/// One incarnation of one snapshot record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incarnation {
    /// The record.
    pub snapshot: u32,
    /// Which of its incarnations.
    pub incarnation: u32,
}

impl Incarnation {
    const fn word(self) -> u64 {
        (self.incarnation as u64) << 32 | (self.snapshot as u64 + 1)
    }

    fn from_word(word: u64) -> Option<Self> {
        Some(Self { snapshot: (word as u32).checked_sub(1)?, incarnation: (word >> 32) as u32 })
    }
}

impl BlockOwner {
    /// The incarnation that owns the block; it may be over.
    #[must_use]
    pub fn named(&self) -> Option<Incarnation> {
        Incarnation::from_word(self.0.load(Ordering::Relaxed))
    }

    /// Free, or owned by an incarnation that `is_over` -> owned by `mine`. An incarnation that is over never comes again, so the
    /// name is the same if it is seen twice.
    pub fn take(&self, mine: Incarnation, is_over: impl FnOnce(Incarnation) -> bool) -> bool {
        let seen = self.0.load(Ordering::Relaxed);
        let is_free = Incarnation::from_word(seen).is_none_or(is_over);
        // AcqRel: against other takers.
        is_free && self.0.compare_exchange(seen, mine.word(), Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Owned by `mine` -> free. Nothing happens if another incarnation owns it by then.
    pub fn give_back(&self, mine: Incarnation) {
        if planted(Fault::GivenBackByOwner) {
            self.0.store(0, Ordering::Release);
        }
        let _ = self.0.compare_exchange(mine.word(), 0, Ordering::Release, Ordering::Relaxed);
    }
}
