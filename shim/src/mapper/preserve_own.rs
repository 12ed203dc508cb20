//! Preserving in the process's own snapshots, where their pages are about to be held by reference: a pipe or a socket that holds
//! the origin's page itself would show newer bytes later.

use core::ops::Range;

use snapshim::PAGE;
use snapshim::preserve::local::LocalPreserver;
use snapshim::protocol::writer_slot::{Request, Task};

use crate::address_space::freeze::Freezer;
use crate::address_space::lock::{Mappings, each_segment, overlap};
use crate::process::identity::{self, ThisProcess};

/// Gives the snapshots in a range of addresses their own copies of the pages.
pub fn preserve_range(address: u64, length: u64) {
    let start = address / PAGE * PAGE;
    let end = address.saturating_add(length).checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
    let Some(own) = identity::attached().filter(|own| own.image.is_mapper()) else { return };
    each_segment(&own, &(start..end), |index, view| {
        let inside = overlap(&view, &(start..end));
        let first = view.extent.first + (inside.start - view.extent.address) / PAGE;
        let count = (inside.end - inside.start) / PAGE;
        let request =
            Request { snapshot: index, incarnation: view.head.incarnation(), task: Task::Preserve, first, count };
        let deadline = Mappings::deadline();
        let means = local_preserver(&own, deadline);
        means.handle_whole(&request);
    });
}

/// Moves the snapshots in a range of addresses off their files, as before a truncation. False: one of them cannot be moved.
pub fn move_off(range: &Range<u64>) -> bool {
    let Some(own) = identity::attached().filter(|own| own.image.is_mapper()) else { return true };
    let mut is_done = true;
    each_segment(&own, range, |index, view| {
        let first = view.extent.first + (overlap(&view, range).start - view.extent.address) / PAGE;
        let is_left = !view.is_relocated() && view.head.wants_pages() && first < view.covered_pages().end;
        let request =
            Request { snapshot: index, incarnation: view.head.incarnation(), task: Task::Relocate, first, count: 0 };
        is_done &= !is_left || local_preserver(&own, Mappings::deadline()).handle_whole(&request);
    });
    is_done
}

/// What the calling process preserves with in its own snapshots.
pub fn local_preserver(own: &ThisProcess, deadline: u64) -> LocalPreserver<'static, Freezer> {
    let (proc_fds, own_ranges, headroom) = (identity::proc_fds(), identity::own_ranges(), identity::headroom());
    LocalPreserver {
        table: own.table,
        own: own.caller(),
        proc_fds,
        own_ranges,
        store_barrier: &Freezer,
        headroom,
        open: &|_| None,
        deadline,
    }
}
