//! Virtual actions: what the application wants done with a signal whose action in the kernel is the shim's.

use core::arch::global_asm;
use core::ffi::c_int;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

use snapshim::sys::{raw, signal_block};
use syscalls::{Sysno, syscall};

/// An action as rt_sigaction(2) takes it, with the mask that the application gave.
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
/// The flags that Linux knows. It clears all others, so that a program can find out which those are.
const KNOWN_FLAGS: u64 = (libc::SA_NOCLDSTOP | libc::SA_NOCLDWAIT | libc::SA_SIGINFO | libc::SA_ONSTACK) as u64
    | (libc::SA_RESTART | libc::SA_NODEFER) as u64
    | RESETHAND
    | EXPOSE_TAGBITS
    | RESTORER;
const RESETHAND: u64 = 0x8000_0000;
const EXPOSE_TAGBITS: u64 = 0x800;

// The restorer, which is the way back from a handler, for actions that are set before libc can be asked for its own. Debuggers and
// unwinders recognise it by these very bytes.
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

    /// The action with the shim's own restorer.
    pub fn returning(self) -> Self {
        Self { flags: self.flags | RESTORER, restorer: snapshim_restorer as *const () as usize, ..self }
    }

    /// The action as the kernel would store it.
    pub fn cleaned(self) -> Self {
        let mask = self.mask & !(bit(libc::SIGKILL) | bit(libc::SIGSTOP));
        Self { flags: self.flags & KNOWN_FLAGS, mask, ..self }
    }

    /// Whether a flag is set.
    pub fn has(&self, flag: c_int) -> bool {
        self.flags & u64::from(flag as u32) != 0
    }

    /// Whether the handler is a function of the application's.
    pub fn is_function(&self) -> bool {
        self.handler != libc::SIG_DFL && self.handler != libc::SIG_IGN
    }

    /// The kernel's action for `signal`.
    pub fn of_kernel(signal: c_int) -> Option<Self> {
        let mut action = Self::DEFAULT;
        // SAFETY: a null new action changes nothing; the old one is as large as the kernel's.
        unsafe { syscall!(Sysno::rt_sigaction, signal, 0, &raw mut action, 8) }.ok().map(|_| action)
    }

    /// Makes this the kernel's action for `signal`.
    ///
    /// # Safety
    /// The handler is a signal handler, SIG_DFL or SIG_IGN, and the restorer is one.
    pub unsafe fn give_to_kernel(&self, signal: c_int) -> bool {
        // SAFETY: the action is valid; the rest is the caller's promise.
        unsafe { syscall!(Sysno::rt_sigaction, signal, core::ptr::from_ref(self), 0, 8) }.is_ok()
    }
}

/// An action that handlers read at any time and any thread changes.
///
/// A change writes the next entry of a ring, and then raises the version. A reader reads the entry of the version; if the version
/// has come so far meanwhile that the entry may have been written again, it reads anew.
pub struct Disposition {
    /// The thread that changes it; 0: none. Its signals are blocked meanwhile.
    owner: AtomicU32,
    /// Its remainder by the number of entries is the current entry.
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

    /// The current action.
    pub fn load(&self) -> Action {
        loop {
            // Acquire: pairs with the Release in `change`.
            let version = self.version.load(Ordering::Acquire);
            let [handler, flags, restorer, mask] =
                self.entry(version).each_ref().map(|word| word.load(Ordering::Relaxed));
            // Acquire: pairs with the Release fence in `change`; a reader that has read a word of a later version sees the version
            // before that one.
            fence(Ordering::Acquire);
            if self.version.load(Ordering::Relaxed).wrapping_sub(version) < ENTRIES as u32 - 1 {
                return Action { handler: handler as usize, flags, restorer: restorer as usize, mask };
            }
        }
    }

    /// Replaces the action by what `change` makes of it; the action before.
    pub fn change(&self, change: impl FnOnce(Action) -> Action) -> Action {
        let _signals = signal_block::SignalsBlocked::new();
        self.lock();
        let before = self.load();
        let action = change(before);
        if action != before {
            let version = self.version.load(Ordering::Relaxed).wrapping_add(1);
            // Release: pairs with the Acquire fence in `load`.
            fence(Ordering::Release);
            let words = [action.handler as u64, action.flags, action.restorer as u64, action.mask];
            for (place, word) in self.entry(version).iter().zip(words) {
                place.store(word, Ordering::Relaxed);
            }
            // Release: pairs with the Acquire in `load`.
            self.version.store(version, Ordering::Release);
        }
        // Release: pairs with the Acquire in `own`.
        self.owner.store(0, Ordering::Release);
        before
    }

    /// Makes the calling thread the owner, when no other is. A forked child may find an owner that is no thread of its own; what
    /// that thread began was never published, so it is passed over.
    fn lock(&self) {
        let own = raw::own_tid();
        // Acquire: pairs with the Release in `change`: the entries of the owner before are visible.
        while let Err(owner) = self.owner.compare_exchange(0, own, Ordering::Acquire, Ordering::Relaxed) {
            // SAFETY: signal 0 only asks whether the thread exists in this process.
            let is_here = unsafe { syscall!(Sysno::tgkill, raw::own_pid(), owner, 0) }.is_ok();
            if !is_here {
                let _ = self.owner.compare_exchange(owner, 0, Ordering::Relaxed, Ordering::Relaxed);
            }
            raw::yield_now();
        }
    }
}

/// The signal of a fault, which the kernel never has blocked.
pub const FAULT: c_int = libc::SIGSEGV;
/// Its substitute in masks and as a pending signal ([`snapshim::sys::masks`]).
pub const SUBSTITUTE: c_int = libc::SIGSTKFLT;

static FAULT_ACTION: Disposition = Disposition::new();
pub static SUBSTITUTE_ACTION: Disposition = Disposition::new();
/// libc's restorer, which libc adds to every action; 0: not known yet.
pub static LIBC_RESTORER: AtomicUsize = AtomicUsize::new(0);

/// The virtual action of one of the two signals.
pub fn disposition(signal: c_int) -> &'static Disposition {
    if signal == FAULT { &FAULT_ACTION } else { &SUBSTITUTE_ACTION }
}

/// libc's restorer; 0: not known yet.
pub fn libc_restorer() -> usize {
    LIBC_RESTORER.load(Ordering::Relaxed)
}

/// The action that libc makes of one that a program gives to sigaction(2).
pub fn from_libc(handler: usize, flags: c_int, mask: u64) -> Action {
    let flags = u64::from(flags as u32) | RESTORER;
    Action { handler, flags, restorer: libc_restorer(), mask }
}
