//! Signals: the shim handles SIGSEGV, and the application does not see that.
//!
//! A store into memory that is write-protected for a while faults. The part that protected it resolves the fault ([`Resolve`]),
//! and the store goes on. From [`install`] on the kernel's action for SIGSEGV is the shim's handler, and the application's action
//! is *virtual*: what it sets and gets through sigaction(2) and its kin (`hooks::signal`) is stored here ([`action`]), and
//! [`deliver`] does with a signal what the kernel would have done.
//!
//! If SIGSEGV were blocked in the kernel, a fault would end the process. So the kernel never has it blocked
//! ([`snapshim::sys::masks`]): SIGSTKFLT is its substitute in every mask, and for a SIGSEGV that is sent while the application
//! blocks it.
//!
//! May import: `process`, `interpose`, `base` and the core crate.
//!
//! Promises: a fault that nothing here made reaches the application as if the kernel had delivered it, with the kernel's own frame.
//!
//! Must not: know snapshots or mappings: `address_space` and `shared` register what resolves their faults.

pub mod action;
mod deliver;
pub mod frame;
pub mod guarded;
pub mod threads;
pub mod waiting;

use core::ffi::c_int;
use core::ptr;
use core::sync::atomic::Ordering;

use snapshim::sys::masks;
use snapshim::sys::signal_block::{self, SignalsBlocked};

use crate::interpose::originals::real_sigaction;
use crate::process::identity;
pub use deliver::{Asked, Resolve};

use crate::signals::action::{Action, FAULT, LIBC_RESTORER, SUBSTITUTE, SUBSTITUTE_ACTION, disposition, from_libc};

/// Whether the application's actions for SIGSEGV and its substitute are virtual.
#[inline]
pub fn is_installed() -> bool {
    masks::is_sigsegv_reserved()
}

/// Whether the action of `signal` is virtual once the handler is installed.
pub fn is_virtual(signal: c_int) -> bool {
    signal == FAULT || signal == SUBSTITUTE
}

/// Makes the handler the kernel's action, also if the program or a library has set another one past the hooks. The action that it
/// replaces becomes the application's virtual one. Async-signal-safe, and fit for a thread without thread-local storage. False: it
/// failed.
///
/// `resolve` is registered before that: it is asked of each fault whether it has caused it.
pub fn install(asked: Asked, resolve: Resolve) -> bool {
    deliver::register(asked, resolve);
    if is_installed() && is_ours(FAULT) && is_ours(SUBSTITUTE) {
        return true;
    }
    // The end of this block gives the thread a mask in which SIGSEGV is open.
    let _signals = SignalsBlocked::new();
    crate::base::own_stacks::prepare();
    let is_first = !is_installed();
    // This comes before the actions are adopted: a thread that sets one from now on waits for that, and changes the virtual one.
    masks::reserve_sigsegv();
    let adopted = adopt(SUBSTITUTE) && adopt(FAULT);
    if adopted && is_first {
        open_faults_in_handlers();
        threads::open_faults();
    }
    adopted
}

/// Whether the kernel's action for a signal is the shim's handler.
fn is_ours(signal: c_int) -> bool {
    Action::of_kernel(signal).is_some_and(|action| action.handler == deliver::on_signal as *const () as usize)
}

/// Makes the kernel's action for a signal the virtual one, and the handler the kernel's.
fn adopt(signal: c_int) -> bool {
    let mut adopted = true;
    disposition(signal).change(|known| match Action::of_kernel(signal) {
        Some(found) if found.handler != deliver::on_signal as *const () as usize => {
            adopted = give_ours(signal, &found);
            if adopted { found } else { known }
        }
        _ => known,
    });
    adopted
}

/// Makes the handler the kernel's action for a signal. SA_RESTART is as the application wants it. The call goes through libc,
/// which adds its restorer.
fn give_ours(signal: c_int, wanted: &Action) -> bool {
    let restarts = !wanted.is_function() || wanted.has(libc::SA_RESTART);
    // SAFETY: all-zero is a valid sigaction; the handler takes what SA_SIGINFO gives.
    let given = unsafe {
        let mut ours: libc::sigaction = core::mem::zeroed();
        ours.sa_sigaction = deliver::on_signal as *const () as usize;
        ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | if restarts { libc::SA_RESTART } else { 0 };
        (&raw mut ours.sa_mask).cast::<u64>().write(u64::MAX);
        // Before the constructor has run, libc's function is not known: the action is set by number, with the shim's own restorer.
        let by_number = || from_libc(ours.sa_sigaction, ours.sa_flags, u64::MAX).returning().give_to_kernel(signal);
        real_sigaction(signal, &raw const ours, ptr::null_mut()).map_or_else(by_number, |result| result == 0)
    };
    if given && let Some(action) = Action::of_kernel(signal) {
        LIBC_RESTORER.store(action.restorer, Ordering::Relaxed);
    }
    given
}

/// Takes SIGSEGV out of the masks of handlers that were installed before.
fn open_faults_in_handlers() {
    const LAST: c_int = 64;
    for signal in (1..=LAST).filter(|signal| !is_virtual(*signal)) {
        let Some(action) = Action::of_kernel(signal) else { continue };
        let mask = masks::to_kernel(action.mask);
        if action.is_function() && mask != action.mask {
            // SAFETY: the application's own handler and restorer.
            unsafe { Action { mask, ..action }.give_to_kernel(signal) };
        }
    }
}

/// sigaction(2) on a virtual action; the action before.
pub fn set_action(signal: c_int, new: Option<Action>) -> Action {
    let disposition = disposition(signal);
    let Some(new) = new else { return disposition.load() };
    let new = new.cleaned();
    disposition.change(|_| {
        if new.handler == libc::SIG_IGN {
            // When a signal becomes ignored, the kernel drops it if it is pending. A deferred SIGSEGV is pending as the substitute.
            // SAFETY: the action has no handler.
            unsafe { Action::IGNORE.give_to_kernel(SUBSTITUTE) };
            give_ours(SUBSTITUTE, &SUBSTITUTE_ACTION.load());
        }
        give_ours(signal, &new);
        new
    })
}

/// sigaction(2) in a vfork child, whose actions in the kernel are its own while the virtual ones in memory are its parent's; the
/// action before.
pub fn set_action_of_vfork_child(signal: c_int, new: Option<Action>) -> Option<Action> {
    let found = Action::of_kernel(signal)?;
    if let Some(new) = new {
        // SAFETY: the application's own handler; the restorer is libc's or its own.
        unsafe { new.give_to_kernel(signal) };
    }
    let is_untouched = found.handler == deliver::on_signal as *const () as usize;
    Some(if is_untouched { disposition(signal).load() } else { found })
}

/// Whether the caller is a vfork child.
pub fn is_vfork_child() -> bool {
    identity::is_vfork_child()
}

/// Gives the calling thread a mask in which SIGSEGV is open, if a call that no hook has seen has blocked it.
pub fn open_faults_of_thread() {
    if !is_installed() {
        return;
    }
    let mask = signal_block::signal_mask();
    if mask & masks::FAULT != 0 {
        signal_block::set_signal_mask(masks::to_kernel(mask));
    }
}

/// Before execve(2): gives the kernel the application's mask and ignored signals, which the new program inherits.
pub fn for_exec() -> ExecSignalState {
    if !is_installed() {
        return ExecSignalState { mask: None };
    }
    for signal in [FAULT, SUBSTITUTE] {
        if disposition(signal).load().handler == libc::SIG_IGN && is_ours(signal) {
            // SAFETY: the action has no handler.
            unsafe { Action::IGNORE.give_to_kernel(signal) };
        }
    }
    let mask = signal_block::signal_mask();
    signal_block::set_signal_mask(masks::to_application(mask));
    ExecSignalState { mask: Some(mask) }
}

/// What has to be undone if execve(2) fails.
pub struct ExecSignalState {
    mask: Option<u64>,
}

impl ExecSignalState {
    /// Undoes it.
    pub fn take_back(self) {
        let Some(mask) = self.mask else { return };
        for signal in [FAULT, SUBSTITUTE] {
            let action = disposition(signal).load();
            if action.handler == libc::SIG_IGN {
                give_ours(signal, &action);
            }
        }
        signal_block::set_signal_mask(mask);
    }
}

/// Gives a deferred SIGSEGV its own number again.
pub fn take_back(information: &mut libc::siginfo_t) {
    if information.si_signo == SUBSTITUTE && information.si_errno == deliver::PUT_OFF {
        information.si_signo = FAULT;
        information.si_errno = 0;
    }
}
