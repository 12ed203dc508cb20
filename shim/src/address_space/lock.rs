//! The lock over the process's own snapshot mappings, and what can be asked of them.
//!
//! A thread that holds the lock has its signals blocked: a handler that came in between would wait for the lock for ever. It waits
//! for no creation and for no call of a writer, but for one that stores bytes into the very range that is changed, for
//! `SNAPSHIM_TIMEOUT_MS` at most: a creation takes the lock behind its gate, once the writers under way have ended.

use core::cell::Cell;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};
use snapshim::preserve::unshare;
use snapshim::protocol::snapshot::View;
use snapshim::sys::signal_block::SignalsBlocked;
use snapshim::sys::wait::until_some;
use snapshim::table::walk::Walk;

use super::reserved;
use crate::base::config::config;
use crate::process::identity::{self, ThisProcess};

/// No thread ever parks on it: a forked child releases what its parent's thread took, and finds no queue of threads that it does
/// not have.
static LOCK: Mutex<()> = Mutex::new(());

/// The lock over the process's mappings, held. Signals are blocked meanwhile.
pub struct Mappings {
    pub own: ThisProcess,
    /// How long a change of the mappings waits for writers that store bytes into them, nanoseconds.
    pub patience: Cell<u64>,
    /// From where to where segments may have been made odd; empty where the end is not behind the start.
    pub begun: Cell<(u64, u64)>,
    _lock: MutexGuard<'static, ()>,
    _signals: SignalsBlocked,
}

/// No segment has been made odd.
pub const NOTHING: (u64, u64) = (u64::MAX, 0);

/// Holds the mappings if a range of addresses touches a snapshot, or addresses that one has left reserved; `None` if it touches
/// none, which costs next to nothing to find out.
#[inline]
pub fn touching(range: &Range<u64>) -> Option<Mappings> {
    let own = identity::attached()?;
    if !own.image.is_mapper() || range.is_empty() {
        return None;
    }
    touching_any(own, range)
}

#[cold]
fn touching_any(own: ThisProcess, range: &Range<u64>) -> Option<Mappings> {
    let is_touched = identity::own_ranges().touches(range) || reserved::touching(&own, range).next().is_some();
    if !is_touched || own.leaves_damaged() {
        return None;
    }
    Some(hold(own))
}

/// Takes the lock over the process's mappings.
pub fn hold(own: ThisProcess) -> Mappings {
    let signals = SignalsBlocked::new();
    // Never `lock`: parking_lot allocates in order to park, and a thread that forks may hold the allocator's locks.
    Mappings::new(own, until_some(|| LOCK.try_lock()), signals)
}

/// The same if no other thread holds them; for the agent, which waits for no thread of the application.
pub fn try_hold(own: ThisProcess) -> Option<Mappings> {
    let signals = SignalsBlocked::new();
    Some(Mappings::new(own, LOCK.try_lock()?, signals))
}

/// How many snapshots this process has published, ever. It moves only while the lock is held.
static PUBLISHED: AtomicU64 = AtomicU64::new(0);

/// How many snapshots this process has published. Acquire: pairs with the Release in `note_published`; what follows comes after the
/// publication of as many.
pub fn published() -> u64 {
    PUBLISHED.load(Ordering::Acquire)
}

impl Mappings {
    fn new(own: ThisProcess, lock: MutexGuard<'static, ()>, signals: SignalsBlocked) -> Self {
        let patience = Cell::new(config().timeout);
        Self { own, patience, begun: Cell::new(NOTHING), _lock: lock, _signals: signals }
    }

    /// Counts a snapshot that was just published.
    pub fn note_published(&self) {
        PUBLISHED.fetch_add(1, Ordering::Release);
    }
}

/// The segments of this process that a range of addresses touches, as far as `walk` meets them.
///
/// A segment counts only if this process knows that it mapped a snapshot there, whatever the table says. For [`EVERYWHERE`] that
/// is not asked: it would cost too much for each.
pub fn segments<'a>(
    own: &'a ThisProcess,
    walk: Walk<'a>,
    range: &Range<u64>,
) -> impl Iterator<Item = (u32, View)> + use<'a> {
    let is_asked = *range != EVERYWHERE;
    let held = walk.held_in(own.owner(), identity::own_ranges(), range);
    held.filter(move |(index, view)| !is_asked || is_own_range(own, *index, view))
}

/// A segment that a range of addresses touches and that `is_wanted`.
pub fn find_segment(
    own: &ThisProcess,
    range: &Range<u64>,
    mut is_wanted: impl FnMut(u32, &View) -> bool,
) -> Option<(u32, View)> {
    own.table.find_over_splits(|walk| segments(own, walk, range).find(|(index, view)| is_wanted(*index, view)))
}

/// The first segment that a range of addresses touches.
pub fn first_segment(own: &ThisProcess, range: &Range<u64>) -> Option<View> {
    own.table.over_splits(|walk| segments(own, walk, range).next().map(|(_, view)| view))
}

/// Does `act` with every segment that a range of addresses touches, with some of them more than once.
pub fn each_segment(own: &ThisProcess, range: &Range<u64>, mut act: impl FnMut(u32, View)) {
    own.table.over_splits(|walk| segments(own, walk, range).for_each(|(index, view)| act(index, view)));
}

/// All addresses.
pub const EVERYWHERE: Range<u64> = 0..u64::MAX;

/// Whether a segment lies where this process mapped a snapshot. A record that says otherwise means that the table is damaged.
pub fn is_own_range(own: &ThisProcess, index: u32, view: &View) -> bool {
    let is_held = identity::own_ranges().contains(&(view.extent.address..view.extent.end()));
    // The record is wrong only if it is unchanged: otherwise another thread is unmapping the segment, or has done so.
    let is_there = || !view.head.is_changing() && own.table.snapshot(index).is_some_and(|it| it.is_still(view.head));
    if !is_held && is_there() {
        own.table.declare_damaged();
    }
    is_held
}

/// Whether this process has any snapshot.
#[inline]
pub fn has_any() -> bool {
    identity::attached().is_some_and(|own| own.image.is_mapper())
}

/// Whether a range of addresses may touch a snapshot.
#[inline]
pub fn may_touch(range: &Range<u64>) -> bool {
    !range.is_empty() && has_any() && identity::own_ranges().touches(range)
}

/// The first part of a range of addresses that lies in a snapshot which the program may store into, and which may still be moved
/// off its file.
pub fn first_that_may_move(range: &Range<u64>) -> Option<Range<u64>> {
    let own = identity::attached().filter(|_| may_touch(range))?;
    own.table.over_splits(|walk| {
        let movable = segments(&own, walk, range).filter(|(_, view)| may_move(view));
        movable.map(|(_, view)| overlap(&view, range)).min_by_key(|part| part.start)
    })
}

fn may_move(view: &View) -> bool {
    unshare::is_writable(view.extent.protection) && view.head.wants_pages() && !view.is_relocated()
}

/// Whether all of a range of addresses is one such part, none of it past the end of the file.
pub fn may_move_whole(range: &Range<u64>) -> bool {
    let Some(own) = identity::attached() else { return false };
    let is_whole = |view: &View| {
        may_move(view) && view.extent.address <= range.start && range.end <= view.address_of(view.covered_pages().end)
    };
    find_segment(&own, range, |_, view| is_whole(view)).is_some()
}

/// The part of a segment that lies in a range of addresses.
pub fn overlap(view: &View, range: &Range<u64>) -> Range<u64> {
    range.start.max(view.extent.address)..range.end.min(view.extent.end())
}
