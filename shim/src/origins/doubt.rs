//! Snapshots of one origin: found in the table, and marked doubtful.

use snapshim::protocol::cause::Cause;
use snapshim::protocol::origin::Origin;
use snapshim::protocol::snapshot::State;
use snapshim::table;
use snapshim::table::walk::Walk;

use crate::process::identity::ThisProcess;

/// Whether this process has an exact snapshot of `origin`.
pub fn has_exact_of(own: &ThisProcess, origin: Origin) -> bool {
    own.table.find_over_splits(|walk| exact_of(own, walk, origin).next()).is_some()
}

/// Marks this process's snapshots of `origin` doubtful because of `cause`; how many segments were exact before.
pub fn doubt_snapshots_of(own: &ThisProcess, origin: Origin, cause: Cause) -> usize {
    let mut doubted = 0;
    own.table.over_splits(|walk| {
        let exact = exact_of(own, walk, origin);
        doubted += exact.filter(|(index, incarnation)| table::doubt(own.table, *index, *incarnation, cause)).count();
    });
    doubted
}

/// The segments of this process's exact snapshots of `origin`: their indices and incarnations.
fn exact_of<'a>(own: &ThisProcess, walk: Walk<'a>, origin: Origin) -> impl Iterator<Item = (u32, u32)> + use<'a> {
    let owner = own.owner();
    walk.of(origin).filter_map(move |(index, view)| {
        let is_exact = view.meta.owner == owner && view.head.state() == State::Exact;
        is_exact.then_some((index, view.head.incarnation()))
    })
}

/// A living process with a snapshot of `origin`.
pub fn mapper_of(own: &ThisProcess, origin: Origin) -> Option<u32> {
    own.table.find_over_splits(|walk| {
        let owners = walk.of(origin).map(|(_, view)| view.meta.owner);
        let mut living = owners.filter(|owner| !own.table.reap_if_dead(*owner));
        living.find_map(|owner| own.table.owner(owner)).map(|(_, _, id)| id.pid())
    })
}
