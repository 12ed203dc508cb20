//! Whether this process has an agent.
//!
//! ABSENT -> PRESENT -> ASKED -> AWAY -> PRESENT; from PRESENT back to AWAY at once if a call is under way that no agent may live
//! through. The word lies in a page that fork wipes, as the agent does not live on in a child.

use core::sync::atomic::{AtomicI32, AtomicU32, Ordering};

/// Whether there is an agent, and how many calls are under way that it may not live through.
pub struct Presence {
    state: AtomicU32,
    pub solitudes: AtomicU32,
    /// Threads that ended past libc, and with what status the last did.
    ends: AtomicU32,
    status: AtomicI32,
}

pub const ABSENT: u32 = 0;
pub const PRESENT: u32 = 1;
pub const ASKED: u32 = 2;
pub const AWAY: u32 = 3;

impl Presence {
    /// One step; true for the one caller who made it. SeqCst: who becomes PRESENT looks at `solitudes` afterwards, and who begins a
    /// solitude looks at the state afterwards; one of them sees the other.
    pub fn step(&self, from: u32, to: u32) -> bool {
        self.state.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    pub fn is(&self, state: u32) -> bool {
        self.state.load(Ordering::SeqCst) == state
    }

    /// True for the one caller who has to start the agent. In a solitude it is who ends that.
    pub fn take_start(&self) -> bool {
        self.step(ABSENT, PRESENT) && !(self.solitudes.load(Ordering::SeqCst) != 0 && self.step(PRESENT, AWAY))
    }

    /// A thread ends past libc, which would end the process with its last one.
    pub fn note_end(&self, status: i32) {
        self.status.store(status, Ordering::Relaxed);
        // Release: pairs with the Acquire in `ends`.
        self.ends.fetch_add(1, Ordering::Release);
    }

    /// How many have.
    pub fn ends(&self) -> u32 {
        self.ends.load(Ordering::Acquire)
    }

    /// The status of the last of them: the process's, if nobody but the agent is left.
    pub fn last_status(&self) -> i32 {
        self.status.load(Ordering::Relaxed)
    }

    /// For the agent: whether it has to leave.
    pub fn must_leave(&self) -> bool {
        self.step(ASKED, AWAY)
    }
}

/// 1 once the agent that was started last has left the application's descriptor table; a futex.
pub static HAS_BEGUN: AtomicU32 = AtomicU32::new(0);
