//! What the mapper does to its own mapping: munmap, mremap, mprotect, madvise and MAP_FIXED over snapshots.
//!
//! One thread of the process at a time changes mappings, with signals blocked and the generation of every segment concerned odd.
//! Segments are split so that each stays contiguous and of one protection.

use core::ffi::c_void;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;
use rustix::mm::{Advice, MremapFlags, madvise};
use snapshim::PAGE;
use snapshim::cooperate::segments::{NewSegment, sub_extent};
use snapshim::preserve::{local, unshare};
use snapshim::protocol::origin::Origin;
use snapshim::protocol::snapshot::{
    BITS_INCOMPLETE, CHANGED_BY_HOOK, Extent, NEVER_WRITABLE, SegmentFlags, Snapshot, SnapshotMeta, State, View,
};
use snapshim::sys::raw;

use crate::address_space::lock::{EVERYWHERE, Mappings, NOTHING, find_segment, overlap, segments};
use crate::address_space::reserved;
use crate::base::agent_stack;
use crate::base::config::config;
use crate::base::user_memory;
use crate::origins::{claim, watch};
use crate::process::{identity, ptracer};

/// Moves memory that may consist of several kernel mappings. mremap(2) does not move those in one call.
fn move_memory(from: u64, length: u64, to: u64) -> Result<(), Errno> {
    if length == 0 || from == to {
        return Ok(());
    }
    let bytes = length as usize;
    // SAFETY: both ranges are the caller's to move and to replace.
    let moved =
        unsafe { rustix::mm::mremap_fixed(from as *mut c_void, bytes, bytes, MremapFlags::MAYMOVE, to as *mut c_void) };
    match moved {
        Err(Errno::FAULT) if length > PAGE => {
            let half = length / PAGE / 2 * PAGE;
            move_memory(from, half, to)?;
            move_memory(from + half, length - half, to + half)
        }
        other => other.map(drop),
    }
}

/// The origins of segments that were ended, and perhaps others: a bit for each.
#[derive(Clone, Copy, Default)]
pub struct Retired(u64);

impl Retired {
    /// All origins.
    pub const ALL: Self = Self(u64::MAX);

    /// One origin.
    pub fn of(origin: Origin) -> Self {
        Self(1 << (origin.fingerprint() % 64))
    }

    fn note(&mut self, origin: Origin) {
        self.0 |= Self::of(origin).0;
    }

    fn perhaps_includes(self, origin: Origin) -> bool {
        self.0 & Self::of(origin).0 != 0
    }
}

/// The origins of segments that the agent has ended, as in [`Retired`].
static LEFT_BY_AGENT: AtomicU64 = AtomicU64::new(0);

impl Mappings {
    fn snapshot(&self, index: u32) -> Option<&'static Snapshot> {
        self.own.table.snapshot(index)
    }

    /// When a wait that begins now ends.
    pub fn deadline() -> u64 {
        raw::now() + config().timeout
    }

    /// When a wait for writers that begins now ends.
    pub fn pusher_deadline(&self) -> u64 {
        raw::now() + self.patience.get()
    }

    /// Makes the generation of every segment in `ranges` odd, does `body`, makes them even.
    ///
    /// The segments are split at the ends of the ranges first, so that each lies wholly inside or outside.
    fn changing<T>(&self, ranges: &[&Range<u64>], body: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        let begun = ranges.iter().try_for_each(|range| self.split_and_begin(range));
        if begun.is_ok() {
            let result = body();
            self.end_all();
            return result;
        }
        self.end_all();
        // Records that cannot be trusted must not keep the program from what it asks for.
        if self.own.leaves_after_inspection() { body() } else { begun.and_then(|()| body()) }
    }

    /// Splits the segments at the ends of the range, and makes those inside odd. Repeats until nothing is left to do: while this
    /// waits for the agent, the agent may split a segment that is not reached yet.
    fn split_and_begin(&self, range: &Range<u64>) -> Result<(), Errno> {
        self.begin_in(range)?;
        let inside = || self.odd_segments(range).map(|(index, view)| (index, overlap(&view, range), view.extent));
        while let Some((index, inside, extent)) =
            inside().find(|(_, inside, extent)| inside.start != extent.address || inside.end != extent.end())
        {
            self.split(index, if inside.end != extent.end() { inside.end } else { inside.start })?;
        }
        Ok(())
    }

    /// Makes the segments that the range touches odd.
    pub fn begin_in(&self, range: &Range<u64>) -> Result<(), Errno> {
        let is_left = |view: &View| !view.flags.contains(CHANGED_BY_HOOK);
        self.note_begun(range);
        while find_segment(&self.own, range, |_, view| is_left(view)).is_some() {
            // One walk for all of them: a search from the start for each would cost time by the square of their number.
            for (index, view) in self.odd_segments(range).filter(|(_, view)| is_left(view)) {
                self.begin(index, &view)?;
            }
        }
        Ok(())
    }

    /// Even -> odd, unless this hook has made the segment odd already.
    fn begin(&self, index: u32, view: &View) -> Result<(), Errno> {
        let snapshot = self.snapshot(index).ok_or(Errno::NOMEM)?;
        if !snapshot.flags().contains(CHANGED_BY_HOOK) {
            let Some(begun) = local::begin_change(snapshot, view.head.incarnation(), Self::deadline()) else {
                // The segment has ended meanwhile (the agent has joined it to another), or the agent has kept it odd for too long.
                let head = snapshot.head();
                let is_there = head.incarnation() == view.head.incarnation() && head.state() != State::Free;
                return if is_there { Err(Errno::NOMEM) } else { Ok(()) };
            };
            snapshot.add_flags(CHANGED_BY_HOOK);
            // What is split off from it may lie outside of the range that is changed. As it lies now: until it was odd, the agent
            // may have joined the one behind it to it.
            self.note_begun(&(begun.extent.address..begun.extent.end()));
        }
        Ok(())
    }

    /// Makes every segment odd, so that neither the agent nor another thread changes it until `end_all`.
    pub fn begin_all(&self) -> Result<(), Errno> {
        // No segment is to be split: none lies in part outside of everything.
        self.begin_in(&EVERYWHERE)
    }

    /// The segments in a range, all of which a hook has made odd. Only the thread that holds the mappings splits such a segment,
    /// so a single walk meets them all.
    pub fn odd_segments(&self, range: &Range<u64>) -> impl Iterator<Item = (u32, View)> {
        segments(&self.own, self.own.table.walk_once(), range)
    }

    /// Notes that segments in a range are being made odd.
    fn note_begun(&self, range: &Range<u64>) {
        let (start, end) = self.begun.get();
        self.begun.set((start.min(range.start), end.max(range.end)));
    }

    /// Makes every segment that a hook made odd even again.
    pub fn end_all(&self) {
        // A segment that a single walk misses was split off by the agent, so no hook made it odd.
        let begun = self.begun.replace(NOTHING);
        for (index, _) in self.odd_segments(&(begun.0..begun.1)) {
            if let Some(snapshot) = self.snapshot(index).filter(|snapshot| snapshot.flags().contains(CHANGED_BY_HOOK)) {
                snapshot.remove_flags(CHANGED_BY_HOOK);
                snapshot.end_change();
            }
        }
    }

    /// Splits a segment at `address`, if that lies inside. The new segment is published odd as well. It is the smaller part: its
    /// bits are copied, and a program that unmaps a large snapshot piece by piece pays for each piece alone.
    fn split(&self, index: u32, address: u64) -> Result<(), Errno> {
        let snapshot = self.snapshot(index).ok_or(Errno::NOMEM)?;
        if !self.own.table.await_pushers_of_split(index, self.pusher_deadline()) {
            return Err(Errno::NOMEM);
        }
        let view = snapshot.view().ok_or(Errno::NOMEM)?;
        let extent = &view.extent;
        if address <= extent.address || address >= extent.end() {
            return Ok(());
        }
        let parts = (sub_extent(extent, extent.address..address), sub_extent(extent, address..extent.end()));
        let is_front_new = parts.0.pages < parts.1.pages;
        let (new, left) = if is_front_new { parts } else { (parts.1, parts.0) };
        let meta = SnapshotMeta { base: new.first, ..view.meta };
        let new = NewSegment { meta, extent: new, flags: view.flags.with(CHANGED_BY_HOOK) };
        let new = self.own.table.publish_segment(index, &view, &new).ok_or(Errno::NOMEM)?;
        snapshot.set_extent(&left);
        let (front, behind) = if is_front_new { (new, index) } else { (index, new) };
        let ranges = identity::own_ranges();
        ranges.split_at(address, behind);
        ranges.note_record(extent.address, front);
        Ok(())
    }

    /// Waits for writers that preserve by storing bytes: the segments are about to change their place or protection.
    fn await_byte_pushers(&self, range: &Range<u64>) -> Result<(), Errno> {
        let deadline = self.pusher_deadline();
        let all = self.odd_segments(range).all(|(index, view)| {
            unshare::is_writable(view.extent.protection) || self.own.table.await_pushers(index, true, deadline)
        });
        if all { Ok(()) } else { Err(Errno::NOMEM) }
    }

    /// Ends the segments in a range, and what no snapshot needs any more.
    fn retire(&self, range: &Range<u64>) {
        let mut retired = Retired::default();
        for (index, view) in self.odd_segments(range) {
            self.own.table.retire_snapshot(index, view.head.incarnation());
            retired.note(view.meta.origin);
        }
        identity::own_ranges().remove(range);
        self.forget_unneeded(retired);
    }

    /// Forgets what no snapshot needs any more.
    ///
    /// The agent closes no descriptor of the program's: its own table may have another file at that number. The next thread of the
    /// program that ends a snapshot does it.
    pub fn forget_unneeded(&self, retired: Retired) {
        // Relaxed: the lock over the mappings orders it.
        if agent_stack::is_caller() {
            LEFT_BY_AGENT.fetch_or(retired.0, Ordering::Relaxed);
        } else {
            let retired = Retired(retired.0 | LEFT_BY_AGENT.swap(0, Ordering::Relaxed));
            watch::forget_unneeded(self, |origin| retired.perhaps_includes(origin));
            claim::release_unused(&self.own);
        }
        let is_none = || find_segment(&self.own, &EVERYWHERE, |_, _| true).is_none() && !reserved::is_any(&self.own);
        self.own.image.forget_if_none(is_none);
        if !self.own.image.is_mapper() {
            ptracer::take_back(&self.own);
        }
    }

    /// Makes `call`, which puts something in place of what is mapped in `range`.
    pub fn replace<T>(&self, range: &Range<u64>, call: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        self.await_reserved(range)?;
        self.replace_free(range, call)
    }

    /// The same where no addresses are reserved.
    pub fn replace_free<T>(&self, range: &Range<u64>, call: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
        // The last chance to find a foreign change and say so: after munmap there is no snapshot to ask about.
        watch::check_range(&self.own, range);
        self.changing(&[range], || {
            self.await_byte_pushers(range)?;
            let result = call();
            // A call that fails late leaves a gap behind (vms_abort_munmap_vmas in mm/vma.h).
            if result.is_ok() || self.is_gone(range) {
                self.retire(range);
            }
            result
        })
    }

    /// Ends the segments in `range`, if `is_kept`, without a wait for writers that store bytes. What they show stays mapped.
    pub fn give_out(&self, range: &Range<u64>, is_kept: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
        self.changing(&[range], || {
            is_kept()?;
            self.retire(range);
            Ok(())
        })
    }

    /// Whether nothing is mapped any more where a segment in `range` was.
    fn is_gone(&self, range: &Range<u64>) -> bool {
        self.odd_segments(range).next().is_some_and(|(_, view)| !user_memory::is_mapped(overlap(&view, range).start))
    }

    /// The first address in `range` that the program must not make writable.
    fn first_never_writable(&self, range: &Range<u64>) -> Option<u64> {
        self.own.table.over_splits(|walk| {
            let closed = segments(&self.own, walk, range).filter(|(_, view)| view.flags.contains(NEVER_WRITABLE));
            closed.map(|(_, view)| overlap(&view, range).start).min()
        })
    }

    /// mprotect(2): makes `call`, which gives a range the protection `protection`, for `range`.
    ///
    /// As by the kernel, what lies before a segment that refuses is changed.
    pub fn protect(
        &self,
        range: &Range<u64>,
        protection: u32,
        call: impl FnOnce(&Range<u64>) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let refused = if unshare::is_writable(protection) { self.first_never_writable(range) } else { None };
        let allowed = range.start..refused.unwrap_or(range.end);
        if !allowed.is_empty() {
            self.protect_allowed(&allowed, protection, || call(&allowed))?;
        }
        refused.map_or(Ok(()), |_| Err(Errno::ACCESS))
    }

    fn protect_allowed(
        &self,
        range: &Range<u64>,
        protection: u32,
        call: impl FnOnce() -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        self.changing(&[range], || {
            self.await_byte_pushers(range)?;
            let result = call();
            // A failed call may have changed a part of the range.
            let protection = if result.is_ok() { protection } else { Extent::PROTECTION_UNKNOWN };
            for (index, view) in self.odd_segments(range) {
                if let Some(snapshot) = self.snapshot(index) {
                    snapshot.set_extent(&Extent { protection, ..view.extent });
                }
            }
            result
        })
    }

    /// Whether all of `range` is snapshots.
    pub fn is_all(&self, range: &Range<u64>) -> bool {
        let mut at = range.start;
        while at < range.end {
            match find_segment(&self.own, &(at..at + PAGE), |_, _| true) {
                Some((_, view)) => at = view.extent.end(),
                None => return false,
            }
        }
        true
    }

    /// mremap(2) with MREMAP_FIXED: moves `range`, all of which is snapshots, to `target`, in place of what is there.
    pub fn shift(&self, range: &Range<u64>, target: u64) -> Result<(), Errno> {
        if target == range.start {
            return Ok(());
        }
        let to = target..target.saturating_add(range.end - range.start);
        self.await_reserved(&to)?;
        self.changing(&[range, &to], || {
            self.await_byte_pushers(range)?;
            self.await_byte_pushers(&to)?;
            // mremap(2) unmaps the target first: what was there is gone even if the move fails.
            self.retire(&to);
            for (index, view) in self.odd_segments(range) {
                let address = target + (view.extent.address - range.start);
                self.shift_segment(index, &view, address)?;
            }
            Ok(())
        })
    }

    /// Moves one segment: its pages within the file first, then the pages past the end, which are a mapping of their own.
    fn shift_segment(&self, index: u32, view: &View, target: u64) -> Result<(), Errno> {
        let old = view.extent.address..view.extent.end();
        let covered = view.covered_pages();
        let backed = (covered.end - covered.start) * PAGE;
        let total = view.extent.pages * PAGE;
        move_memory(old.start, backed, target)?;
        move_memory(old.start + backed, total - backed, target + backed)?;
        if let Some(snapshot) = self.snapshot(index) {
            snapshot.set_extent(&Extent { address: target, ..view.extent });
        }
        identity::own_ranges().remove(&old);
        if !identity::own_ranges().add(&(target..target + total), index) {
            self.own.table.declare_damaged();
        }
        Ok(())
    }

    /// madvise(MADV_DONTNEED): drops the pages that were never preserved. They are read anew from the origin, which has not changed
    /// there. Preserved pages stay, with the mapper's own stores in them.
    pub fn drop_unpreserved(&self, range: &Range<u64>, advice: Advice) -> Result<(), Errno> {
        self.changing(&[range], || {
            for (index, view) in self.odd_segments(range) {
                let quiet = self.own.table.await_pushers(index, false, Self::deadline());
                let complete = self.snapshot(index).is_some_and(|snapshot| !snapshot.flags().contains(BITS_INCOMPLETE));
                if quiet && complete && !view.is_relocated() {
                    self.drop_in_segment(index, &view, advice);
                }
            }
            Ok(())
        })
    }

    fn drop_in_segment(&self, index: u32, view: &View, advice: Advice) {
        let pool = self.own.table.blocks_for(index);
        let bits = self.own.table.bits(&pool, view);
        // The page that holds the end of the file stays: it was made private and zeroed when the snapshot was made.
        let whole_pages = view.meta.size / PAGE;
        let covered = view.covered_pages();
        let base = view.meta.base;
        let mut at = covered.start;
        while let Some(run) = bits.first_droppable(at - base..covered.end.min(whole_pages).max(at) - base) {
            let address = view.address_of(run.start + base);
            // SAFETY: the run is part of this process's snapshot; its pages are not preserved, so none needs to be private.
            let _ = unsafe { madvise(address as *mut c_void, ((run.end - run.start) * PAGE) as usize, advice) };
            at = run.end + base;
        }
    }

    /// Makes `call`, and notes that `range` has the property of `flag` from then on (`on`), or has it no more.
    pub fn note(
        &self,
        range: &Range<u64>,
        flag: SegmentFlags,
        on: bool,
        call: impl FnOnce() -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        self.changing(&[range], || {
            call()?;
            for (index, _) in self.odd_segments(range) {
                match self.snapshot(index) {
                    Some(snapshot) if on => snapshot.add_flags(flag),
                    Some(snapshot) => snapshot.remove_flags(flag),
                    None => {}
                }
            }
            Ok(())
        })
    }
}
