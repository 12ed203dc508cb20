//! The proof that a thread has left a call by longjmp(3): it has jumped, and has landed.
//!
//! A handler may jump out of the call that it interrupted. That call never comes to its end, so no creation must wait for it. But
//! a thread that only *seems* to have left a call must be waited for, or a snapshot is made in the middle of a write. A stack
//! pointer proves neither: a handler may run on a stack of its own, or switch to another one (by swapcontext(3), or by a few
//! instructions of a runtime that no hook sees), and return to the call much later. So a frame is given up on proof alone:
//!
//! - the thread is gone (`snapshim::cooperate::drain`);
//! - or the thread *lands* behind a jump of libc's whose target lies on the thread's own stack ([`OwnStack`]), further up than the
//!   call. The jump was made from further down that stack, or from the alternate signal stack, which the kernel entered from
//!   further down. A stack is contiguous, so what the thread does next takes the place of the call.
//!
//! The landing is the proof, and not the call of longjmp(3): libc opens the signals of the target first, and a handler that comes
//! in then may jump elsewhere itself. So libc gets a copy of the buffer that leads to [`landed`], which goes on to the target.
//!
//! A stack inside the stack would break the proof: a program may divide one stack between threads of its own. Such a program jumps
//! downwards, or calls swapcontext(3), before a call in one of the parts can be interrupted; from then on no frame is given up
//! ([`note_other_stacks`]). The same holds after a jump onto the alternate signal stack, which is one more part then. A program
//! that switches parts by its own instructions alone, and jumps by libc, may return to a call whose frame was given up. That is
//! found when the call ends, and all snapshots are doubtful (`writer::slot`).
//!
//! Other ways out leave the frame as it is: setcontext(3), a handler that changes its context, an exception thrown out of a
//! handler, assembler. The call counts as under way until the thread ends. Snapshots of the same file are refused, and the refusal
//! names the thread.

use core::arch::{asm, naked_asm};
use core::cell::Cell;
use core::ffi::{c_int, c_void};
use core::mem::offset_of;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};

use snapshim::PAGE;
use snapshim::sys::signal_block::{self, SignalsBlocked};
use snapshim::sys::{masks, procfs, raw};

use super::{identity, thread};
use crate::base::stack_pointer::stack_pointer;

/// Whether the program switches stacks.
static HAS_OTHER_STACKS: AtomicBool = AtomicBool::new(false);

/// Notes that the program switches stacks: from now on a jump proves nothing.
pub fn note_other_stacks() {
    HAS_OTHER_STACKS.store(true, Ordering::Relaxed);
}

/// The part of glibc's `sigjmp_buf` on x86-64 that is used (sysdeps/x86_64/jmpbuf-offsets.h): the registers, of which the last two
/// are mangled, and the part of the mask that the kernel knows.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct JumpTarget {
    registers: [u64; 8],
    has_mask: c_int,
    mask: u64,
}

const _: () = assert!(offset_of!(JumpTarget, has_mask) == 64 && offset_of!(JumpTarget, mask) == 72);

const STACK: usize = 6;
const INSTRUCTION: usize = 7;
/// PTR_MANGLE (sysdeps/unix/sysv/linux/x86_64/pointer_guard.h).
const TURNED_BY: u32 = 17;

/// What glibc mangles pointers with.
fn guard() -> u64 {
    let guard: u64;
    // SAFETY: reads a word of the thread's descriptor that never changes.
    unsafe { asm!("mov {}, fs:0x30", out(reg) guard, options(nostack, readonly, preserves_flags)) };
    guard
}

impl JumpTarget {
    fn stack(&self) -> u64 {
        self.registers[STACK].rotate_right(TURNED_BY) ^ guard()
    }

    fn instruction(&self) -> u64 {
        self.registers[INSTRUCTION].rotate_right(TURNED_BY) ^ guard()
    }

    /// Whether the buffer is one that was prepared: another library's longjmp(3) stands between two hooks of the shim's.
    fn is_by_landing(&self) -> bool {
        self.instruction() == landed as *const () as u64
    }

    /// The same target by way of [`landed`], which sets the mask.
    fn by_landing(&self) -> Self {
        let mut registers = self.registers;
        registers[INSTRUCTION] = (landed as *const () as u64 ^ guard()).rotate_left(TURNED_BY);
        Self { registers, has_mask: 0, mask: 0 }
    }
}

/// What is done where a jump lands.
#[derive(Clone, Copy)]
struct Landing {
    /// Where the thread goes on.
    instruction: u64,
    /// The mask that it goes on with, as the kernel has it.
    mask: u64,
    ground: Ground,
}

thread_local! {
    /// The landing of the jump under way. Signals are blocked from its start to its landing.
    static LANDING: Cell<Option<Landing>> = const { Cell::new(None) };
    /// The buffer that libc gets for it. It is not on the stack: the hook's frame there is gone when libc reads it
    /// (`hooks::signal::jump`).
    static BY_LANDING: Cell<JumpTarget> = const { Cell::new(JumpTarget { registers: [0; 8], has_mask: 0, mask: 0 }) };
    /// The alternate signal stack that the thread has set.
    static ALTERNATE: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
    /// The thread's own stack, as far as it is known.
    static OWN_STACK: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

/// Prepares a jump of the calling thread to `buffer`. The result is the buffer that libc is to jump to: the same, or, if the jump
/// leaves a call, one of the shim's. Signals are blocked then.
///
/// # Safety
/// `buffer` is what longjmp(3) was given.
#[inline(never)]
pub unsafe fn prepare(buffer: *const c_void) -> *const c_void {
    // SAFETY: the caller's promise; libc reads the buffer too. The mask is read only where there is one.
    let target = unsafe { &*buffer.cast::<JumpTarget>() };
    let here = stack_pointer();
    let to = target.stack();
    let is_plain = to > here && !is_inside_calls() && !alternate_stack().contains(&to);
    if is_plain || HAS_OTHER_STACKS.load(Ordering::Relaxed) { buffer } else { prepare_leaving(target, here) }
}

fn is_inside_calls() -> bool {
    thread::known().is_some_and(|thread| thread.is_inside()) || thread::is_in_call_without_slot()
}

#[cold]
fn prepare_leaving(target: &JumpTarget, here: u64) -> *const c_void {
    let unprepared = core::ptr::from_ref(target).cast();
    // No handler comes between the steps that change what is known of the thread's stacks.
    let signals = SignalsBlocked::new();
    // A child that shares its parent's memory leaves none of the parent's calls.
    if target.is_by_landing() || identity::is_vfork_child() {
        return unprepared;
    }
    let alternate = alternate_stack();
    let (is_on_alternate, goes_to_alternate) = (alternate.contains(&here), alternate.contains(&target.stack()));
    if !is_on_alternate && (goes_to_alternate || target.stack() <= here) {
        note_other_stacks();
        return unprepared;
    }
    if goes_to_alternate || !is_inside_calls() {
        return unprepared;
    }
    let Some(ground) = Ground::find(target.stack(), here, &alternate) else { return unprepared };
    let mask = if target.has_mask == 0 { signals.before() } else { masks_for_kernel(target.mask) };
    // The signals are opened where the jump lands.
    core::mem::forget(signals);
    LANDING.set(Some(Landing { instruction: target.instruction(), mask, ground }));
    BY_LANDING.set(target.by_landing());
    BY_LANDING.with(Cell::as_ptr).cast_const().cast()
}

/// A mask as sigprocmask(3) gives it to the kernel: without libc's own signals.
fn masks_for_kernel(mask: u64) -> u64 {
    const LIBC_OWN: u64 = 1 << (32 - 1) | 1 << (33 - 1);
    let mask = mask & !LIBC_OWN;
    if masks::is_sigsegv_reserved() { masks::to_kernel(mask) } else { mask }
}

/// Where libc's jump lands. The registers are those of the target, and the stack below the stack pointer is free.
#[unsafe(naked)]
unsafe extern "C" fn landed() {
    naked_asm!(
        "endbr64",
        "push rax",
        "sub rsp, 8",
        "call {land}",
        "add rsp, 8",
        "mov rcx, rax",
        "pop rax",
        "jmp rcx",
        land = sym land,
    )
}

/// Gives up the calls that the jump has left, and opens signals; the instruction to go on at.
extern "C" fn land() -> u64 {
    // This thread has set it before the jump began.
    let Some(landing) = LANDING.take() else { raw::abort() };
    let is_abandoned = |stack: u64| landing.ground.is_abandoned(stack);
    if let Some(thread) = thread::known() {
        thread.abandon_calls(is_abandoned);
    }
    let unannounced = thread::abandon_calls_without_slot(is_abandoned);
    if let Some(own) = identity::attached()
        && let Some(record) = own.record()
    {
        (0..unannounced).for_each(|_| record.leave_unannounced(own.id));
    }
    signal_block::set_signal_mask(landing.mask);
    landing.instruction
}

/// The parts of the thread's stacks that a jump leaves.
#[derive(Clone, Copy)]
struct Ground {
    /// The stack pointer where the jump lands.
    target: u64,
    /// The lowest address that the thread uses of its own stack.
    bottom: u64,
    /// The part of its alternate stack that the thread uses.
    alternate: (u64, u64),
}

impl Ground {
    /// `None`: the jump proves nothing.
    fn find(target: u64, here: u64, alternate: &Range<u64>) -> Option<Self> {
        let Some(own) = OwnStack::around(target) else {
            note_other_stacks();
            return None;
        };
        let (bottom, alternate) = if alternate.contains(&here) && !alternate.contains(&target) {
            // A call notes its stack pointer only near enough.
            const NEAR: u64 = 512;
            (interrupted_stack(alternate, here)?.checked_sub(NEAR)?, (here, alternate.end))
        } else {
            (here, (0, 0))
        };
        (own.contains(bottom) && bottom < target).then_some(Self { target, bottom, alternate })
    }

    /// Whether a call made at this stack pointer is left.
    fn is_abandoned(&self, stack: u64) -> bool {
        let (start, end) = self.alternate;
        (self.bottom..self.target).contains(&stack) || (start..end).contains(&stack)
    }
}

/// The stack that the thread was made with: for the first thread the kernel's, for others the mapping that has their descriptor at
/// its top.
struct OwnStack(Range<u64>);

impl OwnStack {
    /// That stack, if `address` lies on it.
    fn around(address: u64) -> Option<Self> {
        let known = OWN_STACK.get();
        if (known.0..known.1).contains(&address) {
            return Some(Self(known.0..known.1));
        }
        let (found, is_first) = mapping_around(address)?;
        let descriptor: u64;
        // SAFETY: reads the first word of the thread's descriptor, which is the descriptor's address.
        unsafe { asm!("mov {}, fs:0", out(reg) descriptor, options(nostack, readonly, preserves_flags)) };
        let end = if is_first { found.end } else { descriptor };
        if !found.contains(&(end - 1)) || address >= end {
            return None;
        }
        OWN_STACK.set((found.start, end));
        Some(Self(found.start..end))
    }

    /// Whether `address` lies on it. The stack of the first thread may have grown meanwhile.
    fn contains(&self, address: u64) -> bool {
        self.0.contains(&address) || Self::around_grown(address, self.0.end).is_some()
    }

    /// Notes how far the first thread's stack, which ends at `end`, reaches now; `None`: `address` does not lie on it.
    fn around_grown(address: u64, end: u64) -> Option<()> {
        let (found, is_first) = mapping_around(address)?;
        (is_first && found.contains(&(end - 1))).then(|| OWN_STACK.set((found.start, end)))
    }
}

/// The mapping that an address lies in, and whether it is the first thread's stack (proc_pid_maps(5)).
fn mapping_around(address: u64) -> Option<(Range<u64>, bool)> {
    let found = procfs::find_line(c"/proc/self/maps", |line| {
        let range = procfs::mapped_range(line).filter(|range| range.contains(&address))?;
        Some((range, line.ends_with(b"[stack]")))
    });
    found.ok()?
}

/// Notes that the calling thread has set `stack` as its alternate one.
pub fn note_alternate_stack(stack: Range<u64>) {
    ALTERNATE.set((stack.start, stack.end));
}

/// The thread's alternate stack; empty if it has none. The kernel is not asked: while a handler runs there, it may say that there
/// is none (SS_AUTODISARM).
fn alternate_stack() -> Range<u64> {
    let (start, end) = ALTERNATE.get();
    start..end
}

/// The stack pointer at which the kernel entered the alternate stack. It stands in the signal frame nearest the end of that stack
/// (arch/x86/kernel/signal.c). The frame is recognised by the alternate stack that it names. Above it lies only the state of the
/// floating point unit.
fn interrupted_stack(alternate: &Range<u64>, here: u64) -> Option<u64> {
    /// Places in a `ucontext_t`, in words: the alternate stack's start and size, the stack pointer, and the end.
    const START: u64 = 2;
    const SIZE: u64 = 4;
    const POINTER: u64 = 20;
    const CONTEXT: u64 = 38;
    /// The most bytes of that state, with AMX's tiles.
    const LARGEST_STATE: u64 = 4 * PAGE;
    let word = |at: u64| {
        // SAFETY: the word lies between the caller's frame and the end of the stack that it runs on.
        unsafe { core::ptr::with_exposed_provenance::<u64>(at as usize).read_volatile() }
    };
    let highest = (alternate.end & !7).checked_sub(CONTEXT * 8)?;
    let lowest = here.max(highest.saturating_sub(LARGEST_STATE)).next_multiple_of(8);
    let is_context =
        |at: &u64| word(at + START * 8) == alternate.start && word(at + SIZE * 8) == alternate.end - alternate.start;
    let context = (lowest / 8..=highest / 8).rev().map(|word| word * 8).find(is_context)?;
    Some(word(context + POINTER * 8))
}
