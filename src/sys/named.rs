//! Processes as messages name them.

use core::fmt::{self, Display};

use super::escaped::Escaped;
use super::procfs::{self, ProcPath};

/// The command name of a process; `?` if it is gone.
#[derive(Clone, Copy, Debug)]
pub struct Name(pub u32);

impl Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut name = [0u8; 32];
        let name = procfs::read_file(ProcPath::of(self.0, "comm").as_c_str(), &mut name).unwrap_or(b"?");
        // The kernel ends the name with a newline of its own; others are the program's.
        Escaped(name.strip_suffix(b"\n").unwrap_or(name)).fmt(formatter)
    }
}

/// A process: its pid and command name.
#[derive(Clone, Copy, Debug)]
pub struct Program(pub u32);

impl Display for Program {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "process {} ({})", self.0, Name(self.0))
    }
}
