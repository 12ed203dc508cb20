//! Stacks on which faults are resolved and pages are preserved: the application's own may be nearly full, or a small alternate one.
//!
//! A thread on such a stack has its signals blocked, but for those that a sandbox or a debugger needs: no handler of the
//! application runs there, and no longjmp(3) leaves it. No call of the application is made there, so no thread is cancelled there
//! and none forks. A thread that finds no stack free stays on the one that it is on.

use core::arch::naked_asm;
use core::ffi::c_void;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use rustix::mm::{MprotectFlags, mprotect};
use snapshim::PAGE;
use snapshim::sys::permission;
use snapshim::sys::signal_block::SignalsBlocked;
use syscalls::Sysno;

use super::stack_pointer::stack_pointer;
use super::{agent_stack, arena, valgrind, wiped_page};

const COUNT: usize = 12;
const STACK: usize = 32 << 10;
const LENGTH: usize = COUNT * STACK;

/// The stacks, one behind the other; null before `prepare`.
///
/// Which of them are in use stands in the page that a fork wipes: the child has only that thread of its parent which forks, and
/// this one uses no stack of the pool then.
static POOL: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

/// Makes the stacks; they cost memory when they are first used.
pub fn prepare() {
    // Acquire: as in `call`.
    if !POOL.load(Ordering::Acquire).is_null() {
        return;
    }
    if permission::forbids_any(&[Sysno::mmap, Sysno::mprotect, Sysno::madvise]) || wiped_page::page().is_none() {
        return;
    }
    let Some(memory) = arena::memory(LENGTH) else { return };
    for stack in 0..COUNT {
        // SAFETY: memory of the arena, which only this function knows of yet; the lowest page of each stack.
        let _ = unsafe { mprotect(memory.wrapping_byte_add(stack * STACK), PAGE as usize, MprotectFlags::empty()) };
    }
    // Release: pairs with the Acquire in `call`. The first of two threads wins, and the memory of the other is lost, once.
    if POOL.compare_exchange(ptr::null_mut(), memory, Ordering::Release, Ordering::Relaxed).is_ok() {
        (0..COUNT).for_each(|stack| valgrind::note_stack(memory as usize + stack * STACK, STACK));
    }
}

/// Calls `function` with both words on a free stack of the pool.
pub fn call(function: extern "C" fn(u64, u64) -> Outcome, first: u64, second: u64) -> Outcome {
    // Acquire: pairs with the Release in `prepare`: the guard pages are set.
    let pool = POOL.load(Ordering::Acquire);
    let Some(in_use) = wiped_page::stacks_in_use().filter(|_| !pool.is_null()) else { return function(first, second) };
    // Acquire: pairs with the Release below: the thread before has left the stack.
    let taken = in_use.fetch_update(Ordering::Acquire, Ordering::Relaxed, |taken| {
        let free = taken.trailing_ones();
        (free < COUNT as u32).then_some(taken | 1 << free)
    });
    let Ok(taken) = taken else { return function(first, second) };
    let stack = taken.trailing_ones() as usize;
    // An address of this stack, and not the first of the next one: valgrind tells the stacks apart by it.
    let top = pool.wrapping_byte_add((stack + 1) * STACK - 16);
    // SAFETY: the stack belongs to this call until its bit is cleared, and its top is aligned.
    let result = unsafe { call_on(top, function, first, second) };
    // Release: pairs with the Acquire of the thread that takes the stack next.
    in_use.fetch_and(!(1 << stack), Ordering::Release);
    result
}

/// Does `work` on a stack of the pool, with signals blocked. A thread that is on one already, or on the agent's, goes on there.
pub fn aside(work: &mut dyn FnMut()) {
    if is_caller_on_one() || agent_stack::is_caller() {
        return work();
    }
    let _signals = SignalsBlocked::except_of_sandboxes();
    prepare();
    let mut work = work;
    call(run, (&raw mut work).expose_provenance() as u64, 0);
}

extern "C" fn run(work: u64, _: u64) -> Outcome {
    // SAFETY: `aside` passes the address of such a reference, and waits.
    let work = unsafe { &mut *ptr::with_exposed_provenance_mut::<&mut dyn FnMut()>(work as usize) };
    work();
    Outcome::Resolved
}

/// Whether the calling thread is on a stack of the pool.
fn is_caller_on_one() -> bool {
    let start = POOL.load(Ordering::Relaxed) as u64;
    start != 0 && (start..start + LENGTH as u64).contains(&stack_pointer())
}

/// Switches to the stack that ends at `top`, calls `function` there, and switches back.
///
/// # Safety
/// `top` is the end of a stack, aligned to 16 bytes, that no other call uses.
#[unsafe(naked)]
unsafe extern "C" fn call_on(
    top: *const c_void,
    function: extern "C" fn(u64, u64) -> Outcome,
    first: u64,
    second: u64,
) -> Outcome {
    naked_asm!(
        "push rbp",
        "mov rbp, rsp",
        "mov rsp, rdi",
        "mov rax, rsi",
        "mov rdi, rdx",
        "mov rsi, rcx",
        "call rax",
        "mov rsp, rbp",
        "pop rbp",
        "ret",
    )
}

/// What came of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Outcome {
    /// The shim did not cause it.
    Foreign,
    /// The instruction can be run again.
    Resolved,
    /// The store must not happen: it ends in SIGBUS at its address, as on a full disk (mm/memory.c, VM_FAULT_SIGBUS).
    Refused,
}
