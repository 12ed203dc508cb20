//! Whether the agent is the last thread of the process.

use core::ffi::c_int;
use core::time::Duration;

use snapshim::sys::procfs::{self, ProcStat};
use snapshim::sys::raw;

use crate::process::identity::{self, ThisProcess};

/// Notes that the calling thread is about to end by exit(2). While the agent lives, the kernel does not end the process with its
/// last other thread. So the agent checks whether it is alone, and ends with the status that the process would have had
/// (synchronize_group_exit, kernel/exit.c).
pub fn note_end_of_thread(status: c_int) {
    let Some(own) = identity::attached().filter(|_| !identity::is_vfork_child()) else { return };
    own.image.agent_state().note_raw_exit(status);
    if let Some(record) = own.record() {
        record.ring();
    }
}

/// The agent's check whether the program still has threads of its own. It begins when a thread has ended without libc, comes soon
/// after each such end, and then more and more seldom.
#[derive(Default)]
pub struct LastThreadCheck {
    /// How many such ends there were at the last check.
    raw_exits: u32,
    /// How many checks there were since the last end.
    looks: u32,
}

impl LastThreadCheck {
    /// Checks; how long the agent may sleep until the next check. `None`: the agent is alone.
    pub fn check(&mut self, own: &ThisProcess) -> Option<Duration> {
        const SELDOM: Duration = Duration::from_secs(3600);
        let raw_exits = own.image.agent_state().raw_exits();
        if raw_exits == 0 {
            return Some(SELDOM);
        }
        self.looks = if raw_exits == self.raw_exits { self.looks + 1 } else { 0 };
        self.raw_exits = raw_exits;
        // The first thread counts until the process ends, as a zombie.
        let stat = ProcStat::read(&procfs::ProcPath::of(raw::own_pid(), "stat"));
        let is_alone = stat.is_ok_and(|stat| stat.threads == 2 && stat.state == b'Z');
        (!is_alone).then(|| ROUND.min(Duration::from_millis(1 << self.looks.min(10))))
    }
}

/// How often the agent checks that its snapshots are still what they are said to be.
pub const ROUND: Duration = Duration::from_secs(1);
