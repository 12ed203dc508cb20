//! Ctrl-C and its kin: noted, so that what is under way stops and takes away what it has begun. Then the command ends by the
//! signal, as its caller expects.

use std::sync::atomic::{AtomicI32, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};

use crate::failure::{Code, Failure, Outcome};

/// The signal that came; 0 for none.
static CAUGHT: AtomicI32 = AtomicI32::new(0);

const ASKING_TO_END: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

extern "C" fn note(signal: i32) {
    // Relaxed: the number is all there is to see.
    CAUGHT.store(signal, Ordering::Relaxed);
}

/// From now on the signals that ask a program to end are noted. One that the caller has ignored stays ignored (nohup).
pub fn catch() {
    // A file that would be too large is an error of the write, which is said.
    // SAFETY: no code of ours runs for it.
    unsafe {
        _ = sigaction(Signal::SIGXFSZ, &SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty()));
    }
    // Without SA_RESTART: a call that waits comes back.
    let noted = SigAction::new(SigHandler::Handler(note), SaFlags::empty(), SigSet::empty());
    for signal in ASKING_TO_END {
        // SAFETY: the handler stores into an atomic and does nothing else.
        unsafe {
            if let Ok(before) = sigaction(signal, &noted)
                && matches!(before.handler(), SigHandler::SigIgn)
            {
                _ = sigaction(signal, &before);
            }
        }
    }
}

/// From now on this process learns of the ends of its children. Where a caller has SIGCHLD ignored, the kernel keeps no status of
/// them, and sends no signal. What the caller had set is returned, for a child that becomes a program of the user.
pub fn see_children() -> nix::Result<SigAction> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default action is no code of ours.
    unsafe { sigaction(Signal::SIGCHLD, &default) }
}

/// Sets again what [`see_children`] has returned.
pub fn see_children_as_before(before: &SigAction) {
    // SAFETY: this command has no handler for it: what its caller has set is the default action, or none.
    _ = unsafe { sigaction(Signal::SIGCHLD, before) };
}

/// From now on this process ends by SIGPIPE once nobody reads what it prints, as programs in a pipe do. Rust has it ignored.
pub fn end_with_the_reader() {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default action is no code of ours.
    _ = unsafe { sigaction(Signal::SIGPIPE, &default) };
}

pub fn is_caught() -> bool {
    CAUGHT.load(Ordering::Relaxed) != 0
}

/// A failure once a signal has come, where what was begun is taken away.
pub fn check() -> Outcome {
    check_or("nothing was left behind")
}

/// A failure once a signal has come, which says what is left.
pub fn check_or(left: &str) -> Outcome {
    if is_caught() { Err(Failure::new(Code::Failed, format!("interrupted; {left}"))) } else { Ok(()) }
}

/// Ends this process by the signal that came, if one did: a shell then ends its loop, too.
pub fn end_as_interrupted() {
    let Ok(signal) = Signal::try_from(CAUGHT.load(Ordering::Relaxed)) else { return };
    end_by(signal);
}

/// Ends this process by a signal whose default action that is.
pub fn end_by(signal: Signal) {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default action is no code of ours.
    unsafe {
        _ = sigaction(signal, &default);
    }
    _ = raise(signal);
    // It may be blocked.
    _ = SigSet::from(signal).thread_unblock();
}
