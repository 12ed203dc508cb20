//! A fork in a signal handler that interrupted a hook: the interrupted call goes on in the child as well, when the handler returns.
//!
//! Before the fork a slot is claimed for the child. It says what the parent's slot says, so a process that waits for the call
//! waits for both. The interrupted call knows its frame by address. So in the child, the page of the table that holds the child's
//! slot is mapped at that address. Later calls in the child use the table at another address, where the parent prepared it.

use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use libc::pid_t;
use rustix::io::Errno;
use rustix::mm::MremapFlags;
use snapshim::PAGE;
use snapshim::protocol::cause::Cause;
use snapshim::protocol::gate::{self, CallFrame};
use snapshim::protocol::process::Process;
use snapshim::protocol::process_id::ProcessId;
use snapshim::protocol::writer_slot::WriterSlot;
use snapshim::sys::{procfs, raw};
use snapshim::table::Table;

use crate::address_space::lock::Mappings;
use crate::process::log::{Level, Program, say};
use crate::process::thread::{self, Thread};
use crate::process::{identity, membership};

/// What is prepared for a child that is about to be forked inside a hook.
pub struct ChildCall {
    parent: Thread,
    /// The table, at another address.
    table: &'static Table,
    record: &'static Process,
    pending: ProcessId,
    index: u32,
    slot: u32,
    page: FramePage,
}

/// The note of a page whose address interrupted calls know. Dropped, the note is taken back, unless a child has kept it.
struct FramePage {
    noted: Option<&'static AtomicU64>,
}

/// The noted pages of this process, inherited ones included. Changed only under the lock over all mappings.
///
/// Relaxed wherever they are used, because of that lock; a child has one thread.
static FRAME_PAGES: [AtomicU64; 8] = [const { AtomicU64::new(0) }; 8];

impl ChildCall {
    /// `None`: the calling thread is inside no hook. Signals are blocked.
    ///
    /// Errors: `EAGAIN` if the table has no room for the child, or had none for the call; those of mremap(2).
    pub fn prepare(mappings: &Mappings) -> Result<Option<Self>, Errno> {
        let own = &mappings.own;
        if thread::is_in_call_without_slot() {
            return Err(Errno::AGAIN);
        }
        let Some(parent) = thread::known().filter(|parent| parent.own.id == own.id) else { return Ok(None) };
        let frames = parent.frames_in_use();
        if own.leaves_damaged() {
            return Ok(None);
        }
        if parent.has_further_in_use() {
            return Err(Errno::AGAIN);
        }
        if frames.is_empty() {
            return Ok(None);
        }
        gate::withdraw_interrupted(frames);
        let page = FramePage::note(parent.slot)?;
        let table = duplicate(own.table)?;
        let claimed = Self::claim(parent, table, frames, page);
        if claimed.is_err() {
            give_back(table);
        }
        claimed.map(Some)
    }

    fn claim(parent: Thread, table: &'static Table, frames: &[CallFrame], page: FramePage) -> Result<Self, Errno> {
        let pending = ProcessId::pending_child(parent.own.index, raw::random() as u32);
        let (index, record) = table.claim_process(pending).ok_or(Errno::AGAIN)?;
        let Some((number, slot)) = table.claim_child_slot(pending.owner_word(index), parent.index, frames) else {
            table.reap(index, record, pending);
            return Err(Errno::AGAIN);
        };
        let counts = |process: Option<&Process>, frame: &CallFrame| {
            process.map_or(0, |process| process.descriptors(frame.descriptor().0))
        };
        table.continue_calls(slot, frames, |frame| {
            let changes = counts(parent.own.record(), frame).wrapping_sub(frame.descriptor().1);
            counts(Some(record), frame).wrapping_sub(changes)
        });
        Ok(Self { parent, table, record, pending, index, slot: number, page })
    }

    /// In the parent, after the fork: writes the child's pid into the table, or takes the record out if there is no child.
    pub fn hand_to_child(self, pid: pid_t) {
        if pid < 0 {
            if let Some(id) = self.record.id() {
                self.table.reap(self.index, self.record, id);
            }
        } else {
            let child = ProcessId::new(pid as u32, self.pending.epoch());
            self.record.set_pid(self.pending, child);
            self.record.describe_start_of_child(child, procfs::start_of(child.pid()));
        }
        give_back(self.table);
    }

    /// In the child, before the handler goes on that forked.
    pub fn resume_in_child(mut self) {
        self.page.hold();
        let child = ProcessId::new(raw::own_pid(), self.pending.epoch());
        self.record.set_pid(self.pending, child);
        let slot = self.table.writer(self.slot).filter(|_| self.record.id() == Some(child));
        let slot = slot.filter(|slot| take_frame_pages(page_of(slot)).is_ok());
        identity::use_table(self.table);
        match slot.and_then(|slot| Some((slot, membership::adopt(self.table, child, self.index)?))) {
            Some((slot, own)) => {
                slot.set_thread(raw::own_tid());
                thread::take(Thread::new(own, slot, self.slot));
            }
            None => doubt_all(self.table, self.parent.own.id.pid()),
        }
    }
}

/// The child has no slot for the interrupted calls: the parent died, and what it had prepared was recovered with it; or the
/// kernel has no memory for a page. These calls go on with frames that no other process sees, so nothing can wait for them.
#[cold]
fn doubt_all(table: &Table, parent: u32) {
    frame_pages().for_each(hide);
    table.doubt_every_snapshot(Cause::ForkedInCall);
    say!(Level::Error, "all snapshots are doubtful: {}: {parent}", Cause::ForkedInCall.of(Program(raw::own_pid())));
}

fn page_of(slot: &WriterSlot) -> u64 {
    ptr::from_ref(slot) as u64 / PAGE * PAGE
}

impl FramePage {
    fn note(slot: &WriterSlot) -> Result<Self, Errno> {
        let page = page_of(slot);
        let all = || FRAME_PAGES.iter().map(|page| (page, page.load(Ordering::Relaxed)));
        if all().any(|(_, noted)| noted == page) {
            return Ok(Self { noted: None });
        }
        let (free, _) = all().find(|(_, noted)| *noted == 0).ok_or(Errno::AGAIN)?;
        free.store(page, Ordering::Relaxed);
        Ok(Self { noted: Some(free) })
    }

    fn hold(&mut self) {
        self.noted = None;
    }
}

impl Drop for FramePage {
    fn drop(&mut self) {
        if let Some(noted) = self.noted {
            noted.store(0, Ordering::Relaxed);
        }
    }
}

fn frame_pages() -> impl Iterator<Item = u64> {
    FRAME_PAGES.iter().map(|page| page.load(Ordering::Relaxed)).filter(|page| *page != 0)
}

/// Puts a private copy in place of a page of frames.
fn hide(page: u64) {
    let Some(copy) = crate::base::arena::memory(PAGE as usize) else { return };
    let page = ptr::with_exposed_provenance_mut::<c_void>(page as usize);
    let length = PAGE as usize;
    // SAFETY: both are whole pages. The copy is new, and the calls that use the place are interrupted.
    unsafe {
        ptr::copy_nonoverlapping(page, copy, length);
        let _ = rustix::mm::mremap_fixed(copy, length, length, MremapFlags::MAYMOVE, page);
    }
}

/// Maps the page at `page` at every address where interrupted calls look for their frames.
fn take_frame_pages(page: u64) -> Result<(), Errno> {
    frame_pages().try_for_each(|noted| {
        // SAFETY: the place is a page of a mapping of the table. Only interrupted calls use that address: the child has one
        // thread, and uses the table at another address from now on.
        unsafe { duplicate_to(page, PAGE as usize, MremapFlags::MAYMOVE, Some(noted)) }.map(drop)
    })
}

/// The table, mapped a second time.
fn duplicate(table: &'static Table) -> Result<&'static Table, Errno> {
    // SAFETY: a new mapping of the same pages, at an address of the kernel's choice.
    let address = unsafe { duplicate_to(ptr::from_ref(table) as u64, size_of::<Table>(), MremapFlags::MAYMOVE, None) }?;
    // SAFETY: as large as a table, and unmapped only by `give_back`.
    Ok(unsafe { &*ptr::with_exposed_provenance::<Table>(address) })
}

/// Maps pages of a shared mapping a second time: mremap(2) does that where the old size is 0.
///
/// # Safety
/// What is mapped at `to`, if it is given, may be replaced.
unsafe fn duplicate_to(from: u64, length: usize, flags: MremapFlags, to: Option<u64>) -> Result<usize, Errno> {
    let from = ptr::with_exposed_provenance_mut::<c_void>(from as usize);
    // SAFETY: the caller's promise; the old mapping stays.
    let mapped = unsafe {
        match to {
            None => rustix::mm::mremap(from, 0, length, flags),
            Some(to) => rustix::mm::mremap_fixed(from, 0, length, flags, ptr::with_exposed_provenance_mut(to as usize)),
        }
    };
    mapped.map(|address| address as usize)
}

fn give_back(table: &'static Table) {
    // SAFETY: mapped by `duplicate`, and no reference to it is left.
    let _ = unsafe { rustix::mm::munmap(ptr::from_ref(table).cast_mut().cast(), size_of::<Table>()) };
}
