//! Processes as messages name them.

use core::fmt::{self, Display};

use super::escaped::Escaped;
use super::procfs;

/// The command name of a process; `?` if it is gone.
#[derive(Clone, Copy, Debug)]
pub struct Name(pub u32);

impl Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        Escaped(procfs::command_name(self.0, &mut [0; 32]).unwrap_or(b"?")).fmt(formatter)
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
