//! Preserved bits, and which snapshot owns the blocks that they stand in.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use loom::thread;
use snapshim::protocol::block_owner::{BlockOwner, Incarnation};
use snapshim::protocol::preserved::{Bits, Block, Pool, empty_root};

use super::world::model;

/// One block, which every incarnation takes.
struct OneBlock(Block);

impl Pool for OneBlock {
    fn block(&self, index: u32) -> Option<&Block> {
        (index == 0).then_some(&self.0)
    }

    fn take(&self, _life: u32) -> Option<u32> {
        Some(0)
    }

    fn give_back(&self, _index: u32, _life: u32) {}
}

#[test]
fn a_late_bit_of_a_former_snapshot_is_not_seen_in_the_next() {
    model(|| {
        let pool = Arc::new((OneBlock(Block(std::array::from_fn(|_| AtomicU64::new(0)))), AtomicU64::new(1 << 32)));
        let (first, last) = (Arc::clone(&pool), Arc::clone(&pool));
        let late = thread::spawn(move || {
            Bits { root: &first.1, incarnation: 1, pages: 64, pool: &first.0 }.set(5..6);
        });
        // The record's next incarnation, which takes the same block.
        let root = AtomicU64::new(empty_root(2));
        let bits = Bits { root: &root, incarnation: 2, pages: 64, pool: &last.0 };
        bits.set(7..8);
        assert!(!bits.is_set(5));
        late.join().unwrap();
        assert!(!bits.is_set(5));
    });
}

const FIRST: Incarnation = Incarnation { snapshot: 0, incarnation: 1 };
const SECOND: Incarnation = Incarnation { snapshot: 1, incarnation: 2 };

/// A writer for the first incarnation takes a block and, too late, gives it back. That incarnation ends meanwhile, and a second one
/// takes the block.
#[test]
fn a_block_that_is_given_back_late_stays_with_who_has_it() {
    model(|| {
        let block = Arc::new((BlockOwner::default(), AtomicBool::new(false)));
        let other = Arc::clone(&block);
        let late = thread::spawn(move || {
            if other.0.take(FIRST, |_| false) {
                other.0.give_back(FIRST);
            }
        });
        thread::yield_now();
        block.1.store(true, Ordering::Release);
        let is_taken = block.0.take(SECOND, |incarnation| incarnation == FIRST && block.1.load(Ordering::Acquire));
        late.join().unwrap();
        if is_taken {
            assert_eq!(block.0.named(), Some(SECOND));
        }
    });
}

#[test]
fn a_block_is_taken_by_one() {
    model(|| {
        let block = Arc::new(BlockOwner::default());
        let other = Arc::clone(&block);
        let taker = thread::spawn(move || other.take(FIRST, |_| false));
        let is_ours = block.take(SECOND, |_| false);
        let is_theirs = taker.join().unwrap();
        assert!(is_ours != is_theirs);
        assert_eq!(block.named(), Some(if is_ours { SECOND } else { FIRST }));
    });
}
