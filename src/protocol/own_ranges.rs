//! Where the calling process's snapshots lie, by its own knowledge.
//!
//! The table is shared and can be damaged. This process populates, moves, replaces or drops its memory only where it has itself
//! mapped a snapshot, whatever a record says.

use core::ops::Range;

use crate::PAGE;
use crate::sys::sync::{AtomicU32, AtomicU64, Fault, Ordering, fence, planted};

/// Ranges that can be held.
#[cfg(not(loom))]
const CAPACITY: usize = crate::protocol::limits::SNAPSHOTS;
#[cfg(loom)]
const CAPACITY: usize = 2;

/// The address ranges, in whole pages. One thread at a time changes them. A thread that reads meanwhile waits for no other, and
/// finds every range that does not change.
#[cfg_attr(loom, derive(Default))]
#[derive(Debug)]
pub struct OwnRanges {
    /// First page:36 | pages:28; 0 is none. A longer range takes several.
    ranges: [AtomicU64; CAPACITY],
    /// Counts how often the rest of a range was moved to another word, before it leaves the old word.
    moved: AtomicU32,
    /// Words below this index may be in use.
    used: AtomicU32,
    /// Threads that change segments without holding all mappings still: the agent, and writers of what their own process holds.
    changing: AtomicU32,
    /// Not 0: the snapshots are given back.
    given_back: AtomicU32,
}

const PAGES_BITS: u32 = 28;
const LONGEST: u64 = ((1 << PAGES_BITS) - 1) * PAGE;

fn word(range: &Range<u64>) -> u64 {
    ((range.start / PAGE) << PAGES_BITS) | ((range.end - range.start) / PAGE)
}

fn range(word: u64) -> Range<u64> {
    let start = (word >> PAGES_BITS) * PAGE;
    start..start + (word & ((1 << PAGES_BITS) - 1)) * PAGE
}

impl OwnRanges {
    /// None.
    #[cfg(not(loom))]
    #[must_use]
    #[allow(clippy::new_without_default, reason = "only ever a static")]
    pub const fn new() -> Self {
        const fn zero() -> AtomicU32 {
            AtomicU32::new(0)
        }
        let ranges = [const { AtomicU64::new(0) }; CAPACITY];
        Self { ranges, moved: zero(), used: zero(), changing: zero(), given_back: zero() }
    }

    fn words(&self) -> &[AtomicU64] {
        // Acquire: pairs with the Release in `add_part`.
        &self.ranges[..(self.used.load(Ordering::Acquire) as usize).min(CAPACITY)]
    }

    /// All of them.
    pub fn ranges(&self) -> impl Iterator<Item = Range<u64>> {
        // Acquire: pairs with the Release in `remove`: a thread that finds a range smaller finds that something was moved.
        self.words().iter().map(|word| range(word.load(Ordering::Acquire))).filter(|range| !range.is_empty())
    }

    /// Whether all of `addresses` is held.
    ///
    /// `false` proves table damage only if the caller re-reads the snapshot's state word and finds it unchanged: otherwise another
    /// thread was unmapping the snapshot.
    pub fn contains(&self, addresses: &Range<u64>) -> bool {
        self.finds(|| self.covers(addresses))
    }

    fn covers(&self, addresses: &Range<u64>) -> bool {
        let mut at = addresses.start;
        while at < addresses.end {
            let Some(here) = self.ranges().find(|range| range.contains(&at)) else { return false };
            at = here.end;
        }
        addresses.start < addresses.end
    }

    /// Whether any of `addresses` is held.
    pub fn touches(&self, addresses: &Range<u64>) -> bool {
        self.finds(|| self.ranges().any(|range| range.start < addresses.end && addresses.start < range.end))
    }

    /// Whether `look` finds something. The rest of a range that is being taken apart can pass a look by unseen: `look` is called
    /// again if something was moved beside it.
    fn finds(&self, look: impl Fn() -> bool) -> bool {
        loop {
            // Acquire: pairs with the Release in `remove`: what was moved before is found in its new place.
            let moved = self.moved.load(Ordering::Acquire);
            if look() {
                return true;
            }
            // Acquire: orders the look before this one.
            fence(Ordering::Acquire);
            if self.moved.load(Ordering::Relaxed) == moved || planted(Fault::MovedHolding) {
                return false;
            }
        }
    }

    /// How many pages are held.
    pub fn pages(&self) -> u64 {
        self.ranges().map(|range| (range.end - range.start) / PAGE).sum()
    }

    /// Adds a range that is not held. False: there are too many ranges, and it is not held.
    #[must_use]
    pub fn add(&self, addresses: &Range<u64>) -> bool {
        let mut at = addresses.start;
        while at < addresses.end {
            let end = addresses.end.min(at.saturating_add(LONGEST));
            if !self.add_part(&(at..end)) {
                self.remove(&(addresses.start..at));
                return false;
            }
            at = end;
        }
        true
    }

    fn add_part(&self, part: &Range<u64>) -> bool {
        let Some(free) = self.ranges.iter().position(|word| word.load(Ordering::Relaxed) == 0) else { return false };
        self.ranges[free].store(word(part), Ordering::Relaxed);
        // Release: pairs with the Acquire in `words`.
        self.used.fetch_max(free as u32 + 1, Ordering::Release);
        true
    }

    /// Takes a range out whose segments are over or changing. What is left behind it is added before the range is taken out, so
    /// that the rest is found at any time.
    pub fn remove(&self, addresses: &Range<u64>) {
        for place in self.words() {
            let here = range(place.load(Ordering::Relaxed));
            if here.start >= addresses.end || addresses.start >= here.end {
                continue;
            }
            let (before, behind) = (here.start..addresses.start.max(here.start), addresses.end.min(here.end)..here.end);
            if !before.is_empty() && !behind.is_empty() {
                let _ = self.add_part(&behind);
                // Release: pairs with the Acquire in `finds`: it is in its new place before.
                self.moved.fetch_add(1, Ordering::Release);
            }
            let left = if before.is_empty() { behind } else { before };
            // Release: pairs with the Acquire in `ranges`.
            place.store(if left.is_empty() { 0 } else { word(&left) }, Ordering::Release);
        }
    }

    /// Does `change`, which may make generations odd. [`OwnRanges::is_changing`] is true meanwhile.
    pub fn changing<T>(&self, change: impl FnOnce() -> T) -> T {
        self.changing.fetch_add(1, Ordering::AcqRel);
        let result = change();
        self.changing.fetch_sub(1, Ordering::AcqRel);
        result
    }

    /// Whether a thread is in [`OwnRanges::changing`].
    pub fn is_changing(&self) -> bool {
        self.changing.load(Ordering::Acquire) != 0
    }

    /// Notes that the process is about to end and gives its snapshots back: from now on the table has fewer of them than are held.
    pub fn note_given_back(&self) {
        // Release: as the store that takes a record out of the table comes later, and is a Release as well, the thread that acquires
        // that finds this.
        self.given_back.store(1, Ordering::Release);
    }

    /// Whether the snapshots are given back.
    pub fn are_given_back(&self) -> bool {
        self.given_back.load(Ordering::Acquire) != 0
    }

    /// Takes all out, in a process that has none yet.
    pub fn clear(&self) {
        // A store would give the process a page of its own, for ranges that most processes do not have.
        for word in [&self.changing, &self.given_back] {
            if word.load(Ordering::Relaxed) != 0 {
                word.store(0, Ordering::Relaxed);
            }
        }
        self.words().iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    extern crate std;

    use std::boxed::Box;
    use std::vec::Vec;

    use super::*;
    use crate::protocol::limits::SNAPSHOTS;

    fn pages(range: Range<u64>) -> Range<u64> {
        range.start * PAGE..range.end * PAGE
    }

    #[test]
    fn what_is_taken_out_of_the_middle_leaves_both_ends() {
        let own_ranges = Box::new(OwnRanges::new());
        assert!(own_ranges.add(&pages(10..20)) && own_ranges.add(&pages(20..30)));
        assert!(own_ranges.contains(&pages(12..25)) && !own_ranges.contains(&pages(25..31)));
        own_ranges.remove(&pages(15..22));
        let mut left: Vec<_> = own_ranges.ranges().map(|range| range.start / PAGE..range.end / PAGE).collect();
        left.sort_by_key(|range| range.start);
        assert_eq!(left, [10..15, 22..30]);
        assert_eq!(own_ranges.pages(), 13);
        assert!(own_ranges.touches(&pages(14..16)) && !own_ranges.touches(&pages(15..22)));
        own_ranges.remove(&pages(24..26));
        assert!(own_ranges.contains(&pages(22..24)) && own_ranges.contains(&pages(26..30)));
        own_ranges.remove(&(0..u64::MAX));
        assert_eq!(own_ranges.pages(), 0);
    }

    #[test]
    fn a_range_longer_than_a_word_can_say_is_held_whole() {
        let own_ranges = Box::new(OwnRanges::new());
        let long = PAGE..PAGE + 3 * LONGEST;
        assert!(own_ranges.add(&long) && own_ranges.contains(&long));
        own_ranges.remove(&long);
        assert_eq!(own_ranges.pages(), 0);
    }

    #[test]
    #[cfg_attr(miri, ignore = "looks at some eight million places")]
    fn more_than_can_be_held_is_refused_whole() {
        let own_ranges = Box::new(OwnRanges::new());
        for at in 0..SNAPSHOTS as u64 {
            assert!(own_ranges.add(&pages(at * 2 + 1..at * 2 + 2)));
        }
        assert!(!own_ranges.add(&pages(100_000..100_001)));
        assert!(!own_ranges.contains(&pages(100_000..100_001)));
    }

    #[test]
    #[cfg_attr(miri, ignore = "takes a range apart half a million times")]
    fn what_stays_seems_held_while_the_rest_is_taken_out() {
        let own_ranges = Box::new(OwnRanges::new());
        let is_over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            const END: u64 = 1_000_000;
            assert!(own_ranges.add(&pages(0..END)));
            scope.spawn(|| {
                // The rest behind the middle goes by turns to the word behind and to the word before, which a look may have passed
                // already.
                for first in (0..END - 10).step_by(2) {
                    own_ranges.remove(&pages(first + 1..first + 2));
                    own_ranges.remove(&pages(first..first + 1));
                }
                is_over.store(true, Ordering::Relaxed);
            });
            while !is_over.load(Ordering::Relaxed) {
                assert!(own_ranges.contains(&pages(END - 5..END)));
            }
        });
    }
}
