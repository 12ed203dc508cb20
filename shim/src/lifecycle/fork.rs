//! fork(2): a child inherits its parent's snapshots, exactly.
//!
//! For a mapper, a fork is a creation: the gate of every origin is closed, the writers under way are waited for, the child's
//! records are published with the parent's preserved bits, and only then the address space is copied.

use libc::pid_t;
use rustix::io::Errno;
use snapshim::sys::{procfs, raw};

use super::fork_in_handler::Heir;
use super::inherit::{Inheritance, Prepared};
use crate::address_space::lock::{self, Mappings};
use crate::agent::start;
use crate::base::errno::set_errno;
use crate::origins::{claim, foreign_maps, watch};
use crate::process::identity::{self, Own};
use crate::process::log::{Level, say};
use crate::process::{lending, membership, thread};
use crate::shared::fork as shared_fork;

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
    let leaves = flags & libc::CLONE_NEWPID as u64 != 0 || !procfs::are_children_in_own_namespace();
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
        shared_fork::join_in_child(&start::start);
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
            start::start_for_snapshots(&child);
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
