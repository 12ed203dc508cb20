//! The calling thread in the table: its writer slot, claimed at its first call and given back when the thread ends.

use core::cell::Cell;
use core::ffi::c_void;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::io::Errno;
use snapshim::protocol::gate::{self, CallFrame};
use snapshim::protocol::process::Process;
use snapshim::protocol::writer_slot::{FRAMES, WriterSlot};
use snapshim::sys::{permission, raw, signal_block};
use syscalls::Sysno;

use super::identity::{self, ThisProcess};
use super::membership;
use crate::base::own_stacks;
use crate::base::stack_pointer::stack_pointer;

/// The calling thread, ready to announce a call.
#[derive(Clone, Copy)]
pub struct Thread {
    pub own: ThisProcess,
    pub slot: &'static WriterSlot,
    pub index: u32,
    /// The record of its process, which has memory since it was claimed.
    pub record: Option<&'static Process>,
}

thread_local! {
    /// What `current` found before. It holds for the image in which it was found: a forked child claims a slot of its own.
    static CLAIMED: Cell<Option<Thread>> = const { Cell::new(None) };
}

/// Which thread this thread-local storage belongs to, once a child may use it as well.
#[derive(Clone, Copy, Default)]
struct SharedMm {
    /// The thread whose memory it is; 0: no child shares it.
    thread: u32,
    /// Whether that thread goes on beside the child.
    is_concurrent: bool,
    /// Whether that thread has made no call since.
    is_fresh: bool,
}

thread_local! {
    static SHARED_MM: Cell<SharedMm> = const { Cell::new(SharedMm { thread: 0, is_concurrent: false, is_fresh: false }) };
    /// Which frames the owner of the memory had in use when the child was made.
    static OWNERS_CALLS: Cell<[bool; FRAMES]> = const { Cell::new([false; FRAMES]) };
}

/// Notes that the calling thread is about to make a child that shares this memory: until the child has executed its program, or, if
/// `is_shared`, beside the thread.
pub fn note_shared_mm(is_concurrent: bool) {
    if !identity::is_vfork_child() {
        let calls = known().map(|thread| thread.slot.frames().each_ref().map(CallFrame::is_in_use));
        OWNERS_CALLS.set(calls.unwrap_or_default());
        SHARED_MM.set(SharedMm {
            thread: raw::own_tid(),
            is_concurrent: is_concurrent || SHARED_MM.get().is_concurrent,
            is_fresh: true,
        });
    }
}

/// In a forked child: its parent's memory is not shared here.
pub fn forget_shared_mm() {
    SHARED_MM.set(SharedMm::default());
}

/// Whether the caller is a child that uses this thread-local storage while the owner of the memory goes on.
fn runs_concurrently(shared_mm: SharedMm) -> bool {
    shared_mm.is_concurrent && shared_mm.thread != raw::own_tid() && identity::is_vfork_child()
}

/// See [`runs_concurrently`]. The first call of the owner itself ends the sharing.
#[inline]
fn is_concurrent_child() -> bool {
    let shared_mm = SHARED_MM.get();
    (shared_mm.is_concurrent || shared_mm.is_fresh) && check_shared_mm(shared_mm)
}

#[cold]
fn check_shared_mm(shared_mm: SharedMm) -> bool {
    let is_concurrent = runs_concurrently(shared_mm);
    if !is_concurrent && shared_mm.is_fresh && shared_mm.thread == raw::own_tid() && !identity::is_vfork_child() {
        SHARED_MM.set(SharedMm { is_fresh: false, ..shared_mm });
        if let Some(thread) = CLAIMED.get().filter(|thread| thread.own.is_this_image()) {
            thread.forget_childs_calls();
        }
    }
    is_concurrent
}

/// The calling thread, if its first frame is free; the frame is taken. Nearly every call finds it so. `None`: [`Seat::take`] looks
/// further.
///
/// Every write goes this way, so the result is the thread alone: a larger one would be passed through memory.
#[inline(always)]
pub fn take_first(stack: u64) -> Option<Thread> {
    if is_concurrent_child() {
        return None;
    }
    CLAIMED.get().filter(|thread| thread.own.is_this_image() && thread.first_frame().take(stack))
}

/// The same for a thread that has no slot yet, and claims one.
#[cold]
pub fn claim_first(stack: u64) -> Option<Thread> {
    if is_concurrent_child() || known().is_some() {
        return None;
    }
    current().ok().filter(|thread| thread.first_frame().take(stack))
}

/// The calling thread with its slot, which is claimed if need be; the error is why it has none.
pub fn current() -> Result<Thread, Errno> {
    if is_concurrent_child() {
        return concurrent_child();
    }
    match CLAIMED.get() {
        Some(thread) if thread.own.is_this_image() => Ok(thread),
        _ => claim_aside(),
    }
}

/// Claims on a stack of the shim's own: the caller may be a handler on a small alternate one.
#[cold]
fn claim_aside() -> Result<Thread, Errno> {
    let mut claimed = Err(Errno::NOMEM);
    own_stacks::aside(&mut || claimed = claim());
    claimed
}

/// The calling thread, if it has a slot, and shares it with no child that runs beside it.
pub fn known() -> Option<Thread> {
    if is_concurrent_child() {
        return None;
    }
    CLAIMED.get().filter(|thread| thread.own.is_this_image())
}

/// Makes `thread` what the table has of the calling thread, the only one of a forked child.
pub fn take(thread: Thread) {
    CLAIMED.set(Some(thread));
    note_end_of_thread();
}

fn claim() -> Result<Thread, Errno> {
    let own = membership::join()?;
    if permission::forbids(Sysno::gettid) {
        // The slot would not say whose it is.
        return Err(Errno::AGAIN);
    }
    // A handler that writes between the claim and the note of it would claim a second slot, and the first would be lost.
    let _signals = signal_block::SignalsBlocked::new();
    // The slot that a vfork child claims stays with the thread whose stack it has; the child's own id is no thread's soon.
    let tid = if identity::is_vfork_child() { SHARED_MM.get().thread } else { raw::own_tid() };
    let (index, slot) = own.table.claim_writer(own.owner(), tid).ok_or(Errno::AGAIN)?;
    let thread = Thread::new(own, slot, index);
    CLAIMED.set(Some(thread));
    note_end_of_thread();
    Ok(thread)
}

/// The slot of a child that runs beside the owner of this memory: found in the table, as the thread-local storage is the owner's.
#[cold]
fn concurrent_child() -> Result<Thread, Errno> {
    let own = membership::join()?;
    let _signals = signal_block::SignalsBlocked::new();
    let tid = raw::own_tid();
    let known = own.table.writer_of(own.owner(), tid);
    let (index, slot) = known.or_else(|| own.table.claim_writer(own.owner(), tid)).ok_or(Errno::AGAIN)?;
    Ok(Thread::new(own, slot, index))
}

/// A slot for a thread without thread-local storage. The thread has it for life.
pub fn without_storage(own: ThisProcess) -> Option<Thread> {
    let (index, slot) = own.table.claim_writer(own.owner(), raw::own_tid())?;
    Some(Thread::new(own, slot, index))
}

/// How many calls without a slot a thread can note.
const NOTED: usize = 8;

thread_local! {
    /// The stack pointer at each call that was made without a slot and is under way; 0: none.
    static WITHOUT_SLOT: [AtomicU64; NOTED] = const { [const { AtomicU64::new(0) }; NOTED] };
}

/// Makes a call for which there is no slot. Its result, and false if the call was given up meanwhile
/// ([`abandon_calls_without_slot`]).
pub fn in_call_without_slot<T>(call: impl FnOnce() -> T) -> (T, bool) {
    let stack = stack_pointer();
    let is_free = |place: &AtomicU64| place.compare_exchange(0, stack, Ordering::Relaxed, Ordering::Relaxed).is_ok();
    let noted = WITHOUT_SLOT.with(|places| places.iter().position(is_free));
    let result = call();
    let is_still_there = noted.is_none_or(|at| {
        WITHOUT_SLOT.with(|places| places[at].compare_exchange(stack, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok())
    });
    (result, is_still_there)
}

/// Whether the thread is inside a call without a slot, which a handler interrupted.
pub fn is_in_call_without_slot() -> bool {
    WITHOUT_SLOT.with(|places| places.iter().any(|place| place.load(Ordering::Relaxed) != 0))
}

/// Gives up the calls without a slot that the thread has left; how many. `is_abandoned` decides by the stack pointer at the call.
pub fn abandon_calls_without_slot(is_abandoned: impl Fn(u64) -> bool) -> usize {
    WITHOUT_SLOT.with(|places| {
        let left = places.iter().filter(|place| {
            let stack = place.load(Ordering::Relaxed);
            stack != 0 && is_abandoned(stack)
        });
        left.map(|place| place.store(0, Ordering::Relaxed)).count()
    })
}

/// The key whose destructor runs when a thread ends.
static END_KEY: AtomicU32 = AtomicU32::new(u32::MAX);

/// The values of keys below this lie in every thread's descriptor, so setting one allocates nothing (glibc,
/// PTHREAD_KEY_2NDLEVEL_SIZE).
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

/// The destructor: gives the ending thread's slots back.
unsafe extern "C" fn give_back(_mark: *mut c_void) {
    if let Some(thread) = CLAIMED.take().filter(|thread| thread.own.is_this_image()) {
        thread.further().for_each(|further| further.slot.release(further.slot.lease()));
        thread.slot.release(thread.slot.lease());
        thread.own.table.note_free_writer(thread.index);
    }
}

/// Where a call is announced: a slot of its thread, and the index of a frame there, which is taken. Frames of lower index belong to
/// calls that this one may have interrupted.
#[derive(Clone, Copy)]
pub struct Seat {
    pub thread: Thread,
    pub depth: usize,
}

impl Seat {
    /// Takes a frame for a call of the calling thread; the error is why there is none. `EAGAIN`: all slots of the table are taken.
    #[inline]
    pub fn take() -> Result<Self, Errno> {
        let stack = stack_pointer();
        let thread = current()?;
        if thread.first_frame().take(stack) { Ok(Self { thread, depth: 0 }) } else { Self::take_nested(thread, stack) }
    }

    /// The same for a handler that interrupted a call, and for a thread that left a call without proof of it.
    #[cold]
    fn take_nested(thread: Thread, stack: u64) -> Result<Self, Errno> {
        Self::first_in(thread, stack).map_or_else(|| Self::take_further(thread, stack), Ok)
    }

    fn first_in(thread: Thread, stack: u64) -> Option<Self> {
        let depth = thread.slot.frames().iter().position(|frame| frame.take(stack))?;
        Some(Self { thread, depth })
    }

    /// Takes a frame in another slot, as all frames of the thread's first slot are in use. The thread has that slot for life.
    fn take_further(thread: Thread, stack: u64) -> Result<Self, Errno> {
        // The calls of those frames are withdrawn: a creation that waits for them would wait for this call, and this call for the
        // creation.
        gate::withdraw_interrupted(thread.slot.frames());
        for further in thread.further() {
            if let Some(seat) = Self::first_in(further, stack) {
                return Ok(seat);
            }
            gate::withdraw_interrupted(further.slot.frames());
        }
        HAS_FURTHER.set(true);
        let own = thread.own;
        let (index, slot) = own.table.claim_writer(own.owner(), thread.tid()).ok_or(Errno::AGAIN)?;
        Self::first_in(Thread::new(own, slot, index), stack).ok_or(Errno::AGAIN)
    }

    /// The frames of calls that this one may have interrupted, and its own.
    pub fn frames(&self) -> (&'static [CallFrame], &'static CallFrame) {
        let frames = self.thread.slot.frames();
        (&frames[..self.depth], &frames[self.depth])
    }
}

thread_local! {
    /// Whether the thread has further slots.
    static HAS_FURTHER: Cell<bool> = const { Cell::new(false) };
}

impl Thread {
    /// A thread of process `own`, with its slot.
    pub fn new(own: ThisProcess, slot: &'static WriterSlot, index: u32) -> Self {
        Self { own, slot, index, record: own.record() }
    }

    /// The frame of its calls that have interrupted no other.
    #[inline(always)]
    pub fn first_frame(&self) -> &'static CallFrame {
        let [first, ..] = self.slot.frames();
        first
    }

    /// The id of the thread that has the slot.
    fn tid(&self) -> u32 {
        self.slot.thread(self.slot.lease())
    }

    /// The same thread with each of its further slots.
    fn further(&self) -> impl Iterator<Item = Self> + use<> {
        let (own, first, owner, tid) = (self.own, self.index, self.own.owner(), self.tid());
        let slots = if HAS_FURTHER.get() { own.table.writers_used() } else { &[] };
        let is_of_thread = move |slot: &WriterSlot| {
            let lease = slot.lease();
            lease.process() == owner && tid != 0 && slot.thread(lease) == tid
        };
        let numbered = slots.iter().enumerate().map(|(index, slot)| (index as u32, slot));
        numbered
            .filter(move |(index, slot)| *index != first && is_of_thread(slot))
            .map(move |(index, slot)| Self::new(own, slot, index))
    }

    /// Whether a call of the thread in a further slot has not come to its end.
    pub fn has_further_in_use(&self) -> bool {
        self.further().any(|further| further.slot.frames().iter().any(CallFrame::is_in_use))
    }

    /// Whether a call of the calling thread has not come to its end: a handler interrupted it, or the thread left it without proof.
    pub fn is_inside(&self) -> bool {
        !self.frames_in_use().is_empty() || self.has_further_in_use() || is_in_call_without_slot()
    }

    /// The frames of the thread's first slot, up to the last that is in use.
    pub fn frames_in_use(&self) -> &'static [CallFrame] {
        let frames = self.slot.frames();
        &frames[..frames.iter().rposition(CallFrame::is_in_use).map_or(0, |last| last + 1)]
    }

    /// Gives up the calls that the thread has left, the innermost first. `is_abandoned` decides by the stack pointer at the call.
    pub fn abandon_calls(&self, is_abandoned: impl Fn(u64) -> bool) {
        let leave = |slot: &WriterSlot| {
            let in_use = slot.frames().iter().rev().filter(|frame| frame.is_in_use());
            in_use.filter(|frame| is_abandoned(frame.stack())).for_each(CallFrame::abandon);
        };
        self.further().for_each(|further| leave(further.slot));
        leave(self.slot);
    }

    /// Gives up the frames that a child of vfork(2) was killed in. The owner of the memory goes on, so the child is over, and so
    /// are its calls. A child that goes on beside the owner has a slot of its own.
    fn forget_childs_calls(&self) {
        let new = self.slot.frames().iter().zip(OWNERS_CALLS.get()).filter(|(_, was_owners)| !was_owners);
        new.filter(|(frame, _)| frame.is_in_use()).for_each(|(frame, _)| frame.abandon());
    }

    /// Whether the slot belongs to the calling process: to this image, or to a child that a handler forked inside a call of this
    /// thread and that goes on with the call.
    #[inline]
    pub fn has_slot(&self) -> bool {
        self.own.is_this_image() || self.has_inherited_slot()
    }

    #[cold]
    fn has_inherited_slot(&self) -> bool {
        identity::attached().is_some_and(|own| self.slot.lease().process() == own.owner())
    }
}
