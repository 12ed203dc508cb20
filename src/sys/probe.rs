//! Whether a filter that the process was started under (seccomp(2)) ends it for a call that few programs make.
//!
//! Nothing says what such a filter does. So each of these calls is tried in a child, which the filter ends if it ends anything:
//! once, before the process itself makes the first of them. Calls that ordinary programs make are taken to be allowed: fork is one.

use core::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{SecureComputingMode, secure_computing_mode};
use syscalls::{Sysno, raw_syscall, syscall};

use super::permission::{self, Calls};
use super::signal_block::SignalsBlocked;

/// The calls, with arguments by which they do nothing: no process, no descriptor, an empty range.
const RARE: [(Sysno, [usize; 2]); 5] = [
    (Sysno::process_vm_readv, [usize::MAX, 0]),
    (Sysno::process_vm_writev, [usize::MAX, 0]),
    (Sysno::pidfd_open, [usize::MAX, 0]),
    (Sysno::pidfd_getfd, [usize::MAX, 0]),
    (Sysno::close_range, [2, 1]),
];

/// Whether the calls are judged.
static IS_DONE: AtomicBool = AtomicBool::new(false);

/// Whether `call`, which is one of the rare ones, is forbidden.
#[inline]
pub fn forbids(call: Sysno) -> bool {
    if !IS_DONE.load(Ordering::Relaxed) {
        judge();
    }
    permission::forbids(call)
}

/// Judges the rare calls, if that has not been done. Two threads may do it at once, and find the same.
#[cold]
pub fn judge() {
    // EINVAL: the kernel has no filters.
    let is_filtered = || !matches!(secure_computing_mode(), Ok(SecureComputingMode::Disabled) | Err(Errno::INVAL));
    if !IS_DONE.load(Ordering::Relaxed) && !permission::is_any() && is_filtered() {
        let forbidden = RARE.iter().filter(|(call, arguments)| ends(*call, *arguments)).map(|(call, _)| *call);
        permission::forbid(&Calls::of(forbidden), false);
    }
    IS_DONE.store(true, Ordering::Relaxed);
}

/// Whether a child that makes the call is ended for it. Yes as well where no child can be made.
fn ends(call: Sysno, [first, second]: [usize; 2]) -> bool {
    /// The child sends no signal at its end, and the program's wait(2) does not find it.
    const ANY_CHILD: usize = 0x4000_0000;
    // SIGSYS ends the child though the program has a handler for it.
    let _signals = SignalsBlocked::new();
    // SAFETY: a fork. The child has a copy of everything, makes the calls below and ends.
    match unsafe { syscall!(Sysno::clone, 0, 0, 0, 0, 0) } {
        Ok(0) => {
            // One byte: the kernel makes no core file, and starts no program that takes one (core(5)).
            let _ = setrlimit(Resource::Core, Rlimit { current: Some(1), maximum: Some(1) });
            // SAFETY: with these arguments the call does nothing. The end does not return.
            unsafe {
                raw_syscall!(call, first, second, 0, 0, 0, 0);
                loop {
                    raw_syscall!(Sysno::exit_group, 0);
                }
            }
        }
        Ok(child) => {
            let mut status = 0u32;
            // SAFETY: the status is writable.
            while unsafe { syscall!(Sysno::wait4, child, &raw mut status, ANY_CHILD, 0) } == Err(syscalls::Errno::EINTR)
            {
            }
            status != 0
        }
        Err(_) => true,
    }
}
