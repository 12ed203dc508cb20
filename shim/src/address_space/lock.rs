//! What the mapper does to its own mapping: munmap, mremap, mprotect, madvise and MAP_FIXED over snapshots.
//!
//! One thread of the process at a time, signals blocked, the generation of every piece concerned odd. Pieces are cut so that each
//! stays contiguous and of one protection.

use core::ops::Range;

use parking_lot::{Mutex, MutexGuard};
use snapshim::preserve::unshare;
use snapshim::protocol::snapshot::{Extent, View};
use snapshim::sys::signal_block::SignalsBlocked;
use snapshim::sys::wait::Patience;
use snapshim::table::walk::Walk;

use crate::process::identity::{self, Own};

/// Nobody is ever parked on it, so a forked child gives back what its parent's thread took.
static LOCK: Mutex<()> = Mutex::new(());

/// The process's mappings, held still.
pub struct Mappings {
    pub own: Own,
    _lock: MutexGuard<'static, ()>,
    _signals: SignalsBlocked,
}

/// The snapshots that a range of addresses touches; `None` if there are none, which costs next to nothing to find out.
#[inline]
pub fn touching(range: &Range<u64>) -> Option<Mappings> {
    let own = identity::attached()?;
    if !own.identity.is_mapper() || range.is_empty() {
        return None;
    }
    touching_any(own, range)
}

#[cold]
fn touching_any(own: Own, range: &Range<u64>) -> Option<Mappings> {
    if !identity::holdings().touches(range) || own.leaves_damaged() {
        return None;
    }
    Some(hold(own))
}

/// Holds the mappings of this process still.
pub fn hold(own: Own) -> Mappings {
    let signals = SignalsBlocked::new();
    // Never `lock`: to park, parking_lot allocates, and a fork may hold the allocator.
    let mut patience = Patience::default();
    loop {
        if let Some(guard) = LOCK.try_lock() {
            return Mappings { own, _lock: guard, _signals: signals };
        }
        patience.pause();
    }
}

/// The same if nobody else holds them; for the agent, which waits for no thread of the application.
pub fn try_hold(own: Own) -> Option<Mappings> {
    let signals = SignalsBlocked::new();
    Some(Mappings { own, _lock: LOCK.try_lock()?, _signals: signals })
}

/// The pieces of this process that a range of addresses touches, as far as `walk` meets them. What is not held at its addresses is
/// none of them, whatever the table says; where all are meant, that costs too much to ask of each.
pub fn pieces<'a>(own: &'a Own, walk: Walk<'a>, range: &Range<u64>) -> impl Iterator<Item = (u32, View)> + use<'a> {
    let range = range.clone();
    walk.owned_by(own.owner()).filter(move |(index, view)| {
        view.extent.address < range.end
            && range.start < view.extent.end()
            && (range == EVERYWHERE || is_held(own, *index, view))
    })
}

/// A piece that a range of addresses touches and that `is_wanted`.
pub fn find_piece(own: &Own, range: &Range<u64>, mut is_wanted: impl FnMut(u32, &View) -> bool) -> Option<(u32, View)> {
    own.table.find_over_splits(|walk| pieces(own, walk, range).find(|(index, view)| is_wanted(*index, view)))
}

/// Where the first piece that a range of addresses touches lies.
pub fn first_piece(own: &Own, range: &Range<u64>) -> Option<Extent> {
    own.table
        .over_splits(|walk| pieces(own, walk, range).map(|(_, view)| view.extent).min_by_key(|extent| extent.address))
}

/// Does `act` with every piece that a range of addresses touches, with some of them more than once.
pub fn each_piece(own: &Own, range: &Range<u64>, mut act: impl FnMut(u32, View)) {
    own.table.over_splits(|walk| pieces(own, walk, range).for_each(|(index, view)| act(index, view)));
}

/// All addresses.
pub const EVERYWHERE: Range<u64> = 0..u64::MAX;

/// Whether a piece lies where this process mapped a snapshot.
pub fn is_held(own: &Own, index: u32, view: &View) -> bool {
    let is_held = identity::holdings().contains(&(view.extent.address..view.extent.end()));
    // Another thread may be taking it away, or have done so meanwhile.
    let is_there = || !view.head.is_changing() && own.table.snapshot(index).is_some_and(|it| it.is_still(view.head));
    if !is_held && is_there() {
        own.table.declare_damaged();
    }
    is_held
}

/// Whether this process has any snapshot.
#[inline]
pub fn has_any() -> bool {
    identity::attached().is_some_and(|own| own.identity.is_mapper())
}

/// Whether a range of addresses may touch one.
#[inline]
pub fn may_touch(range: &Range<u64>) -> bool {
    !range.is_empty() && has_any() && identity::holdings().touches(range)
}

/// The first part of a range of addresses that is a snapshot which the program may store into, and which may yet be moved off its
/// file.
pub fn first_that_may_move(range: &Range<u64>) -> Option<Range<u64>> {
    let own = identity::attached().filter(|_| may_touch(range))?;
    own.table.over_splits(|walk| {
        let movable = pieces(&own, walk, range).filter(|(_, view)| may_move(view));
        movable.map(|(_, view)| overlap(&view, range)).min_by_key(|part| part.start)
    })
}

fn may_move(view: &View) -> bool {
    unshare::is_writable(view.extent.protection) && view.head.wants_pages() && !view.is_relocated()
}

/// Whether all of a range of addresses is one such part, none of it behind the end of the file.
pub fn may_move_whole(range: &Range<u64>) -> bool {
    let Some(own) = identity::attached() else { return false };
    let is_whole = |view: &View| {
        may_move(view) && view.extent.address <= range.start && range.end <= view.address_of(view.kept().end)
    };
    find_piece(&own, range, |_, view| is_whole(view)).is_some()
}

/// The part of a piece that lies in a range of addresses.
pub fn overlap(view: &View, range: &Range<u64>) -> Range<u64> {
    range.start.max(view.extent.address)..range.end.min(view.extent.end())
}
