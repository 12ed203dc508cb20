//! Calls that no agent may live through: it leaves before, and is started anew.
//!
//! ABSENT -> PRESENT -> ASKED -> AWAY -> PRESENT; from PRESENT back to AWAY at once if such a call is under way. The word lies in a
//! page that fork wipes, as the agent does not live on in a child.

use core::sync::atomic::Ordering;

use snapshim::protocol::process::Agent;
use snapshim::sys::raw;
use snapshim::sys::wait::Patience;
use syscalls::{Sysno, syscall};

use super::start;
use crate::base::agent_stack;
use crate::base::config::config;
use crate::process::identity::{self, Own};
use crate::process::log::{Level, say};
use crate::process::presence::{ABSENT, ASKED, AWAY, PRESENT};

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
        start::start_anew(&own);
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
