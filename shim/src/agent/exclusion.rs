//! Calls that no agent may live through: it leaves before, and is started anew.
//!
//! ABSENT -> PRESENT -> ASKED -> AWAY -> PRESENT; from PRESENT back to AWAY at once if such a call is under way. The word lies in a
//! page that fork wipes, as the agent does not live on in a child.

use core::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use snapshim::drain::Patience;
use snapshim::raw;
use snapshim::table::process::Agent;
use syscalls::{Sysno, syscall};

use super::run;
use crate::base::agent_stack;
use crate::base::config::config;
use crate::process::identity::{self, Own};
use crate::process::log::{Level, say};

/// Whether there is an agent, and how many calls are under way that it may not live through.
pub struct Presence {
    state: AtomicU32,
    solitudes: AtomicU32,
    /// Threads that ended past libc, and with what status the last did.
    ends: AtomicU32,
    status: AtomicI32,
}

const ABSENT: u32 = 0;
const PRESENT: u32 = 1;
const ASKED: u32 = 2;
const AWAY: u32 = 3;

impl Presence {
    /// One step; true for the one caller who made it. SeqCst: who becomes PRESENT looks at `solitudes` afterwards, and who begins a
    /// solitude looks at the state afterwards; one of them sees the other.
    fn step(&self, from: u32, to: u32) -> bool {
        self.state.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    fn is(&self, state: u32) -> bool {
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

/// Makes a call while there is no agent.
pub fn without_agent<R>(call: impl FnOnce() -> R) -> R {
    let Some(own) = identity::attached().filter(|_| !identity::is_borrower()) else { return call() };
    let presence = own.identity.presence();
    presence.solitudes.fetch_add(1, Ordering::SeqCst);
    if !presence.is(ABSENT) && !send_away(&own) {
        say!(
            Level::Warn,
            "process {}: its agent does not end: it keeps rights that the program gives up now, or hinders a call that wants no other \
             thread",
            raw::own_pid()
        );
    }
    let result = call();
    // Of setns(2).
    identity::note_time_space();
    if presence.solitudes.fetch_sub(1, Ordering::SeqCst) == 1 && presence.step(AWAY, PRESENT) {
        run::start_anew(&own);
    }
    result
}

fn send_away(own: &Own) -> bool {
    let presence = own.identity.presence();
    let Some(record) = own.record() else { return false };
    let deadline = raw::now() + config().timeout;
    let mut patience = Patience::default();
    // Whoever starts it has yet to say who it is.
    while presence.is(PRESENT) && record.agent(own.id) == Agent::NotYet && raw::now() < deadline {
        patience.pause();
    }
    let tid = match record.agent(own.id) {
        Agent::Thread(tid) => Some(tid),
        _ => None,
    };
    let is_first = presence.step(PRESENT, ASKED);
    if is_first {
        // Writers who address the process by a living thread's id take another.
        record.forget_agent();
        record.ring();
    }
    while presence.is(ASKED) {
        if raw::now() > deadline && presence.step(ASKED, PRESENT) {
            record.set_agent(own.id, tid);
            return false;
        }
        patience.pause();
    }
    let Some(tid) = tid else { return true };
    // The kernel counts a thread until it is gone altogether.
    // SAFETY: signal 0 only asks whether the thread exists.
    while unsafe { syscall!(Sysno::tgkill, raw::own_pid(), tid, 0) }.is_ok() {
        if raw::now() > deadline {
            return false;
        }
        patience.pause();
    }
    if is_first {
        agent_stack::give_stack_back();
    }
    true
}
