//! Pid hints: two bytes for each process record say which pid the process may have that has it.
//!
//! A process that looks for a free record, or for earlier images of its own pid, looks at these: the records themselves lie far
//! apart, and a look at each costs a new process a fault for each page of them. A hint may be wrong where two processes write it at
//! the same time, or one was killed. So the record decides, and a hint that misses one costs time only: the dead are found without
//! it as well.

use super::Table;
use crate::protocol::process_id::ProcessId;
use crate::sys::mix;
use crate::sys::sync::Ordering;

/// The hint for `pid`, never 0: that says that the record may be free.
fn hint_of(pid: u32) -> u16 {
    ((mix::mix(mix::SEED, u64::from(pid)) >> 32) as u16).max(1)
}

impl Table {
    /// Notes which process has record `index`. Called by the process that has claimed it, or that it is for.
    pub fn hint_pid(&self, index: u32, id: ProcessId) {
        if let Some(hint) = self.pid_hints.get(index as usize) {
            hint.store(hint_of(id.pid()), Ordering::Relaxed);
        }
    }

    /// Notes that record `index` is about to be free. Before it is, so that the next process to claim it writes its hint later.
    pub(crate) fn clear_pid_hint(&self, index: u32) {
        if let Some(hint) = self.pid_hints.get(index as usize) {
            hint.store(0, Ordering::Relaxed);
        }
    }

    /// Whether process record `index` may be free.
    pub(crate) fn may_be_free(&self, index: usize) -> bool {
        self.pid_hints[index].load(Ordering::Relaxed) == 0
    }

    /// The indices of process records that may be those of `pid`.
    pub(crate) fn hinted(&self, pid: u32) -> impl Iterator<Item = u32> + use<'_> {
        let wanted = hint_of(pid);
        let used = self.processes_used().len();
        let hints = self.pid_hints[..used].iter().zip(0..);
        hints.filter(move |(hint, _)| hint.load(Ordering::Relaxed) == wanted).map(|(_, index)| index)
    }
}
