//! Asking a process that has no agent to start one: by a signal, whose handler the process has put in before it mapped a file
//! shared and writable.
//!
//! The signal is the one by which libc's setuid(2) reaches every thread. libc keeps it out of every mask, and lets no program have
//! it. It goes to one thread, above all to one that waits in a call which the kernel restarts.

use rustix::io::Errno;
use syscalls::{Sysno, syscall};

use super::liveness::{self, Liveness};
use super::thread_state::{ThreadSyscall, is_one_of};
use crate::protocol::process::Process;
use crate::protocol::process_id::ProcessId;
use crate::sys::procfs::{self, ProcPath, ProcStat, WaitingCall};
use crate::sys::raw;

/// SIGSETXID (glibc, internal-signals.h).
pub const SIGNAL: i32 = 33;
/// si_errno of a summons.
pub const SUMMONS: i32 = 0x736e_616d;
/// si_code of a signal that carries a value (sigqueue(3)).
pub const SI_QUEUE: i32 = -1;

/// Sends the image `id`, whose record this is, a summons. False: that is not possible, or not now.
pub fn summon(record: &Process, id: ProcessId) -> bool {
    let summoner = raw::own_pid();
    if !record.begin_summons(id, summoner) {
        forget_dead_summoner(record);
        return false;
    }
    let is_sent = liveness::of_image(record, id) == Liveness::Alive
        && best_thread(id.pid()).is_some_and(|thread| send(id, thread));
    record.end_summons(summoner);
    is_sent
}

/// A summoner that was killed before it ended its summons would keep all others away.
fn forget_dead_summoner(record: &Process) {
    let summoner = record.summoner();
    if raw::test_process(summoner) == Err(Errno::SRCH) {
        record.end_summons(summoner);
    }
}

/// Where in the siginfo_t stands what is sent along (sigqueue(3)), in words of eight bytes.
const VALUE: usize = 3;
/// Where stand the number of the call that the thread waits in, and the [`fingerprint`] of its registers; 0: not known. The kernel
/// hands on 48 bytes of a siginfo_t (struct kernel_siginfo), of which this kind of signal uses 32.
pub const CALL: usize = 4;

/// By which a thread finds out whether it waits in the call that the summoner saw it wait in. `registers` are those of
/// [`WaitingCall`].
#[must_use]
pub fn fingerprint(registers: &[u64; 8]) -> u64 {
    registers.iter().fold(1, |sum, register| (sum ^ register).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23))
}

fn send(id: ProcessId, thread: u32) -> bool {
    let mut information = [0u64; 16];
    information[0] = SIGNAL as u64 | (SUMMONS as u64) << 32;
    information[1] = u64::from(SI_QUEUE as u32);
    information[VALUE] = id.to_word();
    if let Some(call) = WaitingCall::of(id.pid(), thread) {
        information[CALL..CALL + 2].copy_from_slice(&[call.number, fingerprint(&call.registers)]);
    }
    // SAFETY: the kernel reads the siginfo_t during the call.
    unsafe { syscall!(Sysno::rt_tgsigqueueinfo, id.pid(), thread, SIGNAL, information.as_ptr()) }.is_ok()
}

/// How little a signal disturbs a thread; the less the better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Disturbance {
    /// Its call is made again by the kernel.
    None,
    /// It runs, or the kernel does not say what it does.
    Unknown,
    /// Its call returns EINTR; the handler has the program make it again.
    Repeated,
    /// It may not answer for a while.
    Late,
}

/// The thread that a signal disturbs least. `None`: no thread has a handler for it.
fn best_thread(pid: u32) -> Option<u32> {
    /// A process has hardly as many threads that all wait in calls which no kernel restarts.
    const ENOUGH: u32 = 64;
    let mut best: Option<(Disturbance, u32)> = None;
    let mut seen = 0;
    procfs::any_number(ProcPath::of(pid, "task").as_c_str(), |thread| {
        if let Some(disturbance) = disturbance(pid, thread)
            && best.is_none_or(|(other, _)| disturbance < other)
        {
            best = Some((disturbance, thread));
        }
        seen += 1;
        seen == ENOUGH || best.is_some_and(|(disturbance, _)| disturbance == Disturbance::None)
    });
    best.map(|(_, thread)| thread)
}

fn disturbance(pid: u32, thread: u32) -> Option<Disturbance> {
    if !procfs::handles_signal(pid, thread, SIGNAL as u32)? {
        return None;
    }
    let stat = ProcStat::read(&ProcPath::of(pid, "task").slash(thread).then("/stat")).ok()?;
    Some(match (stat.state, ThreadSyscall::read(pid, thread).number()) {
        (b'Z' | b'X' | b'x', _) => return None,
        (b'S', Some(call)) if is_one_of(call, &RESTARTED) => Disturbance::None,
        (b'S', Some(_)) => Disturbance::Repeated,
        (b'S' | b'R', _) => Disturbance::Unknown,
        _ => Disturbance::Late,
    })
}

/// Calls that the kernel makes again after a handler with SA_RESTART (signal(7)), unless a time limit was set for them.
const RESTARTED: [Sysno; 13] = [
    Sysno::futex,
    Sysno::read,
    Sysno::readv,
    Sysno::write,
    Sysno::writev,
    Sysno::recvfrom,
    Sysno::recvmsg,
    Sysno::accept,
    Sysno::accept4,
    Sysno::wait4,
    Sysno::waitid,
    Sysno::flock,
    Sysno::fcntl,
];
