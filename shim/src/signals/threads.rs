//! What a thread is asked to do where it is, by a signal.
//!
//! Threads that blocked SIGSEGV before the handler was installed have each to set their own mask anew. And a process without an
//! agent is asked by another process to start one ([`snapshim::cooperate::summon`]).
//!
//! The signal is the one by which libc's setuid(2) reaches every thread (SIGSETXID), because libc keeps it out of every mask. The
//! shim's requests are recognised by their siginfo_t; libc's own goes on to libc's handler.

use core::arch::naked_asm;
use core::ffi::c_int;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use core::time::Duration;
use core::{mem, ptr};

use snapshim::cooperate::summon::{self, SI_QUEUE, SUMMONS};
use snapshim::protocol::process::Agent;
use snapshim::sys::signal_block::{EXCEPT_OF_SANDBOXES, pending_signals};
use snapshim::sys::{masks, procfs, raw};
use syscalls::{Sysno, syscall};

use super::action::{Action, RESTORER};
use super::frame::SignalFrame;
use crate::base::own_stacks::{self, Outcome};
use crate::process::identity;

const REQUEST: c_int = summon::SIGNAL;
/// si_errno of a request.
const OPEN_FAULTS: c_int = 0x736e_6173;

/// What answers a summons; null: no summons is expected.
static ANSWERER: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

/// A function that answers a summons; both words are 0.
pub type Answer = extern "C" fn(u64, u64) -> Outcome;

/// Has `answer` called, by some thread, when another process summons this one; false: that is not possible. It is called in the
/// middle of whatever the thread is doing, on a stack of the shim's.
pub fn expect_summons(answer: Answer) -> bool {
    own_stacks::prepare();
    // Release: pairs with the Acquire in `answer_summons`.
    ANSWERER.store(answer as *mut (), Ordering::Release);
    put_handler_in()
}

/// Puts the handler in again where libc has put in its own, as it does, once, before it makes its first thread.
pub fn keep_expecting_summons() {
    static IS_FIRST_OVER: AtomicBool = AtomicBool::new(false);
    if !ANSWERER.load(Ordering::Relaxed).is_null() && !IS_FIRST_OVER.swap(true, Ordering::Relaxed) {
        put_handler_in();
    }
}

/// Answers a summons that may come. To be called where this process waits for another one's creation: that may wait for this
/// process in turn, and the signal may not come through, because all signals are blocked.
pub fn answer_summons() {
    // Acquire: pairs with the Release in `expect_summons`.
    let answer = ANSWERER.load(Ordering::Acquire);
    if answer.is_null() {
        return;
    }
    // SAFETY: `expect_summons` has stored a function of this type.
    let answer = unsafe { mem::transmute::<*mut (), Answer>(answer) };
    own_stacks::call(answer, 0, 0);
}

/// libc's handler for the signal; 0 if it has none.
static LIBC_HANDLER: AtomicUsize = AtomicUsize::new(0);

/// How long the threads' answers are waited for. A thread that is kept from running longer answers before it goes on.
const LONGEST_WAIT: Duration = Duration::from_millis(50);
/// The pause between two looks at their masks.
const SLICE: Duration = Duration::from_micros(100);

/// Opens SIGSEGV in the masks of all other threads.
pub fn open_faults() {
    if !blockers().any() || !put_handler_in() {
        return;
    }
    blockers().each(ask);
    let until = raw::now() + LONGEST_WAIT.as_nanos() as u64;
    while blockers().any() && raw::now() < until {
        raw::nap(SLICE);
    }
}

/// Makes the shim's handler the kernel's action for the signal; false: that failed. It stays, because a thread may answer late. If
/// libc sets its own handler afterwards, that one ignores signals that libc did not send.
///
/// Signals that come while it runs wait. A handler of the application's would run on a stack of the shim's, and the wait that the
/// shim's handler interrupted would be made again afterwards, as if that signal had not come.
fn put_handler_in() -> bool {
    let ours = on_request as *const () as usize;
    let Some(found) = Action::of_kernel(REQUEST) else { return false };
    if found.handler == ours {
        return true;
    }
    if found.is_function() {
        // Release: pairs with the Acquire in `answer`.
        LIBC_HANDLER.store(found.handler, Ordering::Release);
    }
    let flags = found.flags | (libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK) as u64 | RESTORER;
    let mask = masks::to_kernel(EXCEPT_OF_SANDBOXES);
    let ours = Action { handler: ours, flags, restorer: super::action::libc_restorer(), mask };
    let ours = if ours.restorer == 0 { ours.returning() } else { ours };
    // SAFETY: the handler takes what SA_SIGINFO gives; the restorer is libc's or the shim's.
    unsafe { ours.give_to_kernel(REQUEST) }
}

/// The shim's handler: answers a request, or jumps to libc's handler with the kernel's own frame.
#[unsafe(naked)]
unsafe extern "C" fn on_request(signal: c_int, information: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    naked_asm!(
        "push rdi",
        "push rsi",
        "push rdx",
        "call {answer}",
        "pop rdx",
        "pop rsi",
        "pop rdi",
        "test rax, rax",
        "jz 2f",
        "jmp rax",
        "2:",
        "ret",
        answer = sym answer,
    )
}

/// Answers a request. The handler to go on to; 0: it returns.
extern "C" fn answer(_signal: c_int, information: *mut libc::siginfo_t, context: *mut libc::ucontext_t) -> usize {
    // SAFETY: called with what the kernel passed to the handler.
    let frame = unsafe { SignalFrame::new(information, context) };
    match frame.errno() {
        OPEN_FAULTS if frame.code() == SI_QUEUE => {
            frame.open_faults();
            return 0;
        }
        SUMMONS if frame.code() == SI_QUEUE => {
            // A value of another image: the signal was meant for the one before.
            if identity::attached().is_some_and(|own| frame.value() == own.id.to_word()) {
                answer_summons();
            }
            if let Some(call) = frame.interrupted_call()
                && !is_handler_due(frame.mask())
            {
                frame.repeat(call);
            }
            return 0;
        }
        _ => {}
    }
    // Acquire: pairs with the Release in `put_handler_in`.
    LIBC_HANDLER.load(Ordering::Acquire)
}

/// Whether a handler of the application's runs as soon as the calling thread has this mask: it ends the wait that the signal before
/// it interrupted.
fn is_handler_due(mask: u64) -> bool {
    let due = pending_signals() & !mask & !(1 << (REQUEST - 1));
    (1..=64).any(|signal| due & 1 << (signal - 1) != 0 && Action::of_kernel(signal).is_some_and(|it| it.is_function()))
}

/// Sends a thread the request.
fn ask(thread: u32) {
    let mut information = [0i32; 32];
    [information[0], information[1], information[2]] = [REQUEST, OPEN_FAULTS, SI_QUEUE];
    // SAFETY: a siginfo_t of 128 bytes.
    let _ = unsafe { syscall!(Sysno::rt_tgsigqueueinfo, raw::own_pid(), thread, REQUEST, information.as_ptr()) };
}

/// The threads of this process in whose masks the kernel has SIGSEGV, except the calling thread and the agent.
struct Blockers {
    own: u32,
    agent: Option<u32>,
}

fn blockers() -> Blockers {
    let agent = identity::attached().and_then(|own| match own.record()?.agent(own.id) {
        Agent::Thread(tid) => Some(tid),
        _ => None,
    });
    Blockers { own: raw::own_tid(), agent }
}

impl Blockers {
    fn any(&self) -> bool {
        let mut any = false;
        self.each(|_| any = true);
        any
    }

    fn each(&self, mut see: impl FnMut(u32)) {
        procfs::any_number(c"/proc/self/task", |thread| {
            let is_other = thread != self.own && Some(thread) != self.agent;
            if is_other && blocks_faults(thread) {
                see(thread);
            }
            false
        });
    }
}

fn blocks_faults(thread: u32) -> bool {
    procfs::blocked_signals(raw::own_pid(), thread).is_some_and(|mask| mask & masks::FAULT != 0)
}
