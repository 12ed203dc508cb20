//! This thread in the table: its writer slot, claimed at its first call and given back when it ends.

use core::cell::Cell;
use core::ffi::c_void;
use core::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;
use snapshim::gate::{Frame, Phase};
use snapshim::raw;
use snapshim::table::writer::WriterSlot;
use syscalls::{Sysno, syscall};

use crate::process::{self, Own};
use crate::signals::stacks;

/// The calling thread, ready to announce a call.
#[derive(Clone, Copy)]
pub struct Thread {
    pub own: Own,
    pub slot: &'static WriterSlot,
    pub index: u32,
}

thread_local! {
    /// What `current` found before. Good only for the image it was found in: a forked child claims a slot of its own.
    static CLAIMED: Cell<Option<Thread>> = const { Cell::new(None) };
}

/// Whom this thread-local storage belongs to, once a child may use it as well.
#[derive(Clone, Copy, Default)]
struct Loan {
    /// Who lends it; 0: nobody does.
    thread: u32,
    /// Whether the lender goes on meanwhile.
    is_shared: bool,
}

thread_local! {
    static LOAN: Cell<Loan> = const { Cell::new(Loan { thread: 0, is_shared: false }) };
}

/// The calling thread is about to make a child that acts in this memory: until it has executed its program, or beside the thread.
pub fn note_lending(is_shared: bool) {
    if !process::is_borrower() {
        LOAN.set(Loan { thread: raw::own_tid(), is_shared: is_shared || LOAN.get().is_shared });
    }
}

/// In a forked child: what its parent has lent is not lent here.
pub fn forget_lending() {
    LOAN.set(Loan::default());
}

/// Whether the caller is a child that uses this thread-local storage while the thread it belongs to goes on.
#[inline]
fn is_beside_lender() -> bool {
    let loan = LOAN.get();
    loan.is_shared && loan.thread != raw::own_tid() && process::is_borrower()
}

/// The calling thread; the error is why it has no slot.
#[inline]
pub fn current() -> Result<Thread, Errno> {
    if is_beside_lender() {
        return beside_lender();
    }
    match CLAIMED.get() {
        Some(thread) if thread.own.is_this_image() => Ok(thread),
        _ => claim(),
    }
}

/// The calling thread, if it has a slot that is its alone.
pub fn known() -> Option<Thread> {
    if is_beside_lender() {
        return None;
    }
    CLAIMED.get().filter(|thread| thread.own.is_this_image())
}

/// The calling thread, which a fork has left alone in a child, is `thread` from now on.
pub fn take(thread: Thread) {
    CLAIMED.set(Some(thread));
    note_end_of_thread();
}

#[cold]
fn claim() -> Result<Thread, Errno> {
    let own = process::join()?;
    // A handler that wrote between the claim and the note of it would claim a second slot and lose the first.
    let _signals = raw::SignalsBlocked::new();
    // What a vfork child claims stays with the thread whose stack it borrows; its own id would soon be nobody's.
    let tid = if process::is_borrower() { LOAN.get().thread } else { raw::own_tid() };
    let (index, slot) = own.table.claim_writer(own.owner(), tid).ok_or(Errno::AGAIN)?;
    let thread = Thread { own, slot, index };
    CLAIMED.set(Some(thread));
    note_end_of_thread();
    Ok(thread)
}

/// The slot of such a child.
#[cold]
fn beside_lender() -> Result<Thread, Errno> {
    let own = process::join()?;
    let _signals = raw::SignalsBlocked::new();
    let tid = raw::own_tid();
    let known = own.table.writer_of(own.owner(), tid);
    let (index, slot) = known.or_else(|| own.table.claim_writer(own.owner(), tid)).ok_or(Errno::AGAIN)?;
    Ok(Thread { own, slot, index })
}

/// A slot for a thread without thread-local storage, which keeps it for life.
pub fn without_storage(own: Own) -> Option<Thread> {
    let (index, slot) = own.table.claim_writer(own.owner(), raw::own_tid())?;
    Some(Thread { own, slot, index })
}

thread_local! {
    /// Where the thread's stack was when it made a call for which there was no slot; 0: it is in none.
    static WITHOUT_SLOT: Cell<u64> = const { Cell::new(0) };
}

/// Makes a call for which there is no slot.
pub fn in_call_without_slot<T>(call: impl FnOnce() -> T) -> T {
    let before = WITHOUT_SLOT.replace(stack_pointer());
    let result = call();
    WITHOUT_SLOT.set(before);
    result
}

/// Whether a call without a slot lies further up the stack: a handler interrupted it.
pub fn has_interrupted_call_without_slot() -> bool {
    WITHOUT_SLOT.get() > stack_pointer()
}

static END_KEY: AtomicU32 = AtomicU32::new(u32::MAX);

/// Keys below this have their place in every thread's descriptor: setting one allocates nothing (glibc, PTHREAD_KEY_2NDLEVEL_SIZE).
const EARLY_KEYS: u32 = 32;

/// Has threads give their slots back when they end. Called once, before the program starts.
pub fn watch_ends() {
    let mut key = 0;
    // SAFETY: `key` is writable; the destructor stays, because the preload library is never unloaded.
    if unsafe { libc::pthread_key_create(&raw mut key, Some(give_back)) } == 0 && key < EARLY_KEYS {
        END_KEY.store(key, Ordering::Relaxed);
    }
}

fn note_end_of_thread() {
    let key = END_KEY.load(Ordering::Relaxed);
    if key < EARLY_KEYS {
        // SAFETY: the key exists; the value is a mark that is not null, so that the destructor runs.
        unsafe { libc::pthread_setspecific(key, core::ptr::without_provenance(1)) };
    }
}

unsafe extern "C" fn give_back(_mark: *mut c_void) {
    if let Some(thread) = CLAIMED.take().filter(|thread| thread.own.is_this_image()) {
        thread.slot.release(thread.slot.tenure());
        thread.own.table.note_free_writer(thread.index);
    }
}

impl Thread {
    /// The number of frames that calls interrupted by this one occupy: the index of the frame to use.
    #[inline]
    pub fn depth(&self, stack: u64) -> Option<usize> {
        if self.slot.frames()[0].look().0 == Phase::Idle { Some(0) } else { self.depth_when_nested(stack) }
    }

    #[cold]
    fn depth_when_nested(&self, stack: u64) -> Option<usize> {
        let alternate = AlternateStack::look();
        let frames = self.slot.frames();
        for (index, frame) in frames.iter().enumerate() {
            let (phase, turn) = frame.look();
            if phase == Phase::Idle {
                return Some(index);
            }
            if alternate.was_left(frame.stack(), stack) {
                for left in &frames[index..] {
                    left.reclaim(left.look().1);
                }
                frame.reclaim(turn);
                return Some(index);
            }
        }
        None
    }

    /// Whether the calling thread is inside a hook (a handler interrupted it).
    pub fn is_inside(&self, stack: u64) -> bool {
        self.depth(stack) != Some(0)
    }

    /// The frames of the calls that the caller, at `stack`, interrupted.
    pub fn interrupted(&self, stack: u64) -> &'static [Frame] {
        let frames = self.slot.frames();
        &frames[..self.depth(stack).unwrap_or(frames.len())]
    }

    /// Whether the slot is the calling process's, be it a child that a handler forked inside a call of this thread.
    #[inline]
    pub fn has_slot(&self) -> bool {
        self.own.is_this_image() || self.has_inherited_slot()
    }

    #[cold]
    fn has_inherited_slot(&self) -> bool {
        process::attached().is_some_and(|own| self.slot.tenure().process() == own.owner())
    }
}

/// The thread's alternate signal stack (sigaltstack(2)).
struct AlternateStack {
    start: u64,
    end: u64,
}

impl AlternateStack {
    fn look() -> Self {
        let mut stack = libc::stack_t { ss_sp: core::ptr::null_mut(), ss_flags: 0, ss_size: 0 };
        // SAFETY: a null first argument changes nothing; the second is a writable stack_t.
        let _ = unsafe { syscall!(Sysno::sigaltstack, 0, &raw mut stack) };
        let start = stack.ss_sp as u64;
        Self { start, end: start + stack.ss_size as u64 }
    }

    fn contains(&self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }

    /// Whether a call made at stack pointer `then` cannot be under way any more for one that is made at `now`: a handler left it by
    /// longjmp, or its thread was cancelled in it. Stacks grow down, so what interrupts lies below what it interrupts.
    fn was_left(&self, then: u64, now: u64) -> bool {
        match (stacks::contain(then), stacks::contain(now), self.contains(then), self.contains(now)) {
            // What resolves a fault interrupts everything else of its thread, and is never left but at its end.
            (false, true, ..) => false,
            (true, false, ..) => true,
            (false, false, false, true) => false,
            (false, false, true, false) => true,
            _ => now >= then,
        }
    }
}

/// The stack pointer, near enough to order the frames of nested calls.
#[inline(always)]
pub fn stack_pointer() -> u64 {
    let marker = 0u8;
    core::ptr::from_ref(core::hint::black_box(&marker)) as u64
}
