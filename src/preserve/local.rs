//! Preserving in the mapper's own process: what its agent does when asked, and what a process does for itself.
//!
//! Everything here changes the mapping under an odd generation. So no hook of another thread changes it at the same time, and no
//! writer's change lands on a page that it found shared. No byte is read and stored here: [`unshare`] says why the kernel's own
//! copies are not newer than the snapshot, and [`relocate`] why its own copies are not.

use core::ffi::c_void;
use core::ops::Range;

use rustix::fd::OwnedFd;
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise};

use super::headroom::Headroom;
use super::proc_fd_cache::ProcFdCache;
use super::record::record;
use super::relocate::{self, StoreBarrier};
use super::{unshare, verify};
use crate::PAGE;
use crate::protocol::cause::{Cause, Worth};
use crate::protocol::origin::Origin;
use crate::protocol::own_ranges::OwnRanges;
use crate::protocol::process_id::Caller;
use crate::protocol::snapshot::{BITS_INCOMPLETE, Extent, Snapshot, State, View};
use crate::protocol::writer_slot::{Request, Task};
use crate::sys::wait::{Backoff, Deadline};
use crate::sys::{raw, signal_block};
use crate::table::Table;

/// What this process preserves its own pages with.
pub struct LocalPreserver<'a, S> {
    /// The table.
    pub table: &'a Table,
    /// This process.
    pub own: Caller<'a>,
    /// Cached descriptors of files in /proc.
    pub proc_fds: &'a ProcFdCache,
    /// Where its snapshots lie.
    pub own_ranges: &'a OwnRanges,
    /// Keeps other threads from storing.
    pub store_barrier: &'a S,
    /// How much more this process may hold.
    pub headroom: &'a Headroom,
    /// Opens an origin in a table of descriptors where closing it harms no program; `None` where there is no such table.
    pub open: &'a dyn Fn(Origin) -> Option<OwnedFd>,
    /// When to give up waiting for other threads that change the mapping (CLOCK_MONOTONIC, nanoseconds).
    pub deadline: u64,
}

impl<S> core::fmt::Debug for LocalPreserver<'_, S> {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.debug_struct("LocalPreserver").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handled {
    /// It is done and verified.
    Done,
    /// It could not be done.
    Failed,
    /// A part is done; the request is to be handled again.
    InPart,
}

impl From<bool> for Handled {
    fn from(is_done: bool) -> Self {
        if is_done { Self::Done } else { Self::Failed }
    }
}

impl<S: StoreBarrier> LocalPreserver<'_, S> {
    /// Does what `request` asks of the calling process, or some milliseconds' work of it.
    pub fn handle(&self, request: &Request) -> Handled {
        match request.task {
            Task::Relocate => self.relocate(request),
            _ => self.changing(request, |snapshot, view| self.handle_in(request, snapshot, view)),
        }
    }

    /// Does what `request` asks, to its end.
    pub fn handle_whole(&self, request: &Request) -> bool {
        loop {
            match self.handle(request) {
                Handled::InPart => {}
                handled => return handled == Handled::Done,
            }
        }
    }

    /// Does `act` to the segment that `request` is about, under an odd generation.
    pub(super) fn changing<T: From<bool>>(&self, request: &Request, act: impl FnOnce(&Snapshot, &View) -> T) -> T {
        let Some(snapshot) = self.table.snapshot(request.snapshot) else { return false.into() };
        let _signals = signal_block::SignalsBlocked::new();
        if !self.own.is_here() {
            return false.into();
        }
        self.own_ranges.changing(|| {
            let Some(view) = begin_change(snapshot, request.incarnation, self.deadline) else {
                return is_over(snapshot, request.incarnation).into();
            };
            let done = if self.is_ours(&view) {
                act(snapshot, &view)
            } else {
                self.table.declare_damaged();
                false.into()
            };
            snapshot.end_change();
            done
        })
    }

    /// Whether the segment is one that this process mapped. A record may say anything: only this process knows what lies in its
    /// memory.
    fn is_ours(&self, view: &View) -> bool {
        view.has_valid_checksum
            && self.own.is(view.meta.owner)
            && self.own_ranges.contains(&(view.extent.address..view.extent.end()))
    }

    /// Does what `request` asks. The generation is odd, and the segment is this process's.
    fn handle_in(&self, request: &Request, snapshot: &Snapshot, view: &View) -> Handled {
        if request.task == Task::Break {
            return break_segment(snapshot, view, Cause::from_code(request.first)).into();
        }
        let shown = view.covered_pages();
        let start = request.first.max(shown.start);
        let end = request.first.saturating_add(request.count).min(shown.end);
        if request.task == Task::Keep {
            return (start >= end || self.keep(request.snapshot, view, start..end).is_ok()).into();
        }
        let is_done = start >= end
            || view.is_relocated()
            || view.is_guarded()
            || copy(self.table, request.snapshot, view, start..end, self.proc_fds).is_ok();
        is_done.into()
    }
}

impl<S: StoreBarrier> LocalPreserver<'_, S> {
    /// Moves `pages` of a guarded segment off the file. Those that cannot be read are past the end of the file, or another
    /// truncation has taken them: there is nothing to keep.
    fn keep(&self, index: u32, view: &View, pages: Range<u64>) -> Result<(), Errno> {
        if !view.is_guarded() {
            return Err(Errno::INVAL);
        }
        let address = view.address_of(pages.start);
        let replace = |count: u64| {
            let length = (count * PAGE) as usize;
            let act = || relocate::replace_by_copy(address, length, view);
            relocate::with_frozen(address, length, view, self.store_barrier, act)
        };
        let wanted = pages.end - pages.start;
        let kept = match replace(wanted) {
            Ok(()) => wanted,
            Err(error) => {
                let readable = readable_pages(address, wanted);
                if readable == wanted {
                    return Err(error);
                }
                if readable > 0 {
                    replace(readable)?;
                }
                readable
            }
        };
        record(self.table, index, view, pages.start..pages.start + kept);
        Ok(())
    }
}

/// How many of the pages at `address` can be read, from the first on.
fn readable_pages(address: u64, count: u64) -> u64 {
    let mut bytes = [0u8; raw::PAGES_AT_ONCE];
    let mut done = 0;
    while done < count {
        let wanted = ((count - done) as usize).min(bytes.len());
        let read = raw::read_at_boundaries(raw::own_tid(), address + done * PAGE, &mut bytes[..wanted]);
        done += read as u64;
        if read < wanted {
            break;
        }
    }
    done
}

/// Makes the whole segment fault (SIGBUS) and says so in its state.
fn break_segment(snapshot: &Snapshot, view: &View, cause: Cause) -> bool {
    let length = (view.extent.pages * PAGE) as usize;
    let broken = map_faulting(view.extent.address, length).is_ok();
    if broken {
        snapshot.mark(view.head.incarnation(), Worth::Broken(cause));
    }
    broken
}

fn is_over(snapshot: &Snapshot, incarnation: u32) -> bool {
    let head = snapshot.head();
    head.incarnation() != incarnation || !head.wants_pages()
}

/// Even -> odd. Waits for other threads of the process that are changing the mapping. `None`: the segment is over, or it took too
/// long.
pub fn begin_change(snapshot: &Snapshot, incarnation: u32, deadline: u64) -> Option<View> {
    let mut backoff = Backoff::default();
    let time = deadline.saturating_sub(raw::now());
    let (mut deadline, mut pages) = (Deadline::at(deadline), None);
    while !is_over(snapshot, incarnation)
        || snapshot.head().state() == State::Broken && snapshot.head().incarnation() == incarnation
    {
        if snapshot.begin_change(incarnation).is_some() {
            return snapshot.view();
        }
        // A segment that is moved slice by slice becomes smaller with each.
        let now = snapshot.view().map(|view| view.extent.pages);
        if pages.is_some() && now != pages {
            deadline = Deadline::at(raw::now() + time);
        }
        pages = now;
        if deadline.expired_twice(&backoff) {
            return None;
        }
        backoff.pause();
    }
    None
}

/// Copies `pages` of the segment, verifies and records that. The generation is odd.
fn copy(table: &Table, index: u32, view: &View, pages: Range<u64>, proc_fds: &ProcFdCache) -> Result<(), Errno> {
    let (_, _, id) = table.owner(view.meta.owner).ok_or(Errno::SRCH)?;
    let address = view.address_of(pages.start);
    let count = pages.end - pages.start;
    if unshare::is_writable(view.extent.protection) {
        // SAFETY: the range is part of the snapshot, which no other thread changes now; populating changes no byte.
        unsafe { madvise(address as *mut c_void, (count * PAGE) as usize, Advice::LinuxPopulateWrite) }?;
    } else if view.extent.protection != Extent::PROTECTION_UNKNOWN {
        relocate::replace_by_copy(address, (count * PAGE) as usize, view)?;
    } else {
        return Err(Errno::ACCESS);
    }
    // Where even /proc/self cannot be read, the kernel's success has to do: no other thread changes the mapping now.
    if verify::private_pages(id, raw::own_tid(), address, count, proc_fds).is_ok_and(|private| private < count) {
        // The page may lie in memory of its own by now: it must not be dropped, because the file would be read anew.
        if let Some(snapshot) = table.snapshot(index) {
            snapshot.add_flags(BITS_INCOMPLETE);
        }
        return Err(Errno::NOMEM);
    }
    record(table, index, view, pages);
    Ok(())
}

/// Maps `length` bytes at `address` so that every access raises SIGBUS, as past the end of a file: an empty memfd.
pub fn map_faulting(address: u64, length: usize) -> Result<(), Errno> {
    let empty = rustix::fs::memfd_create(c"snapshim", MemfdFlags::CLOEXEC)?;
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // Nothing is ever stored there, so no memory has to be set aside for it.
    let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
    // SAFETY: the caller owns the range and wants it replaced.
    unsafe { rustix::mm::mmap(address as *mut c_void, length, access, flags, &empty, 0) }.map(drop)
}
