//! fork(2): a child inherits its parent's snapshots, exactly.
//!
//! For a mapper, a fork is a creation: the gate of every origin is closed, the writers under way are waited for, the child's
//! records are published with the parent's preserved bits, and only then the address space is copied.

use core::ffi::c_void;
use core::time::Duration;

use libc::pid_t;
use rustix::io::Errno;
use snapshim::creation::Scope;
use snapshim::pieces::Further;
use snapshim::preserve::holdings::Holdings;
use snapshim::preserve::local;
use snapshim::raw;
use snapshim::snapshot::{CHANGED_BY_HOOK, Identity, NOT_INHERITED};
use snapshim::table::liveness;
use snapshim::table::process::{Birth, Process, ProcessId};
use syscalls::{Sysno, syscall};

use crate::address_space::lock::{self, EVERYWHERE, Mappings};
use crate::agent::run;
use crate::base::config::config;
use crate::base::errno::{as_libc, set_errno};
use crate::interpose::interpose;
use crate::lifecycle::fork_in_handler::Heir;
use crate::origins::{claim, foreign_maps, watch};
use crate::process::identity::{self, Own};
use crate::process::log::{Level, say};
use crate::process::thread::{self, Thread};
use crate::process::{lending, membership};
use crate::shared::fork as shared_fork;
use crate::snapshot::create;

interpose! {
    /// _Fork(3), which fork(3) comes to after the handlers of pthread_atfork(3) have run
    only_fork, c"_Fork": _Fork => fn() -> pid_t {
        // SAFETY: only before the constructor has run, when nothing is to be put in order around it.
        raw || as_libc(unsafe { syscall!(Sysno::fork) }) as pid_t,
        hook on_fork,
    }
    /// fork(2), for a libc whose code cannot be patched, or that has no _Fork
    fork, c"fork": fork __fork => fn() -> pid_t {
        // SAFETY: as for _Fork.
        raw || as_libc(unsafe { syscall!(Sysno::fork) }) as pid_t,
        hook on_outer_fork,
    }
}

fn on_outer_fork(real: unsafe extern "C-unwind" fn() -> pid_t) -> pid_t {
    if only_fork::DOOR.is_detoured() {
        // SAFETY: the application's own call, which comes to `on_fork` inside.
        return unsafe { real() };
    }
    on_fork(real)
}

fn on_fork(real: unsafe extern "C-unwind" fn() -> pid_t) -> pid_t {
    // SAFETY: the application's own call.
    forked(0, &|| unsafe { real() })
}

/// Makes `real`, which returns in a child that has a copy of this memory as well. `flags` are those of clone(2).
pub fn forked(flags: u64, real: &dyn Fn() -> pid_t) -> pid_t {
    match identity::attached() {
        None => {
            let pid = real();
            if pid == 0 {
                lending::note_pid();
                membership::join_with_unseen_mapping();
            }
            pid
        }
        Some(own) => fork_attached(own, flags, real),
    }
}

/// The lock is taken even without snapshots, because another thread may be making the first.
fn fork_attached(own: Own, flags: u64, real: &dyn Fn() -> pid_t) -> pid_t {
    let mappings = lock::hold(own);
    let leaves = flags & libc::CLONE_NEWPID as u64 != 0 || !raw::are_children_in_own_namespace();
    let hindrance = if leaves {
        // The child's number, as it has it, means nothing to the others.
        Some(Errno::XDEV)
    } else if flags & libc::CLONE_VFORK as u64 != 0 {
        // The parent cannot say how it went before the child is done.
        Some(Errno::DEADLK)
    } else if identity::is_borrower() {
        // The records of the process are not its to hand on.
        Some(Errno::CHILD)
    } else {
        None
    };
    // Who takes no part is not waited for.
    let heir = if leaves { Ok(None) } else { Heir::prepare(&mappings) };
    let heir = match heir {
        Ok(heir) => heir,
        Err(error) => {
            set_errno(error.raw_os_error());
            return -1;
        }
    };
    let pid = if own.identity.is_mapper() && !own.leaves_damaged() {
        fork_mapper(&mappings, hindrance, real)
    } else {
        shared_fork::fork(real)
    };
    match (pid, heir) {
        (0, Some(heir)) => {
            lending::note_pid();
            heir.take_over();
        }
        (pid, Some(heir)) => heir.leave_to(pid),
        (_, None) => {}
    }
    if pid == 0 {
        lending::note_pid();
        if leaves {
            membership::refuse_in_child(&own);
        }
        shared_fork::join_in_child();
        membership::join_with_unseen_mapping();
    }
    pid
}

#[cold]
fn fork_mapper(mappings: &Mappings, hindrance: Option<Errno>, real: &dyn Fn() -> pid_t) -> pid_t {
    let prepared = hindrance.map_or_else(thread::current, Err).and_then(|thread| Prepared::new(mappings, thread));
    // Under the closed gate, so that it is what the child inherits.
    let inheritance = Inheritance::list(mappings);
    let pid = shared_fork::fork(real);
    if pid == 0 {
        lending::note_pid();
        let is_exact = prepared.is_ok_and(|prepared| prepared.be_born());
        if is_exact {
            inheritance.be_held();
        } else {
            inheritance.break_all();
        }
        // Before there is an agent that looks.
        foreign_maps::begin_anew_in_child();
        if let Some(child) = identity::attached() {
            if !is_exact {
                child.table.retire_all_of(child.owner());
            }
            run::start_for_snapshots(&child);
        }
        claim::keep_inherited();
        watch::begin_anew_in_child();
        return 0;
    }
    match prepared {
        Ok(prepared) => prepared.finish(pid),
        Err(error) => say!(
            Level::Warn,
            "process {pid}, forked by {}, cannot keep the snapshots it inherited (errno {}): they fault there",
            raw::own_pid(),
            error.raw_os_error()
        ),
    }
    pid
}

/// What the child inherits: listed while the mappings are held still, in memory that no limit can refuse.
static INHERITED: Holdings = Holdings::new();

struct Inheritance;

impl Inheritance {
    fn list(mappings: &Mappings) -> Self {
        let own = &mappings.own;
        own.table.over_splits(|walk| {
            INHERITED.clear();
            for (_, view) in lock::pieces(own, walk, &EVERYWHERE)
                .filter(|(index, view)| is_inherited(own, *index) && lock::is_held(own, *index, view))
            {
                let _ = INHERITED.add(&(view.extent.address..view.extent.end()));
            }
        });
        Self
    }

    /// In the child: what the parent alone had is not the child's.
    fn be_held(&self) {
        let holdings = identity::holdings();
        holdings.clear();
        for range in INHERITED.ranges() {
            let _ = holdings.add(&range);
        }
    }

    /// In a child whose records are not good.
    fn break_all(&self) {
        identity::holdings().clear();
        for range in INHERITED.ranges() {
            if local::map_faulting(range.start, (range.end - range.start) as usize).is_err() {
                // Not even that: then nothing is there.
                // SAFETY: the range is a snapshot of this process, which must not be read any more.
                let _ = unsafe { rustix::mm::munmap(range.start as *mut c_void, (range.end - range.start) as usize) };
            }
        }
        if INHERITED.pages() > 0 {
            say!(
                Level::Warn,
                "process {}: the snapshots it inherited by fork fault, because the fork was not one instant (its parent died or was \
                 stopped in it, forked in a handler that interrupted a write, or was a child of vfork itself)",
                raw::own_pid()
            );
        }
    }
}

fn is_inherited(own: &Own, index: u32) -> bool {
    own.table.snapshot(index).is_some_and(|snapshot| snapshot.flags() & NOT_INHERITED == 0)
}

/// A child's records, published under a closed gate.
struct Prepared<'a> {
    mappings: &'a Mappings,
    ticket: snapshim::creation::Ticket,
    record: &'static Process,
    unborn: ProcessId,
    index: u32,
}

impl<'a> Prepared<'a> {
    fn new(mappings: &'a Mappings, thread: Thread) -> Result<Self, Errno> {
        if thread.is_inside() {
            return Err(Errno::DEADLK);
        }
        let own = &mappings.own;
        let ticket = create::begin(&thread, Scope::All)?;
        let unborn = ProcessId::unborn(own.index, raw::random() as u32);
        let claimed = create::drained(&thread, Scope::All, &"every file (a process with snapshots forks)")
            .and_then(|()| mappings.begin_all())
            .and_then(|()| own.table.claim_process(unborn).ok_or(Errno::NFILE));
        let (index, record) = match claimed {
            Ok(claimed) => claimed,
            Err(error) => {
                own.table.end_creation(ticket);
                mappings.end_all();
                return Err(error);
            }
        };
        record.expect_birth(unborn, own.owner());
        let prepared = Self { mappings, ticket, record, unborn, index };
        match prepared.publish() {
            Ok(()) => Ok(prepared),
            Err(error) => {
                prepared.withdraw();
                Err(error)
            }
        }
    }

    fn publish(&self) -> Result<(), Errno> {
        let own = &self.mappings.own;
        let owner = self.unborn.owner_word(self.index);
        let before = create::look_for_unseen(own.table);
        for (index, view) in self.mappings.odd_pieces(&EVERYWHERE).filter(|(index, _)| is_inherited(own, *index)) {
            let identity = Identity { owner, base: view.extent.first, ..view.identity };
            let further = Further { identity, extent: view.extent, flags: view.flags & !CHANGED_BY_HOOK };
            own.table.publish_further(index, &view, &further).ok_or(Errno::NOMEM)?;
        }
        // Its parent's are doubtful by then, or about to be, and it has copied their states.
        create::doubt_if_unseen(own.table, before, &"a forked process", || own.table.doubt_every_snapshot() > 0);
        Ok(())
    }

    /// Takes the child's records out again and opens the gate.
    fn withdraw(&self) {
        let table = self.mappings.own.table;
        if let Some(id) = self.record.id() {
            table.bury(self.index, self.record, id);
        }
        table.end_creation(self.ticket);
        self.mappings.end_all();
    }

    /// In the parent, after the fork.
    fn finish(&self, pid: pid_t) {
        if pid < 0 {
            return self.withdraw();
        }
        let table = self.mappings.own.table;
        let born = ProcessId::new(pid as u32, self.unborn.epoch());
        self.record.describe_start(born, liveness::start_of(born.pid()));
        self.record.christen(self.unborn, born);
        let creation = table.gate().creation;
        let committed = creation.commit(self.ticket);
        self.record.settle(born, if committed { Birth::Settled } else { Birth::Failed });
        creation.release(self.ticket);
        raw::wake(creation.futex());
        self.mappings.end_all();
    }

    /// In the child: takes its name and waits to hear how the fork went. False: what it inherited is not exact.
    fn be_born(&self) -> bool {
        let table = self.mappings.own.table;
        let born = ProcessId::new(raw::own_pid(), self.unborn.epoch());
        self.record.christen(self.unborn, born);
        if self.record.id() != Some(born) {
            return false;
        }
        let Some(own) = membership::adopt(table, born, self.index) else { return false };
        own.identity.note_snapshot();
        let parent = self.record.parent();
        let give_up = raw::now() + 2 * config().timeout;
        loop {
            match self.record.birth(born) {
                Birth::Settled => return true,
                Birth::Failed => return false,
                Birth::Pending => {
                    if raw::now() > give_up {
                        // The parent is stopped; the first to say so decides.
                        self.record.settle(born, Birth::Failed);
                    }
                    raw::wait(self.record.birth_futex(), Birth::Pending as u32, Duration::from_millis(5));
                    table.bury_if_dead(parent);
                }
            }
        }
    }
}
