//! munmap(2) of snapshots: it neither fails nor waits because a writer is stopped.

use core::cell::Cell;
use core::ffi::c_void;
use core::ops::Range;

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, munmap};
use snapshim::protocol::snapshot::View;
use snapshim::sys::raw;
use snapshim::sys::wait::{Backoff, Deadline};

use super::edit::Retired;
use crate::address_space::lock::{EVERYWHERE, Mappings, overlap};
use crate::address_space::reserved;
use crate::base::config::config;
use crate::process::identity;

/// How long munmap(2) waits for a writer that stores bytes into the snapshot: such a push takes microseconds, unless its thread is
/// stopped or finds no processor. Nanoseconds.
pub const MOMENT: u64 = 10_000_000;

/// Unmaps a range of addresses.
type Take<'a> = dyn Fn(&Range<u64>) -> Result<(), Errno> + 'a;

impl Mappings {
    /// munmap(2) of `range`, in which `take` unmaps a part or all, or leaves addresses reserved ([`reserved`]).
    pub fn unmap(&self, range: &Range<u64>, take: &Take<'_>) -> Result<(), Errno> {
        self.release_reserved(&EVERYWHERE);
        if reserved::touching(&self.own, range).next().is_some() {
            return self.unmap_between(range, take);
        }
        self.unmap_free(range, take)
    }

    /// The same where no addresses are reserved.
    fn unmap_free(&self, range: &Range<u64>, take: &Take<'_>) -> Result<(), Errno> {
        let is_made = Cell::new(false);
        self.patience.set(MOMENT);
        let result = self.replace_free(range, || {
            is_made.set(true);
            take(range)
        });
        self.patience.set(config().timeout);
        if is_made.get() {
            return result;
        }
        if self.leaves_reserved(range, take) {
            return Ok(());
        }
        // Either the writers have ended by now, or there is no other way than to wait for them. A part may be reserved.
        self.replace(range, || take(range))
    }

    /// What the program has unmapped before, and is still reserved, stays so.
    fn unmap_between(&self, range: &Range<u64>, take: &Take<'_>) -> Result<(), Errno> {
        let mut at = range.start;
        while at < range.end {
            let next = reserved::touching(&self.own, &(at..range.end)).min_by_key(|(found, _)| found.start);
            let (end, resume) = next.map_or((range.end, range.end), |(found, _)| (found.start.max(at), found.end));
            if at < end {
                self.unmap_free(&(at..end), take)?;
            }
            at = resume;
        }
        Ok(())
    }

    /// Puts memory of the shim's in the place of the snapshots in `range`, and unmaps what lies between them. False: not all of
    /// it could be.
    ///
    /// A segment that lies in the range in part stays in the table until the addresses are released, as it cannot be split now. The
    /// memory that takes its pages has its protection, so that the rest can be preserved as ever.
    fn leaves_reserved(&self, range: &Range<u64>, take: &Take<'_>) -> bool {
        if self.begin_in(range).is_err() || self.odd_segments(range).count() > reserved::room(&self.own) {
            self.end_all();
            return false;
        }
        let mut is_done = true;
        let mut at = range.start;
        while at < range.end {
            let next = self.odd_segments(range).filter(|(_, view)| view.extent.end() > at);
            let next = next.min_by_key(|(_, view)| view.extent.address);
            let gap = at..next.as_ref().map_or(range.end, |(_, view)| view.extent.address.max(at));
            is_done &= gap.is_empty() || take(&gap).is_ok();
            let Some((index, view)) = next else { break };
            is_done &= self.reserve(index, &view, &overlap(&view, range));
            at = view.extent.end();
        }
        self.end_all();
        is_done
    }

    fn reserve(&self, index: u32, view: &View, part: &Range<u64>) -> bool {
        let is_whole = *part == (view.extent.address..view.extent.end());
        let access = if is_whole { ProtFlags::empty() } else { ProtFlags::from_bits_retain(view.extent.protection) };
        let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
        // SAFETY: the part belongs to a snapshot of this process, which the program unmaps.
        let mapped = unsafe {
            rustix::mm::mmap_anonymous(part.start as *mut c_void, (part.end - part.start) as usize, access, flags)
        };
        if mapped.is_err() {
            return false;
        }
        reserved::note(&self.own, part, index);
        if is_whole {
            self.own.table.retire_snapshot(index, view.head.incarnation());
            identity::own_ranges().remove(part);
            self.forget_unneeded(Retired::of(view.meta.origin));
        }
        true
    }

    /// Unmaps the reserved addresses that `range` touches, whose writers are through, or dead.
    pub fn release_reserved(&self, range: &Range<u64>) {
        while let Some((found, index)) = reserved::touching(&self.own, range).find(|(_, index)| self.is_free(*index)) {
            reserved::forget(&self.own, &found);
            if self.replace_free(&found, || take_away(&found)).is_err() {
                // The kernel has no room for the parts that are left of a mapping: it is tried again.
                reserved::note(&self.own, &found, index);
                return;
            }
        }
    }

    fn is_free(&self, snapshot: u32) -> bool {
        self.own.table.await_pushers(snapshot, true, raw::now())
    }

    /// Waits until no address of `range` is reserved any more. ENOMEM: a writer did not go on in time.
    pub fn await_reserved(&self, range: &Range<u64>) -> Result<(), Errno> {
        let mut deadline = Deadline::at(self.pusher_deadline());
        let mut backoff = Backoff::default();
        loop {
            self.release_reserved(range);
            if reserved::touching(&self.own, range).next().is_none() {
                return Ok(());
            }
            if deadline.expired_twice(&backoff) {
                return Err(Errno::NOMEM);
            }
            backoff.pause();
        }
    }
}

/// Unmaps a range that the program unmaps, or has unmapped.
pub fn take_away(range: &Range<u64>) -> Result<(), Errno> {
    // SAFETY: the program unmaps the range, or has done so.
    unsafe { munmap(range.start as *mut c_void, (range.end - range.start) as usize) }
}
