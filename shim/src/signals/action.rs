//! What the application wants done with a signal whose action in the kernel is ours.

use core::arch::global_asm;
use core::ffi::c_int;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

use snapshim::sys::{raw, signal_block};
use syscalls::{Sysno, syscall};

/// An action as rt_sigaction(2) takes it, its mask as the application gave it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Action {
    pub handler: usize,
    pub flags: u64,
    pub restorer: usize,
    pub mask: u64,
}

const _: () = assert!(size_of::<Action>() == 32);

pub const RESTORER: u64 = 0x0400_0000;
/// The flags that Linux knows; it clears all others, so that a program can find out.
const KNOWN_FLAGS: u64 = (libc::SA_NOCLDSTOP | libc::SA_NOCLDWAIT | libc::SA_SIGINFO | libc::SA_ONSTACK) as u64
    | (libc::SA_RESTART | libc::SA_NODEFER) as u64
    | RESETHAND
    | EXPOSE_TAGBITS
    | RESTORER;
const RESETHAND: u64 = 0x8000_0000;
const EXPOSE_TAGBITS: u64 = 0x800;

// The way back from a handler, as libc has it, where libc cannot be asked yet. Debuggers and unwinders know it by these very bytes.
global_asm!(
    ".pushsection .text.snapshim_restorer,\"ax\",@progbits",
    ".hidden snapshim_restorer",
    ".globl snapshim_restorer",
    "nop",
    "snapshim_restorer:",
    ".byte 0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0", // mov rax, 15
    "syscall",
    ".popsection",
);

unsafe extern "C" {
    fn snapshim_restorer();
}

const fn bit(signal: c_int) -> u64 {
    1 << (signal - 1)
}

impl Action {
    pub const DEFAULT: Self = Self { handler: libc::SIG_DFL, flags: 0, restorer: 0, mask: 0 };
    pub const IGNORE: Self = Self { handler: libc::SIG_IGN, ..Self::DEFAULT };

    /// With a way back of our own.
    pub fn returning(self) -> Self {
        Self { flags: self.flags | RESTORER, restorer: snapshim_restorer as *const () as usize, ..self }
    }

    /// As the kernel keeps it.
    pub fn cleaned(self) -> Self {
        let mask = self.mask & !(bit(libc::SIGKILL) | bit(libc::SIGSTOP));
        Self { flags: self.flags & KNOWN_FLAGS, mask, ..self }
    }

    pub fn has(&self, flag: c_int) -> bool {
        self.flags & u64::from(flag as u32) != 0
    }

    /// Whether it is a function of the application's.
    pub fn is_function(&self) -> bool {
        self.handler != libc::SIG_DFL && self.handler != libc::SIG_IGN
    }

    /// What the kernel has for `signal`.
    pub fn of_kernel(signal: c_int) -> Option<Self> {
        let mut action = Self::DEFAULT;
        // SAFETY: a null new action changes nothing; the old one is as large as the kernel's.
        unsafe { syscall!(Sysno::rt_sigaction, signal, 0, &raw mut action, 8) }.ok().map(|_| action)
    }

    /// Makes it the kernel's for `signal`.
    ///
    /// # Safety
    /// The handler is one, and the restorer too.
    pub unsafe fn give_to_kernel(&self, signal: c_int) -> bool {
        // SAFETY: the action is valid; the rest is the caller's promise.
        unsafe { syscall!(Sysno::rt_sigaction, signal, core::ptr::from_ref(self), 0, 8) }.is_ok()
    }
}

/// An action that is read by handlers at any time and changed by any thread.
///
/// A change writes the entry behind the current one and then counts the version on; a reader who was overtaken twice reads again.
pub struct Disposition {
    /// The thread that changes it, 0 if none. Its signals are blocked meanwhile.
    owner: AtomicU32,
    version: AtomicU32,
    entries: [[AtomicU64; 4]; ENTRIES],
}

const ENTRIES: usize = 4;

impl Disposition {
    pub const fn new() -> Self {
        let entries = [const { [const { AtomicU64::new(0) }; 4] }; ENTRIES];
        Self { owner: AtomicU32::new(0), version: AtomicU32::new(0), entries }
    }

    fn entry(&self, version: u32) -> &[AtomicU64; 4] {
        &self.entries[version as usize % ENTRIES]
    }

    pub fn look(&self) -> Action {
        loop {
            // Acquire: pairs with the Release in `change`.
            let version = self.version.load(Ordering::Acquire);
            let [handler, flags, restorer, mask] =
                self.entry(version).each_ref().map(|word| word.load(Ordering::Relaxed));
            // Acquire: pairs with the fence in `change`; whoever read a word of a later entry sees the version before that one.
            fence(Ordering::Acquire);
            if self.version.load(Ordering::Relaxed).wrapping_sub(version) < ENTRIES as u32 - 1 {
                return Action { handler: handler as usize, flags, restorer: restorer as usize, mask };
            }
        }
    }

    /// Replaces the action by what `change` makes of it; the one before.
    pub fn change(&self, change: impl FnOnce(Action) -> Action) -> Action {
        let _signals = signal_block::SignalsBlocked::new();
        self.own();
        let before = self.look();
        let action = change(before);
        if action != before {
            let version = self.version.load(Ordering::Relaxed).wrapping_add(1);
            // Release: pairs with the Acquire fence in `look`.
            fence(Ordering::Release);
            let words = [action.handler as u64, action.flags, action.restorer as u64, action.mask];
            for (place, word) in self.entry(version).iter().zip(words) {
                place.store(word, Ordering::Relaxed);
            }
            // Release: pairs with the Acquire in `look`.
            self.version.store(version, Ordering::Release);
        }
        // Release: pairs with the Acquire in `own`.
        self.owner.store(0, Ordering::Release);
        before
    }

    /// A forked child may find an owner that it has no thread for: what that one began was never published.
    fn own(&self) {
        let own = raw::own_tid();
        while let Err(owner) = self.owner.compare_exchange(0, own, Ordering::Acquire, Ordering::Relaxed) {
            // SAFETY: signal 0 only asks whether the thread exists.
            let is_here = unsafe { syscall!(Sysno::tgkill, raw::own_pid(), owner, 0) }.is_ok();
            if !is_here {
                let _ = self.owner.compare_exchange(owner, 0, Ordering::Relaxed, Ordering::Relaxed);
            }
            raw::yield_now();
        }
    }
}

pub const FAULT: c_int = libc::SIGSEGV;
pub const STAND_IN: c_int = libc::SIGSTKFLT;

static FAULT_ACTION: Disposition = Disposition::new();
pub static STAND_IN_ACTION: Disposition = Disposition::new();
/// libc's way back from a handler, which it adds to every action.
pub static LIBC_RESTORER: AtomicUsize = AtomicUsize::new(0);

pub fn disposition(signal: c_int) -> &'static Disposition {
    if signal == FAULT { &FAULT_ACTION } else { &STAND_IN_ACTION }
}

pub fn libc_restorer() -> usize {
    LIBC_RESTORER.load(Ordering::Relaxed)
}

/// An action as a program gives it to libc's sigaction(2).
pub fn from_libc(handler: usize, flags: c_int, mask: u64) -> Action {
    let flags = u64::from(flags as u32) | RESTORER;
    Action { handler, flags, restorer: libc_restorer(), mask }
}
