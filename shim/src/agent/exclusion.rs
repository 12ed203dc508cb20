//! Calls that exclude the agent: it ends before the call and is started anew after it (`process::agent_state`).
//!
//! Such a call wants to be made by the only thread of the process, or changes rights that the agent would keep.

use core::sync::atomic::Ordering;

use snapshim::protocol::process::Agent;
use snapshim::sys::wait::Backoff;
use snapshim::sys::{permission, raw};
use syscalls::{Sysno, syscall};

use super::start;
use crate::base::agent_stack;
use crate::base::config::config;
use crate::process::agent_state::{ABSENT, ASKED, AWAY, PRESENT};
use crate::process::identity::{self, ThisProcess};
use crate::process::log::{Level, say};

/// Makes a call while there is no agent.
pub fn with_agent_stopped<R>(call: impl FnOnce() -> R) -> R {
    let Some(own) = identity::attached().filter(|_| !identity::is_vfork_child()) else { return call() };
    let agent_state = own.image.agent_state();
    // SeqCst: pairs with the steps of `AgentState` (see there): the count comes before the look at the state.
    agent_state.exclusions.fetch_add(1, Ordering::SeqCst);
    if !agent_state.is(ABSENT) && !send_away(&own) {
        say!(
            Level::Warn,
            "process {}: its agent does not end: it has rights that the program gives up now, or hinders a call that wants no \
             other thread",
            raw::own_pid()
        );
    }
    let result = call();
    if !permission::is_confined() {
        // The call may have been setns(2).
        identity::note_time_space();
    }
    // SeqCst: pairs with the load in `AgentState::take_start`. The last exclusion that ends starts the agent.
    if agent_state.exclusions.fetch_sub(1, Ordering::SeqCst) == 1 && agent_state.step(AWAY, PRESENT) {
        start::start_anew(&own);
    }
    result
}

/// Has the agent end, and waits until its thread is gone. False: it does not end within `SNAPSHIM_TIMEOUT_MS`.
fn send_away(own: &ThisProcess) -> bool {
    let agent_state = own.image.agent_state();
    let Some(record) = own.record() else { return false };
    let deadline = raw::now() + config().timeout;
    let mut backoff = Backoff::default();
    // The thread that starts the agent has still to note the agent's thread id.
    while agent_state.is(PRESENT) && record.agent(own.id) == Agent::NotYet && raw::now() < deadline {
        backoff.pause();
    }
    let tid = match record.agent(own.id) {
        Agent::Thread(tid) => Some(tid),
        _ => None,
    };
    let is_first = agent_state.step(PRESENT, ASKED);
    if is_first {
        // Writers address the process by the id of a living thread. They take another thread from now on.
        record.forget_agent();
        record.ring();
    }
    while agent_state.is(ASKED) {
        if raw::now() > deadline && agent_state.step(ASKED, PRESENT) {
            record.set_agent(own.id, tid);
            return false;
        }
        backoff.pause();
    }
    let Some(tid) = tid else { return true };
    // For the kernel's checks of "one thread only" a thread counts until it is gone altogether.
    // SAFETY: signal 0 only asks whether the thread exists.
    while unsafe { syscall!(Sysno::tgkill, raw::own_pid(), tid, 0) }.is_ok() {
        if raw::now() > deadline {
            return false;
        }
        backoff.pause();
    }
    if is_first {
        agent_stack::give_stack_back();
    }
    true
}
