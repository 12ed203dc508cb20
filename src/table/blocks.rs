//! The pool of blocks that hold preserved bits.
//!
//! A block belongs to the incarnation of the snapshot that its owner word names. When that is over, the block is free: no process
//! has to free it.

use core::ptr;

use rustix::mm::{Advice, madvise};

use super::Table;
use crate::protocol::block_owner::Incarnation;
use crate::protocol::preserved::{Bits, Block, Pool};
use crate::protocol::snapshot::{State, View};
use crate::sys::mix::mix;

/// The pool, as one snapshot uses it.
pub struct SnapshotBlocks<'a> {
    table: &'a Table,
    snapshot: u32,
}

impl core::fmt::Debug for SnapshotBlocks<'_> {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.debug_struct("SnapshotBlocks").field("snapshot", &self.snapshot).finish_non_exhaustive()
    }
}

impl SnapshotBlocks<'_> {
    fn incarnation(&self, incarnation: u32) -> Incarnation {
        Incarnation { snapshot: self.snapshot, incarnation }
    }

    fn is_over(&self, Incarnation { snapshot, incarnation }: Incarnation) -> bool {
        self.table.snapshot(snapshot).is_none_or(|snapshot| {
            let head = snapshot.head();
            head.incarnation() != incarnation || head.state() == State::Free
        })
    }

    /// Blocks that the incarnation `incarnation` of this snapshot has taken.
    pub fn taken(&self, incarnation: u32) -> u64 {
        let mine = Some(self.incarnation(incarnation));
        self.table.block_owners.iter().filter(|owner| owner.named() == mine).count() as u64
    }
}

impl Table {
    /// The preserved bits of snapshot `index`, in the incarnation that `view` saw.
    pub fn bits<'a>(&'a self, pool: &'a SnapshotBlocks<'a>, view: &View) -> Bits<'a, SnapshotBlocks<'a>> {
        let pages = view.meta.size.div_ceil(crate::PAGE).saturating_sub(view.meta.base);
        let root = &self.snapshots[pool.snapshot as usize].root;
        Bits { root, incarnation: view.head.incarnation(), pages, pool }
    }

    /// How many of the pages that a segment shows have their own copy.
    #[must_use]
    pub fn preserved_pages(&self, index: u32, view: &View) -> u64 {
        let shown = view.covered_pages();
        if view.is_relocated() {
            return shown.end - shown.start;
        }
        let pool = self.blocks_for(index);
        let base = view.meta.base;
        self.bits(&pool, view).count(shown.start - base..shown.end - base)
    }

    /// The blocks that snapshot `index` takes its bits from.
    pub fn blocks_for(&self, index: u32) -> SnapshotBlocks<'_> {
        SnapshotBlocks { table: self, snapshot: index }
    }

    /// How many blocks belong to snapshots that are not over.
    #[must_use]
    pub fn blocks_in_use(&self) -> usize {
        let pool = self.blocks_for(0);
        self.block_owners
            .iter()
            .filter(|owner| owner.named().is_some_and(|incarnation| !pool.is_over(incarnation)))
            .count()
    }
}

/// Asks for the block's memory now, because the first touch is SIGBUS on a full tmpfs.
fn is_backed(block: &Block) -> bool {
    let address = ptr::from_ref(block).cast_mut().cast();
    // SAFETY: the block is a page of the table's mapping, which lives as long as the process; populating changes no byte.
    unsafe { madvise(address, size_of::<Block>(), Advice::LinuxPopulateWrite) }.is_ok()
}

impl Pool for SnapshotBlocks<'_> {
    fn block(&self, index: u32) -> Option<&Block> {
        self.table.blocks.get(index as usize)
    }

    fn take(&self, incarnation: u32) -> Option<u32> {
        let mine = self.incarnation(incarnation);
        // The start of the pool is used densely while it suffices, so that little of the tmpfs is used.
        let near = self.table.block_owners.iter().enumerate();
        let start = mix(0, incarnation.into()) as usize % 8;
        let (index, owner) = near
            .skip(start)
            .chain(self.table.block_owners.iter().enumerate())
            .find(|(_, owner)| owner.take(mine, |other| self.is_over(other)))?;
        if !is_backed(&self.table.blocks[index]) {
            owner.give_back(mine);
            return None;
        }
        Some(index as u32)
    }

    fn give_back(&self, index: u32, incarnation: u32) {
        if let Some(owner) = self.table.block_owners.get(index as usize) {
            owner.give_back(self.incarnation(incarnation));
        }
    }
}
