//! Whether this process has an agent.
//!
//! ABSENT -> PRESENT -> ASKED -> AWAY -> PRESENT; from PRESENT to AWAY at once while a call is under way that excludes the agent
//! (`agent::exclusion`). The word lies in a page that fork wipes: the agent does not live on in a child.

use core::sync::atomic::{AtomicI32, AtomicU32, Ordering};

/// Whether there is an agent, and how many calls are under way that exclude it.
pub struct AgentState {
    state: AtomicU32,
    /// Calls under way that exclude the agent.
    pub exclusions: AtomicU32,
    /// How many threads ended by exit(2), without libc.
    raw_exits: AtomicU32,
    /// The status with which the last of them ended.
    status: AtomicI32,
}

/// No agent was started yet.
pub const ABSENT: u32 = 0;
/// There is an agent, or one is being started.
pub const PRESENT: u32 = 1;
/// The agent is asked to end.
pub const ASKED: u32 = 2;
/// There is none for now: for a call that excludes it, or because it could not be started.
pub const AWAY: u32 = 3;

impl AgentState {
    /// One step; true for the one caller that made it.
    ///
    /// SeqCst: a thread that makes the state PRESENT reads `exclusions` afterwards, and a thread that counts an exclusion reads the
    /// state afterwards, so at least one of the two sees the other.
    pub fn step(&self, from: u32, to: u32) -> bool {
        self.state.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Whether the state is `state`. SeqCst: see [`AgentState::step`].
    pub fn is(&self, state: u32) -> bool {
        self.state.load(Ordering::SeqCst) == state
    }

    /// True for the one caller that has to start the agent. During an exclusion it is false: the end of the exclusion starts it.
    pub fn take_start(&self) -> bool {
        // SeqCst: see [`AgentState::step`].
        self.step(ABSENT, PRESENT) && !(self.exclusions.load(Ordering::SeqCst) != 0 && self.step(PRESENT, AWAY))
    }

    /// Notes that no agent could be started. A call that excludes the agent may have asked it to end already.
    pub fn note_none(&self) {
        let _ = self.step(PRESENT, AWAY) || self.step(ASKED, AWAY);
    }

    /// Notes that a thread ends by exit(2), without libc: libc ends the process with its last thread, the kernel does not while the
    /// agent lives.
    pub fn note_raw_exit(&self, status: i32) {
        self.status.store(status, Ordering::Relaxed);
        // Release: pairs with the Acquire in `raw_exits`.
        self.raw_exits.fetch_add(1, Ordering::Release);
    }

    /// How many threads have ended so. Acquire: pairs with the Release in `note_end`: their status is visible.
    pub fn raw_exits(&self) -> u32 {
        self.raw_exits.load(Ordering::Acquire)
    }

    /// The status of the last of them: the status of the process, if no thread but the agent is left.
    pub fn last_status(&self) -> i32 {
        self.status.load(Ordering::Relaxed)
    }

    /// Whether the calling agent has been asked to end, and ends now.
    pub fn must_leave(&self) -> bool {
        self.step(ASKED, AWAY)
    }
}

/// 1 once the agent that was started last has left the application's descriptor table; a futex.
pub static HAS_BEGUN: AtomicU32 = AtomicU32::new(0);
