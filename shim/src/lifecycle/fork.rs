//! fork(2): a child inherits its parent's snapshots, exactly.
//!
//! For a mapper, a fork is a creation: the gate of every origin closes, the writers under way end, the child's records are
//! published with the parent's preserved bits. Only then is the address space copied.

use libc::pid_t;
use rustix::io::Errno;
use snapshim::cooperate::remembered;
use snapshim::sys::signal_block::SignalsBlocked;
use snapshim::sys::{permission, procfs, raw};

use super::fork_in_handler::ChildCall;
use super::inherit::{Closed, Inheritance, Prepared};
use crate::address_space::lock::{self, Mappings};
use crate::agent::start;
use crate::interpose::answer::fail;
use crate::origins::{claim, foreign_maps, watch};
use crate::process::identity::{self, ThisProcess};
use crate::process::log::{Level, say};
use crate::process::{membership, shared_mm, thread};
use crate::shared::{fork as shared_fork, list};
use crate::snapshot::instant::ForkGoesFirst;

/// Makes `real`, which returns twice: in this process, and in a child that has a copy of its memory. `flags` are those of clone(2).
pub fn forked(flags: u64, real: &dyn Fn() -> pid_t) -> pid_t {
    if permission::is_confined() {
        return fork_confined(real);
    }
    match identity::attached() {
        None => {
            let pid = real();
            if pid == 0 {
                shared_mm::note_pid();
                membership::join_with_unseen_mapping();
                membership::join_with_ring();
            }
            pid
        }
        Some(own) => fork_attached(own, flags, real),
    }
}

/// The same in a process that is confined. It has no snapshots, and its child takes no part.
#[cold]
fn fork_confined(real: &dyn Fn() -> pid_t) -> pid_t {
    // The child of a handler goes on with the call that the handler interrupted.
    let goes_on = thread::is_in_call_without_slot() || thread::known().is_some_and(|thread| thread.is_inside());
    let pid = real();
    if pid == 0 {
        remembered::forget();
        shared_mm::note_pid();
        // The child may also store through an inherited mapping without a call.
        if goes_on || list::was_any() {
            let _ = membership::join();
        }
        membership::join_with_ring();
    }
    pid
}

/// The same in a process that takes part in the table. The lock is taken even without snapshots, because another thread may be
/// making the first.
fn fork_attached(own: ThisProcess, flags: u64, real: &dyn Fn() -> pid_t) -> pid_t {
    let _signals = SignalsBlocked::new();
    let leaves = flags & libc::CLONE_NEWPID as u64 != 0 || !procfs::are_children_in_own_namespace();
    let (mappings, closed) = hold(own, hindrance(flags, leaves));
    // A child in another pid namespace takes no part in the table, so no process waits for its calls.
    let child_call = if leaves { Ok(None) } else { ChildCall::prepare(&mappings) };
    let child_call = match child_call {
        Ok(child_call) => child_call,
        Err(error) => return fail(error.raw_os_error()),
    };
    let pid = match closed {
        Some(closed) => fork_mapper(&mappings, closed, real),
        None => shared_fork::fork(real),
    };
    match (pid, child_call) {
        (0, Some(child_call)) => {
            shared_mm::note_pid();
            child_call.resume_in_child();
        }
        (pid, Some(child_call)) => child_call.hand_to_child(pid),
        (_, None) => {}
    }
    if pid == 0 {
        shared_mm::note_pid();
        ForkGoesFirst::begin_anew_in_child();
        if leaves {
            membership::refuse_in_child(&own);
        }
        shared_fork::join_in_child(&start::be_ready);
        membership::join_with_unseen_mapping();
        membership::join_with_ring();
    }
    pid
}

/// The gate of a mapper's fork, or why it is not closed.
type MaybeClosed = Result<Closed, Errno>;

/// Takes the lock over the mappings; for a mapper, behind a gate that is closed for the files of all its snapshots.
fn hold(own: ThisProcess, hindrance: Option<Errno>) -> (Mappings, Option<MaybeClosed>) {
    let is_mapper = || own.image.is_mapper() && !own.leaves_damaged();
    let mut goes_first = None;
    loop {
        let closed = is_mapper().then(|| hindrance.map_or_else(thread::current, Err).and_then(Closed::new));
        let mappings = lock::hold(own);
        match closed {
            Some(closed) if !is_mapper() => drop(closed),
            Some(Ok(closed)) if !closed.is_for_all(&mappings) => drop(closed),
            None if is_mapper() => {}
            closed => return (mappings, closed),
        }
        drop(mappings);
        // Creations that are under way end, and no new one begins before this fork has been made.
        goes_first.get_or_insert_with(ForkGoesFirst::new);
    }
}

/// What keeps the child from inheriting the snapshots.
fn hindrance(flags: u64, leaves: bool) -> Option<Errno> {
    if leaves {
        // The child's pid means nothing outside of its own namespace.
        Some(Errno::XDEV)
    } else if flags & libc::CLONE_VFORK as u64 != 0 {
        // The parent sleeps until the child has ended, so it cannot commit in time.
        Some(Errno::DEADLK)
    } else if identity::is_vfork_child() {
        // A vfork child cannot hand on the records of its parent's process.
        Some(Errno::CHILD)
    } else {
        None
    }
}

#[cold]
fn fork_mapper(mappings: &Mappings, closed: MaybeClosed, real: &dyn Fn() -> pid_t) -> pid_t {
    let prepared = closed.and_then(|closed| Prepared::new(mappings, closed));
    // Listed while the gate is closed, so that the list is what the child inherits.
    let inheritance = Inheritance::list(mappings);
    let pid = shared_fork::fork(real);
    if pid == 0 {
        shared_mm::note_pid();
        let is_exact = prepared.is_ok_and(|prepared| prepared.complete_fork());
        if is_exact {
            inheritance.be_held();
        } else {
            inheritance.break_all();
        }
        // Before the child's agent starts, which uses it.
        foreign_maps::begin_anew_in_child();
        if let Some(child) = identity::attached() {
            if !is_exact {
                child.table.retire_all_of(child.owner());
            }
            start::start_for_snapshots(&child);
        }
        claim::retain_inherited();
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
