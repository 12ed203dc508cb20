//! The start of the agent, and the permission for writers of the same user to reach this process's memory.

use core::ffi::{c_int, c_void};
use core::ptr;
use core::sync::atomic::AtomicBool;
use core::time::Duration;

use snapshim::protocol::origin::Origin;
use snapshim::sys::procfs::{ProcPath, ProcStat};
use snapshim::sys::sync::Ordering;
use snapshim::sys::wait::Backoff;
use snapshim::sys::{futex, permission, raw, signal_block};

use super::run::run;
use crate::base::agent_stack::{STACK, take_stack};
use crate::base::config::config;
use crate::base::errno;
use crate::base::own_stacks::Outcome;
use crate::interpose::originals;
use crate::process::agent_state::{ABSENT, HAS_BEGUN};
use crate::process::identity::{self, ThisProcess};
use crate::process::log::{Level, say_once};
use crate::process::ptracer;
use crate::shared::list;
use crate::signals::threads;

/// Makes a forked child ready to hold the snapshots that it inherits: lets writers of the same user reach its memory, and starts
/// the agent once.
pub fn start_for_snapshots(own: &ThisProcess) {
    ptracer::allow(own);
    start(own);
}

/// Makes the process ready to map `origin` shared and writable: when a snapshot of it is made, the mapping has to be armed. Another
/// process that makes one asks for an agent then ([`snapshim::cooperate::summon`]). So there is none before, unless snapshots of
/// the origin exist, or other users may make them: they may not ask.
pub fn be_ready(own: &ThisProcess, origin: Origin) {
    if !own.image.agent_state().is(ABSENT) {
        return;
    }
    if IS_FILTERED.load(Ordering::Relaxed) {
        return give_up_agent(own);
    }
    let can_be_asked = || is_table_private() && threads::expect_summons(answer_summons);
    if own.table.is_origin_in_use(origin) || !can_be_asked() {
        start(own);
    }
}

extern "C" fn answer_summons(_: u64, _: u64) -> Outcome {
    if let Some(own) = identity::attached() {
        start(&own);
    }
    Outcome::Resolved
}

/// Whether the table's directory is open to its owner only, who is the user of this process.
fn is_table_private() -> bool {
    let stat = rustix::fs::stat(config().directory);
    stat.is_ok_and(|stat| stat.st_mode & 0o077 == 0 && stat.st_uid == rustix::process::geteuid().as_raw())
}

/// Whether the program has set a filter of seccomp(2), which may end a process that makes a thread. Forked children have it too.
static IS_FILTERED: AtomicBool = AtomicBool::new(false);

/// To be called before the program sets such a filter. The agent of a program that has other threads is started before it; a
/// program of one thread may want to stay that: snapshots of files that it maps shared and writable are refused from now on.
pub fn before_filter() {
    let Some(own) = identity::attached().filter(|_| !identity::is_vfork_child()) else { return };
    if list::is_any() && own.image.agent_state().is(ABSENT) {
        let stat = ProcStat::read(&ProcPath::of(raw::own_pid(), "stat"));
        if stat.is_ok_and(|stat| stat.threads > 1) {
            start(&own);
        } else {
            give_up_agent(&own);
        }
    }
    IS_FILTERED.store(true, Ordering::Relaxed);
}

/// The process has no agent from now on, unless it has one already, and says so to processes that would ask for one.
pub fn stay_without() {
    IS_FILTERED.store(true, Ordering::Relaxed);
    if let Some(own) = identity::attached().filter(|own| own.image.agent_state().is(ABSENT)) {
        give_up_agent(&own);
    }
}

fn give_up_agent(own: &ThisProcess) {
    if let Some(record) = own.record() {
        record.set_agent(own.id, None);
    }
}

/// Starts the agent, once. Never from a vfork child: the thread would be created in the child's thread group, and end with the
/// child.
pub fn start(own: &ThisProcess) {
    if !identity::is_vfork_child() && own.image.agent_state().take_start() {
        start_anew(own);
    }
}

/// Starts the agent where it has ended.
pub fn start_anew(own: &ThisProcess) {
    if permission::is_confined() {
        // A filter would hold for the new thread as well.
        give_up_agent(own);
    } else if start_thread(own) {
        return;
    } else {
        say_once!(
            Level::Warn,
            "process {} could not start its agent: its snapshots cannot be preserved when their file is truncated, or written by a \
             process that has no access to its memory, and snapshots of files that it maps shared and writable are refused",
            raw::own_pid()
        );
    }
    // A call that excludes the agent would wait for one that is not there.
    own.image.agent_state().note_none();
}

/// A thread as pthread_create(3) makes it, but without thread-local storage and without a word that libc waits for.
const THREAD: c_int = libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM;

fn start_thread(own: &ThisProcess) -> bool {
    // The thread inherits the mask.
    let _signals = signal_block::SignalsBlocked::new();
    let Some(stack) = take_stack() else {
        give_up_agent(own);
        return false;
    };
    HAS_BEGUN.store(0, Ordering::Relaxed);
    let errno = errno::errno();
    let tid = clone_beside_exec(own, stack);
    // libc has set errno if an attempt failed.
    errno::set_errno(errno);
    if let Some(record) = own.record() {
        record.set_agent(own.id, tid);
    }
    if tid.is_some() {
        await_beginning();
    }
    tid.is_some()
}

/// Waits until the agent has left the application's descriptor table. Before that, a file that the application closes would stay
/// open. The kernel may wait for file systems in between.
fn await_beginning() {
    const LONGEST_WAIT: Duration = Duration::from_secs(1);
    let until = raw::now() + LONGEST_WAIT.as_nanos() as u64;
    // Acquire: pairs with the Release in `run`.
    while HAS_BEGUN.load(Ordering::Acquire) == 0 && raw::now() < until {
        futex::wait(&HAS_BEGUN, 0, LONGEST_WAIT);
    }
}

/// How many attempts are made to create a thread: some milliseconds, by `Backoff`.
const TRIES: u32 = 64;

/// How long an exec may take, nanoseconds. The record says that one is under way, and a record may be damaged.
const LONGEST_EXEC: u64 = 60_000_000_000;

/// Creates the agent's thread. While another thread is in exec, the kernel creates none (copy_fs, kernel/fork.c), so attempts go
/// on until that has failed: else the process would be without its agent.
fn clone_beside_exec(own: &ThisProcess, stack: *mut c_void) -> Option<u32> {
    let is_executing = || own.record().is_some_and(|record| record.executing.is_under_way(own.id));
    let mut backoff = Backoff::default();
    let (mut tries, until) = (0, raw::now() + LONGEST_EXEC);
    while tries < TRIES || is_executing() && raw::now() < until {
        // SAFETY: `run` has a stack of its own and returns to the end of its thread. It uses no thread-local storage, so that it
        // has this thread's register is harmless.
        let tid = unsafe { originals::start_thread(run, stack.byte_add(STACK), THREAD, ptr::null_mut()) };
        if tid > 0 {
            return Some(tid as u32);
        }
        tries += 1;
        backoff.pause();
    }
    None
}
