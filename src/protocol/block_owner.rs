//! Whose a block of preserved bits is: of one life of one snapshot, and of nobody when that life is over.

use crate::sys::sync::{AtomicU64, Fault, Ordering, planted};

/// All-zero is "free".
#[cfg_attr(not(loom), derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout))]
#[derive(Debug)]
#[repr(transparent)]
pub struct BlockOwner(AtomicU64);

/// One life of one snapshot record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// The record.
    pub snapshot: u32,
    /// Which of its lives.
    pub life: u32,
}

impl Life {
    const fn word(self) -> u64 {
        (self.life as u64) << 32 | (self.snapshot as u64 + 1)
    }

    fn from_word(word: u64) -> Option<Self> {
        Some(Self { snapshot: (word as u32).checked_sub(1)?, life: (word >> 32) as u32 })
    }
}

impl BlockOwner {
    /// Nobody.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Whose it is, or was when that life ended.
    #[must_use]
    pub fn named(&self) -> Option<Life> {
        Life::from_word(self.0.load(Ordering::Relaxed))
    }

    /// Of nobody, or of a life that `is_over` -> of `mine`. A life that is over never comes again, so a name seen twice is the
    /// same.
    pub fn take(&self, mine: Life, is_over: impl FnOnce(Life) -> bool) -> bool {
        let seen = self.0.load(Ordering::Relaxed);
        let is_free = Life::from_word(seen).is_none_or(is_over);
        // AcqRel: against others who take it.
        is_free && self.0.compare_exchange(seen, mine.word(), Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Of `mine` -> of nobody; by then it may be somebody else's.
    pub fn give_back(&self, mine: Life) {
        if planted(Fault::GivenBackByOwner) {
            self.0.store(0, Ordering::Release);
        }
        let _ = self.0.compare_exchange(mine.word(), 0, Ordering::Release, Ordering::Relaxed);
    }
}
