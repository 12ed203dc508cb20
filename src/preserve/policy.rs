//! What a process wants of preserving, and what it is told.

use crate::protocol::cause::Cause;
use crate::protocol::origin::Origin;

/// By which means preserving is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushMode {
    /// By the writer; where that is refused, by the mapper's agent.
    Auto,
    /// By the writer only, wherever it need not wait in the kernel for the mapper.
    Direct,
    /// By the agent only.
    Agent,
    /// By the writer, which is an agent itself and asks no other agent.
    Alone,
}

/// What happens when a page cannot be preserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// The origin wins: the snapshot faults from then on, the write goes on.
    BreakSnapshot,
    /// The snapshot wins: the write fails.
    FailWrite,
}

/// A snapshot that could not be kept, and a write that must not happen.
#[derive(Clone, Copy, Debug)]
pub struct Failure {
    /// The mapper.
    pub pid: u32,
    /// What went wrong.
    pub reason: Cause,
}

/// What a process is told of snapshots that it broke.
pub trait Report {
    /// Snapshot segments of `pid` were broken, for `reason`, so that a write could go on.
    fn broken(&self, pid: u32, origin: Origin, reason: Cause);

    /// A guarded mapping of `pid` loses what a truncation takes away, for `reason`.
    fn unkept(&self, pid: u32, origin: Origin, reason: Cause);
}
