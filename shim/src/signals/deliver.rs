//! The handler of SIGSEGV and its substitute: it resolves faults that the shim has caused, and delivers everything else to the
//! application as the kernel would.
//!
//! [`on_signal`] holds nothing, and leaves nothing on the stack when the application's handler begins: it jumps there with the
//! kernel's own frame. So the handler may return, change its context or leave by siglongjmp(3) as without the shim.

use core::arch::naked_asm;
use core::ffi::c_int;
use core::sync::atomic::{AtomicPtr, Ordering};
use core::{mem, ptr};

use snapshim::sys::{masks, raw, signal_block};
use syscalls::{Sysno, syscall};

use super::action::{Action, FAULT, RESTORER, SUBSTITUTE, disposition};
use super::frame::{Access, SignalFrame};
use super::guarded;
use super::waiting::WAITING;
use crate::base::own_stacks::{self, Outcome};

/// Where `on_signal` goes on.
#[repr(C)]
struct Next {
    /// The application's handler; 0: it returns.
    handler: usize,
    /// By how many bytes the frame was moved.
    shift: usize,
}

const RETURN: Next = Next { handler: 0, shift: 0 };

/// The kernel's action for SIGSEGV and for its substitute.
#[unsafe(naked)]
pub unsafe extern "C" fn on_signal(signal: c_int, information: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    naked_asm!(
        "push rdi",
        "push rsi",
        "push rdx",
        "call {decide}",
        "mov rcx, rdx",
        "pop rdx",
        "pop rsi",
        "pop rdi",
        "test rax, rax",
        "jz 2f",
        "add rsp, rcx",
        "add rsi, rcx",
        "add rdx, rcx",
        "mov edi, [rsi]",
        "mov rcx, rax",
        "xor eax, eax",
        "jmp rcx",
        "2:",
        "ret",
        decide = sym decide,
    )
}

const SEGV_ACCERR: c_int = 2;
const SI_KERNEL: c_int = 0x80;

/// Decides what becomes of a signal. All signals are blocked, so only signals that cannot be blocked interrupt this.
extern "C" fn decide(signal: c_int, information: *mut libc::siginfo_t, context: *mut libc::ucontext_t) -> Next {
    // SAFETY: called with what the kernel passed to the handler.
    let frame = unsafe { SignalFrame::new(information, context) };
    if signal == FAULT {
        return if frame.code() > 0 { on_fault(&frame) } else { on_sent_fault(&frame) };
    }
    if frame.errno() == PUT_OFF {
        frame.rename(FAULT, 0);
        return deliver_sent(FAULT, &frame);
    }
    deliver_sent(signal, &frame)
}

/// An instruction faulted.
fn on_fault(frame: &SignalFrame) -> Next {
    let outcome = match frame.code() {
        SEGV_ACCERR => own_stacks::call(resolve, frame.address(), frame.access().0),
        _ => Outcome::Foreign,
    };
    match outcome {
        Outcome::Resolved => return RETURN,
        Outcome::Refused => {
            force_bus_error(frame);
            return RETURN;
        }
        Outcome::Foreign => {}
    }
    if let Some(recovery) = guarded::recovers(frame.instruction()) {
        frame.go_on_at(recovery);
        return RETURN;
    }
    let action = if frame.mask() & masks::SUBSTITUTE == 0 { take(FAULT) } else { Action::DEFAULT };
    if action.is_function() {
        return call(&action, frame, frame.mask());
    }
    // The kernel forces a signal with this code where no instruction need fault again.
    if frame.code() == SI_KERNEL {
        die(FAULT, frame);
    } else {
        frame.let_fault_kill();
    }
    RETURN
}

/// Says of a fault, by its address and the kind of access, whether the shim has caused it, and resolves it.
///
/// It is called by the thread that faulted, in the middle of whatever it was doing, with all signals blocked, on a stack of the
/// shim's ([`own_stacks`]).
pub type Resolve = fn(u64, Access) -> Outcome;

/// The functions that are asked, in this order.
#[derive(Clone, Copy)]
pub enum Asked {
    First,
    Then,
}

/// Each of them; null: it is not registered.
static RESOLVES: [AtomicPtr<()>; 2] = [const { AtomicPtr::new(ptr::null_mut()) }; 2];

/// Has `resolve` asked about each fault from now on.
pub fn register(asked: Asked, resolve: Resolve) {
    // Release: pairs with the Acquire in `resolve`. Memory is made to fault only after this.
    RESOLVES[asked as usize].store(resolve as *mut (), Ordering::Release);
}

/// Asks the registered functions.
extern "C" fn resolve(address: u64, error_code: u64) -> Outcome {
    for registered in &RESOLVES {
        // Acquire: pairs with the Release in `register`.
        let registered = registered.load(Ordering::Acquire);
        if registered.is_null() {
            continue;
        }
        // SAFETY: `register` has stored a function of this type.
        let resolve = unsafe { mem::transmute::<*mut (), Resolve>(registered) };
        match resolve(address, Access(error_code)) {
            Outcome::Foreign => {}
            outcome => return outcome,
        }
    }
    Outcome::Foreign
}

/// Sends SIGBUS for the store that faulted; it comes when the handler has returned. As when the kernel forces it (kernel/signal.c,
/// force_sig_info_to_task), it ends a process that blocks or ignores it.
fn force_bus_error(frame: &SignalFrame) {
    const BUS_ADRERR: c_int = 2;
    let is_ignored = Action::of_kernel(libc::SIGBUS).is_some_and(|action| action.handler == libc::SIG_IGN);
    if frame.unblock(libc::SIGBUS) || is_ignored {
        // SAFETY: the default action has no handler.
        unsafe { Action::DEFAULT.give_to_kernel(libc::SIGBUS) };
    }
    // The siginfo_t still has the address.
    frame.become_fault(libc::SIGBUS, BUS_ADRERR);
    send_to_itself(libc::SIGBUS, frame);
}

/// SIGSEGV was sent, by kill(2) or its kin.
fn on_sent_fault(frame: &SignalFrame) -> Next {
    if mask_of_sent(frame) & masks::SUBSTITUTE != 0 {
        put_off(frame);
        return RETURN;
    }
    deliver_sent(FAULT, frame)
}

/// Delivers a signal that was sent.
fn deliver_sent(signal: c_int, frame: &SignalFrame) -> Next {
    let action = take(signal);
    if action.is_function() {
        return call(&action, frame, mask_of_sent(frame));
    }
    if action.handler == libc::SIG_DFL {
        die(signal, frame);
    }
    RETURN
}

/// The mask that was in force when a sent signal came.
fn mask_of_sent(frame: &SignalFrame) -> u64 {
    let waiting = WAITING.get();
    if frame.has_interrupted_call_at(waiting.stack) { waiting.mask } else { frame.mask() }
}

/// The application's action. With SA_RESETHAND it is the default from now on.
fn take(signal: c_int) -> Action {
    let disposition = disposition(signal);
    let action = disposition.load();
    let is_for_once = |action: Action| action.is_function() && action.has(libc::SA_RESETHAND);
    if !is_for_once(action) {
        return action;
    }
    disposition.change(|now| if is_for_once(now) { Action { handler: libc::SIG_DFL, ..now } } else { now })
}

/// Prepares the call of the application's handler: the stack, the mask, the restorer.
fn call(action: &Action, frame: &SignalFrame, mask: u64) -> Next {
    if action.has(RESTORER as c_int) && action.restorer != 0 {
        frame.return_to(action.restorer);
    }
    let moves = !action.has(libc::SA_ONSTACK) && frame.has_changed_stack();
    let shift = if moves { frame.move_to_interrupted_stack() } else { Some(0) };
    let Some(shift) = shift else {
        frame.become_forced(FAULT, SI_KERNEL);
        die(FAULT, frame);
        return RETURN;
    };
    let itself = if action.has(libc::SA_NODEFER) { 0 } else { masks::SUBSTITUTE };
    signal_block::set_signal_mask(mask | masks::to_kernel(action.mask) | itself);
    Next { handler: action.handler, shift }
}

/// si_errno of a substitute that is a SIGSEGV deferred until it is unblocked. The kernel's own signals have 0 there.
pub const PUT_OFF: c_int = 0x736e_6170;

const SI_TKILL: c_int = -6;

/// Defers a SIGSEGV that the application blocks: its substitute becomes pending, for the thread if SIGSEGV was sent to a thread,
/// else for the process.
///
/// A thread may send a siginfo_t of kill(2) only to its own id (do_rt_sigqueueinfo, kernel/signal.c), which names the process as
/// well.
fn put_off(frame: &SignalFrame) {
    frame.rename(SUBSTITUTE, PUT_OFF);
    let thread = raw::own_tid();
    // SAFETY: the siginfo_t is the one that the kernel made.
    let _ = unsafe {
        if frame.code() == SI_TKILL {
            syscall!(Sysno::rt_tgsigqueueinfo, raw::own_pid(), thread, SUBSTITUTE, frame.information())
        } else {
            syscall!(Sysno::rt_sigqueueinfo, thread, SUBSTITUTE, frame.information())
        }
    };
}

/// Sends the signal again, this time with the kernel's default action; it comes when the handler has returned.
fn die(signal: c_int, frame: &SignalFrame) {
    // SAFETY: the default action has no handler.
    unsafe { Action::DEFAULT.give_to_kernel(signal) };
    send_to_itself(signal, frame);
}

fn send_to_itself(signal: c_int, frame: &SignalFrame) {
    // SAFETY: the siginfo_t is the one that the kernel made.
    let _ = unsafe { syscall!(Sysno::rt_tgsigqueueinfo, raw::own_pid(), raw::own_tid(), signal, frame.information()) };
}
