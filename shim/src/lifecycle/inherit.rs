//! What a forked child inherits: the records of its snapshots, which its parent publishes while the gate is closed.
//!
//! The parent claims a process record for the child under a temporary identity, publishes the child's snapshots, forks, and
//! commits. Parent and child then both write the child's pid into the record, and the first to do so decides. A child that is not
//! told in time that the commit succeeded breaks what it inherited.

use core::ffi::c_void;
use core::time::Duration;

use libc::pid_t;
use rustix::io::Errno;
use snapshim::cooperate::segments::NewSegment;
use snapshim::preserve::local;
use snapshim::protocol::cause::Cause;
use snapshim::protocol::creation::{Scope, Ticket};
use snapshim::protocol::own_ranges::OwnRanges;
use snapshim::protocol::process::{ForkOutcome, Process};
use snapshim::protocol::process_id::ProcessId;
use snapshim::protocol::snapshot::{CHANGED_BY_HOOK, NOT_INHERITED, SnapshotMeta};
use snapshim::sys::rare::Rare;
use snapshim::sys::{futex, procfs, raw};

use crate::address_space::lock::{self, EVERYWHERE, Mappings};
use crate::base::config::config;
use crate::process::identity::{self, ThisProcess};
use crate::process::log::{Level, say};
use crate::process::membership;
use crate::process::thread::Thread;
use crate::snapshot::instant;

/// The ranges that the child inherits, listed under the lock over the mappings, in memory that no limit can refuse.
#[unsafe(link_section = ".bss.rare")]
static INHERITED: Rare<OwnRanges> = Rare(OwnRanges::new());
/// The same of guarded mappings, which show the file as it is: there is nothing to break.
#[unsafe(link_section = ".bss.rare")]
static INHERITED_GUARDED: Rare<OwnRanges> = Rare(OwnRanges::new());

pub struct Inheritance;

impl Inheritance {
    /// Lists the segments that a child would inherit.
    pub fn list(mappings: &Mappings) -> Self {
        let own = &mappings.own;
        own.table.over_splits(|walk| {
            INHERITED.clear();
            INHERITED_GUARDED.clear();
            // From the highest to the lowest, which is how the lists are filled soonest.
            for held in identity::own_ranges().ranges() {
                for (index, view) in lock::segments(own, walk, &held).filter(|(index, _)| is_inherited(own, *index)) {
                    let list = if view.is_guarded() { &INHERITED_GUARDED } else { &INHERITED };
                    let part = lock::overlap(&view, &held);
                    let _ = list.add(&part, index);
                }
            }
        });
        Self
    }

    /// In the child: the inherited ranges are the snapshots that it has.
    pub fn be_held(&self) {
        let own_ranges = identity::own_ranges();
        own_ranges.clear();
        for range in INHERITED.ranges().chain(INHERITED_GUARDED.ranges()) {
            let _ = own_ranges.add(&range, 0);
        }
        // One walk tells in which records they are. A segment that is split meanwhile is searched for later.
        let Some(own) = identity::attached() else { return };
        for (index, view) in own.table.walk_once().owned_by(own.owner()) {
            own_ranges.note_record(view.extent.address, index);
        }
    }

    /// In a child that has no good records: the inherited ranges fault from now on.
    pub fn break_all(&self) {
        identity::own_ranges().clear();
        for range in INHERITED.ranges() {
            if local::map_faulting(range.start, (range.end - range.start) as usize).is_err() {
                // Without memory for that, the range is unmapped.
                // SAFETY: the range is a snapshot of this process, which must not be read any more.
                let _ = unsafe { rustix::mm::munmap(range.start as *mut c_void, (range.end - range.start) as usize) };
            }
        }
        if INHERITED.pages() > 0 {
            say!(
                Level::Warn,
                "process {}: the snapshots it inherited by fork fault, because the fork was not one instant (its parent died or \
                 was stopped in it, forked in a handler that interrupted a write, or was a child of vfork itself)",
                raw::own_pid()
            );
        }
    }
}

fn is_inherited(own: &ThisProcess, index: u32) -> bool {
    own.table.snapshot(index).is_some_and(|snapshot| !snapshot.flags().contains(NOT_INHERITED))
}

/// The gate, closed for a fork: the writers of the files that the process has snapshots of have ended, and none begins.
pub struct Closed {
    thread: Thread,
    ticket: Ticket,
    /// How many snapshots the process had published before.
    published: u64,
}

impl Closed {
    /// Closes the gate, and waits for the writers under way. The lock over the mappings is not held, so that calls on memory do not
    /// wait.
    ///
    /// Errors: `EDEADLK` inside a write that a signal interrupted; `ETIMEDOUT`.
    pub fn new(thread: Thread) -> Result<Self, Errno> {
        if thread.is_inside() {
            return Err(Errno::DEADLK);
        }
        const ITS_FILES: &str = "the files that a forking process has snapshots of";
        // Read before the gate closes: of each snapshot that is counted, the file is covered from there on.
        let published = lock::published();
        let ticket = instant::begin(&thread, Scope::Held, &ITS_FILES)?;
        let closed = Self { thread, ticket, published };
        instant::drained(&closed.thread, Scope::Held, &ITS_FILES)?;
        Ok(closed)
    }

    /// Whether the gate is closed for the files of all snapshots of the process. False: another thread has published one meanwhile,
    /// and a writer of its file may have passed the gate before.
    pub fn is_for_all(&self, _held: &Mappings) -> bool {
        lock::published() == self.published
    }

    fn into_ticket(self) -> Ticket {
        let ticket = self.ticket;
        core::mem::forget(self);
        ticket
    }
}

impl Drop for Closed {
    fn drop(&mut self) {
        let table = self.thread.own.table;
        table.end_creation(self.ticket);
        table.lower_active();
    }
}

/// A child's records, published while the gate is closed.
pub struct Prepared<'a> {
    mappings: &'a Mappings,
    ticket: Ticket,
    record: &'static Process,
    pending: ProcessId,
    index: u32,
}

impl<'a> Prepared<'a> {
    /// Publishes the child's records.
    ///
    /// Errors: `ENFILE` or `ENOMEM` where the table has no room.
    pub fn new(mappings: &'a Mappings, closed: Closed) -> Result<Self, Errno> {
        let own = &mappings.own;
        let pending = ProcessId::pending_child(own.index, raw::random() as u32);
        let claimed = mappings.begin_all().and_then(|()| own.table.claim_process(pending).ok_or(Errno::NFILE));
        let (index, record) = claimed.inspect_err(|_| mappings.end_all())?;
        record.expect_fork(pending, own.owner());
        let prepared = Self { mappings, ticket: closed.into_ticket(), record, pending, index };
        match prepared.publish() {
            Ok(()) => Ok(prepared),
            Err(error) => {
                prepared.withdraw();
                Err(error)
            }
        }
    }

    /// Publishes a record of the child's for each segment that it inherits.
    fn publish(&self) -> Result<(), Errno> {
        let own = &self.mappings.own;
        let owner = self.pending.owner_word(self.index);
        let before = instant::observe_unseen(own.table);
        for (index, view) in self.mappings.odd_segments(&EVERYWHERE).filter(|(index, _)| is_inherited(own, *index)) {
            let meta = SnapshotMeta { owner, base: view.extent.first, ..view.meta };
            let new = NewSegment { meta, extent: view.extent, flags: view.flags.without(CHANGED_BY_HOOK) };
            own.table.publish_segment(index, &view, &new).ok_or(Errno::NOMEM)?;
        }
        // The child's records have copied the states of the parent's, which may become doubtful at this moment.
        instant::doubt_if_unseen(own.table, before, &"a forked process", || {
            own.table.doubt_every_snapshot(Cause::Unseen) > 0
        });
        Ok(())
    }

    /// Takes the child's records out of the table again, and opens the gate.
    fn withdraw(&self) {
        let table = self.mappings.own.table;
        if let Some(id) = self.record.id() {
            table.reap(self.index, self.record, id);
        }
        table.end_creation(self.ticket);
        self.mappings.end_all();
    }

    /// In the parent, after the fork: commits, says so to the child, and opens the gate.
    pub fn finish(&self, pid: pid_t) {
        if pid < 0 {
            return self.withdraw();
        }
        let table = self.mappings.own.table;
        let child = ProcessId::new(pid as u32, self.pending.epoch());
        self.record.set_pid(self.pending, child);
        self.record.describe_start_of_child(child, procfs::start_of(child.pid()));
        let creations = table.gate().creations;
        let committed = creations.commit(self.ticket);
        self.record.decide_fork(child, if committed { ForkOutcome::Settled } else { ForkOutcome::Failed });
        creations.release(self.ticket);
        futex::wake(creations.futex(self.ticket));
        self.mappings.end_all();
    }

    /// In the child: writes its pid into its record, and waits until the parent says how the fork went. False: what it inherited
    /// is not exact.
    pub fn complete_fork(&self) -> bool {
        let table = self.mappings.own.table;
        let child = ProcessId::new(raw::own_pid(), self.pending.epoch());
        self.record.set_pid(self.pending, child);
        if self.record.id() != Some(child) {
            return false;
        }
        let Some(own) = membership::adopt(table, child, self.index) else { return false };
        own.image.note_snapshot();
        let parent = self.record.parent();
        let give_up = raw::now() + 2 * config().timeout;
        loop {
            match self.record.fork_outcome(child) {
                ForkOutcome::Settled => return true,
                ForkOutcome::Failed => return false,
                ForkOutcome::Pending => {
                    if raw::now() > give_up {
                        // The parent is stopped. The first of both to settle decides.
                        self.record.decide_fork(child, ForkOutcome::Failed);
                    }
                    futex::wait(self.record.fork_futex(), ForkOutcome::Pending as u32, Duration::from_millis(5));
                    table.reap_if_dead(parent);
                }
            }
        }
    }
}
