//! Preserved bits: which pages of a snapshot have their own copy already.
//!
//! A bit is a memory aid of the writers. A page without its bit is pushed again, which changes nothing. A bit that is set wrongly
//! lets a newer byte into the snapshot. So each word carries the incarnation of the snapshot that it belongs to. A word of another
//! incarnation reads as empty. A writer that was stopped for long finds another incarnation in a word that was given away
//! meanwhile, and leaves it alone.
//!
//! The words stand in blocks of a pool, found through a radix tree whose entries carry the incarnation in the same way. When a
//! snapshot ends, its blocks are free at once: no process has to free them.

use core::ops::Range;

use crate::sys::sync::{AtomicU64, Fault, Ordering, planted};

/// Words in a block.
#[cfg(not(loom))]
pub const BLOCK_WORDS: usize = 512;
#[cfg(loom)]
/// Words in a block: few, for the model.
pub const BLOCK_WORDS: usize = 2;

/// Pages a word stands for.
pub const WORD_PAGES: u64 = 32;
/// Pages a leaf block stands for.
pub const LEAF_PAGES: u64 = BLOCK_WORDS as u64 * WORD_PAGES;

/// One block: words of bits, or entries that name further blocks.
#[cfg_attr(not(loom), derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout))]
#[derive(Debug)]
#[cfg_attr(loom, repr(C))]
#[cfg_attr(not(loom), repr(C, align(4096)))]
pub struct Block(pub [AtomicU64; BLOCK_WORDS]);

/// Where blocks come from.
pub trait Pool {
    /// Block `index`, if there is one and it is backed by memory.
    fn block(&self, index: u32) -> Option<&Block>;
    /// A block for the snapshot's incarnation `incarnation`; `None` if none is left. Its words may be of any incarnation.
    fn take(&self, incarnation: u32) -> Option<u32>;
    /// Gives back a block that was just taken and that no entry names.
    fn give_back(&self, index: u32, incarnation: u32);
}

const fn tagged(incarnation: u32, value: u32) -> u64 {
    (incarnation as u64) << 32 | value as u64
}

/// Whether a word or entry belongs to `incarnation`.
fn is_of(word: u64, incarnation: u32) -> bool {
    (word >> 32) as u32 == incarnation || planted(Fault::BitTag)
}

/// What the root of a snapshot's bits is at the start of `incarnation`: no block yet.
#[must_use]
pub const fn empty_root(incarnation: u32) -> u64 {
    tagged(incarnation, 0)
}

/// Why there is no word for a page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Absent {
    /// No bit near it was ever set.
    Never,
    /// It cannot be told: a word of another incarnation stands in its place, or no block is left.
    Lost,
}

/// What is known of a page and of those behind it.
struct Known {
    /// The bits of the 32 pages around the page. Where there is no word, they are all the same.
    bits: u32,
    /// The page behind those that are alike known: the next word's, or the first behind a block that is not there. So a walk costs
    /// what the blocks hold, and not what the snapshot could hold.
    end: u64,
}

/// The preserved bits of one incarnation of one snapshot.
#[derive(Debug)]
pub struct Bits<'a, P> {
    /// `Snapshot::root`.
    pub root: &'a AtomicU64,
    /// The incarnation.
    pub incarnation: u32,
    /// The pages that bits can stand for, counted from the snapshot's base.
    pub pages: u64,
    /// Where blocks come from.
    pub pool: &'a P,
}

impl<P: Pool> Bits<'_, P> {
    /// Levels of index blocks above the leaves.
    fn depth(&self) -> u32 {
        let mut reach = LEAF_PAGES;
        let mut depth = 0;
        while reach < self.pages {
            reach = reach.saturating_mul(BLOCK_WORDS as u64);
            depth += 1;
        }
        depth
    }

    /// The word that holds `page`'s bit, made if it does not exist and `grow` is set. If there is none: why, and the first page
    /// behind those that have none for that reason.
    fn word(&self, page: u64, grow: bool) -> Result<&AtomicU64, (Absent, u64)> {
        let word = page / WORD_PAGES;
        let mut entry = self.root;
        for level in (0..=self.depth()).rev() {
            let words = (BLOCK_WORDS as u64).pow(level);
            let block = self.follow(entry, grow).map_err(|why| {
                let pages = words.saturating_mul(LEAF_PAGES);
                (why, (page / pages + 1).saturating_mul(pages))
            })?;
            let index = (word / words) % BLOCK_WORDS as u64;
            entry = &block.0[index as usize];
        }
        Ok(entry)
    }

    /// What is known of `page`, with `bits` of a word, and where there is none, by the reason.
    fn known(&self, page: u64, bits: impl Fn(Result<u64, Absent>) -> u32) -> Known {
        // Acquire: pairs with the AcqRel in `set_word`; a writer that sees the bit may let newer bytes land.
        match self.word(page, false).map(|word| word.load(Ordering::Acquire)) {
            Ok(word) => Known { bits: bits(Ok(word)), end: (page / WORD_PAGES + 1) * WORD_PAGES },
            Err((why, end)) => Known { bits: bits(Err(why)), end },
        }
    }

    /// The bits that are known to be set.
    fn set_at(&self, page: u64) -> Known {
        self.known(page, |word| word.ok().filter(|word| is_of(*word, self.incarnation)).map_or(0, |word| word as u32))
    }

    /// The block that `entry` names, taking one for it if there is none and `grow` is set.
    fn follow(&self, entry: &AtomicU64, grow: bool) -> Result<&Block, Absent> {
        // Acquire: pairs with the AcqRel in `link`.
        let seen = entry.load(Ordering::Acquire);
        if !is_of(seen, self.incarnation) {
            return Err(Absent::Lost);
        }
        let named = match seen as u32 {
            0 if grow => self.link(entry, seen).ok_or(Absent::Lost)?,
            0 => return Err(Absent::Never),
            named => named,
        };
        self.pool.block(named - 1).ok_or(Absent::Lost)
    }

    /// Makes `entry` name a block whose words are empty and of this incarnation.
    fn link(&self, entry: &AtomicU64, seen: u64) -> Option<u32> {
        let taken = self.pool.take(self.incarnation)?;
        for word in &self.pool.block(taken)?.0 {
            word.store(tagged(self.incarnation, 0), Ordering::Relaxed);
        }
        let link = tagged(self.incarnation, taken + 1);
        // AcqRel: releases the emptied words; against other writers of this snapshot.
        match entry.compare_exchange(seen, link, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Some(taken + 1),
            Err(now) => {
                self.pool.give_back(taken, self.incarnation);
                (is_of(now, self.incarnation) && now as u32 != 0).then_some(now as u32)
            }
        }
    }

    /// The bits of the 32 pages around `page`, page `page / 32 * 32` in bit 0.
    pub fn load(&self, page: u64) -> u32 {
        self.set_at(page).bits
    }

    /// Whether `page` is known to be preserved.
    pub fn is_set(&self, page: u64) -> bool {
        self.load(page) >> (page % WORD_PAGES) & 1 == 1
    }

    /// The first run of pages in `range` that have no bit: the pages to push.
    pub fn first_missing(&self, range: Range<u64>) -> Option<Range<u64>> {
        first_run(range, |page| self.set_at(page))
    }

    /// How many pages in `range` have their bit.
    pub fn count(&self, range: Range<u64>) -> u64 {
        let (mut at, mut count) = (range.start, 0);
        while let Some(run) = self.first_set(at..range.end) {
            count += run.end - run.start;
            at = run.end;
        }
        count
    }

    /// Whether some bits of `range` may have been lost: a word of another incarnation stands where one of this should.
    pub fn is_any_lost(&self, range: Range<u64>) -> bool {
        let lost = |word| match word {
            Ok(word) if is_of(word, self.incarnation) => 0,
            Err(Absent::Never) => 0,
            Ok(_) | Err(Absent::Lost) => u32::MAX,
        };
        find(range.start / WORD_PAGES * WORD_PAGES..range.end, |page| self.known(page, lost)).is_some()
    }

    /// The first run of pages in `range` that have their bit.
    pub fn first_set(&self, range: Range<u64>) -> Option<Range<u64>> {
        first_run(range, |page| inverse(self.set_at(page)))
    }

    /// The first run of pages in `range` that were certainly never preserved: the pages that may be dropped.
    ///
    /// A word of another incarnation inside a block of this one says that bits may have been lost: all its pages count as
    /// preserved.
    pub fn first_droppable(&self, range: Range<u64>) -> Option<Range<u64>> {
        let kept = |word| match word {
            Ok(word) if is_of(word, self.incarnation) => word as u32,
            Err(Absent::Never) => 0,
            Ok(_) | Err(Absent::Lost) => u32::MAX,
        };
        first_run(range, |page| self.known(page, kept))
    }

    /// Sets the bits of `range`; how many were new, or `None` if some could not be recorded.
    pub fn set(&self, range: Range<u64>) -> Option<u64> {
        let mut new = 0;
        let mut page = range.start;
        while page < range.end {
            let end = ((page / WORD_PAGES + 1) * WORD_PAGES).min(range.end);
            let count = end - page;
            let mask = (u32::MAX >> (WORD_PAGES - count)) << (page % WORD_PAGES);
            new += u64::from(self.set_word(page, mask)?);
            page = end;
        }
        Some(new)
    }

    fn set_word(&self, page: u64, mask: u32) -> Option<u32> {
        let word = self.word(page, true).ok()?;
        let mut seen = word.load(Ordering::Relaxed);
        loop {
            if !is_of(seen, self.incarnation) {
                return None;
            }
            // AcqRel: pairs with the Acquire in `load`; the push is done before its bit is visible.
            match word.compare_exchange(seen, seen | u64::from(mask), Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Some((mask & !(seen as u32)).count_ones()),
                Err(now) => seen = now,
            }
        }
    }
}

fn inverse(known: Known) -> Known {
    Known { bits: !known.bits, ..known }
}

/// The first run of pages in `range` whose bit is clear in what `known` tells.
fn first_run(range: Range<u64>, known: impl Fn(u64) -> Known) -> Option<Range<u64>> {
    let start = find(range.clone(), |page| inverse(known(page)))?;
    let end = find(start..range.end, known).unwrap_or(range.end);
    Some(start..end)
}

/// The first page in `range` whose bit is set in what `known` tells.
fn find(range: Range<u64>, known: impl Fn(u64) -> Known) -> Option<u64> {
    let mut page = range.start;
    while page < range.end {
        let Known { bits, end } = known(page);
        let candidates = bits >> (page % WORD_PAGES);
        if candidates != 0 {
            let found = page + u64::from(candidates.trailing_zeros());
            return (found < range.end).then_some(found);
        }
        page = end;
    }
    None
}

#[cfg(all(test, not(loom)))]
mod tests {
    extern crate std;

    use std::boxed::Box;
    use std::vec::Vec;

    use super::*;

    /// Blocks that are handed out one after another.
    struct Blocks {
        blocks: Vec<Box<Block>>,
        next: AtomicU64,
    }

    impl Blocks {
        fn new(count: usize) -> Self {
            let block = |_| Box::new(Block(core::array::from_fn(|_| AtomicU64::new(u64::MAX))));
            Self { blocks: (0..count).map(block).collect(), next: AtomicU64::new(0) }
        }
    }

    impl Pool for Blocks {
        fn block(&self, index: u32) -> Option<&Block> {
            self.blocks.get(index as usize).map(Box::as_ref)
        }

        fn take(&self, _life: u32) -> Option<u32> {
            let next = self.next.fetch_add(1, Ordering::Relaxed);
            (next < self.blocks.len() as u64).then_some(next as u32)
        }

        fn give_back(&self, _index: u32, _life: u32) {}
    }

    const INCARNATION: u32 = 7;

    fn check(pages: u64, set: &[Range<u64>]) {
        let (pool, root) = (Blocks::new(8), AtomicU64::new(empty_root(INCARNATION)));
        let bits = Bits { root: &root, incarnation: INCARNATION, pages, pool: &pool };
        for range in set {
            assert_eq!(bits.set(range.clone()), Some(range.end - range.start));
            assert_eq!(bits.set(range.clone()), Some(0));
        }
        let mut at = 0;
        for range in set {
            assert_eq!(bits.first_set(at..pages), Some(range.clone()));
            let missing = (at < range.start).then_some(at..range.start);
            assert_eq!(bits.first_missing(at..range.start), missing);
            assert_eq!(bits.first_droppable(at..range.start), missing);
            at = range.end;
        }
        assert_eq!(bits.first_set(at..pages), None);
        assert_eq!(bits.count(0..pages), set.iter().map(|range| range.end - range.start).sum());
        assert!(!bits.is_any_lost(0..pages));
    }

    #[test]
    #[cfg_attr(miri, ignore = "walks over half a million words")]
    fn runs_are_found_again_in_a_deep_tree() {
        check(LEAF_PAGES * BLOCK_WORDS as u64 * 2, &[1..2, LEAF_PAGES * 700..LEAF_PAGES * 700 + 33]);
    }

    #[test]
    fn runs_are_found_again_in_every_size_of_tree() {
        check(5, &[0..1, 3..5]);
        check(LEAF_PAGES, &[31..33, 64..96, LEAF_PAGES - 1..LEAF_PAGES]);
        check(LEAF_PAGES * 3, &[5..6, LEAF_PAGES - 2..LEAF_PAGES + 40, LEAF_PAGES * 2 + 7..LEAF_PAGES * 2 + 8]);
    }

    /// It would take minutes if each word was looked at.
    #[test]
    fn what_was_never_there_is_not_walked() {
        let tib = (1 << 40) / crate::PAGE;
        check(16 * tib, &[5..6, 3 * tib..3 * tib + 40, 16 * tib - 1..16 * tib]);
        check(16 * tib, &[]);
    }

    #[test]
    fn without_blocks_nothing_is_recorded_and_nothing_may_be_dropped_by_mistake() {
        let (pool, root) = (Blocks::new(0), AtomicU64::new(empty_root(INCARNATION)));
        let bits = Bits { root: &root, incarnation: INCARNATION, pages: 100, pool: &pool };
        assert_eq!(bits.set(0..1), None);
        assert!(!bits.is_set(0));
    }

    #[test]
    fn a_word_of_another_incarnation_is_empty_for_writers_and_kept_for_who_drops() {
        let (pool, root) = (Blocks::new(1), AtomicU64::new(empty_root(INCARNATION)));
        let bits = Bits { root: &root, incarnation: INCARNATION, pages: 100, pool: &pool };
        bits.set(0..1).unwrap();
        pool.blocks[0].0[0].store(tagged(INCARNATION + 1, u32::MAX), Ordering::Relaxed);
        assert!(!bits.is_set(0));
        assert_eq!(bits.set(2..3), None);
        assert_eq!(bits.first_droppable(0..32), None);
        assert!(bits.is_any_lost(0..100));
    }
}
