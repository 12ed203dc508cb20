//! A round of the agent: whether the devices that this process has snapshots of are used by the kernel now, whether aliases are
//! written, and whether a ring of io_uring may write an origin.
//!
//! A file of its own, so that devices, aliases, claims and rings do not import one another.

use snapshim::protocol::cause::Cause;
use snapshim::protocol::origin::Origin;
use snapshim::protocol::snapshot::State;
use snapshim::sys::raw;

use super::device::user_of;
use super::doubt::doubt_snapshots_of;
use super::{alias_users, claim, ring_users};
use crate::process::identity::ThisProcess;
use crate::process::log::{Level, Program, say};

/// Checks the claims, the devices, the rings and the aliases.
pub fn check(own: &ThisProcess) {
    claim::check(own);
    let mut looked_at = None;
    let has_rings = ring_users::are_any(own);
    // A single walk may miss a segment that is split off meanwhile. The next round meets it.
    for (_, view) in own.table.walk_once().owned_by(own.owner()) {
        let origin = view.meta.origin;
        if view.head.state() != State::Exact || looked_at == Some(origin) {
            continue;
        }
        looked_at = Some(origin);
        if has_rings {
            ring_users::doubt_if_written(own, origin, "from now on");
        }
        if origin.is_block_device() {
            check_origin(own, origin);
        }
    }
    alias_users::check_files(own);
}

fn check_origin(own: &ThisProcess, origin: Origin) {
    let Some(user) = user_of(origin.device()) else { return alias_users::check(own, origin) };
    if doubt_snapshots_of(own, origin, Cause::DeviceInUse) > 0 {
        say!(
            Level::Warn,
            file = origin;
            "snapshot of {} in {} is doubtful from now on: {}",
            origin,
            Program(raw::own_pid()),
            Cause::DeviceInUse.of(user).in_full()
        );
    }
}
