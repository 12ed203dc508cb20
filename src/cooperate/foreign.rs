//! Foreign changes: what programs without the shim do to an origin, found afterwards and on best effort.
//!
//! A mapper looks at the files that its snapshots are of, and makes the snapshots doubtful of one that was changed by none who
//! counts ([`changes`](crate::protocol::changes)).
//!
//! The time of last status change is of no use: chmod, rename and link move it.

use crate::PAGE;
use crate::protocol::changes::{Changes, Modified, Sight, look};
use crate::protocol::origin::Origin;
use crate::protocol::snapshot::{FOREIGN_CHANGE, FOREIGN_CUT, State, View};
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
    pub fn doubt_if_changed(&self, own: u64, origin: Origin, file: impl FnOnce() -> Option<Modified>) -> Option<u32> {
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
