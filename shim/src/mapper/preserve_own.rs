//! Preserving in the process's own snapshots.

use snapshim::PAGE;
use snapshim::preserve::local::Means;
use snapshim::protocol::writer_slot::{Request, Task};

use crate::address_space::freeze::Trap;
use crate::address_space::lock::{Mappings, each_piece, overlap};
use crate::process::identity::{self, Own};

/// Gives the snapshots in a range of addresses their own copies, because somebody is about to hold on to their pages.
pub fn keep(address: u64, length: u64) {
    let start = address / PAGE * PAGE;
    let end = address.saturating_add(length).checked_next_multiple_of(PAGE).unwrap_or(u64::MAX);
    let Some(own) = identity::attached().filter(|own| own.identity.is_mapper()) else { return };
    each_piece(&own, &(start..end), |index, view| {
        let inside = overlap(&view, &(start..end));
        let first = view.extent.first + (inside.start - view.extent.address) / PAGE;
        let count = (inside.end - inside.start) / PAGE;
        let request = Request { snapshot: index, life: view.head.life(), task: Task::Preserve, first, count };
        let deadline = Mappings::deadline();
        let means = means(&own, deadline);
        means.serve_whole(&request);
    });
}

/// What this process may use to preserve in its own snapshots.
pub fn means(own: &Own, deadline: u64) -> Means<'static, Trap> {
    let (kept, holdings, headroom) = (identity::kept(), identity::holdings(), identity::headroom());
    Means { table: own.table, own: own.caller(), kept, holdings, stores: &Trap, headroom, open: &|_| None, deadline }
}
