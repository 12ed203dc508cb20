//! The table: the shared memory in which all cooperating processes meet.
//!
//! One file of fixed layout, mapped by every process for life. All records are atomics, all-zero means empty, and records name each
//! other by index. Whatever a process was doing when it died, any other process can undo it from the table alone.
//!
//! Here are the layout ([`Table`], [`header`]), how a process comes to it ([`attach`]), how far its arrays have memory (`room`,
//! `growth`), which processes have records (`pid_hints`), where snapshots stand (`places`), what their files were called (`names`),
//! walks over them ([`walk`], `held`) and the pool of preserved bits ([`blocks`]). The records themselves, and what may happen to
//! them, are in [`protocol`](crate::protocol).
//!
//! Imports [`protocol`](crate::protocol) and [`sys`](crate::sys). It waits for no other process, does not judge whether one lives,
//! and touches no memory but its own.
//!
//! Promise: no index that a record holds leads out of an array, and no record is looked at that has no memory. A record that cannot
//! be true declares the table damaged.

pub mod attach;
pub mod blocks;
mod growth;
pub mod header;
mod held;
mod names;
mod pid_hints;
mod places;
mod room;
pub mod walk;

use core::ops::Range;

use crate::protocol::block_owner::BlockOwner;
use crate::protocol::cause::{Cause, Worth};
use crate::protocol::creation::{Intent, Intents};
use crate::protocol::gate::{Gate, UnplacedBytes};
use crate::protocol::limits::{BLOCKS, PROCESSES, SNAPSHOTS, WRITERS};
use crate::protocol::origin::Origin;
use crate::protocol::origin_name::OriginName;
use crate::protocol::place::{BUCKETS, Bucket};
use crate::protocol::preserved::Block;
use crate::protocol::process::Process;
use crate::protocol::snapshot::{Snapshot, State, View};
use crate::protocol::unreached::Unreached;
use crate::protocol::writer_slot::WriterSlot;
use crate::sys::sync::{AtomicU16, AtomicU64, Ordering};
use crate::sys::{mix, raw};
use header::Header;

/// The table. Everything before `processes` has memory from the start. Of what follows, some records have memory from the start,
/// and others get it before they are used.
#[derive(Debug, zerocopy::FromBytes, zerocopy::KnownLayout)]
#[repr(C, align(4096))]
pub struct Table {
    pub(crate) header: Header,
    pub(crate) snapshots: [Snapshot; SNAPSHOTS],
    /// `Origin::fingerprint` of each snapshot, 0 for none. Writers scan these words.
    pub(crate) origin_fingerprints: [AtomicU64; SNAPSHOTS],
    /// The marks of each bucket of snapshot records.
    pub(crate) buckets: [Bucket; BUCKETS],
    block_owners: [BlockOwner; BLOCKS],
    /// Which pid each process record may be of; 0: it may be free.
    pid_hints: [AtomicU16; PROCESSES.next_multiple_of(64)],
    pub(crate) processes: [Process; PROCESSES],
    /// It makes slots lie at the same offsets in all pages.
    unused: [AtomicU64; size_of::<Process>() / 8],
    /// The name of one origin of each home.
    names: [OriginName; BUCKETS],
    pub(crate) writers: [WriterSlot; WRITERS],
    pub(crate) blocks: [Block; BLOCKS],
}

// Memory for a block is asked for by the page.
const _: () = assert!(core::mem::offset_of!(Table, blocks).is_multiple_of(4096) && size_of::<Block>() == 4096);
const _: () = assert!(core::mem::offset_of!(Table, processes).is_multiple_of(4096));
const _: () = assert!(core::mem::offset_of!(Table, names).is_multiple_of(4096));
const _: () = assert!(core::mem::offset_of!(Table, writers).is_multiple_of(4096));

/// The word that stands for the layout. Two builds that disagree about the layout never share a table.
pub const LAYOUT: u64 = {
    let mut hash = mix::SEED;
    let facts = [
        size_of::<Header>(),
        size_of::<Process>(),
        size_of::<WriterSlot>(),
        size_of::<Snapshot>(),
        size_of::<OriginName>(),
        PROCESSES,
        WRITERS,
        SNAPSHOTS,
        BUCKETS,
        BLOCKS,
        header::COUNTERS,
        core::mem::offset_of!(Process, executing),
        size_of::<Table>(),
    ];
    let mut at = 0;
    while at < facts.len() {
        hash = mix::mix(hash, facts[at] as u64);
        at += 1;
    }
    hash
};

impl Intents for Table {
    fn intent(&self, owner: u16) -> Option<&Intent> {
        self.writer(u32::from(owner)).map(|slot| &slot.intent)
    }

    fn is_held(&self, owner: u16, origin: Origin) -> bool {
        // Without a process in the slot the creator is gone: whoever waits for its creation finds that out.
        self.writer(u32::from(owner)).map(|slot| slot.lease()).is_none_or(|lease| {
            let process = lease.process();
            let mut is_theirs = |(_, view): (u32, View)| (view.meta.owner == process).then_some(());
            lease.is_vacant() || self.find_over_splits(|walk| walk.of(origin).find_map(&mut is_theirs)).is_some()
        })
    }

    fn is_in_group(&self, owner: u16, origin: Origin) -> bool {
        let process = self.writer(u32::from(owner)).map_or(0, |slot| slot.lease().process());
        // A record that is published beside this look counts all the time: either as claimed, or as a snapshot of the process.
        let is_theirs = |index: &u32| {
            let Some(snapshot) = self.snapshot(*index) else { return false };
            let head = snapshot.head();
            head.claimer() == Some(process as u32) || head.state() != State::Free && snapshot.owner() == process
        };
        process == 0 || self.find_over_splits(|walk| walk.perhaps_of(origin).find(is_theirs)).is_some()
    }
}

impl Table {
    /// Whether a process found the table damaged.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.header.is_damaged(LAYOUT)
    }

    /// The last programs that were executed without the library.
    #[must_use]
    pub fn unreached(&self) -> &Unreached {
        &self.header.unreached
    }

    /// Makes every process that uses the table leave it.
    #[cold]
    pub fn declare_damaged(&self) {
        self.header.declare_damaged();
    }

    /// The snapshot `index`, if there is one and its record can be true.
    pub fn view(&self, index: u32) -> Option<View> {
        self.plausible_view(self.snapshot(index)?)
    }

    #[inline(always)]
    fn plausible_view(&self, snapshot: &Snapshot) -> Option<View> {
        let view = snapshot.view()?;
        if !view.is_plausible() {
            self.declare_damaged();
            return None;
        }
        Some(view)
    }

    /// The gate that all writers and creations go through.
    pub fn gate(&self) -> Gate<'_, Self> {
        Gate { active: &self.header.active, creations: &self.header.creations, intents: self }
    }

    /// The process record `index`, if it was ever used.
    #[inline]
    pub fn process(&self, index: u32) -> Option<&Process> {
        self.processes[..self.processes_backed()].get(index as usize)
    }

    /// The writer slot `index`, if it was ever used.
    pub fn writer(&self, index: u32) -> Option<&WriterSlot> {
        self.writers[..self.writers_backed()].get(index as usize)
    }

    /// The snapshot record `index`.
    pub fn snapshot(&self, index: u32) -> Option<&Snapshot> {
        self.snapshots.get(index as usize)
    }

    /// The slots that were ever used.
    pub fn writers_used(&self) -> &[WriterSlot] {
        &self.writers[..self.header.writers_used().min(self.writers_backed())]
    }

    /// The process records that were ever used.
    pub fn processes_used(&self) -> &[Process] {
        &self.processes[..self.header.processes_used().min(self.processes_backed())]
    }

    /// Whether any snapshot of `origin` wants its pages preserved.
    pub fn is_origin_in_use(&self, origin: Origin) -> bool {
        self.find_over_splits(|walk| walk.perhaps_of(origin).find(|index| self.has_wanting(*index, origin, |_| true)))
            .is_some()
    }

    /// Whether snapshot `index` is of `origin`, wants its pages preserved, and is `like`. It takes little stack, as a write asks
    /// that on the stack of the application.
    #[inline(never)]
    pub fn has_wanting(&self, index: u32, origin: Origin, like: impl FnOnce(&View) -> bool) -> bool {
        let view = self.snapshot(index).and_then(|snapshot| self.plausible_view(snapshot));
        view.is_some_and(|view| {
            view.meta.origin == origin && view.head.wants_pages() && !view.is_relocated() && like(&view)
        })
    }

    /// Lets writers of `origin` find snapshot `index`. Called before the snapshot's creation commits.
    pub fn publish_fingerprint(&self, index: u32, origin: Origin) {
        // Release: pairs with the Acquire in `Walk::of`.
        self.origin_fingerprints[index as usize].store(origin.fingerprint(), Ordering::Release);
    }

    /// The bytes that calls at movable positions have announced.
    pub fn unplaced(&self) -> &UnplacedBytes {
        &self.header.unplaced
    }

    /// An id for the segments of a mapping that is made now.
    pub fn next_mapping(&self) -> u64 {
        self.header.mappings.next(raw::since_boot())
    }

    /// The id that was handed out last. A mapping with a later id was made later.
    pub(crate) fn newest_mapping(&self) -> u64 {
        self.header.mappings.newest()
    }

    /// Ends one incarnation of snapshot `index`, and lowers the active word if it was the last snapshot.
    pub fn retire_snapshot(&self, index: u32, incarnation: u32) {
        if self.retire_beside_others(index, incarnation) {
            self.lower_active();
        }
    }

    /// The same for a caller that does it with many, and lowers the active word afterwards. Whether the incarnation was there.
    pub(crate) fn retire_beside_others(&self, index: u32, incarnation: u32) -> bool {
        // The fingerprint stays: the record's next incarnation may have the same one already, and a stale one costs a look, no
        // more.
        let is_over = self.snapshot(index).is_some_and(|snapshot| snapshot.retire(incarnation));
        if is_over {
            self.lower_marks(index);
        }
        is_over
    }

    /// Lowers the active word if nothing needs it.
    pub fn lower_active(&self) {
        self.header.active.lower_if(|| {
            // The creation records come first: a creation that is over has published its snapshots before.
            self.header.creations.under_way().next().is_none()
                && self.find_over_splits(|walk| walk.live().next()).is_none()
        });
    }

    /// The pages of `view` that a change of the bytes `range` of its origin touches.
    #[must_use]
    pub fn touched(view: &View, range: &Range<u64>) -> Range<u64> {
        let covered = view.covered_pages();
        let start = (range.start / crate::PAGE).max(covered.start);
        let end = range.end.div_ceil(crate::PAGE).min(covered.end);
        start..end.max(start)
    }
}

/// Marks snapshot `index` doubtful because of `cause`, if it is exact.
pub fn doubt(table: &Table, index: u32, incarnation: u32, cause: Cause) -> bool {
    table.snapshot(index).is_some_and(|snapshot| snapshot.mark(incarnation, Worth::Doubtful(cause)))
}
