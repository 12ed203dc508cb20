//! sigaction(2), sigprocmask(2), and every other call that names SIGSEGV, a mask, or waits for signals.
//!
//! They pass until the shim handles faults ([`signals::install`]). From then on SIGSEGV's action is virtual, and masks go to the
//! kernel with SIGSEGV's stand-in in its place ([`masks`]). signal(2), sigset(3), sigblock(3), siglongjmp(3), sigwait(3) and their
//! kin come to these inside libc.

use core::ffi::{c_int, c_long};

use libc::{
    epoll_event, fd_set, nfds_t, pollfd, pthread_attr_t, sighandler_t, siginfo_t, sigset_t, timespec, ucontext_t,
};
use rustix::io::Errno;
use snapshim::masks;
use syscalls::{Sysno, syscall};

use super::sets::{MASK, answer, not_here, set_of, with_mask, word};
use crate::base::errno::as_libc;
use crate::interpose::interpose;
use crate::process::leaving;
use crate::signals;
use crate::signals::action::Action;
use crate::signals::guarded;

interpose! {
    /// sigaction(2)
    sigaction, c"sigaction": sigaction __sigaction => fn(
        signal: c_int, new: *const libc::sigaction, old: *mut libc::sigaction
    ) -> c_int {
        raw raw_sigaction, hook on_sigaction,
    }
    /// signal(2), for a libc whose code cannot be patched
    signal, c"signal": signal bsd_signal ssignal => fn(signal: c_int, handler: sighandler_t) -> sighandler_t {
        raw |_signal, _handler| not_here() as sighandler_t, hook on_signal,
    }
    /// signal(2) as in System V, likewise
    sysv_signal, c"sysv_signal": sysv_signal __sysv_signal => fn(signal: c_int, handler: sighandler_t) -> sighandler_t {
        raw |_signal, _handler| not_here() as sighandler_t, hook on_sysv_signal,
    }
    /// sigprocmask(2)
    sigprocmask, c"sigprocmask": sigprocmask => fn(how: c_int, new: *const sigset_t, old: *mut sigset_t) -> c_int {
        // SAFETY: the application's arguments, as they are.
        raw |how, new, old| as_libc(unsafe { syscall!(Sysno::rt_sigprocmask, how, new, old, 8) }) as c_int,
        hook on_sigprocmask,
    }
    /// pthread_sigmask(3): the error is its result
    pthread_sigmask, c"pthread_sigmask": pthread_sigmask => fn(how: c_int, new: *const sigset_t, old: *mut sigset_t) -> c_int {
        // SAFETY: the application's arguments, as they are.
        raw |how, new, old| match unsafe { syscall!(Sysno::rt_sigprocmask, how, new, old, 8) } {
            Ok(_) => 0,
            Err(error) => error.into_raw(),
        },
        hook on_pthread_sigmask,
    }
    /// sigpending(2)
    sigpending, c"sigpending": sigpending => fn(set: *mut sigset_t) -> c_int {
        // SAFETY: the application's argument, as it is.
        raw |set| as_libc(unsafe { syscall!(Sysno::rt_sigpending, set, 8) }) as c_int,
        hook on_sigpending,
    }
    /// sigsuspend(2)
    sigsuspend, c"sigsuspend": sigsuspend __sigsuspend => fn(mask: *const sigset_t) -> c_int {
        // SAFETY: the application's argument, as it is.
        raw |mask| as_libc(unsafe { syscall!(Sysno::rt_sigsuspend, mask, 8) }) as c_int,
        hook on_sigsuspend,
    }
    /// sigwait(3), for a libc whose code cannot be patched: the error is its result
    sigwait, c"sigwait": sigwait => fn(set: *const sigset_t, signal: *mut c_int) -> c_int {
        raw |_set, _signal| libc::ENOSYS, hook on_sigwait,
    }
    /// sigwaitinfo(2), likewise
    sigwaitinfo, c"sigwaitinfo": sigwaitinfo => fn(set: *const sigset_t, information: *mut siginfo_t) -> c_int {
        // SAFETY: the application's arguments, as they are.
        raw |set, information| as_libc(unsafe { syscall!(Sysno::rt_sigtimedwait, set, information, 0, 8) }) as c_int,
        hook on_sigwaitinfo,
    }
    /// sigtimedwait(2), which the two before come to
    sigtimedwait, c"sigtimedwait": sigtimedwait => fn(
        set: *const sigset_t, information: *mut siginfo_t, timeout: *const timespec
    ) -> c_int {
        raw |set, information, timeout| {
            // SAFETY: the application's arguments, as they are.
            as_libc(unsafe { syscall!(Sysno::rt_sigtimedwait, set, information, timeout, 8) }) as c_int
        },
        hook on_sigtimedwait,
    }
    /// signalfd(2)
    signalfd, c"signalfd": signalfd => fn(fd: c_int, mask: *const sigset_t, flags: c_int) -> c_int {
        // SAFETY: the application's arguments, as they are.
        raw |fd, mask, flags| as_libc(unsafe { syscall!(Sysno::signalfd4, fd, mask, 8, flags) }) as c_int,
        hook on_signalfd,
    }
    /// ppoll(2)
    ppoll, c"ppoll": ppoll => fn(
        all: *mut pollfd, count: nfds_t, timeout: *const timespec, mask: *const sigset_t
    ) -> c_int {
        raw raw_ppoll, hook on_ppoll,
    }
    /// pselect(2)
    pselect, c"pselect": pselect => fn(
        count: c_int, read: *mut fd_set, write: *mut fd_set, except: *mut fd_set, timeout: *const timespec,
        mask: *const sigset_t
    ) -> c_int {
        raw raw_pselect, hook on_pselect,
    }
    /// epoll_pwait(2)
    epoll_pwait, c"epoll_pwait": epoll_pwait => fn(
        fd: c_int, events: *mut epoll_event, most: c_int, timeout: c_int, mask: *const sigset_t
    ) -> c_int {
        raw |fd, events, most, timeout, mask| {
            // SAFETY: the application's arguments, as they are.
            as_libc(unsafe { syscall!(Sysno::epoll_pwait, fd, events, most, timeout, mask, 8) }) as c_int
        },
        hook on_epoll_pwait,
    }
    /// epoll_pwait2(2)
    epoll_pwait2, c"epoll_pwait2": epoll_pwait2 => fn(
        fd: c_int, events: *mut epoll_event, most: c_int, timeout: *const timespec, mask: *const sigset_t
    ) -> c_int {
        raw |fd, events, most, timeout, mask| {
            // SAFETY: the application's arguments, as they are.
            as_libc(unsafe { syscall!(Sysno::epoll_pwait2, fd, events, most, timeout, mask, 8) }) as c_int
        },
        hook on_epoll_pwait2,
    }
    /// setcontext(3), whose mask goes to the kernel from inside
    setcontext, c"setcontext": setcontext => fn(context: *const ucontext_t) -> c_int {
        raw |_context| not_here(), hook on_setcontext,
    }
    /// swapcontext(3), likewise
    swapcontext, c"swapcontext": swapcontext => fn(old: *mut ucontext_t, new: *const ucontext_t) -> c_int {
        raw |_old, _new| not_here(), hook on_swapcontext,
    }
    /// pthread_attr_setsigmask_np(3): the mask that a thread begins with
    attribute_mask, c"pthread_attr_setsigmask_np": pthread_attr_setsigmask_np => fn(
        attributes: *mut pthread_attr_t, mask: *const sigset_t
    ) -> c_int {
        raw |_attributes, _mask| libc::ENOSYS, hook on_set_attribute_mask,
    }
}

/// Only before the constructor has run.
fn raw_sigaction(signal: c_int, new: *const libc::sigaction, old: *mut libc::sigaction) -> c_int {
    let mut found = Action::DEFAULT;
    // SAFETY: the application's action where it has one; `found` is as large as the kernel's.
    let result = unsafe {
        let given = new.as_ref().map(|new| of_libc(new).returning());
        let given = given.as_ref().map_or(core::ptr::null(), core::ptr::from_ref);
        syscall!(Sysno::rt_sigaction, signal, given, &raw mut found, 8)
    };
    if result.is_ok() {
        // SAFETY: null, or the application's.
        unsafe { tell(old, &found) };
    }
    as_libc(result) as c_int
}

fn of_libc(action: &libc::sigaction) -> Action {
    // SAFETY: a set inside a valid action.
    signals::action::from_libc(action.sa_sigaction, action.sa_flags, unsafe { word(&raw const action.sa_mask) })
}

/// # Safety
/// `to` is null or a sigaction.
unsafe fn tell(to: *mut libc::sigaction, action: &Action) {
    if to.is_null() {
        return;
    }
    // SAFETY: the caller's promise. The address of a function or 0 is what sa_restorer is.
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
    // SAFETY: null, or the application's action, which libc too reads and writes itself.
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
        tell(old, &before);
    }
    0
}

fn change_virtual(signal: c_int, new: Option<Action>) -> Action {
    if signals::is_borrowed() {
        return signals::change_borrowed(signal, new).unwrap_or_default();
    }
    signals::change(signal, new)
}

fn on_signal(real: signal::Function, number: c_int, handler: sighandler_t) -> sighandler_t {
    // BSD's: the signal is blocked in its handler, which stays, and calls go on behind it.
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
    let comes_to_sigaction = sigaction::DOOR.is_detoured() || handler == libc::SIG_ERR;
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
    answer(act(signal, new, old)).into()
}

fn act(signal: c_int, new: *const u64, old: *mut u64) -> Result<(), Errno> {
    let new = if new.is_null() { None } else { Some(load_action(new)?) };
    let before = if signals::is_virtual(signal) {
        change_virtual(signal, new)
    } else {
        let new = new.map(|new| Action { mask: masks::to_kernel(new.mask), ..new });
        let mut before = Action::DEFAULT;
        let given = new.as_ref().map_or(core::ptr::null(), core::ptr::from_ref);
        // SAFETY: the application's own action; `before` is as large as the kernel's.
        unsafe { syscall!(Sysno::rt_sigaction, signal, given, &raw mut before, 8) }
            .map_err(|error| Errno::from_raw_os_error(error.into_raw()))?;
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

fn on_sigprocmask(real: sigprocmask::Function, how: c_int, new: *const sigset_t, old: *mut sigset_t) -> c_int {
    if signals::is_installed() {
        return answer(mask_of_libc(how, new, old));
    }
    // SAFETY: the application's arguments, as they are.
    let result = unsafe { real(how, new, old) };
    signals::open_faults_of_thread();
    result
}

fn on_pthread_sigmask(real: pthread_sigmask::Function, how: c_int, new: *const sigset_t, old: *mut sigset_t) -> c_int {
    if signals::is_installed() {
        return mask_of_libc(how, new, old).map_or_else(|error| error.raw_os_error(), |()| 0);
    }
    // SAFETY: the application's arguments, as they are.
    let result = unsafe { real(how, new, old) };
    signals::open_faults_of_thread();
    result
}

/// What libc keeps for itself and takes out of every mask: the signals of pthread_cancel(3) and setuid(2).
const LIBC_OWN: u64 = 1 << (32 - 1) | 1 << (33 - 1);

/// libc reads the new mask itself; the kernel writes the old one.
fn mask_of_libc(how: c_int, new: *const sigset_t, old: *mut sigset_t) -> Result<(), Errno> {
    // SAFETY: null, or the application's set.
    let new = (!new.is_null()).then(|| unsafe { word(new) } & !LIBC_OWN);
    change_mask(how, new, old.cast())
}

fn change_mask(how: c_int, new: Option<u64>, old: *mut u64) -> Result<(), Errno> {
    let given = new.map(masks::to_kernel);
    let mut before = 0u64;
    // SAFETY: both masks are eight bytes.
    unsafe {
        let given = given.as_ref().map_or(core::ptr::null(), core::ptr::from_ref);
        syscall!(Sysno::rt_sigprocmask, how, given, &raw mut before, 8)
    }
    .map_err(|error| Errno::from_raw_os_error(error.into_raw()))?;
    if before & masks::FAULT != 0 {
        signals::open_faults_of_thread();
    }
    if old.is_null() { Ok(()) } else { guarded::store(old, masks::to_application(before)) }
}

/// rt_sigprocmask(2) by number.
pub fn mask_by_number(
    real: impl FnOnce() -> c_long,
    how: c_int,
    new: *const u64,
    old: *mut u64,
    size: usize,
) -> c_long {
    if !signals::is_installed() || size != MASK {
        let result = real();
        signals::open_faults_of_thread();
        return result;
    }
    let change = || {
        let new = if new.is_null() { None } else { Some(guarded::load(new)?) };
        change_mask(how, new, old)
    };
    answer(change()).into()
}

pub fn on_sigpending(real: sigpending::Function, set: *mut sigset_t) -> c_int {
    // SAFETY: the application's argument, as it is.
    let result = unsafe { real(set) };
    if result == 0 && signals::is_installed() {
        // SAFETY: the kernel has just written it.
        unsafe { set.cast::<u64>().write_unaligned(pending(word(set))) };
    }
    result
}

fn pending(kernel: u64) -> u64 {
    let others = kernel & !masks::STAND_IN;
    if kernel & masks::STAND_IN == 0 { others } else { others | masks::FAULT }
}

/// The same for calls that wait with it.
#[inline]
fn wait_with<R>(mask: *const sigset_t, call: impl FnOnce(*const sigset_t) -> R) -> R {
    with_mask(mask, |given| {
        if given == mask {
            return call(given);
        }
        // SAFETY: made by `with_mask`.
        signals::waiting::wait_with(unsafe { word(given) }, || call(given))
    })
}

/// rt_sigsuspend(2), ppoll(2), epoll_pwait(2) by number: the mask is the argument numbered `at`, its size the next.
pub fn wait_by_number(real: impl FnOnce([usize; 6]) -> c_long, mut arguments: [usize; 6], at: usize) -> c_long {
    if arguments[at + 1] != MASK {
        return real(arguments);
    }
    wait_with(core::ptr::with_exposed_provenance(arguments[at]), |mask| {
        arguments[at] = mask.expose_provenance();
        real(arguments)
    })
}

/// pselect6(2): the last argument points to the mask and its size.
pub fn pselect_by_number(real: impl FnOnce([usize; 6]) -> c_long, mut arguments: [usize; 6]) -> c_long {
    if !signals::is_installed() || arguments[5] == 0 {
        return real(arguments);
    }
    let place = core::ptr::with_exposed_provenance::<u64>(arguments[5]);
    let with_size = guarded::load(place).and_then(|mask| Ok((mask, guarded::load(place.wrapping_add(1))?)));
    match with_size {
        Ok((mask, size)) if size == MASK as u64 => {
            wait_with(core::ptr::with_exposed_provenance(mask as usize), |mask| {
                let with_size = [mask.expose_provenance(), MASK];
                arguments[5] = with_size.as_ptr().expose_provenance();
                real(arguments)
            })
        }
        _ => real(arguments),
    }
}

fn on_sigsuspend(real: sigsuspend::Function, mask: *const sigset_t) -> c_int {
    // SAFETY: the application's arguments but for the mask, which is one.
    wait_with(mask, |mask| unsafe { real(mask) })
}

fn raw_ppoll(all: *mut pollfd, count: nfds_t, timeout: *const timespec, mask: *const sigset_t) -> c_int {
    // The kernel counts the timeout down; libc gives it a copy.
    // SAFETY: the application's arguments; null, or a timespec.
    unsafe {
        let mut rest = timeout.as_ref().copied();
        let rest = rest.as_mut().map_or(core::ptr::null_mut(), core::ptr::from_mut);
        as_libc(syscall!(Sysno::ppoll, all, count, rest, mask, 8)) as c_int
    }
}

fn on_ppoll(
    real: ppoll::Function,
    all: *mut pollfd,
    count: nfds_t,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    // SAFETY: the application's arguments but for the mask, which is one.
    wait_with(mask, |mask| unsafe { real(all, count, timeout, mask) })
}

fn raw_pselect(
    count: c_int,
    read: *mut fd_set,
    write: *mut fd_set,
    except: *mut fd_set,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    let with_size = [mask as usize, 8];
    // SAFETY: as in `raw_ppoll`.
    unsafe {
        let mut rest = timeout.as_ref().copied();
        let rest = rest.as_mut().map_or(core::ptr::null_mut(), core::ptr::from_mut);
        as_libc(syscall!(Sysno::pselect6, count, read, write, except, rest, with_size.as_ptr())) as c_int
    }
}

fn on_pselect(
    real: pselect::Function,
    count: c_int,
    read: *mut fd_set,
    write: *mut fd_set,
    except: *mut fd_set,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    // SAFETY: the application's arguments but for the mask, which is one.
    wait_with(mask, |mask| unsafe { real(count, read, write, except, timeout, mask) })
}

fn on_epoll_pwait(
    real: epoll_pwait::Function,
    fd: c_int,
    events: *mut epoll_event,
    most: c_int,
    timeout: c_int,
    mask: *const sigset_t,
) -> c_int {
    // SAFETY: the application's arguments but for the mask, which is one.
    wait_with(mask, |mask| unsafe { real(fd, events, most, timeout, mask) })
}

fn on_epoll_pwait2(
    real: epoll_pwait2::Function,
    fd: c_int,
    events: *mut epoll_event,
    most: c_int,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    // SAFETY: the application's arguments but for the mask, which is one.
    wait_with(mask, |mask| unsafe { real(fd, events, most, timeout, mask) })
}

/// A set of signals to take: SIGSEGV that comes now and SIGSEGV that was put off.
fn awaited(set: u64) -> u64 {
    masks::to_kernel(set) | set & masks::FAULT
}

pub fn on_sigtimedwait(
    real: sigtimedwait::Function,
    set: *const sigset_t,
    information: *mut siginfo_t,
    timeout: *const timespec,
) -> c_int {
    // SAFETY: the application's arguments but for the set, which is one, and the information, which is writable.
    take_signal(set, information, |set, information| unsafe { real(set, information, timeout) })
}

fn on_sigwaitinfo(real: sigwaitinfo::Function, set: *const sigset_t, information: *mut siginfo_t) -> c_int {
    if sigtimedwait::DOOR.is_detoured() {
        // SAFETY: the application's arguments, as they are.
        return unsafe { real(set, information) };
    }
    // SAFETY: as in `on_sigtimedwait`.
    take_signal(set, information, |set, information| unsafe { real(set, information) })
}

fn on_sigwait(real: sigwait::Function, set: *const sigset_t, number: *mut c_int) -> c_int {
    if sigtimedwait::DOOR.is_detoured() || !signals::is_installed() {
        // SAFETY: the application's arguments, as they are.
        return unsafe { real(set, number) };
    }
    // SAFETY: the application's set, as libc's sigwait(3) would read it.
    let awaited = set_of(awaited(unsafe { word(set) }));
    let mut taken = 0;
    // SAFETY: both are valid.
    let error = unsafe { real(&raw const awaited, &raw mut taken) };
    if error == 0 {
        let named = if taken == signals::action::STAND_IN { signals::action::FAULT } else { taken };
        // SAFETY: the application's place for it.
        unsafe { number.write(named) };
    }
    error
}

/// Waits for signals of the set; what was put off is named SIGSEGV again.
fn take_signal(
    set: *const sigset_t,
    information: *mut siginfo_t,
    wait: impl FnOnce(*const sigset_t, *mut siginfo_t) -> c_int,
) -> c_int {
    let wanted = if signals::is_installed() { guarded::load(set.cast()).ok() } else { None };
    let Some(wanted) = wanted else {
        return wait(set, information);
    };
    let set = set_of(awaited(wanted));
    // SAFETY: all-zero is a valid siginfo_t; the information is null, or the application's.
    unsafe {
        let mut found: siginfo_t = core::mem::zeroed();
        let result = wait(&raw const set, &raw mut found);
        if result < 0 {
            return result;
        }
        signals::take_back(&mut found);
        if !information.is_null() {
            information.write(found);
        }
        found.si_signo
    }
}

pub fn on_signalfd(real: signalfd::Function, fd: c_int, mask: *const sigset_t, flags: c_int) -> c_int {
    let wanted = if signals::is_installed() { guarded::load(mask.cast()).ok() } else { None };
    let Some(wanted) = wanted else {
        // SAFETY: the application's arguments, as they are.
        return unsafe { real(fd, mask, flags) };
    };
    let set = set_of(awaited(wanted));
    // SAFETY: the application's arguments but for the mask, which is one.
    unsafe { real(fd, &raw const set, flags) }
}

/// Programs put a mask of their own into a context now and then; what getcontext(3) saved needs no change.
fn open_faults_of_context(context: *const ucontext_t) {
    if !signals::is_installed() || context.is_null() {
        return;
    }
    // SAFETY: the application's context, whose mask it fills in itself.
    unsafe {
        let mask = (&raw const (*context).uc_sigmask).cast::<u64>().cast_mut();
        if *mask & masks::FAULT != 0 {
            *mask = masks::to_kernel(*mask);
        }
    }
}

fn on_setcontext(real: setcontext::Function, context: *const ucontext_t) -> c_int {
    leaving::note_other_stacks();
    open_faults_of_context(context);
    // SAFETY: the application's arguments, as they are.
    unsafe { real(context) }
}

fn on_swapcontext(real: swapcontext::Function, old: *mut ucontext_t, new: *const ucontext_t) -> c_int {
    leaving::note_other_stacks();
    open_faults_of_context(new);
    // SAFETY: the application's arguments, as they are.
    unsafe { real(old, new) }
}

fn on_set_attribute_mask(
    real: attribute_mask::Function,
    attributes: *mut pthread_attr_t,
    mask: *const sigset_t,
) -> c_int {
    // SAFETY: the application's arguments but for the mask, which is one.
    with_mask(mask, |mask| unsafe { real(attributes, mask) })
}
