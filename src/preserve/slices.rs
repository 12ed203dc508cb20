//! Slices: a long range is moved off the file slice by slice, from its end on.
//!
//! Each slice is moved under an odd generation of its own. It goes over from the record of the segment to the record of the segment
//! behind it, which has been moved before. So the table tells at any time how far the move has come: a thread that waits for its
//! end waits as long as the segment becomes smaller, and other requests, writers and hooks come in between.

use core::ops::Range;

use rustix::io::Errno;

use super::holes::Sparse;
use super::local::{Handled, LocalPreserver};
use super::relocate::{self, Copied, Ground, Pages, SLICE, StoreBarrier};
use super::verify;
use crate::PAGE;
use crate::cooperate::segments::{NewSegment, sub_extent};
use crate::protocol::snapshot::{BITS_INCOMPLETE, Extent, RELOCATED, Snapshot, SnapshotMeta, View};
use crate::protocol::writer_slot::Request;
use crate::sys::raw;

/// How long slices are moved before other requests are looked for.
const BATCH: u64 = 10_000_000;
/// Bytes that memory is reserved for at once.
const GROUND: u64 = 64 << 20;
/// A slice with no more holes than this is copied whole, into a huge page.
const MOST_HOLES: u64 = Pages::MOST / 32;

/// What is kept from one slice to the next.
#[derive(Debug, Default)]
struct Move {
    /// Memory for slices that are copied.
    ground: Option<Ground>,
    /// The origin, once it is known whether it has holes.
    sparse: Option<Option<Sparse>>,
    /// The record of what has been moved.
    moved: Option<u32>,
    /// Whether no record is to be had for what has been moved.
    is_whole: bool,
}

/// Pages that are moved at once.
struct Unit {
    pages: Range<u64>,
    /// Whether there seems to be no data, neither in the mapping nor in the file.
    is_void: bool,
}

impl<S: StoreBarrier> LocalPreserver<'_, S> {
    /// Moves the pages of a segment, from `request.first` to the end of the file at the instant, away from the file: as many slices
    /// as a batch allows.
    pub(super) fn relocate(&self, request: &Request) -> Handled {
        let mut course = Move::default();
        let until = raw::now() + BATCH;
        loop {
            let handled =
                self.changing(request, |snapshot, view| self.relocate_slice(request, snapshot, view, &mut course));
            if handled != Handled::InPart || raw::now() >= until {
                return handled;
            }
        }
    }

    /// Moves the pages of a segment as one slice. That splits no segment, so it waits for no writer that stores bytes into it; but
    /// there has to be memory for all of them at once. False: it is not done.
    pub fn relocate_at_once(&self, request: &Request) -> bool {
        let mut course = Move { is_whole: true, ..Move::default() };
        let act = |snapshot: &Snapshot, view: &View| self.relocate_slice(request, snapshot, view, &mut course);
        self.changing(request, act) == Handled::Done
    }

    fn relocate_slice(&self, request: &Request, snapshot: &Snapshot, view: &View, course: &mut Move) -> Handled {
        let shown = view.covered_pages();
        let pages = request.first.max(shown.start)..shown.end;
        if pages.is_empty() || view.is_relocated() {
            return Handled::Done;
        }
        let moved = self.move_last(request.snapshot, view, &pages, course);
        match moved.and_then(|first| self.hand_over(request.snapshot, snapshot, view, first, course).map(|()| first)) {
            Ok(first) if first == pages.start => Handled::Done,
            Ok(_) => Handled::InPart,
            // No record is free for a part: all of the segment is moved at once, which needs none.
            Err(Errno::NFILE) if !course.is_whole && pages.start == view.extent.first => {
                course.is_whole = true;
                Handled::InPart
            }
            Err(_) => Handled::Failed,
        }
    }

    /// Moves the last of `pages`. The result is the first page that was moved.
    fn move_last(&self, index: u32, view: &View, pages: &Range<u64>, course: &mut Move) -> Result<u64, Errno> {
        let is_long = (pages.end - pages.start) * PAGE >= SLICE;
        let sparse = match &mut course.sparse {
            // A short range is not worth a look for holes.
            None if !is_long => &None,
            sparse => sparse.get_or_insert_with(|| (self.open)(view.meta.origin).and_then(Sparse::of)),
        };
        let sparse = sparse.as_ref();
        let mut unit = self.last_unit(view, pages, sparse, course.is_whole)?;
        loop {
            if unit.pages.start != view.extent.first && !self.table.await_pushers_of_split(index, self.deadline) {
                return Err(Errno::BUSY);
            }
            let address = view.address_of(unit.pages.start);
            let length = ((unit.pages.end - unit.pages.start) * PAGE) as usize;
            let lowest = view.address_of(pages.start);
            let act = || self.replace(view, &unit, sparse, lowest, &mut course.ground);
            match relocate::with_frozen(address, length, view, self.store_barrier, act) {
                // Data has come there.
                Err(Errno::AGAIN) if unit.is_void => unit = slice(view, pages),
                result => return result.map(|()| unit.pages.start),
            }
        }
    }

    /// The last slice, or many slices where there is no data.
    fn last_unit(
        &self,
        view: &View,
        pages: &Range<u64>,
        sparse: Option<&Sparse>,
        is_whole: bool,
    ) -> Result<Unit, Errno> {
        if is_whole {
            return Ok(Unit { pages: pages.clone(), is_void: false });
        }
        let mut unit = slice(view, pages);
        let Some(sparse) = sparse else { return Ok(unit) };
        if !self.is_void(view, &unit.pages, sparse)? {
            return Ok(unit);
        }
        unit.is_void = true;
        while unit.pages.start > pages.start {
            let longer = unit.pages.start.saturating_sub(unit.pages.end - unit.pages.start).max(pages.start);
            if !self.is_void(view, &(longer..unit.pages.start), sparse)? {
                break;
            }
            unit.pages.start = longer;
        }
        Ok(unit)
    }

    /// Whether neither the mapping nor the file has data in `pages`. The generation is odd: see [`super::holes`].
    fn is_void(&self, view: &View, pages: &Range<u64>, sparse: &Sparse) -> Result<bool, Errno> {
        Ok(sparse.first_data(pages).is_none() && self.first_private(view, pages)?.is_none())
    }

    fn first_private(&self, view: &View, pages: &Range<u64>) -> Result<Option<Range<u64>>, Errno> {
        let (_, _, id) = self.table.owner(view.meta.owner).ok_or(Errno::SRCH)?;
        let found = verify::first_private(id, view.address_of(pages.start), pages.end - pages.start, self.proc_fds)?;
        Ok(found.map(|run| run.start + pages.start..run.end + pages.start))
    }

    /// Puts memory that does not belong to the file in place of pages that no thread stores into now.
    fn replace(
        &self,
        view: &View,
        unit: &Unit,
        sparse: Option<&Sparse>,
        lowest: u64,
        ground: &mut Option<Ground>,
    ) -> Result<(), Errno> {
        let pages = &unit.pages;
        let (address, count) = (view.address_of(pages.start), pages.end - pages.start);
        let length = (count * PAGE) as usize;
        if let Some(sparse) = sparse.filter(|_| unit.is_void) {
            // Looked at once more, now that no thread stores there.
            return match self.is_void(view, pages, sparse)? {
                true => relocate::replace_by_nothing(address, length, view),
                false => Err(Errno::AGAIN),
            };
        }
        let copied = match sparse.filter(|_| count <= Pages::MOST) {
            Some(sparse) => self.what_is_there(view, pages, sparse)?,
            None => Copied::All,
        };
        let copied_pages = match &copied {
            Copied::All => count,
            Copied::Only(some) => some.count(),
        };
        if copied_pages == 0 {
            return relocate::replace_by_nothing(address, length, view);
        }
        let (_, _, id) = self.table.owner(view.meta.owner).ok_or(Errno::SRCH)?;
        if !self.headroom.allows(id, copied_pages) {
            return Err(Errno::NOMEM);
        }
        let end = address + length as u64;
        let memory = match ground {
            Some(memory) if memory.is_under(address, length) => memory,
            other => {
                *other = None;
                let target = lowest.max(end.saturating_sub(GROUND)).min(address)..end;
                let made = Ground::under(&target, view).or_else(|_| Ground::under(&(address..end), view))?;
                other.insert(made)
            }
        };
        memory.replace(address, length, view, &copied)
    }

    /// The pages of a slice that have to be copied.
    fn what_is_there(&self, view: &View, pages: &Range<u64>, sparse: &Sparse) -> Result<Copied, Errno> {
        let mut there = Pages::default();
        let mut at = pages.start;
        while let Some(run) = self.first_private(view, &(at..pages.end))? {
            there.add(run.start - pages.start..run.end - pages.start);
            at = run.end;
            if at >= pages.end {
                break;
            }
        }
        sparse.each_data(pages, |run| there.add(run.start - pages.start..run.end - pages.start));
        let holes = pages.end - pages.start - there.count();
        Ok(if holes <= MOST_HOLES { Copied::All } else { Copied::Only(there) })
    }

    /// The pages of a segment from `first` on have been moved: they go over to the record behind it. The segment's generation is
    /// odd.
    ///
    /// The pages are in both records for a moment, and never in none. NFILE: there is no record. Then no page of the segment is
    /// dropped any more: no bit says that these pages have left the file, so a page that was dropped would be read from the file
    /// anew.
    fn hand_over(
        &self,
        index: u32,
        snapshot: &Snapshot,
        view: &View,
        first: u64,
        course: &mut Move,
    ) -> Result<(), Errno> {
        if let Some((behind, segment)) = self.moved_behind(view, course.moved)
            && self.join(index, snapshot, view, first, (behind, segment))
        {
            course.moved = Some(behind);
            return Ok(());
        }
        if first == view.extent.first {
            snapshot.add_flags(RELOCATED);
            return Ok(());
        }
        let address = view.address_of(first);
        let extent = sub_extent(&view.extent, address..view.extent.end());
        // The base is the segment's, because the record behind it will reach down to it.
        let meta = SnapshotMeta { ..view.meta };
        let new = NewSegment { meta, extent, flags: view.flags.without(BITS_INCOMPLETE).with(RELOCATED) };
        let Some(moved) = self.table.publish_segment(index, view, &new) else {
            snapshot.add_flags(BITS_INCOMPLETE);
            return Err(Errno::NFILE);
        };
        course.moved = Some(moved);
        snapshot.set_extent(&sub_extent(&view.extent, view.extent.address..address));
        Ok(())
    }

    /// Hands the pages from `first` on over to the record `segment` at `behind`. False: that record does not continue the segment
    /// any more, or is changing.
    fn join(
        &self,
        index: u32,
        snapshot: &Snapshot,
        view: &View,
        first: u64,
        (behind, segment): (u32, &Snapshot),
    ) -> bool {
        // There is no wait: a hook that changes it may be waiting for this segment.
        let Some(head) = segment.begin_change(self.table.view(behind).map_or(0, |seen| seen.head.incarnation())) else {
            return false;
        };
        let Some(now) = segment.view().filter(|now| is_continued(view, now)) else {
            segment.end_change();
            return false;
        };
        let joined = Extent { pages: view.extent.pages + now.extent.pages, ..view.extent };
        if first == view.extent.first {
            snapshot.add_flags(RELOCATED);
            snapshot.set_extent(&joined);
            self.table.note_shift((behind, head.state()), (index, view.head.incarnation()));
            self.table.retire_snapshot(behind, head.incarnation());
            return true;
        }
        let address = view.address_of(first);
        segment.set_extent(&sub_extent(&joined, address..joined.end()));
        self.table.note_shift((index, view.head.state()), (behind, head.incarnation()));
        snapshot.set_extent(&sub_extent(&view.extent, view.extent.address..address));
        segment.end_change();
        true
    }

    /// The record of what has been moved behind a segment.
    fn moved_behind(&self, view: &View, guess: Option<u32>) -> Option<(u32, &Snapshot)> {
        let guessed = guess.and_then(|index| Some((index, self.table.view(index)?)));
        let (index, _) = guessed
            .filter(|(_, other)| is_continued(view, other))
            // A single walk: a record that it misses is not joined, and costs a record in the table.
            .or_else(|| self.table.walk_once().live().find(|(_, other)| is_continued(view, other)))?;
        Some((index, self.table.snapshot(index)?))
    }
}

/// The last slice of `pages`: of a huge page's length, aligned alike.
fn slice(view: &View, pages: &Range<u64>) -> Unit {
    let last = view.address_of(pages.end) - 1;
    let start = (last / SLICE * SLICE).max(view.address_of(pages.start));
    Unit { pages: view.extent.first + (start - view.extent.address) / PAGE..pages.end, is_void: false }
}

/// Whether `other` has been moved, lies behind the segment, and is like it otherwise.
fn is_continued(view: &View, other: &View) -> bool {
    let kind = |view: &View| {
        let flags = view.flags.without(BITS_INCOMPLETE.with(RELOCATED));
        (view.meta.owner, view.meta.mapping, view.meta.size, view.extent.protection, flags)
    };
    other.is_relocated()
        && kind(view) == kind(other)
        && view.meta.origin == other.meta.origin
        && view.head.state() == other.head.state()
        && view.extent.end() == other.extent.address
        && view.extent.first + view.extent.pages == other.extent.first
        && other.meta.base <= view.extent.first
}
