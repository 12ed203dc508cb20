//! sigaction(2), signal(2) and their kin.
//!
//! signal(2), sigset(3), sigblock(3), siglongjmp(3), sigwait(3) and their kin call the functions of this folder inside libc.

use core::ffi::{c_int, c_long};

use libc::sighandler_t;
use rustix::io::Errno;
use snapshim::sys::{masks, raw};
use syscalls::{Sysno, syscall};

use super::sets::{MASK, set_of, word};
use crate::base::errno::as_libc;
use crate::interpose::answer::{fail, status};
use crate::interpose::interpose;
use crate::signals::action::Action;
use crate::signals::{self, guarded};

interpose! {
    /// sigaction(2)
    sigaction, c"sigaction": sigaction __sigaction => fn(
        signal: c_int, new: *const libc::sigaction, old: *mut libc::sigaction
    ) -> c_int {
        raw raw_sigaction, hook on_sigaction,
    }
    /// signal(2), for a libc whose code cannot be patched
    signal, c"signal": signal bsd_signal ssignal => fn(signal: c_int, handler: sighandler_t) -> sighandler_t {
        raw |_signal, _handler| fail::<c_long>(libc::ENOSYS) as sighandler_t, hook on_signal,
    }
    /// signal(2) as in System V, likewise
    sysv_signal, c"sysv_signal": sysv_signal __sysv_signal => fn(signal: c_int, handler: sighandler_t) -> sighandler_t {
        raw |_signal, _handler| fail::<c_long>(libc::ENOSYS) as sighandler_t, hook on_sysv_signal,
    }
}

/// Used only before the constructor has run.
fn raw_sigaction(signal: c_int, new: *const libc::sigaction, old: *mut libc::sigaction) -> c_int {
    let mut found = Action::DEFAULT;
    // SAFETY: null or the application's action; `found` is as large as the kernel's structure.
    let result = unsafe {
        let given = new.as_ref().map(|new| of_libc(new).returning());
        let given = given.as_ref().map_or(core::ptr::null(), core::ptr::from_ref);
        syscall!(Sysno::rt_sigaction, signal, given, &raw mut found, 8)
    };
    if result.is_ok() {
        // SAFETY: null, or the application's.
        unsafe { give_action(old, &found) };
    }
    as_libc(result) as c_int
}

fn of_libc(action: &libc::sigaction) -> Action {
    // SAFETY: a set inside a valid action.
    signals::action::from_libc(action.sa_sigaction, action.sa_flags, unsafe { word(&raw const action.sa_mask) })
}

/// # Safety
/// `to` is null or a sigaction.
unsafe fn give_action(to: *mut libc::sigaction, action: &Action) {
    if to.is_null() {
        return;
    }
    // SAFETY: the caller's promise. sa_restorer is the address of a function, or 0.
    unsafe {
        (*to).sa_sigaction = action.handler;
        (*to).sa_flags = action.flags as c_int;
        (&raw mut (*to).sa_restorer).cast::<usize>().write(action.restorer);
        (&raw mut (*to).sa_mask).cast::<u64>().write(action.mask);
    }
}

fn on_sigaction(
    real: sigaction::Function,
    signal: c_int,
    new: *const libc::sigaction,
    old: *mut libc::sigaction,
) -> c_int {
    if !signals::is_installed() {
        // SAFETY: the application's arguments, as they are.
        return unsafe { real(signal, new, old) };
    }
    // SAFETY: null or the application's action, which libc reads and writes as well.
    unsafe {
        if !signals::is_virtual(signal) {
            let new = new.as_ref().map(|new| {
                let mask = set_of(masks::to_kernel(word(&raw const new.sa_mask)));
                libc::sigaction { sa_mask: mask, ..*new }
            });
            let result = real(signal, new.as_ref().map_or(core::ptr::null(), core::ptr::from_ref), old);
            if result == 0 && !old.is_null() {
                let told = masks::to_application(word(&raw const (*old).sa_mask));
                (&raw mut (*old).sa_mask).cast::<u64>().write(told);
            }
            return result;
        }
        let before = change_virtual(signal, new.as_ref().map(of_libc));
        give_action(old, &before);
    }
    0
}

fn change_virtual(signal: c_int, new: Option<Action>) -> Action {
    if signals::is_vfork_child() {
        return signals::set_action_of_vfork_child(signal, new).unwrap_or_default();
    }
    signals::set_action(signal, new)
}

fn on_signal(real: signal::Function, number: c_int, handler: sighandler_t) -> sighandler_t {
    // As in BSD: the signal is blocked in its handler, the handler stays set, and interrupted calls go on.
    let itself = 1u64.wrapping_shl((number - 1) as u32);
    let action = || signals::action::from_libc(handler, libc::SA_RESTART, itself);
    // SAFETY: the application's arguments, as they are.
    set_handler(number, handler, action, || unsafe { real(number, handler) })
}

fn on_sysv_signal(real: sysv_signal::Function, number: c_int, handler: sighandler_t) -> sighandler_t {
    let action = || signals::action::from_libc(handler, libc::SA_RESETHAND | libc::SA_NODEFER, 0);
    // SAFETY: the application's arguments, as they are.
    set_handler(number, handler, action, || unsafe { real(number, handler) })
}

fn set_handler(
    number: c_int,
    handler: sighandler_t,
    action: impl FnOnce() -> Action,
    real: impl FnOnce() -> sighandler_t,
) -> sighandler_t {
    let comes_to_sigaction = sigaction::ENTRY_POINT.is_detoured() || handler == libc::SIG_ERR;
    if comes_to_sigaction || !signals::is_installed() || !signals::is_virtual(number) {
        return real();
    }
    change_virtual(number, Some(action())).handler
}

/// rt_sigaction(2) by number.
pub fn action_by_number(
    real: impl FnOnce() -> c_long,
    signal: c_int,
    new: *const u64,
    old: *mut u64,
    size: usize,
) -> c_long {
    if !signals::is_installed() || !(1..=64).contains(&signal) || size != MASK {
        return real();
    }
    status(act(signal, new, old))
}

fn act(signal: c_int, new: *const u64, old: *mut u64) -> Result<(), Errno> {
    let new = if new.is_null() { None } else { Some(load_action(new)?) };
    let before = if signals::is_virtual(signal) {
        change_virtual(signal, new)
    } else {
        let new = new.map(|new| Action { mask: masks::to_kernel(new.mask), ..new });
        let mut before = Action::DEFAULT;
        let given = new.as_ref().map_or(core::ptr::null(), core::ptr::from_ref);
        // SAFETY: null or the action above; `before` is as large as the kernel's structure.
        unsafe { syscall!(Sysno::rt_sigaction, signal, given, &raw mut before, 8) }.map_err(raw::errno)?;
        Action { mask: masks::to_application(before.mask), ..before }
    };
    if old.is_null() {
        return Ok(());
    }
    let words = [before.handler as u64, before.flags, before.restorer as u64, before.mask];
    words.into_iter().enumerate().try_for_each(|(at, word)| guarded::store(old.wrapping_add(at), word))
}

fn load_action(from: *const u64) -> Result<Action, Errno> {
    let word = |at| guarded::load(from.wrapping_add(at));
    Ok(Action { handler: word(0)? as usize, flags: word(1)?, restorer: word(2)? as usize, mask: word(3)? })
}
