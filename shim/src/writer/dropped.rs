//! Snapshots that a person ends by hand (`snapshim drop`): they fault from then on, and no writer preserves for them any more.
//!
//! It is done as a write that cannot preserve breaks a snapshot: the mapper's own process puts faulting memory in its place before
//! the state changes. So no moment comes at which the mapper would read newer bytes.

use rustix::io::Errno;
use snapshim::protocol::cause::Cause;
use snapshim::protocol::snapshot::View;

use super::slot::{pusher, seat_for};
use crate::process::log::{Level, Program, say};

/// Ends the snapshots with the number `mapping`: in the process that took it, and in those that have inherited it. How many
/// segments these were.
///
/// Errors: the errno, and the process that is its reason. ENOENT: there is none, or no more. EOPNOTSUPP: it is a guarded mapping,
/// which is no snapshot. ETIMEDOUT: its process does not answer; it stays as it was. ENOSPC: the calling thread cannot ask.
pub fn drop_mapping(mapping: u64) -> Result<u32, (Errno, u32)> {
    let seat = seat_for(&|| ()).map_err(|_| (Errno::NOSPC, 0))?;
    let (thread, (_, frame)) = (&seat.thread, seat.frames());
    let (table, pusher) = (thread.own.table, pusher(thread, frame));
    let is_wanted = |view: &View| view.meta.mapping == mapping && view.head.wants_pages();
    let mut count = 0;
    let failed = table.find_over_splits(|walk| {
        walk.live().filter(|(_, view)| is_wanted(view)).find_map(|(index, view)| {
            let pid = table.owner(view.meta.owner).map_or(0, |(_, _, id)| id.pid());
            if view.is_guarded() {
                return Some((Errno::OPNOTSUPP, pid));
            }
            if !pusher.break_mapping(index, &view, Cause::Dropped) {
                return Some((Errno::TIMEDOUT, pid));
            }
            say!(
                Level::Info,
                file = view.meta.origin, process = pid;
                "{}'s snapshot of {} ends: {}",
                Program(pid),
                view.meta.origin,
                Cause::Dropped.in_full()
            );
            count += 1;
            None
        })
    });
    frame.reset();
    match (failed, count) {
        (Some(failed), _) => Err(failed),
        (None, 0) => Err((Errno::NOENT, 0)),
        (None, count) => Ok(count),
    }
}
