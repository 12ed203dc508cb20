//! An errand: a few system calls that a child makes in this memory, for a process that is at one of its limits.
//!
//! The child shares the memory as after vfork(2): what it maps is mapped here. It has a copy of the descriptor table, in which it
//! closes a few numbers, and limits of its own, which it raises as far as it may. The calling thread stands still meanwhile, so
//! that two threads never use its thread-local storage. No signal is sent at the child's end, and the application's wait(2) does
//! not find it: it is waited for by its pid, as a child of clone(2).

use core::ffi::{c_int, c_void};
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use snapshim::sys::wait::Backoff;
use snapshim::sys::{permission, signal_block};
use syscalls::{Sysno, syscall};

use super::fd_table;
use crate::base::{arena, errno};
use crate::interpose::originals;

const STACK: usize = 32 << 10;

/// Whether a child is under way: there is one at a time.
static IS_UNDER_WAY: AtomicBool = AtomicBool::new(false);
/// The start of the child's stack, once one has been needed.
static STACK_START: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

/// Does `act` in a child, and hands its result back. `None`: no child could be made, or a filter of seccomp(2) might end the
/// process for the attempt.
pub fn run<T>(act: impl FnOnce() -> T) -> Option<T> {
    if fd_table::may_be_filtered() {
        return None;
    }
    // A handler that needs an errand would wait for the one that it interrupted.
    let _signals = signal_block::SignalsBlocked::new();
    let mut backoff = Backoff::default();
    // Acquire: pairs with the Release below: the child before has left the stack.
    while IS_UNDER_WAY.swap(true, Ordering::Acquire) {
        backoff.pause();
    }
    let answer = stack().and_then(|stack| run_on(stack, act));
    IS_UNDER_WAY.store(false, Ordering::Release);
    answer
}

fn stack() -> Option<*mut c_void> {
    let known = STACK_START.load(Ordering::Relaxed);
    if !known.is_null() {
        return Some(known);
    }
    let made = arena::memory(STACK)?;
    STACK_START.store(made, Ordering::Relaxed);
    Some(made)
}

/// What the child does, and where it puts the result.
struct Errand<F, T> {
    act: Option<F>,
    answer: Option<T>,
}

fn run_on<F: FnOnce() -> T, T>(stack: *mut c_void, act: F) -> Option<T> {
    const ALONE: c_int = libc::CLONE_VM | libc::CLONE_VFORK;
    const ANY_CHILD: usize = 0x4000_0000;
    let mut errand = Errand { act: Some(act), answer: None };
    let errno = errno::errno();
    // SAFETY: the child runs on a stack that no other child uses. The errand outlives it: with CLONE_VFORK the call returns when
    // the child has ended.
    let child = unsafe { originals::start_thread(go::<F, T>, stack.byte_add(STACK), ALONE, (&raw mut errand).cast()) };
    errno::set_errno(errno);
    if child > 0 {
        // SAFETY: the arguments are values; no status is asked for.
        while unsafe { syscall!(Sysno::wait4, child, 0, ANY_CHILD, 0) } == Err(syscalls::Errno::EINTR) {}
    }
    errand.answer
}

unsafe extern "C-unwind" fn go<F: FnOnce() -> T, T>(errand: *mut c_void) -> c_int {
    // SAFETY: `run_on` passed a pointer to an errand of this type.
    let errand = unsafe { &mut *errand.cast::<Errand<F, T>>() };
    make_room();
    errand.answer = errand.act.take().map(|act| act());
    0
}

/// Raises the child's limits and frees descriptors. Both are the child's own.
fn make_room() {
    // The limit of the address space stays: if the child mapped beyond it, the program could map nothing more itself.
    let may_raise = !permission::forbids(Sysno::prlimit64);
    for resource in [Resource::Nofile, Resource::Memlock, Resource::Fsize].into_iter().filter(|_| may_raise) {
        let Rlimit { maximum, .. } = getrlimit(resource);
        let _ = setrlimit(resource, Rlimit { current: maximum, maximum });
    }
    // No record lock is dropped: locks belong to the table through which they were taken, and the process's own table is unchanged.
    for number in 0..3 {
        // SAFETY: the number is in the child's copy of the table; nothing in the child relies on it.
        let _ = unsafe { syscall!(Sysno::close, number) };
    }
}
