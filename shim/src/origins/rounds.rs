//! A round of the agent: what has become of the devices, and of the aliases, that this process has snapshots of.

use snapshim::protocol::origin::Origin;
use snapshim::protocol::snapshot::State;
use snapshim::sys::raw;

use super::device::user_of;
use super::doubt::doubt_snapshots_of;
use super::{alias_users, claim};
use crate::process::identity::Own;
use crate::process::log::{Level, Named, Program, say};

/// A round of the agent: what has become of the devices that this process has snapshots of.
pub fn look(own: &Own) {
    claim::look(own);
    let mut looked_at = None;
    // A single walk: the next round meets what this one misses.
    for (_, view) in own.table.walk_once().owned_by(own.owner()) {
        let origin = view.identity.origin;
        let is_worth_it = origin.is_block_device() && view.head.state() == State::Exact && looked_at != Some(origin);
        if is_worth_it {
            looked_at = Some(origin);
            look_at(own, origin);
        }
    }
    alias_users::look_at_files(own);
}

fn look_at(own: &Own, origin: Origin) {
    let Some(user) = user_of(origin.device()) else { return alias_users::look_at(own, origin) };
    if doubt_snapshots_of(own, origin) > 0 {
        say!(
            Level::Warn,
            "snapshot of {} in {} is doubtful from now on: {user} it, so the kernel changes it without a system call; unmount or detach \
             it and take the snapshot again, with SNAPSHIM_CLAIM=1 to keep mounts away",
            Named(origin),
            Program(raw::own_pid())
        );
    }
}
