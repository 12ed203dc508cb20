//! Foreign changes: what programs without the shim do to an origin, found afterwards and on best effort.
//!
//! A mapper looks at the files that its snapshots are of. If a file was changed and no process has counted the change
//! ([`changes`](crate::protocol::changes)), the mapper makes its snapshots of the file doubtful.
//!
//! The time of last status change is of no use: chmod, rename and link move it.

use crate::PAGE;
use crate::protocol::cause::{Cause, Worth};
use crate::protocol::changes::{Changes, Modified, Observation, observe};
use crate::protocol::origin::Origin;
use crate::protocol::snapshot::{State, View};
use crate::table::{self, Table};

impl Table {
    /// Counts a change of `origin` that has passed the gate and is about to land.
    pub fn note_change(&self, origin: Origin) {
        self.changes_of(origin).note();
    }

    /// The observation of `origin` while its gate is closed and no call is under way.
    #[must_use]
    pub fn observation_at_instant(&self, origin: Origin, file: Modified) -> Observation {
        Observation { counted: self.changes_of(origin).count(), file }
    }

    /// Makes the snapshots that process `own` has of `origin` doubtful if a process that does not cooperate changed it. The result
    /// is why, if it made any doubtful. Only one thread of `own` looks at a time.
    pub fn doubt_if_changed(&self, own: u64, origin: Origin, file: impl FnOnce() -> Option<Modified>) -> Option<Cause> {
        // `is_shared` takes the dead out, which counts their stores. It comes first, so that no store is counted between the looks.
        if self.is_shared(origin) {
            return None;
        }
        let newest = self.newest_mapping();
        let observation = observe(self.changes_of(origin), || self.is_quiet(origin) && !self.is_shared(origin), file)?;
        // The snapshots are looked at after the file: a cooperating process moves a segment off the file before it takes pages
        // away, and such a segment is no longer among them. A segment that was split off since is as old as the one it was split
        // from.
        let is_ours = |view: &View| {
            let is_younger = view.meta.mapping > newest;
            view.meta.owner == own && view.head.state() == State::Exact && !is_younger && !view.is_guarded()
        };
        let mut doubted = None;
        self.over_splits(|walk| {
            for (index, view) in walk.of(origin).filter(|(_, view)| is_ours(view)) {
                let Some(snapshot) = self.snapshot(index) else { continue };
                let seen = snapshot.last_observation();
                // A cooperating process has snapshots moved off the pages that it takes away, so counted changes hide no
                // truncation. A segment that lies wholly past the end of the file has no page to lose.
                let covered = view.covered_pages();
                let is_truncated = !covered.is_empty() && observation.file.size.div_ceil(PAGE) < covered.end;
                if is_truncated || observation.indicates_foreign_change_since(&seen) {
                    let is_truncated = is_truncated || observation.file.size < seen.file.size;
                    let cause = if is_truncated { Cause::ForeignTruncation } else { Cause::ForeignChange };
                    if snapshot.mark(view.head.incarnation(), Worth::Doubtful(cause)) {
                        doubted = Some(cause);
                    }
                } else {
                    snapshot.record_observation(&observation);
                }
            }
        });
        doubted
    }

    /// Makes the exact snapshots that process `own` has of `origin` doubtful because of `cause`. True if there were any.
    pub fn doubt_all_of(&self, own: u64, origin: Origin, cause: Cause) -> bool {
        let mut doubted = false;
        let is_exact = |view: &View| view.meta.owner == own && view.head.state() == State::Exact && !view.is_guarded();
        self.over_splits(|walk| {
            for (index, view) in walk.of(origin).filter(|(_, view)| is_exact(view)) {
                doubted |= table::doubt(self, index, view.head.incarnation(), cause);
            }
        });
        doubted
    }

    fn changes_of(&self, origin: Origin) -> &Changes {
        self.header.changes_of(origin)
    }
}
