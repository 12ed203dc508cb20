//! Blocking signals: rt_sigprocmask(2), and a guard that restores the mask that was before it.

use syscalls::{Sysno, syscall};

use super::{masks, permission};

/// All signals that a thread can block, blocked until dropped.
#[derive(Debug)]
pub struct SignalsBlocked {
    before: u64,
    /// Whether `before` is a mask of the kernel's that already differs from the application's (see [`masks`]).
    is_translated: bool,
}

const SIG_BLOCK: usize = 0;
const SIG_SETMASK: usize = 2;
/// The signals of pthread_cancel(3) and setuid(2), which libc lets no program block.
const LIBC_OWN: u64 = 1 << (32 - 1) | 1 << (33 - 1);
/// All but SIGSYS, by which a sandbox may answer a call (seccomp(2)), and SIGTRAP, by which a debugger stops a thread: the kernel
/// ends a thread that has one of them blocked when it comes.
pub const EXCEPT_OF_SANDBOXES: u64 = !(1 << (31 - 1) | 1 << (5 - 1));

impl SignalsBlocked {
    /// Blocks every signal, the C library's own included; SIGSEGV by its substitute.
    #[must_use]
    pub fn new() -> Self {
        Self::of(u64::MAX)
    }

    /// Blocks [`EXCEPT_OF_SANDBOXES`].
    #[must_use]
    pub fn except_of_sandboxes() -> Self {
        Self::of(EXCEPT_OF_SANDBOXES)
    }

    fn of(signals: u64) -> Self {
        let is_translated = masks::is_sigsegv_reserved();
        let signals = if is_translated { masks::to_kernel(signals) } else { signals };
        Self { before: change_signal_mask(SIG_BLOCK, signals), is_translated }
    }

    /// The mask that the drop restores.
    #[must_use]
    pub fn before(&self) -> u64 {
        self.before
    }
}

impl Default for SignalsBlocked {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        // A mask that blocks libc's own signals is not the application's. It is that of a guard around this one, or of the agent.
        let is_applications = self.before & LIBC_OWN != LIBC_OWN;
        let has_changed = masks::is_sigsegv_reserved() && !self.is_translated && is_applications;
        set_signal_mask(if has_changed { masks::to_kernel(self.before) } else { self.before });
    }
}

/// Sets the mask as the kernel takes it (rt_sigprocmask(2), SIG_SETMASK). The result is the mask before.
pub fn set_signal_mask(mask: u64) -> u64 {
    change_signal_mask(SIG_SETMASK, mask)
}

fn change_signal_mask(how: usize, mask: u64) -> u64 {
    let mut old = 0u64;
    if permission::forbids(Sysno::rt_sigprocmask) {
        // A handler may come in then. It finds what it would find in a call that a handler interrupted.
        return old;
    }
    // SAFETY: both masks are eight bytes, as the last argument says.
    let _ = unsafe { syscall!(Sysno::rt_sigprocmask, how, &raw const mask, &raw mut old, 8) };
    old
}

/// The calling thread's mask, as the kernel has it.
#[must_use]
pub fn signal_mask() -> u64 {
    change_signal_mask(SIG_BLOCK, 0)
}

/// The signals that are pending for the calling thread or its process (rt_sigpending(2)); none where the call is forbidden.
#[must_use]
pub fn pending_signals() -> u64 {
    let mut pending = 0u64;
    if !permission::forbids(Sysno::rt_sigpending) {
        // SAFETY: the set is eight bytes, as the last argument says.
        let _ = unsafe { syscall!(Sysno::rt_sigpending, &raw mut pending, 8) };
    }
    pending
}
