//! Foreign changes: what programs without the shim do to an origin, found afterwards and on best effort.
//!
//! Whoever cooperates counts each change of an origin ([`Changes`]) before it lands. Now and then the mapper looks at the file
//! ([`look`]): if its time of modification moved and the count did not, somebody changed it who does not cooperate.
//!
//! The time of last status change is of no use: chmod, rename and link move it.

use crate::sys::sync::{AtomicU64, Fault, Ordering, fence, planted};

/// Counts the cooperating changes of an origin, or of several that share the counter: then a foreign change may go unnoticed, and
/// nobody is suspected for nothing.
#[cfg_attr(not(loom), derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout))]
#[derive(Debug)]
#[repr(transparent)]
pub struct Changes(AtomicU64);

impl Changes {
    /// None so far.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Counts a change that has been announced and is about to land.
    #[inline]
    pub fn note(&self) {
        if planted(Fault::CountedChange) {
            return;
        }
        // Release: pairs with the Acquire in `count`; the announcement is visible to who finds the change counted.
        self.0.fetch_add(1, Ordering::Release);
        // Release: pairs with the Acquire fence in `look`; who sees what the call does to the file finds it counted.
        fence(Ordering::Release);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// When a file was modified last, and its size: what a change of its bytes moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Modified {
    /// Nanoseconds after the epoch.
    pub time: u64,
    /// Bytes.
    pub size: u64,
}

impl Modified {
    /// From the fields of a `stat`.
    #[must_use]
    pub const fn new(seconds: i64, nanoseconds: u64, size: u64) -> Self {
        Self { time: seconds.cast_unsigned().wrapping_mul(1_000_000_000).wrapping_add(nanoseconds), size }
    }
}

/// How a file was, and how many changes had been counted by then: all that were counted had landed, and what had landed was
/// counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// By [`Changes`].
    pub counted: u64,
    /// The file.
    pub file: Modified,
}

/// Looks at a file. `None`: a change is under way, and nothing can be said.
///
/// One count for each change is enough, although the change lands later than it is counted:
/// - what is counted by the first look at the count and has not landed has its frame under way still, because it was announced before
///   it was counted; `is_quiet` looks at the frames after the count and before the file;
/// - what landed before the look at the file was counted before, so the second look at the count finds it.
pub fn look(
    changes: &Changes,
    is_quiet: impl FnOnce() -> bool,
    file: impl FnOnce() -> Option<Modified>,
) -> Option<Sight> {
    let counted = changes.count();
    if !is_quiet() && !planted(Fault::QuietLook) {
        return None;
    }
    let file = file()?;
    // Acquire: pairs with the Release fence in `Changes::note`: the file before the count.
    fence(Ordering::Acquire);
    (changes.count() == counted || planted(Fault::SecondCount)).then_some(Sight { counted, file })
}

impl Sight {
    /// Whether somebody who does not cooperate changed the file since `earlier`.
    ///
    /// A file that only grew without being modified is one whose appends are completed late (xfs, asynchronous ones).
    #[must_use]
    pub fn tells_on_somebody_since(&self, earlier: &Self) -> bool {
        let moved = self.file.time != earlier.file.time || self.file.size < earlier.file.size;
        moved && self.counted == earlier.counted
    }
}

#[cfg(not(loom))]
mod in_table {
    use super::{Changes, Modified, Sight, look};
    use crate::PAGE;
    use crate::origin::Origin;
    use crate::snapshot::{FOREIGN_CHANGE, FOREIGN_CUT, State, View};
    use crate::table::Table;

    impl Table {
        /// Counts a change of `origin` that has passed the gate and is about to land.
        pub fn note_change(&self, origin: Origin) {
            self.changes_of(origin).note();
        }

        /// How `origin` is while its gate is closed and nobody is under way.
        #[must_use]
        pub fn sight_at_instant(&self, origin: Origin, file: Modified) -> Sight {
            Sight { counted: self.changes_of(origin).count(), file }
        }

        /// Looks whether somebody who does not cooperate changed `origin`, and makes the snapshots that process `own` has of it
        /// doubtful if so; why, if it made any: `FOREIGN_CUT` or `FOREIGN_CHANGE`. Only one thread of `own` looks at a time.
        pub fn doubt_if_changed(
            &self,
            own: u64,
            origin: Origin,
            file: impl FnOnce() -> Option<Modified>,
        ) -> Option<u32> {
            // What the dead did is counted first, and not found in between.
            if self.is_shared(origin) {
                return None;
            }
            let newest = self.newest_mapping();
            let sight = look(self.changes_of(origin), || self.is_quiet(origin) && !self.is_shared(origin), file)?;
            // The snapshots are looked at after the file: one that has left it by now may have been left alone by who changed it.
            // A piece that was cut off since is as old as what it was cut from.
            let is_ours = |view: &View| {
                let is_younger = view.identity.mapping > newest;
                view.identity.owner == own && view.head.state() == State::Exact && !is_younger
            };
            let mut doubted = None;
            self.over_splits(|walk| {
                for (index, view) in walk.of(origin).filter(|(_, view)| is_ours(view)) {
                    let Some(snapshot) = self.snapshot(index) else { continue };
                    let seen = snapshot.seen();
                    // Who cooperates has a snapshot moved off the pages that it takes away, so counted changes hide no cut. A piece
                    // that lies wholly past the end of the file has none.
                    let kept = view.kept();
                    let is_cut = !kept.is_empty() && sight.file.size.div_ceil(PAGE) < kept.end;
                    if is_cut || sight.tells_on_somebody_since(&seen) {
                        let is_cut = is_cut || sight.file.size < seen.file.size;
                        let cause = if is_cut { FOREIGN_CUT } else { FOREIGN_CHANGE };
                        if snapshot.mark_because(view.head.life(), State::Doubtful, cause) {
                            doubted = Some(cause);
                        }
                    } else {
                        snapshot.see(&sight);
                    }
                }
            });
            doubted
        }

        /// Makes the exact snapshots that process `own` has of `origin` doubtful because of `cause`. True if there were any.
        pub fn doubt_all_of(&self, own: u64, origin: Origin, cause: u32) -> bool {
            let mut doubted = false;
            let is_exact = |view: &View| view.identity.owner == own && view.head.state() == State::Exact;
            self.over_splits(|walk| {
                for (index, view) in walk.of(origin).filter(|(_, view)| is_exact(view)) {
                    let Some(snapshot) = self.snapshot(index) else { continue };
                    doubted |= snapshot.mark_because(view.head.life(), State::Doubtful, cause);
                }
            });
            doubted
        }

        fn changes_of(&self, origin: Origin) -> &Changes {
            self.header.changes_of(origin)
        }
    }
}
