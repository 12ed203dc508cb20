//! Where the calling process's snapshots lie, by its own knowledge.
//!
//! The table is shared and can be damaged. This process populates, moves, replaces or drops its memory only where it has itself
//! mapped a snapshot, whatever a record says.
//!
//! The ranges stand in order of their addresses, so a range is found in a few steps however many there are. The highest comes
//! first, because the kernel maps downwards: a new one mostly goes to the end.

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
    /// First page:36 | pages:28, in falling order. Without pages: nothing is held there, and the place may be taken by a range that
    /// fits between its neighbours. A longer range takes several.
    ranges: [AtomicU64; CAPACITY],
    /// For each: the record of the table in which its pages were found last, or may be found. A guess.
    records: [AtomicU32; CAPACITY],
    /// Odd while words are being shifted. It changes as well when the rest of a range has come to another word, before it leaves
    /// the old word.
    moves: AtomicU32,
    /// Words below this index may be in use.
    used: AtomicU32,
    /// Words among these that have no pages. Only the thread that changes the ranges uses it.
    empty: AtomicU32,
    /// How many pages are held.
    pages: AtomicU64,
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

/// A held range, and the record in which its pages may be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The addresses.
    pub range: Range<u64>,
    /// A guess.
    pub record: u32,
    /// The word in which it stood. The next range is likely to be found there or beside it.
    pub place: usize,
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
        Self {
            ranges: [const { AtomicU64::new(0) }; CAPACITY],
            records: [const { zero() }; CAPACITY],
            moves: zero(),
            used: zero(),
            empty: zero(),
            pages: AtomicU64::new(0),
            changing: zero(),
            given_back: zero(),
        }
    }

    fn words(&self) -> &[AtomicU64] {
        // Acquire: pairs with the Release in `set_used`.
        &self.ranges[..(self.used.load(Ordering::Acquire) as usize).min(CAPACITY)]
    }

    /// The range at a place, which may be empty.
    fn at(&self, place: usize) -> Range<u64> {
        // Acquire: pairs with the Release in `put`.
        range(self.ranges[place].load(Ordering::Acquire))
    }

    /// All of them, the highest first. Where another thread moves one meanwhile, it may be missed or met twice.
    pub fn ranges(&self) -> impl Iterator<Item = Range<u64>> {
        (0..self.words().len()).map(|place| self.at(place)).filter(|range| !range.is_empty())
    }

    /// Whether all of `addresses` is held.
    ///
    /// `false` proves table damage only if the caller re-reads the snapshot's state word and finds it unchanged: otherwise another
    /// thread was unmapping the snapshot.
    pub fn contains(&self, addresses: &Range<u64>) -> bool {
        let mut at = addresses.start;
        while at < addresses.end {
            let Some(held) = self.first_from(at).filter(|held| held.range.start <= at) else { return false };
            at = held.range.end;
        }
        addresses.start < addresses.end
    }

    /// Whether any of `addresses` is held.
    pub fn touches(&self, addresses: &Range<u64>) -> bool {
        self.first_from(addresses.start).is_some_and(|held| held.range.start < addresses.end)
    }

    /// The first held range that ends behind `address`.
    pub fn first_from(&self, address: u64) -> Option<Held> {
        self.first_from_near(address, 0)
    }

    /// The same; it takes little time if the range is found at `place`, or just before that.
    pub fn first_from_near(&self, address: u64, place: usize) -> Option<Held> {
        let find_in_order = || self.find_in_order(address, place);
        let find = |is_in_order| if is_in_order { find_in_order() } else { self.find_in_any_order(address) };
        let record = |place: usize| self.records[place].load(Ordering::Relaxed);
        self.settled(find).map(|(place, range)| Held { range, record: record(place), place })
    }

    /// What `look` finds while no range is moved. While words are being shifted there is no order, but each range stands in one
    /// word at least.
    fn settled<T>(&self, look: impl Fn(bool) -> T) -> T {
        loop {
            // Acquire: pairs with the Release in `moved` and `shifting`: what was moved before is found in its new place.
            let moves = self.moves.load(Ordering::Acquire);
            let found = look(moves.is_multiple_of(2));
            // Acquire: pairs with the Release fence in `shifting`; orders the look before this one.
            fence(Ordering::Acquire);
            if self.moves.load(Ordering::Relaxed) == moves || planted(Fault::MovedHolding) {
                return found;
            }
        }
    }

    fn find_in_order(&self, address: u64, near: usize) -> Option<(usize, Range<u64>)> {
        let count = self.words().len();
        let is_behind = |place: usize| self.at(place).start > address;
        let is_it = |here: usize| {
            here <= count && (here == count || !is_behind(here)) && here.checked_sub(1).is_none_or(is_behind)
        };
        let guess = [near, near.wrapping_sub(1)].into_iter().find(|here| is_it(*here));
        let here = guess.unwrap_or_else(|| self.place_of(address, count));
        let held = |place: usize| Some((place, self.at(place))).filter(|(_, range)| !range.is_empty());
        let before = (here..count).find_map(held).filter(|(_, range)| address < range.end);
        before.or_else(|| (0..here).rev().find_map(held))
    }

    /// How many of the first `count` words begin behind `address`.
    fn place_of(&self, address: u64, count: usize) -> usize {
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.at(middle).start > address { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// The same by a look at all words, in both directions: words are shifted in one of them, and are not missed in the same.
    fn find_in_any_order(&self, address: u64) -> Option<(usize, Range<u64>)> {
        let count = self.words().len();
        let both = (0..count).chain((0..count).rev()).map(|place| (place, self.at(place)));
        both.filter(|(_, range)| address < range.end && !range.is_empty()).min_by_key(|(_, range)| range.start)
    }

    /// How many pages are held.
    pub fn pages(&self) -> u64 {
        self.pages.load(Ordering::Relaxed)
    }

    /// Notes that the pages at `address` are to be found in `record` of the table.
    pub fn note_record(&self, address: u64, record: u32) {
        if let Some((place, _)) =
            self.settled(|is_in_order| is_in_order.then(|| self.find_in_order(address, 0))).flatten()
        {
            self.records[place].store(record, Ordering::Relaxed);
        }
    }

    /// Adds a range that is not held, and is to be found in `record` of the table. False: there are too many ranges, and it is not
    /// held.
    #[must_use]
    pub fn add(&self, addresses: &Range<u64>, record: u32) -> bool {
        let mut at = addresses.start;
        while at < addresses.end {
            let end = addresses.end.min(at.saturating_add(LONGEST));
            if !self.add_part(&(at..end), record) {
                self.remove(&(addresses.start..at));
                return false;
            }
            self.pages.fetch_add((end - at) / PAGE, Ordering::Relaxed);
            at = end;
        }
        true
    }

    fn put(&self, place: usize, word: u64, record: u32) {
        self.records[place].store(record, Ordering::Relaxed);
        // Release: pairs with the Acquire in `at`.
        self.ranges[place].store(word, Ordering::Release);
    }

    fn set_used(&self, count: usize) {
        // Release: pairs with the Acquire in `words`: the words below are there.
        self.used.store(count as u32, Ordering::Release);
    }

    fn is_empty_at(&self, place: usize) -> bool {
        self.at(place).is_empty()
    }

    fn add_part(&self, part: &Range<u64>, record: u32) -> bool {
        let count = self.words().len();
        let place = self.place_of(part.start, count);
        let beside = [place.checked_sub(1), Some(place).filter(|place| *place < count)];
        if let Some(empty) = beside.into_iter().flatten().find(|place| self.is_empty_at(*place)) {
            self.empty.fetch_sub(1, Ordering::Relaxed);
            self.put(empty, word(part), record);
            return true;
        }
        let Some(end) = (place..count).find(|place| self.is_empty_at(*place)).or((count < CAPACITY).then_some(count))
        else {
            let has_room = self.empty.load(Ordering::Relaxed) > 0;
            self.close_up();
            return has_room && self.add_part(part, record);
        };
        if end == place {
            self.put(end, word(part), record);
            self.set_used(count.max(end + 1));
        } else {
            if end == count {
                // A look that finds words being shifted finds the word that the last of them goes to.
                self.put(count, 0, 0);
                self.set_used(count + 1);
            }
            self.shifting(|| {
                if end < count {
                    self.empty.fetch_sub(1, Ordering::Relaxed);
                }
                for at in (place..end).rev() {
                    self.put(at + 1, self.ranges[at].load(Ordering::Relaxed), self.records[at].load(Ordering::Relaxed));
                }
                self.put(place, word(part), record);
            });
        }
        true
    }

    /// Does `shift`, which moves words in one direction, and overwrites none before it stands in its new place.
    fn shifting(&self, shift: impl FnOnce()) {
        let moves = self.moves.load(Ordering::Relaxed);
        // Release: pairs with the first Acquire in `settled`: a thread that finds words being shifted finds how many there are.
        self.moves.store(moves.wrapping_add(1), Ordering::Release);
        // Release: pairs with the Acquire fence in `settled`: a thread that finds a word moved finds the count changed.
        fence(Ordering::Release);
        shift();
        // Release: pairs with the Acquire in `settled`.
        self.moves.store(moves.wrapping_add(2), Ordering::Release);
    }

    /// Counts that the rest of a range is in another word by now.
    fn moved(&self) {
        // Release: pairs with the Acquire in `settled`: it is in its new place before.
        self.moves.fetch_add(2, Ordering::Release);
    }

    /// Takes a range out whose segments are over or changing. What is left behind it is added before the range is taken out, so
    /// that the rest is found at any time.
    pub fn remove(&self, addresses: &Range<u64>) {
        let count = self.words().len();
        let mut place = self.place_of(addresses.end.saturating_sub(1), count);
        while place < count {
            let here = self.at(place);
            if !here.is_empty() && here.end <= addresses.start {
                break;
            }
            let (before, behind) = (here.start..addresses.start.max(here.start), addresses.end.min(here.end)..here.end);
            if here.is_empty() {
            } else if before.is_empty() || behind.is_empty() {
                let left = if before.is_empty() { behind } else { before };
                self.shrink(place, &here, &left);
            } else {
                self.take_out_of_the_middle(&here, &before, &behind);
                return;
            }
            place += 1;
        }
        self.tidy();
    }

    /// Has the pages from `address` on in a word of their own, with a guess of their own. Without room they stay where they are.
    pub fn split_at(&self, address: u64, record: u32) {
        let Some(Held { range: here, record: before, .. }) = self.first_from(address) else { return };
        if here.start < address && self.add_part(&(address..here.end), record) {
            self.moved();
            self.put(self.place_of(here.start, self.words().len()), word(&(here.start..address)), before);
        } else if here.start == address {
            self.note_record(address, record);
        }
    }

    fn shrink(&self, place: usize, here: &Range<u64>, left: &Range<u64>) {
        self.pages.fetch_sub((here.end - here.start - (left.end.saturating_sub(left.start))) / PAGE, Ordering::Relaxed);
        if left.is_empty() {
            self.empty.fetch_add(1, Ordering::Relaxed);
        }
        let word = if left.is_empty() { word(&(here.start..here.start)) } else { word(left) };
        // Release: pairs with the Acquire in `at`.
        self.ranges[place].store(word, Ordering::Release);
    }

    fn take_out_of_the_middle(&self, here: &Range<u64>, before: &Range<u64>, behind: &Range<u64>) {
        let record = self.first_from(here.start).map_or(0, |held| held.record);
        if !self.add_part(behind, record) {
            self.pages.fetch_sub((behind.end - behind.start) / PAGE, Ordering::Relaxed);
        }
        self.moved();
        self.pages.fetch_sub((behind.start - before.end) / PAGE, Ordering::Relaxed);
        // The range may have been shifted.
        self.put(self.place_of(here.start, self.words().len()), word(before), record);
    }

    /// Gives back the words at the end that have no pages, and closes up if most have none.
    fn tidy(&self) {
        let count = self.words().len();
        let mut left = count;
        while left > 0 && self.is_empty_at(left - 1) {
            left -= 1;
        }
        if left < count {
            self.empty.fetch_sub((count - left) as u32, Ordering::Relaxed);
            self.set_used(left);
            self.moved();
        }
        if self.empty.load(Ordering::Relaxed) as usize > left / 2 + 16 {
            self.close_up();
        }
    }

    /// Moves all ranges to the front.
    fn close_up(&self) {
        self.shifting(|| {
            let mut to = 0;
            for from in 0..self.words().len() {
                if !self.is_empty_at(from) {
                    let (word, record) = (&self.ranges[from], &self.records[from]);
                    self.put(to, word.load(Ordering::Relaxed), record.load(Ordering::Relaxed));
                    to += 1;
                }
            }
            self.set_used(to);
            self.empty.store(0, Ordering::Relaxed);
        });
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
        // Release: as the store that takes a record out of the table comes later, and is a Release as well, the thread that
        // acquires that finds this.
        self.given_back.store(1, Ordering::Release);
    }

    /// Whether the snapshots are given back.
    pub fn are_given_back(&self) -> bool {
        self.given_back.load(Ordering::Acquire) != 0
    }

    /// Takes all out, in a process that has none yet.
    pub fn clear(&self) {
        // The thread that was shifting words when the process was forked is not here to end that. A store would give the process a
        // page of its own, for ranges that most processes do not have.
        for word in [&self.changing, &self.given_back, &self.moves, &self.empty, &self.used] {
            if word.load(Ordering::Relaxed) != 0 {
                word.store(0, Ordering::Relaxed);
            }
        }
        if self.pages() != 0 {
            self.pages.store(0, Ordering::Relaxed);
        }
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
        assert!(own_ranges.add(&pages(10..20), 7) && own_ranges.add(&pages(20..30), 7));
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
    fn the_next_range_is_found_whatever_came_and_went() {
        let own_ranges = Box::new(OwnRanges::new());
        let mut held = std::collections::BTreeSet::new();
        let mut random = 1u64;
        for round in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (random >> 40) % 300 * 3 + 1;
            if held.remove(&at) {
                own_ranges.remove(&pages(at..at + 2));
            } else if held.len() < 200 || round % 5 == 0 {
                held.insert(at);
                assert!(own_ranges.add(&pages(at..at + 2), at as u32));
            }
            let from = (random >> 20) % 910;
            let next = held.iter().find(|start| from < *start + 2);
            let next = next.map(|start| (pages(*start..*start + 2), *start as u32));
            let found = |place| own_ranges.first_from_near(from * PAGE, place).map(|held| (held.range, held.record));
            assert_eq!(found(0), next);
            // A place from which the range has gone, or that never was one, leads to the same.
            let right = own_ranges.first_from(from * PAGE).map_or(7, |held| held.place);
            assert!(
                [right, right + 1, random as usize % 300, usize::MAX].into_iter().all(|place| found(place) == next)
            );
            assert_eq!(own_ranges.pages(), held.len() as u64 * 2);
        }
        assert!(own_ranges.words().len() <= 2 * held.len() + 16);
    }

    #[test]
    fn a_range_longer_than_a_word_can_say_is_held_whole() {
        let own_ranges = Box::new(OwnRanges::new());
        let long = PAGE..PAGE + 3 * LONGEST;
        assert!(own_ranges.add(&long, 7) && own_ranges.contains(&long));
        own_ranges.remove(&long);
        assert_eq!(own_ranges.pages(), 0);
    }

    #[test]
    #[cfg_attr(miri, ignore = "looks at some eight million places")]
    fn more_than_can_be_held_is_refused_whole() {
        let own_ranges = Box::new(OwnRanges::new());
        for at in (0..SNAPSHOTS as u64).rev() {
            assert!(own_ranges.add(&pages(at * 2 + 1..at * 2 + 2), 7));
        }
        assert!(!own_ranges.add(&pages(100_000..100_001), 7));
        assert!(!own_ranges.contains(&pages(100_000..100_001)));
    }

    #[test]
    #[cfg_attr(miri, ignore = "takes a range apart half a million times")]
    fn what_stays_seems_held_while_the_rest_is_taken_out() {
        let own_ranges = Box::new(OwnRanges::new());
        let is_over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            const END: u64 = 1_000_000;
            assert!(own_ranges.add(&pages(0..END), 7));
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
