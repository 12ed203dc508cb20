//! Whether a program that was executed without the library still runs.

use crate::protocol::unreached::Program;
use crate::sys::procfs::{self, ProcPath};

/// The kernel's names of programs are shorter than those of files (TASK_COMM_LEN).
const LONGEST: usize = 15;

impl Program {
    /// Whether a process of that number runs a program of that name. After a while it may be another one.
    #[must_use]
    pub fn is_running(&self) -> bool {
        let mut buffer = [0u8; 32];
        let found = procfs::read_file(ProcPath::of(self.pid, "comm").as_c_str(), &mut buffer).unwrap_or(b"");
        let wanted = &self.name()[..self.name().len().min(LONGEST)];
        !wanted.is_empty() && found.strip_suffix(b"\n").unwrap_or(found) == wanted
    }
}
