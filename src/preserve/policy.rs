//! What a process wants of preserving, and what it is told.

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

/// Why a page could not be preserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The kernel refuses access to the mapper, and its agent did not answer in time or does not exist.
    NoAccess,
    /// Access is granted, but copy-on-write could not be broken (no memory, or the mapping was changed behind the shim).
    NoCopy,
    /// The pages have to be moved off the file, which only the mapper's process can do, and its agent did not.
    NoAgent,
    /// The mapper was changing its mapping for too long: it may be stopped.
    MapperBusy,
    /// The mapper is at the limit of its memory cgroup: one page more could get it killed.
    NoMemory,
    /// A program that does not cooperate has truncated the file: the pages are gone.
    ForeignTruncation,
    /// The table cannot be trusted.
    Damaged,
}

/// A snapshot that could not be kept, and a write that must not happen.
#[derive(Clone, Copy, Debug)]
pub struct Failure {
    /// The mapper.
    pub pid: u32,
    /// What went wrong.
    pub reason: Reason,
}

/// What a process is told of snapshots that it broke.
pub trait Report {
    /// Snapshot segments of `pid` were broken, for `reason`, so that a write could go on.
    fn broken(&self, pid: u32, origin: Origin, reason: Reason);

    /// A guarded mapping of `pid` loses what a truncation takes away, for `reason`.
    fn unkept(&self, pid: u32, origin: Origin, reason: Reason);
}
