//! What becomes of shared mappings when the process forks, or leaves the table.

use libc::pid_t;
use snapshim::protocol::origin::Origin;

use super::protection::describe;
use crate::process::identity::ThisProcess;
use crate::process::log::{Level, say};
use crate::process::membership;
use crate::writer::announced::{Announced, announced};

/// For a process that has left the table: opens its mappings and forgets them.
pub fn give_up() {
    let mut list = super::list::write();
    for entry in list.entries().iter().filter(|entry| entry.is_writable()) {
        let _ = super::fault::open_whole(entry);
    }
    list.clear();
}

/// fork(2) while the list is held, so that the child gets mappings and a list that agree. Signals are blocked.
pub fn fork(real: &dyn Fn() -> pid_t) -> pid_t {
    let mut list = super::list::write();
    let pid = real();
    if pid == 0 {
        list.retain_inherited();
    }
    pid
}

/// In a forked child, before it can store: describes its mappings in the table, and arms those of whose origin a snapshot exists.
///
/// A creation that did not know of the child has committed by then, and the child has stored nothing since its instant.
/// `be_ready` sees to it that they can be armed for later snapshots.
pub fn join_in_child(be_ready: &dyn Fn(&ThisProcess, Origin)) {
    let mut from = 0;
    while let Some((at, origin)) = next_origin(from) {
        from = at + 1;
        let Ok(own) = membership::join() else { return };
        be_ready(&own, origin);
        let arm = |announced: Option<&Announced<'_>>| {
            describe(&own, &super::list::read());
            let is_armed = !announced.is_some_and(Announced::is_in_use)
                || super::fault::install() && super::arm::arm(|other| other == origin, || true).is_ok();
            if !is_armed {
                say!(
                    Level::Error,
                    file = origin;
                    "process {} was forked with a shared mapping of {} that cannot be write-protected: its stores are NOT held \
                     back from others' snapshots; raise vm.max_map_count",
                    snapshim::sys::raw::own_pid(),
                    origin
                );
            }
        };
        let _ = announced(origin, arm);
    }
}

/// The first entry of the list, from this index on, whose origin no entry before it has. A function, so that the list is not held
/// while a mapping is armed.
fn next_origin(from: usize) -> Option<(usize, Origin)> {
    let list = super::list::read();
    let entries = list.entries();
    let is_first = |at: &usize| entries[..*at].iter().rev().all(|entry| entry.origin != entries[*at].origin);
    (from..entries.len()).find(is_first).map(|at| (at, entries[at].origin))
}
