//! The search for mappers that died: their snapshots keep the active word raised, and every write slow.
//!
//! A process that ends gives its snapshots back itself, if it can. One that is killed cannot, and maybe no other process waits for
//! it. So agents search among the owners of snapshots, and so do writers that find the active word raised: over all processes about
//! once a second, by a clock in the table.

use crate::sys::raw;
use crate::table::Table;

const SECOND: u64 = 1_000_000_000;

/// Owners that a search remembers, so that a mapper with many snapshots is looked at once.
const REMEMBERED: usize = 16;

impl Table {
    /// Takes the snapshots of dead mappers out of the table, unless that was done in this second. For a writer, which asks when a
    /// second begins, and so finds a death within a second.
    pub fn search_by_writer(&self) {
        self.search(|now, last| now / SECOND == last / SECOND);
    }

    /// The same unless it was done a moment ago. For an agent, which asks once a second.
    pub fn search_by_agent(&self) {
        // An agent that took its time just before the last search began is not due. A time far ahead is damage.
        self.search(|now, last| now.abs_diff(last) < SECOND / 2);
    }

    fn search(&self, is_fresh: impl FnOnce(u64, u64) -> bool) {
        let now = raw::now();
        if self.header.active.is_raised() && self.header.search.is_due(now, |last| is_fresh(now, last)) {
            self.retire_the_dead();
        }
    }

    /// Has the next process that may search do it at once: the caller is about to end with its snapshots.
    pub fn expect_death(&self) {
        self.header.search.forget();
    }

    #[cold]
    fn retire_the_dead(&self) {
        self.header.creations.under_way().for_each(|creation| self.end_if_dead(creation));
        let mut seen = [0; REMEMBERED];
        // A single walk: the next search meets a segment that was split off beside this one.
        for (_, view) in self.walk_once().live() {
            let owner = view.meta.owner;
            let place = &mut seen[owner as usize % REMEMBERED];
            if *place != owner {
                *place = owner;
                self.retire_if_gone(owner);
            }
        }
        self.lower_active();
    }
}
