//! What the thread behind a slot is doing, as far as the kernel shows it.

use crate::protocol::process::Process;
use crate::protocol::process_id::ProcessId;
use crate::sys::procfs::{self, ProcPath, Stat};

/// The thread that makes the calls of a slot.
pub(crate) struct Maker<'a> {
    pub(crate) process: &'a Process,
    pub(crate) id: ProcessId,
    pub(crate) thread: u32,
    pub(crate) doing: Doing,
}

/// What a thread is doing in the kernel: /proc/PID/task/TID/syscall (proc_pid_syscall(5)), which is readable for who may trace it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Doing {
    /// The number of the call that it waits in.
    call: Option<u64>,
}

impl Doing {
    pub(crate) fn read(pid: u32, thread: u32) -> Self {
        let mut buffer = [0u8; 256];
        let path = ProcPath::of(pid, "task").slash(thread).then("/syscall");
        let text = procfs::read_file(path.as_c_str(), &mut buffer).unwrap_or(b"");
        Self::parse(core::str::from_utf8(text).unwrap_or("")).unwrap_or_default()
    }

    /// "running", or the call's number (-1 outside of one) with its arguments, then the stack pointer and the program counter.
    ///
    /// Where the stack pointer is says nothing of a call further up: the thread may be in a handler on another stack.
    fn parse(text: &str) -> Option<Self> {
        let call = text.split_ascii_whitespace().next()?.parse::<u64>().ok();
        Some(Self { call })
    }

    /// Whether it waits in a call that writes nothing.
    pub(crate) fn is_waiting_elsewhere(&self) -> bool {
        self.call.is_some_and(|call| !WRITING.contains(&call))
    }

    /// Whether it certainly does not wait for a child of vfork(2), or by clone(2), that may have its memory and stack meanwhile.
    pub(crate) fn is_no_loan(&self, pid: u32, thread: u32) -> bool {
        const LENDING: [u64; 3] = [56, 58, 435];
        match self.call {
            Some(call) => !LENDING.contains(&call),
            // Running, or not ours to know; its state is there for everybody.
            None => {
                Stat::read(&ProcPath::of(pid, "task").slash(thread).then("/stat")).is_ok_and(|stat| stat.is_no_vfork())
            }
        }
    }
}

/// The system calls that the hooks announce (x86-64).
const WRITING: [u64; 21] =
    [1, 2, 16, 18, 20, 40, 76, 77, 85, 132, 209, 235, 257, 261, 275, 280, 285, 296, 304, 326, 328];

#[cfg(test)]
mod tests {
    use syscalls::Sysno;

    use super::*;

    const IN_READ: &str = "0 0x0 0x7f0000000000 0x400 0x0 0x0 0x0 0x7ffd00001000 0x7f1234567890\n";

    #[test]
    fn a_thread_that_waits_in_read_writes_nothing() {
        let doing = Doing::parse(IN_READ).unwrap();
        assert_eq!(doing.call, Some(0));
        assert!(doing.is_waiting_elsewhere());
    }

    #[test]
    fn no_call_that_writes_is_taken_for_another() {
        use Sysno::*;
        let writing = [write, pwrite64, writev, pwritev, pwritev2, copy_file_range, sendfile, splice, io_submit, ioctl];
        let cutting = [truncate, ftruncate, fallocate, open, openat, creat, open_by_handle_at];
        for call in writing.into_iter().chain(cutting) {
            let doing = Doing { call: Some(call.id() as u64) };
            assert!(!doing.is_waiting_elsewhere(), "{call}");
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
            assert!(!Doing::parse(text).unwrap_or_default().is_waiting_elsewhere(), "{text}");
        }
    }
}
