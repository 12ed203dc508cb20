//! Segments: a snapshot whose mapping is split, copied or inherited in parts is several records.

use crate::PAGE;
use crate::protocol::preserved::Bits;
use crate::protocol::snapshot::{
    BITS_INCOMPLETE, CHANGED_BY_HOOK, Extent, RELOCATED, SegmentFlags, SnapshotMeta, State, View,
};
use crate::sys::raw;
use crate::table::Table;
use crate::table::blocks::SnapshotBlocks;

/// The extent of a segment if it showed only these addresses.
#[must_use]
pub fn sub_extent(extent: &Extent, addresses: core::ops::Range<u64>) -> Extent {
    Extent {
        address: addresses.start,
        first: extent.first + (addresses.start - extent.address) / PAGE,
        pages: (addresses.end - addresses.start) / PAGE,
        protection: extent.protection,
    }
}

/// How the record of a new segment comes into being.
#[derive(Clone, Copy, Debug)]
pub struct NewSegment {
    /// What is constant in it.
    pub meta: SnapshotMeta,
    /// Where it lies.
    pub extent: Extent,
    /// Its flags; with `CHANGED_BY_HOOK` its generation is odd.
    pub flags: SegmentFlags,
}

/// How long a split waits for pushers that store no bytes.
const MOMENT: u64 = 10_000_000;

impl Table {
    /// Waits for pushers into the segment at `index`, which is changing and about to be split. They are announced at `index`, so a
    /// look for the pushers of the part that is split off would not find them. False: a pusher that stores bytes takes too long.
    #[must_use]
    pub fn await_pushers_of_split(&self, index: u32, deadline: u64) -> bool {
        if !self.await_pushers(index, true, deadline) {
            return false;
        }
        // Pushers that store no bytes may miss the bit of a page that is private by now.
        if !self.await_pushers(index, false, deadline.min(raw::now() + MOMENT))
            && let Some(snapshot) = self.snapshot(index)
        {
            snapshot.add_flags(BITS_INCOMPLETE);
        }
        true
    }

    /// Publishes a new segment of the snapshot at `index`, which is changing, with its preserved bits. `None`: the table is
    /// full.
    pub fn publish_segment(&self, index: u32, view: &View, new: &NewSegment) -> Option<u32> {
        let (copy_index, head) = self.obtain_snapshot(new.meta.owner, new.meta.origin)?;
        let copy = self.snapshot(copy_index)?;
        let NewSegment { meta, extent, flags } = *new;
        copy.describe(head, &meta, &extent, flags);
        copy.record_observation(&self.snapshot(index)?.last_observation());
        let copied = View { head, meta, extent, flags, has_valid_checksum: true };
        if !flags.contains(RELOCATED) {
            let (from, to) = (self.blocks_for(index), self.blocks_for(copy_index));
            let (from, to) = (self.bits(&from, view), self.bits(&to, &copied));
            // Lost bits are looked for after the copying: what is lost stays lost, and may have been lost while it was copied.
            if !copy_bits(&from, view, &to, &copied) || from.is_any_lost(of_bits(view, &copied)) {
                copy.add_flags(BITS_INCOMPLETE);
            }
            self.publish_fingerprint(copy_index, meta.origin);
        }
        if flags.contains(CHANGED_BY_HOOK) {
            copy.publish_changing(head, view.head.worth());
        } else {
            copy.publish(head, view.head.worth());
        }
        self.note_shift((index, view.head.state()), (copy_index, head.incarnation()));
        Some(copy_index)
    }

    /// Counts a split: pages of record `from`, which had this state before, are also in record `to`, of this incarnation, by now,
    /// and are about to leave `from`. A walk over the records may meet them in neither.
    pub fn note_shift(&self, from: (u32, State), to: (u32, u32)) {
        let (Some(left), Some(gained)) = (self.snapshot(from.0), self.snapshot(to.0)) else { return };
        if let Some(worse) = self.header.splits.note(&self.header.active, left, from.1) {
            gained.mark(to.1, worse);
        }
    }
}

/// The pages that a segment split from `view` shows, as the bits of `view` count them.
fn of_bits(view: &View, split: &View) -> core::ops::Range<u64> {
    let (shown, base) = (split.covered_pages(), view.meta.base);
    shown.start - base..shown.end - base
}

/// Copies the bits of the pages that `copied` shows. False: some could not be recorded.
fn copy_bits(
    from: &Bits<'_, SnapshotBlocks<'_>>,
    view: &View,
    to: &Bits<'_, SnapshotBlocks<'_>>,
    copied: &View,
) -> bool {
    let covered = copied.covered_pages();
    let (from_base, to_base) = (view.meta.base, copied.meta.base);
    let mut at = covered.start;
    while let Some(run) = from.first_set(at - from_base..covered.end - from_base) {
        let pages = run.start + from_base..run.end + from_base;
        if to.set(pages.start - to_base..pages.end - to_base).is_none() {
            return false;
        }
        at = pages.end;
    }
    true
}
