//! An errand: a few system calls made by a child in this memory, for a process that is at one of its limits.
//!
//! The child is made as by vfork(2), but for itself alone: a copy of the descriptor table, in which it closes what is in its way, and
//! limits of its own, which it raises as far as it may. What it maps is mapped in this memory. The calling thread stands still
//! meanwhile, so that its thread-local storage is not used twice. No signal tells of the child's end, and wait(2) does not find it:
//! it is a child of clone(2) that is waited for by name.

use core::ffi::{c_int, c_void};
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use snapshim::sys::signal_block;
use snapshim::sys::wait::Patience;
use syscalls::{Sysno, syscall};

use super::fd_table;
use crate::base::{arena, errno};
use crate::interpose::originals;

const STACK: usize = 32 << 10;

/// Of the child under way: one at a time.
static IS_UNDER_WAY: AtomicBool = AtomicBool::new(false);
static STACK_START: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

/// What `act` answers in the child; `None`: none could be made, or a filter of seccomp(2) may end the process for trying.
pub fn run<T>(act: impl FnOnce() -> T) -> Option<T> {
    if fd_table::may_be_filtered() {
        return None;
    }
    // A handler would wait for the errand that it interrupted.
    let _signals = signal_block::SignalsBlocked::new();
    let mut patience = Patience::default();
    // Acquire: pairs with the Release below: the stack is free.
    while IS_UNDER_WAY.swap(true, Ordering::Acquire) {
        patience.pause();
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

/// What the child does, and where it puts the answer.
struct Errand<F, T> {
    act: Option<F>,
    answer: Option<T>,
}

fn run_on<F: FnOnce() -> T, T>(stack: *mut c_void, act: F) -> Option<T> {
    const ALONE: c_int = libc::CLONE_VM | libc::CLONE_VFORK;
    const ANY_CHILD: usize = 0x4000_0000;
    let mut errand = Errand { act: Some(act), answer: None };
    let errno = errno::errno();
    // SAFETY: `go` lives on the stack, which is free, and the errand outlives the child: with CLONE_VFORK the call returns when the
    // child has ended.
    let child = unsafe { originals::start_thread(go::<F, T>, stack.byte_add(STACK), ALONE, (&raw mut errand).cast()) };
    errno::set_errno(errno);
    if child > 0 {
        // SAFETY: the arguments are values; no status is asked for.
        while unsafe { syscall!(Sysno::wait4, child, 0, ANY_CHILD, 0) } == Err(syscalls::Errno::EINTR) {}
    }
    errand.answer
}

unsafe extern "C-unwind" fn go<F: FnOnce() -> T, T>(errand: *mut c_void) -> c_int {
    // SAFETY: what `run_on` handed over.
    let errand = unsafe { &mut *errand.cast::<Errand<F, T>>() };
    make_room();
    errand.answer = errand.act.take().map(|act| act());
    0
}

/// In the child, whose limits and descriptors are its own.
fn make_room() {
    // Not that of the address space: what is mapped beyond it would keep the program from mapping anything itself.
    for resource in [Resource::Nofile, Resource::Memlock, Resource::Fsize] {
        let Rlimit { maximum, .. } = getrlimit(resource);
        let _ = setrlimit(resource, Rlimit { current: maximum, maximum });
    }
    // Record locks belong to the table that they were taken through, and the files stay open in the process's own.
    for number in 0..3 {
        // SAFETY: a number of the child's copy, which nothing here relies on.
        let _ = unsafe { syscall!(Sysno::close, number) };
    }
}
