//! The pool of blocks that hold preserved bits.
//!
//! A block belongs to the life of the snapshot that its owner word names. When that life is over the block is free; nobody has to
//! free it.

use core::ptr;

use rustix::mm::{Advice, madvise};

use super::Table;
use crate::preserved::{Block, Pool};
use crate::snapshot::State;
use crate::sync::{AtomicU64, Ordering};

/// The pool, as one snapshot uses it.
pub struct SnapshotBlocks<'a> {
    pub(super) table: &'a Table,
    pub(super) snapshot: u32,
}

impl core::fmt::Debug for SnapshotBlocks<'_> {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.debug_struct("SnapshotBlocks").field("snapshot", &self.snapshot).finish_non_exhaustive()
    }
}

impl SnapshotBlocks<'_> {
    fn owner(&self, life: u32) -> u64 {
        u64::from(life) << 32 | u64::from(self.snapshot + 1)
    }

    pub(super) fn is_free(&self, owner: u64) -> bool {
        let Some(index) = (owner as u32).checked_sub(1) else { return true };
        self.table.snapshot(index).is_none_or(|snapshot| {
            let head = snapshot.head();
            head.life() != (owner >> 32) as u32 || head.state() == State::Free
        })
    }

    /// Blocks that the life `life` of this snapshot has taken.
    pub fn taken(&self, life: u32) -> u64 {
        let owner = self.owner(life);
        self.table.block_owners.iter().filter(|word| word.load(Ordering::Relaxed) == owner).count() as u64
    }
}

/// Asks for the block's memory now, because a full tmpfs answers a first touch with SIGBUS.
fn is_backed(block: &Block) -> bool {
    let address = ptr::from_ref(block).cast_mut().cast();
    // SAFETY: the block is a page of the table's mapping, which lives as long as the process; populating changes no byte.
    unsafe { madvise(address, size_of::<Block>(), Advice::LinuxPopulateWrite) }.is_ok()
}

impl Pool for SnapshotBlocks<'_> {
    fn block(&self, index: u32) -> Option<&Block> {
        self.table.blocks.get(index as usize)
    }

    fn take(&self, life: u32) -> Option<u32> {
        let mine = self.owner(life);
        let start = (mine.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as usize;
        // Dense at the start of the pool while it suffices, so that little of the tmpfs is used.
        let near = self.table.block_owners.iter().enumerate();
        let found = near.skip(start % 8).chain(self.table.block_owners.iter().enumerate()).find(|(_, word)| {
            let owner = word.load(Ordering::Relaxed);
            // AcqRel: against others who take it.
            self.is_free(owner) && word.compare_exchange(owner, mine, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        });
        let (index, word): (usize, &AtomicU64) = found?;
        if !is_backed(&self.table.blocks[index]) {
            let _ = word.compare_exchange(mine, 0, Ordering::Release, Ordering::Relaxed);
            return None;
        }
        Some(index as u32)
    }

    fn give_back(&self, index: u32, life: u32) {
        if let Some(word) = self.table.block_owners.get(index as usize) {
            let _ = word.compare_exchange(self.owner(life), 0, Ordering::Release, Ordering::Relaxed);
        }
    }
}
