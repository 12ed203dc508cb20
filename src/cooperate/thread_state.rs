//! What the thread behind a slot is doing, as far as the kernel shows it.

use rustix::io::Errno;
use syscalls::Sysno;

use super::locate::target_of_stat;
use crate::protocol::origin::Target;
use crate::protocol::process::Process;
use crate::protocol::process_id::ProcessId;
use crate::sys::procfs::{self, ProcPath, ProcStat, WaitingCall};

/// The thread that makes the calls of a slot.
pub(crate) struct CallingThread<'a> {
    pub(crate) process: &'a Process,
    pub(crate) id: ProcessId,
    pub(crate) thread: u32,
}

impl CallingThread<'_> {
    /// Where `descriptor` leads in the thread's descriptor table. What cannot be looked up is unknown.
    pub(crate) fn target_of(&self, descriptor: u32) -> Target {
        let pid = self.id.pid();
        let table = if self.thread == pid {
            ProcPath::of(pid, "fd")
        } else {
            ProcPath::of(pid, "task").slash(self.thread).then("/fd")
        };
        match rustix::fs::stat(table.slash(descriptor).as_c_str()) {
            Ok(stat) => target_of_stat(&stat),
            Err(Errno::NOENT) => Target::Elsewhere,
            Err(_) => Target::Unknown,
        }
    }

    /// Whether the thread changes no file at this moment: it waits in a call that writes nothing, or in a place where only writes
    /// to pipes, sockets and terminals wait.
    pub(crate) fn is_waiting_elsewhere(&self) -> bool {
        let pid = self.id.pid();
        ThreadSyscall::read(pid, self.thread).is_waiting_elsewhere()
            || procfs::is_waiting_in(pid, self.thread, |place| PLACES.contains(&place))
    }
}

/// Functions of the kernel in which a thread waits that writes to a pipe, a socket or a terminal, or opens a FIFO. No file system
/// and no block device waits there (fs/pipe.c, net/core/sock.c, net/core/stream.c, net/unix/af_unix.c, drivers/tty/n_tty.c).
const PLACES: [&[u8]; 7] = [
    b"pipe_write",
    b"anon_pipe_write",
    b"fifo_pipe_write",
    b"wait_for_partner",
    b"sock_alloc_send_pskb",
    b"unix_wait_for_peer",
    b"wait_woken",
];

/// What a thread is doing in the kernel, as far as the caller may see it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ThreadSyscall {
    /// The number of the call that it waits in.
    call: Option<u64>,
}

impl ThreadSyscall {
    pub(crate) fn read(pid: u32, thread: u32) -> Self {
        Self { call: WaitingCall::of(pid, thread).map(|call| call.number) }
    }

    /// The number of the call that it waits in; `None`: in none, or the kernel does not say.
    pub(crate) fn number(&self) -> Option<u64> {
        self.call
    }

    /// Whether it waits in a call that writes nothing.
    fn is_waiting_elsewhere(&self) -> bool {
        self.call.is_some_and(|call| !is_one_of(call, &WRITING))
    }

    /// Whether it certainly does not wait for a child of vfork(2) or clone(2) that may have its memory and stack meanwhile.
    pub(crate) fn shares_no_mm(&self, pid: u32, thread: u32) -> bool {
        const SHARING_MM: [Sysno; 3] = [Sysno::clone, Sysno::vfork, Sysno::clone3];
        match self.call {
            Some(call) => !is_one_of(call, &SHARING_MM),
            // It runs, or the kernel does not say. Every process may read its state.
            None => ProcStat::read(&ProcPath::of(pid, "task").slash(thread).then("/stat"))
                .is_ok_and(|stat| stat.is_no_vfork()),
        }
    }
}

/// Where the kernel waits inside open(2) for the other end of a FIFO, or for the carrier of a serial line: functions that open
/// nothing else (fs/pipe.c, drivers/tty/tty_port.c).
const WAITS_OF_OPEN: [&[u8]; 3] = [b"wait_for_partner", b"fifo_open", b"tty_port_block_til_ready"];

/// Whether a thread waits in open(2) of something that has no content, for the call whose hook's stack pointer is `stack`. Such a
/// call truncates nothing when it goes on.
///
/// A signal handler may have interrupted another open(2), which will be made again, and open a FIFO itself. Its system call then
/// is further away from the hook than the frame that the kernel pushes for a handler is large.
pub(crate) fn waits_to_open_no_file(pid: u32, thread: u32, stack: u64) -> bool {
    /// Less than a signal frame: red zone, floating point state and registers (arch/x86/kernel/signal_64.c).
    const NEAR: u64 = 1024;
    let Some(call) = WaitingCall::of(pid, thread) else { return false };
    let opens = is_one_of(call.number, &[Sysno::open, Sysno::openat, Sysno::openat2, Sysno::creat]);
    opens
        && call.stack().abs_diff(stack) < NEAR
        && procfs::is_waiting_in(pid, thread, |place| WAITS_OF_OPEN.contains(&place))
}

/// The system calls that the hooks announce.
const WRITING: [Sysno; 22] = [
    Sysno::write,
    Sysno::pwrite64,
    Sysno::writev,
    Sysno::pwritev,
    Sysno::pwritev2,
    Sysno::sendfile,
    Sysno::splice,
    Sysno::copy_file_range,
    Sysno::io_submit,
    Sysno::ioctl,
    Sysno::open,
    Sysno::openat,
    Sysno::openat2,
    Sysno::open_by_handle_at,
    Sysno::creat,
    Sysno::truncate,
    Sysno::ftruncate,
    Sysno::fallocate,
    Sysno::utime,
    Sysno::utimes,
    Sysno::futimesat,
    Sysno::utimensat,
];

pub(crate) fn is_one_of(call: u64, calls: &[Sysno]) -> bool {
    calls.iter().any(|one| one.id() as u64 == call)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IN_READ: &str = "0 0x0 0x7f0000000000 0x400 0x0 0x0 0x0 0x7ffd00001000 0x7f1234567890\n";

    fn in_call(text: &str) -> ThreadSyscall {
        ThreadSyscall { call: WaitingCall::parse(text).map(|call| call.number) }
    }

    #[test]
    fn a_thread_that_waits_in_read_writes_nothing() {
        let syscall = in_call(IN_READ);
        assert_eq!(syscall.call, Some(0));
        assert!(syscall.is_waiting_elsewhere());
    }

    #[test]
    fn no_call_that_writes_is_taken_for_another() {
        use Sysno::*;
        let writing = [write, pwrite64, writev, pwritev, pwritev2, copy_file_range, sendfile, splice, io_submit, ioctl];
        let truncating = [truncate, ftruncate, fallocate, open, openat, openat2, creat, open_by_handle_at];
        for call in writing.into_iter().chain(truncating) {
            let syscall = ThreadSyscall { call: Some(call.id() as u64) };
            assert!(!syscall.is_waiting_elsewhere(), "{call}");
        }
    }

    #[test]
    fn a_thread_that_writes_runs_or_cannot_be_seen_may_be_writing() {
        for text in [
            "1 0x3 0x7f0000000000 0x400 0x0 0x0 0x0 0x7ffd00001000 0x7f12",
            "running\n",
            "-1 0x7ffd00001000 0x7f12\n",
            "",
        ] {
            assert!(!in_call(text).is_waiting_elsewhere(), "{text}");
        }
    }
}
