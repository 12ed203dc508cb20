//! The agent's loop.
//!
//! The agent preserves pages for a writer that has no access to this process's memory, breaks snapshots that cannot be preserved,
//! and arms shared mappings when a snapshot is made. It is a bare kernel thread without thread-local storage: it has the register
//! of the thread that started it, and must not use it. It calls no libc, takes no lock that it would wait for, has all signals
//! blocked, and has a descriptor table of its own ([`fd_table`]). The C library does not count it, so a program still ends with
//! its own last thread.

use core::ffi::{c_int, c_void};
use core::fmt::Display;
use core::ops::ControlFlow;
use core::time::Duration;

use snapshim::preserve::local::{Handled, LocalPreserver};
use snapshim::preserve::proc_fd_cache::ProcFdCache;
use snapshim::protocol::cause::Cause;
use snapshim::protocol::snapshot::{State, View};
use snapshim::protocol::writer_slot::{Lease, Request, Task};
use snapshim::sys::sync::{AtomicU64, Ordering};
use snapshim::sys::{futex, raw, signal_block};
use snapshim::table;

use super::alone::{LastThreadCheck, ROUND};
use crate::address_space::lock;
use crate::base::config::config;
use crate::mapper::preserve_own;
use crate::origins::{foreign_maps, rounds, watch};
use crate::process::agent_state::HAS_BEGUN;
use crate::process::identity::{self, ThisProcess};
use crate::process::log::{Bytes, Level, Program, say};
use crate::process::{fd_table, membership};
use crate::shared::robust_futex::Progress;
use crate::shared::{arm, fork, prefault};

/// After how many rounds the agent checks that the path still leads to the table.
const TABLE_ROUNDS: u32 = 5;

/// The agent, from its start to its end; its exit status.
pub extern "C-unwind" fn run(_: *mut c_void) -> c_int {
    // SIGSEGV is blocked as well: its handler needs thread-local storage, which the agent does not have. The agent stores nothing
    // into memory that traps.
    signal_block::set_signal_mask(u64::MAX);
    // A descriptor has a meaning in one table only. These descriptors go with the agent's table when the agent ends.
    let own_proc_fds = ProcFdCache::new();
    let proc_fds = if fd_table::begin() { &own_proc_fds } else { identity::proc_fds() };
    // Release: pairs with the Acquire in `await_beginning`.
    HAS_BEGUN.store(1, Ordering::Release);
    futex::wake(&HAS_BEGUN);
    let _ = rustix::thread::set_name(c"snapshim-agent");
    let mut work = Work::new(proc_fds);
    loop {
        if let ControlFlow::Break(status) = work.turn() {
            return status;
        }
    }
}

/// What the agent remembers from one turn of its loop to the next.
struct Work<'a> {
    proc_fds: &'a ProcFdCache,
    prefault: prefault::Prefault,
    last_thread: LastThreadCheck,
    rounds: u32,
    /// When the next round is due.
    next_round: u64,
}

impl<'a> Work<'a> {
    fn new(proc_fds: &'a ProcFdCache) -> Self {
        let next_round = raw::now() + ROUND.as_nanos() as u64;
        Self {
            proc_fds,
            prefault: prefault::Prefault::default(),
            last_thread: LastThreadCheck::new(),
            rounds: 0,
            next_round,
        }
    }

    /// One turn: does what is asked for and what is due, and sleeps until there is more. It breaks with the agent's exit status.
    fn turn(&mut self) -> ControlFlow<c_int> {
        let Some(own) = identity::attached() else { return ControlFlow::Break(leave()) };
        let Some(record) = own.record() else { return ControlFlow::Break(0) };
        // Acquire: pairs with the Release in `Process::ring`; the request is visible to the thread that sees the bell.
        let bell = record.doorbell().load(Ordering::Acquire);
        if own.image.agent_state().must_leave() {
            return ControlFlow::Break(0);
        }
        let Some(until_check) = self.last_thread.check(&own) else {
            // No thread of the program is left that could look at a snapshot.
            own.table.retire_all_of(own.owner());
            return ControlFlow::Break(self.last_thread.last_status(&own));
        };
        if arm::answer_creations(&own) {
            self.prefault.begin_anew();
        }
        let proc_fds = self.proc_fds;
        let mut service =
            Service { own: &own, proc_fds, bell, is_answered: answer_requests(&own, proc_fds), has_armed: false };
        let pause = match self.prefault.open_batch(&own, proc_fds) {
            Progress::Until(_) => return ControlFlow::Continue(()),
            Progress::Later => Duration::from_millis(1),
            // A process without snapshots is woken through the doorbell; it needs no periodic wake-up.
            Progress::Over if own.image.is_mapper() => ROUND,
            Progress::Over => Duration::from_secs(3600),
        };
        if raw::now() >= self.next_round {
            self.make_round(&own, &mut service);
        }
        let until_maps = foreign_maps::search_if_due(&own, &mut || service.attend());
        if service.has_armed {
            self.prefault.begin_anew();
        }
        if service.is_answered {
            self.last_thread.sleep(record.doorbell(), bell, pause.min(until_check).min(until_maps));
        }
        ControlFlow::Continue(())
    }

    /// Checks what the snapshots depend on: devices, files, other processes, the table. Requests are answered in between.
    fn make_round(&mut self, own: &ThisProcess, service: &mut Service<'_>) {
        rounds::check(own);
        service.attend();
        watch::check_all(own);
        service.attend();
        doubt_if_unseen(own);
        own.table.search_by_agent();
        service.attend();
        check_table(own);
        service.attend();
        self.rounds += 1;
        if self.rounds.is_multiple_of(TABLE_ROUNDS) {
            doubt_if_table_is_gone(own);
        }
        self.next_round = raw::now() + ROUND.as_nanos() as u64;
    }
}

/// Answers to what other processes wait for, given in the middle of other work.
struct Service<'a> {
    own: &'a ThisProcess,
    proc_fds: &'a ProcFdCache,
    /// The doorbell when requests were looked for last.
    bell: u32,
    /// Whether all requests are answered.
    is_answered: bool,
    /// Whether mappings were armed on the way.
    has_armed: bool,
}

impl Service<'_> {
    /// Answers what has come; how much of this thread's time that took, nanoseconds.
    fn attend(&mut self) -> u64 {
        let Some(record) = self.own.record() else { return 0 };
        // Acquire: as in `Work::turn`.
        let bell = record.doorbell().load(Ordering::Acquire);
        if bell == self.bell && self.is_answered {
            return 0;
        }
        let begun = foreign_maps::time_used();
        self.bell = bell;
        self.has_armed |= arm::answer_creations(self.own);
        self.is_answered = answer_requests(self.own, self.proc_fds);
        foreign_maps::time_used().saturating_sub(begun)
    }
}

/// Compares the table with what this process knows; the process leaves a table that is damaged.
fn check_table(own: &ThisProcess) {
    match lock::try_hold(*own) {
        Some(mappings) => {
            mappings.release_reserved(&lock::EVERYWHERE);
            own.leaves_after_long_inspection()
        }
        None => own.leaves_damaged(),
    };
}

/// The agent's end in a process that has left the table: no store has to trap any more.
fn leave() -> c_int {
    if membership::has_left() {
        fork::give_up();
    }
    0
}

/// Answers the requests of writers for this process's snapshots. False: one of them is done in part.
fn answer_requests(own: &ThisProcess, proc_fds: &ProcFdCache) -> bool {
    let mut is_answered = true;
    for slot in own.table.writers_used() {
        let Some((request, number)) = slot.pending() else { continue };
        let is_ours = |view: &View| view.meta.owner == own.owner();
        let Some(before) = own.table.view(request.snapshot).filter(is_ours) else { continue };
        let deadline = raw::now() + config().timeout;
        let preserver = LocalPreserver {
            proc_fds,
            open: &watch::open_in_own_table,
            ..preserve_own::local_preserver(own, deadline)
        };
        match preserver.handle(&request) {
            Handled::InPart => is_answered = false,
            served => {
                // Before the answer: until then the process that asks is there, and has a name.
                say_if_dropped(own, &request, &before, slot.lease());
                slot.answer(number, served == Handled::Done);
            }
        }
    }
    is_answered
}

/// The number of the snapshot that was dropped last, 0 for none: its segments end one by one.
static LAST_DROPPED: AtomicU64 = AtomicU64::new(0);

/// Says which process has dropped a snapshot of this one, if that was asked for and done to the segment that was as in `before`.
/// The program gets SIGBUS from then on, and its own log is where the reason is looked for.
fn say_if_dropped(own: &ThisProcess, request: &Request, before: &View, asking: Lease) {
    let is_asked = request.task == Task::Break && Cause::from_code(request.first) == Cause::Dropped;
    let is_done = |now: View| now.head.incarnation() == request.incarnation && now.head.cause() == Some(Cause::Dropped);
    let was_held = before.head.incarnation() == request.incarnation && before.head.wants_pages();
    if !is_asked || !was_held || !own.table.view(request.snapshot).is_some_and(is_done) {
        return;
    }
    // Relaxed: only this thread has it.
    if LAST_DROPPED.swap(before.meta.mapping, Ordering::Relaxed) == before.meta.mapping {
        return;
    }
    let by = own.table.owner(asking.process()).map_or(0, |(_, _, id)| id.pid());
    let (program, unknown) = (Program(by), Cause::Dropped.subject());
    let subject: &dyn Display = if by == 0 { &unknown } else { &program };
    say!(
        Level::Warn,
        file = before.meta.origin, process = by;
        "{}'s snapshot of {} is broken: {}",
        Program(raw::own_pid()),
        before.meta.origin,
        Cause::Dropped.of(subject).in_full()
    );
}

/// Makes all snapshots doubtful while the table lists a process as unseen: such a process can do no more than have itself listed.
fn doubt_if_unseen(own: &ThisProcess) {
    let doubted = own.table.doubt_if_unseen();
    if doubted > 0 {
        say!(Level::Warn, "{doubted} snapshots are doubtful from now on: {}", own.table.why(Cause::Unseen));
    }
}

/// Makes this process's snapshots doubtful if the table's file was deleted or replaced (systemd's RemoveIPC does so): processes
/// that start now do not find the snapshots.
fn doubt_if_table_is_gone(own: &ThisProcess) {
    if membership::is_table_current() {
        return;
    }
    let mut doubted = 0;
    own.table.over_splits(|walk| {
        for (index, view) in walk.owned_by(own.owner()) {
            let is_exact = view.head.state() == State::Exact;
            doubted += u32::from(is_exact && table::doubt(own.table, index, view.head.incarnation(), Cause::TableGone));
        }
    });
    if doubted > 0 {
        say!(
            Level::Error,
            "process {}: its {doubted} snapshots are doubtful from now on: {}",
            raw::own_pid(),
            Cause::TableGone.of(format_args!("the table in {}", Bytes(config().directory.to_bytes()))).in_full()
        );
    }
}
