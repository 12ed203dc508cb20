//! The instant of a snapshot, or of a fork: the gate closes, the writers under way end, shared mappings are armed, and the record
//! is committed.
//!
//! Arming follows draining: a writer that passed the gate earlier may still open a mapping again that was armed before it ended.
//! A wait that ends without success says in the log which process did not answer.

use core::fmt::Display;
use core::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;
use snapshim::cooperate::arming::Origins;
use snapshim::cooperate::drain::Straggler;
use snapshim::protocol::cause::Cause;
use snapshim::protocol::creation::{Aborted, Scope, Ticket};
use snapshim::protocol::origin::{Origin, Target};
use snapshim::protocol::process::Process;
use snapshim::protocol::unseen::UnseenCount;
use snapshim::sys::wait::{Backoff, Deadline};
use snapshim::sys::{futex, raw};
use snapshim::table::Table;

use super::delays::Delaying;
use crate::base::config::config;
use crate::process::log::{Level, Program, say};
use crate::process::membership;
use crate::process::thread::Thread;
use crate::shared::arm;

/// The refusal of a creation that was aborted.
pub fn too_late(what: &dyn Display) -> Errno {
    say!(
        Level::Warn,
        file = what;
        "snapshot of {what} refused: it took longer than {} ms and a writer that waited ended it; set SNAPSHIM_TIMEOUT_MS higher",
        config().timeout / 1_000_000
    );
    Errno::TIMEDOUT
}

/// Closes the gate: from here on no change of what `scope` covers begins.
pub fn begin(thread: &Thread, scope: Scope, what: &dyn Display) -> Result<Ticket, Errno> {
    thread.own.table.begin_creation(thread.index, scope, config().timeout).map_err(|Straggler { pid, .. }| {
        say!(
            Level::Warn,
            "snapshot of {what} refused: {} was making another one, and so were others before it, for {} ms; set \
             SNAPSHIM_TIMEOUT_MS higher",
            Program(pid),
            2 * config().timeout / 1_000_000
        );
        Errno::TIMEDOUT
    })
}

/// Forks of this process that have to drain again, because a snapshot was published beside them.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// Such a fork, which new creations of this process wait for: a program that makes snapshots all the time forks nevertheless.
pub struct ForkGoesFirst(());

impl ForkGoesFirst {
    pub fn new() -> Self {
        FORKS.fetch_add(1, Ordering::Relaxed);
        Self(())
    }

    /// In a forked child, which has none of its parent's threads.
    pub fn begin_anew_in_child() {
        FORKS.store(0, Ordering::Relaxed);
    }
}

impl Drop for ForkGoesFirst {
    fn drop(&mut self) {
        // In a child the count was set to zero.
        let _ = FORKS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1));
    }
}

/// Lets forks go first that have to drain again, for as long as a creation may take.
pub fn let_forks_go_first() {
    let (mut deadline, mut backoff) = (Deadline::at(raw::now() + config().timeout), Backoff::default());
    while FORKS.load(Ordering::Relaxed) != 0 && !deadline.expired_twice(&backoff) {
        backoff.pause();
    }
}

/// Waits until the writers under way have ended.
pub fn drained(thread: &Thread, scope: Scope, what: &dyn Display) -> Result<(), Errno> {
    let deadline = raw::now() + config().timeout;
    let drained = thread.own.table.drain(scope, thread.index, deadline);
    drained.map_err(|straggler| refused(what, straggler, "if it is stopped, continue it"))
}

/// Arms the shared mappings of `origins` in every process that could store through one, the calling process included. `maps_none`:
/// whether a process, whose record says that it may have some, certainly has none.
pub fn armed(
    thread: &Thread,
    origins: &Origins,
    what: &dyn Display,
    maps_none: &dyn Fn(&Process, u32) -> bool,
    ticket: &mut Ticket,
) -> Result<(), Errno> {
    let own = &thread.own;
    let creations = own.table.gate().creations;
    *ticket = creations.start_arming(*ticket).map_err(|Aborted| too_late(what))?;
    let arming = *ticket;
    let covers = |origin| creations.covers(arming, Target::Origin(origin), own.table) == Some(true);
    // What is mapped while the gate is open is described before it closes.
    let is_shared = || own.record().is_none_or(|record| origins.may_be_shared_by(record));
    arm::arm(covers, || is_shared() && creations.is(arming)).inspect_err(|error| {
        say!(
            Level::Error,
            file = what;
            "snapshot of {what} refused: this process has it mapped shared and cannot write-protect that mapping (errno {}); raise \
             vm.max_map_count, or unmap it",
            error.raw_os_error()
        );
    })?;
    let deadline = raw::now() + config().timeout;
    let armed = own.table.arm_others(origins, *ticket, own.id, maps_none, deadline);
    armed.map_err(|straggler| refused(what, straggler, "if it is stopped, continue it"))
}

/// Waits for the asynchronous writes under way that bypass the page cache. A fork needs no such wait: for the inherited snapshots
/// these writes have preserved already.
pub fn landed(thread: &Thread, origin: Origin) -> Result<(), Errno> {
    let deadline = raw::now() + config().timeout;
    let landed = thread.own.table.await_queues(origin, deadline);
    landed.map_err(|straggler| refused(&origin, straggler, "if it cannot be looked at, run both as the same user"))
}

/// The refusal of a creation that waited for another process in vain.
#[cold]
fn refused(what: &dyn Display, straggler: Straggler, remedy: &str) -> Errno {
    say!(
        Level::Warn,
        file = what, process = straggler.pid;
        "snapshot of {what} refused: {}, longer than {} ms; {remedy}, or set SNAPSHIM_TIMEOUT_MS higher",
        Delaying(straggler),
        config().timeout / 1_000_000
    );
    Errno::TIMEDOUT
}

/// Commits the creation and opens the gate. False: a waiting process had aborted it.
pub fn commit(thread: &Thread, ticket: Ticket) -> bool {
    let creations = thread.own.table.gate().creations;
    let committed = creations.commit(ticket);
    if committed {
        creations.release(ticket);
    }
    futex::wake(creations.futex(ticket));
    committed
}

/// Before the instant: notes which processes change files without taking part in the table.
pub fn observe_unseen(table: &Table) -> UnseenCount {
    let unseen = table.unseen();
    if unseen.was_ever_up() {
        membership::lower_unseen_that_are_over(table);
    }
    unseen.observe()
}

/// After publication: calls `doubt`, which makes the snapshot doubtful, if such a process may have changed the file since
/// `before`, or may still do so.
pub fn doubt_if_unseen(table: &Table, before: UnseenCount, what: &dyn Display, doubt: impl FnOnce() -> bool) {
    let after = table.unseen().observe_after_publishing();
    if !before.vouches_until(&after) && doubt() {
        log_doubted(table, what);
    }
}

#[cold]
fn log_doubted(table: &Table, what: &dyn Display) {
    say!(
        Level::Warn,
        file = what;
        "snapshot of {what} is doubtful from the start: {}",
        table.why(Cause::Unseen)
    );
}
