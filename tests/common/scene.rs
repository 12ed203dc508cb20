//! One operation of tests/programs/lifecycle/kill_point.c, and what is beside it, for the tests that kill or stop a process at each
//! point of it.

use std::path::Path;
use std::process::Command;

use super::aftermath::{fill, leave_dead, recover};
use super::holder::Holder;
use super::tracer::Target;
use super::{Scratch, program};

/// No operation has as many points.
pub const MANY: usize = 2000;

/// What a process does that is killed or stopped in it, and beside what.
pub struct Scene {
    pub operation: &'static str,
    /// `SNAPSHIM_PUSH`.
    pub way: &'static str,
    pub target: Target,
    /// Whether another process holds a snapshot, which must stay exact.
    pub is_witnessed: bool,
    /// Whether dead processes are in the table already, with a snapshot, a shared mapping, a slot.
    pub has_dead: bool,
    /// Whether there is no table yet.
    pub is_without_table: bool,
    /// Whether the dead are taken out before another process takes a snapshot or writes, which would take some out on the way.
    pub is_quiet: bool,
    /// Whether other processes truncate the file meanwhile, instead of writing it.
    pub is_truncated_beside: bool,
    /// Whether another process, which has a snapshot, forks meanwhile.
    pub is_forked_beside: bool,
    /// Processes that say when they are done.
    pub speakers: usize,
}

impl Scene {
    pub const fn new(operation: &'static str) -> Self {
        Self {
            operation,
            way: "direct",
            target: Target::Itself,
            is_witnessed: false,
            has_dead: false,
            is_without_table: false,
            is_quiet: false,
            is_truncated_beside: false,
            is_forked_beside: false,
            speakers: 1,
        }
    }

    pub fn is_recovery(&self) -> bool {
        self.operation == "recover"
    }

    /// What is there before the operation begins: the file, the dead, and the holder of a snapshot, where the scene has one.
    pub fn set(&self, scratch: &Scratch, file: &Path) -> Option<Holder> {
        fill(file);
        if self.has_dead {
            leave_dead(scratch, file);
        }
        self.is_witnessed.then(|| Holder::start(scratch, self.way, file, "rw"))
    }

    /// The program that does the operation.
    pub fn command(&self, scratch: &Scratch, file: &Path) -> Command {
        if self.is_recovery() {
            return recover(scratch);
        }
        let mut command = scratch.shimmed(program("lifecycle/kill_point"), self.way);
        command.arg(self.operation).arg(file);
        command
    }
}
