//! Whether the agent is the last thread of the process.

use core::ffi::c_int;
use core::time::Duration;

use snapshim::sys::futex::{self, Woken};
use snapshim::sys::procfs::{self, ProcStat};
use snapshim::sys::sync::AtomicU32;
use snapshim::sys::{raw, signal_block};
use syscalls::{Sysno, syscall};

use crate::base::user_memory::read_value;
use crate::base::valgrind;
use crate::process::identity::{self, ThisProcess};
use crate::process::{fd_table, first_thread};
use crate::signals::action::Action;

/// Notes that the calling thread is about to end by exit(2). While the agent lives, the kernel does not end the process with its
/// last other thread. So the agent checks whether it is alone, and ends with the status that the process would have had
/// (synchronize_group_exit, kernel/exit.c).
pub fn note_end_of_thread(status: c_int) {
    let Some(own) = identity::attached().filter(|_| !identity::is_vfork_child()) else { return };
    own.image.agent_state().note_raw_exit(status);
    if let Some(record) = own.record() {
        record.ring();
    }
}

/// The agent's check whether the program still has threads of its own.
///
/// While the first thread lives the program has one. The kernel wakes the agent when that thread ends ([`first_thread`]). From then
/// on the check comes soon after each end of a thread that was noted, and then more and more seldom.
pub struct LastThreadCheck {
    /// The word that the kernel clears when the first thread ends; `None`: not known, or cleared.
    word: Option<u64>,
    /// How many ends were noted at the last check.
    raw_exits: u32,
    /// The same when the first thread was last found alive.
    before_first: u32,
    /// How many checks there were since the last end.
    looks: u32,
    /// When the next is due.
    next: u64,
}

impl LastThreadCheck {
    pub fn new() -> Self {
        // A filter of seccomp(2) may end the program for a call that it does not know, and valgrind warns of one.
        let word = first_thread::word().filter(|_| !fd_table::may_be_filtered() && !valgrind::is_there());
        Self { word, raw_exits: 0, before_first: 0, looks: 0, next: 0 }
    }

    /// Checks, if it is time; how long the agent may sleep until the next check. `None`: the agent is alone.
    pub fn check(&mut self, own: &ThisProcess) -> Option<Duration> {
        let raw_exits = own.image.agent_state().raw_exits();
        if raw_exits != self.raw_exits {
            self.raw_exits = raw_exits;
            self.look_soon();
        }
        let now = raw::now();
        if now < self.next {
            return Some(Duration::from_nanos(self.next - now));
        }
        // The first thread counts until the process ends, as a zombie.
        let stat = ProcStat::read(&procfs::ProcPath::of(raw::own_pid(), "stat"));
        let has_ended = stat.as_ref().is_ok_and(|stat| stat.state == b'Z');
        if !has_ended {
            self.before_first = raw_exits;
        }
        let pause = match self.word {
            Some(_) if !has_ended => SELDOM,
            _ => ROUND.min(Duration::from_millis(1 << self.looks.min(10))),
        };
        self.looks += 1;
        self.next = now + pause.as_nanos() as u64;
        (!has_ended || stat.is_ok_and(|stat| stat.threads > 2)).then_some(pause)
    }

    fn look_soon(&mut self) {
        (self.looks, self.next) = (0, 0);
    }

    /// Sleeps until the bell is rung, the first thread ends, or `pause` has passed.
    pub fn sleep(&mut self, doorbell: &AtomicU32, bell: u32, pause: Duration) {
        let Some(word) = self.word else { return futex::wait(doorbell, bell, pause) };
        match futex::wait_on_two((doorbell, bell), (word, raw::own_pid()), pause) {
            Woken::Other => {}
            Woken::PerhapsSecond => {
                // The kernel wakes one thread. Another may wait in pthread_join(3).
                futex::wake_at(word);
                if read_value(word) != Some(raw::own_pid()) {
                    self.word = None;
                }
                self.look_soon();
            }
            Woken::Unsupported => {
                self.word = None;
                futex::wait(doorbell, bell, pause);
            }
        }
    }

    /// Ends the process as its last thread did: the agent's exit status, or death by the signal that ended the thread.
    ///
    /// The last thread is the first one, unless ends of others were noted since that one was found alive.
    pub fn last_status(&self, own: &ThisProcess) -> c_int {
        let noted = own.image.agent_state().last_status();
        if self.raw_exits != self.before_first {
            return noted;
        }
        const SIGNAL: u32 = 0x7f;
        match ProcStat::own_exit_code() {
            Some(code) if code & SIGNAL != 0 => die_by((code & SIGNAL) as c_int),
            Some(code) => (code >> 8) as c_int,
            None => noted,
        }
    }
}

/// A filter of seccomp(2) may end one thread by SIGSYS. For the last thread of a process the kernel then ends the process by it
/// (__seccomp_filter, kernel/seccomp.c).
fn die_by(signal: c_int) -> c_int {
    // SAFETY: the default action has no handler; no thread of the program is left.
    unsafe { Action::DEFAULT.give_to_kernel(signal) };
    // SAFETY: the arguments are values.
    let _ = unsafe { syscall!(Sysno::tgkill, raw::own_pid(), raw::own_tid(), signal) };
    signal_block::set_signal_mask(!(1 << (signal - 1)));
    signal
}

/// How long the agent trusts the kernel to tell of the first thread's end.
const SELDOM: Duration = Duration::from_secs(10);

/// How often the agent checks that its snapshots are still what they are said to be.
pub const ROUND: Duration = Duration::from_secs(1);
