//! Whether the agent is the last thread that is left.

use core::ffi::c_int;
use core::time::Duration;

use snapshim::sys::procfs::{self, Stat};
use snapshim::sys::raw;

use crate::process::identity::{self, Own};

/// The calling thread is about to end by exit(2). The kernel keeps a process that has the agent left, so that has to look, and to
/// end with the status that would have been the process's (synchronize_group_exit, kernel/exit.c).
pub fn note_end_of_thread(status: c_int) {
    let Some(own) = identity::attached().filter(|_| !identity::is_borrower()) else { return };
    own.identity.presence().note_end(status);
    if let Some(record) = own.record() {
        record.ring();
    }
}

/// The agent's look whether the program still has threads of its own, once some ended past libc: soon after each, then ever more
/// seldom.
#[derive(Default)]
pub struct Company {
    ends: u32,
    looks: u32,
}

impl Company {
    /// When to look next; `None`: the agent is alone.
    pub fn look(&mut self, own: &Own) -> Option<Duration> {
        const SELDOM: Duration = Duration::from_secs(3600);
        let ends = own.identity.presence().ends();
        if ends == 0 {
            return Some(SELDOM);
        }
        self.looks = if ends == self.ends { self.looks + 1 } else { 0 };
        self.ends = ends;
        // The first thread is counted until the process ends.
        let stat = Stat::read(&procfs::ProcPath::of(raw::own_pid(), "stat"));
        let is_alone = stat.is_ok_and(|stat| stat.threads == 2 && stat.state == b'Z');
        (!is_alone).then(|| ROUND.min(Duration::from_millis(1 << self.looks.min(10))))
    }
}

/// How often the agent looks whether what its snapshots rest on is still so.
pub const ROUND: Duration = Duration::from_secs(1);
