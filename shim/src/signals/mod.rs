//! SIGSEGV is ours, and the application does not see that.
//!
//! A store into memory that is write-protected for a while faults; the handler resolves it ([`Resolve`]) and the store
//! goes on. From [`install`] on the kernel's action for SIGSEGV is ours, and the application's is *virtual*: what it sets and gets
//! through sigaction(2) and its kin ([`crate::hooks::signal::action`]) is kept here ([`action`]), and [`deliver`] does with a signal what
//! the kernel would have done. That SIGSEGV is never blocked in the kernel, where a fault would then end the process, is the work
//! of [`snapshim::sys::masks`]: SIGSTKFLT stands in for it in every mask, and for a SIGSEGV that was sent while it is blocked.

pub mod action;
mod deliver;
pub mod frame;
pub mod guarded;
mod threads;
pub mod waiting;

use core::ffi::c_int;
use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering};

use snapshim::sys::masks;
use snapshim::sys::signal_block::{self, SignalsBlocked};

use crate::interpose::originals::real_sigaction;
use crate::process::identity;
pub use deliver::{Asked, Resolve};

use crate::signals::action::{Action, FAULT, LIBC_RESTORER, STAND_IN, STAND_IN_ACTION, disposition, from_libc};

static MAY_HANDLE: AtomicBool = AtomicBool::new(false);

/// The application is about to have a signal handled by a function of its own.
pub fn note_handler() {
    MAY_HANDLE.store(true, Ordering::Relaxed);
}

/// Whether a handler of the application's may run.
#[inline]
pub fn may_handle() -> bool {
    MAY_HANDLE.load(Ordering::Relaxed)
}

/// Whether the application's actions for SIGSEGV and its stand-in are virtual.
#[inline]
pub fn is_installed() -> bool {
    masks::are_faults_kept_open()
}

/// Whether the action of `signal` is virtual once the handler is installed.
pub fn is_virtual(signal: c_int) -> bool {
    signal == FAULT || signal == STAND_IN
}

/// Makes the handler the kernel's action, whatever program or library has put another there meanwhile; what it replaces becomes the
/// application's virtual action. Async-signal-safe, and fit for a thread without thread-local storage.
///
/// From before that on `resolve` is asked whose fault it was.
pub fn install(asked: Asked, resolve: Resolve) -> bool {
    deliver::register(asked, resolve);
    if is_installed() && is_ours(FAULT) && is_ours(STAND_IN) {
        return true;
    }
    // Its end gives this thread a mask in which SIGSEGV is open.
    let _signals = SignalsBlocked::new();
    crate::base::fault_stacks::prepare();
    let is_first = !is_installed();
    // Before the actions are adopted: who sets one from now on waits for that, and changes the virtual one.
    masks::keep_faults_open();
    let adopted = adopt(STAND_IN) && adopt(FAULT);
    if adopted && is_first {
        open_faults_in_handlers();
        threads::open_faults();
    }
    adopted
}

fn is_ours(signal: c_int) -> bool {
    Action::of_kernel(signal).is_some_and(|action| action.handler == deliver::on_signal as *const () as usize)
}

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

/// Puts the handler in: SA_RESTART is the application's business, all else is ours. Through libc, which adds its way back.
fn give_ours(signal: c_int, wanted: &Action) -> bool {
    let restarts = !wanted.is_function() || wanted.has(libc::SA_RESTART);
    // SAFETY: all-zero is a valid sigaction; the handler takes what SA_SIGINFO gives.
    let given = unsafe {
        let mut ours: libc::sigaction = core::mem::zeroed();
        ours.sa_sigaction = deliver::on_signal as *const () as usize;
        ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | if restarts { libc::SA_RESTART } else { 0 };
        (&raw mut ours.sa_mask).cast::<u64>().write(u64::MAX);
        // Before the constructor has run, with a way back of our own.
        let by_number = || from_libc(ours.sa_sigaction, ours.sa_flags, u64::MAX).returning().give_to_kernel(signal);
        real_sigaction(signal, &raw const ours, ptr::null_mut()).map_or_else(by_number, |result| result == 0)
    };
    if given && let Some(action) = Action::of_kernel(signal) {
        LIBC_RESTORER.store(action.restorer, Ordering::Relaxed);
    }
    given
}

/// Handlers that were installed before, and block SIGSEGV while they run.
fn open_faults_in_handlers() {
    const LAST: c_int = 64;
    for signal in (1..=LAST).filter(|signal| !is_virtual(*signal)) {
        let Some(action) = Action::of_kernel(signal) else { continue };
        let mask = masks::to_kernel(action.mask);
        if action.is_function() && mask != action.mask {
            // SAFETY: the application's own handler and its way back.
            unsafe { Action { mask, ..action }.give_to_kernel(signal) };
        }
    }
}

/// sigaction(2) on a virtual action; the one before.
pub fn change(signal: c_int, new: Option<Action>) -> Action {
    let disposition = disposition(signal);
    let Some(new) = new else { return disposition.look() };
    let new = new.cleaned();
    disposition.change(|_| {
        if new.handler == libc::SIG_IGN {
            // The kernel forgets what is pending of a signal that becomes ignored.
            // SAFETY: ignoring is no function.
            unsafe { Action::IGNORE.give_to_kernel(STAND_IN) };
            give_ours(STAND_IN, &STAND_IN_ACTION.look());
        }
        give_ours(signal, &new);
        new
    })
}

/// What a vfork child has set for itself, in actions of its own but in its parent's memory.
pub fn change_borrowed(signal: c_int, new: Option<Action>) -> Option<Action> {
    let found = Action::of_kernel(signal)?;
    if let Some(new) = new {
        // SAFETY: the application's own handler; the way back is libc's or its own.
        unsafe { new.give_to_kernel(signal) };
    }
    let is_untouched = found.handler == deliver::on_signal as *const () as usize;
    Some(if is_untouched { disposition(signal).look() } else { found })
}

/// Whether the caller is a vfork child, whose actions are its own while its memory is its parent's.
pub fn is_borrowed() -> bool {
    identity::is_borrower()
}

/// Gives the calling thread a mask in which SIGSEGV is open, if something that is not hooked blocked it.
pub fn open_faults_of_thread() {
    if !is_installed() {
        return;
    }
    let mask = signal_block::signal_mask();
    if mask & masks::FAULT != 0 {
        signal_block::set_signal_mask(masks::to_kernel(mask));
    }
}

/// Before execve(2): the new program inherits the mask and what is ignored as the application has them.
pub fn hand_over() -> HandedOver {
    if !is_installed() {
        return HandedOver { mask: None };
    }
    for signal in [FAULT, STAND_IN] {
        if disposition(signal).look().handler == libc::SIG_IGN && is_ours(signal) {
            // SAFETY: ignoring is no function.
            unsafe { Action::IGNORE.give_to_kernel(signal) };
        }
    }
    let mask = signal_block::signal_mask();
    signal_block::set_signal_mask(masks::to_application(mask));
    HandedOver { mask: Some(mask) }
}

/// What has to be undone where execve(2) returns.
pub struct HandedOver {
    mask: Option<u64>,
}

impl HandedOver {
    pub fn take_back(self) {
        let Some(mask) = self.mask else { return };
        for signal in [FAULT, STAND_IN] {
            let action = disposition(signal).look();
            if action.handler == libc::SIG_IGN {
                give_ours(signal, &action);
            }
        }
        signal_block::set_signal_mask(mask);
    }
}

/// Names a SIGSEGV that was put off by its own name again.
pub fn take_back(information: &mut libc::siginfo_t) {
    if information.si_signo == STAND_IN && information.si_errno == deliver::PUT_OFF {
        information.si_signo = FAULT;
        information.si_errno = 0;
    }
}
