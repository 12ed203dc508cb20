//! Whether a program that was executed without the library still runs.

use crate::protocol::unreached::Program;
use crate::sys::procfs;

/// The kernel's names of programs are shorter than those of files (TASK_COMM_LEN).
const LONGEST: usize = 15;

impl Program {
    /// Whether a process of that number runs a program of that name. After a while it may be another one.
    #[must_use]
    pub fn is_running(&self) -> bool {
        let wanted = &self.name()[..self.name().len().min(LONGEST)];
        !wanted.is_empty() && procfs::command_name(self.pid, &mut [0; 32]) == Some(wanted)
    }
}
