//! Unseen processes, as the table has them: which they are, whether they are over, and what becomes of the snapshots there are.

use rustix::io::Errno;

use crate::protocol::cause::Cause;
use crate::protocol::snapshot::State;
use crate::protocol::unseen::{Unseen, Who};
use crate::sys::procfs::{self, ProcPath, ProcStat};
use crate::sys::raw::test_process;
use crate::table::{self, Table};

impl Who {
    /// The process `pid`.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        Self { pid, start: procfs::start_of(pid) as u32 }
    }

    /// Whether the process is certainly gone.
    fn is_over(self) -> bool {
        match ProcStat::read(&ProcPath::of(self.pid, "stat")) {
            Ok(stat) => stat.is_over() || self.start != 0 && stat.start as u32 != self.start,
            // /proc may hide the process or not be mounted.
            Err(_) => test_process(self.pid) == Err(Errno::SRCH),
        }
    }
}

impl Table {
    /// The processes whose changes are not announced.
    pub fn unseen(&self) -> &Unseen {
        &self.header.unseen
    }

    /// Notes that `who` is unseen, and makes the snapshots there are doubtful. The result is how many this call did.
    pub fn raise_unseen(&self, who: Who) -> usize {
        self.unseen().raise(who);
        self.doubt_every_snapshot(Cause::Unseen)
    }

    /// Notes that `pid`, whose changes are announced from now on, is no longer unseen.
    pub fn lower_unseen(&self, pid: u32) {
        for who in self.unseen().named().filter(|who| who.pid == pid) {
            self.unseen().lower(who, || _ = self.doubt_every_snapshot(Cause::Unseen));
        }
    }

    /// Takes out the unseen processes that are gone. `is_held` looks for the lock of those that have no name.
    pub fn lower_unseen_that_are_over(&self, is_held: impl FnOnce() -> bool) {
        self.unseen().lower_nameless(is_held, || _ = self.doubt_every_snapshot(Cause::Unseen));
        for who in self.unseen().named().filter(|who| who.is_over()) {
            self.unseen().lower(who, || _ = self.doubt_every_snapshot(Cause::Unseen));
        }
    }

    /// Makes the snapshots there are doubtful if an unseen process may be changing files. The result is how many this call did. An
    /// unseen process that has only the table's first page leaves that to others.
    pub fn doubt_if_unseen(&self) -> usize {
        if self.unseen().was_ever_up() && self.unseen().is_up() { self.doubt_every_snapshot(Cause::Unseen) } else { 0 }
    }

    /// Makes every exact snapshot doubtful because of `cause`, those included that are split from others meanwhile. The result is
    /// how many this call did.
    pub fn doubt_every_snapshot(&self, cause: Cause) -> usize {
        let mut doubted = 0;
        self.over_splits(|walk| {
            for (index, view) in walk.live().filter(|(_, view)| view.head.state() == State::Exact) {
                doubted += usize::from(table::doubt(self, index, view.head.incarnation(), cause));
            }
        });
        doubted
    }
}
