//! The slot of one thread: the calls it has under way, and what it asks of an agent.

use super::creation::Intent;
use super::gate::CallFrame;
use super::limits::PROCESSES;
use super::process_id::EPOCH_BITS;
use crate::sys::futex;
use crate::sys::sync::{self, AtomicU32, AtomicU64, Fault, Ordering, planted};

/// Calls of one thread that can be under way at once: one, and handlers that interrupt each other.
#[cfg(not(loom))]
pub const FRAMES: usize = 7;
#[cfg(loom)]
/// Calls of one thread that can be under way at once: one, for the model.
pub const FRAMES: usize = 1;

/// All-zero is "free". `lease` is written by claim, release and recovery; `request` by the thread and the agent it asks; the rest
/// by the thread.
#[cfg_attr(not(loom), derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout))]
#[cfg_attr(loom, derive(Default))]
#[derive(Debug)]
#[repr(C, align(64))]
pub struct WriterSlot {
    /// A [`Lease`].
    lease: AtomicU64,
    request: AtomicU32,
    /// Low bits of the lease's number:10 | thread id:22, 0 if it is not known.
    thread: AtomicU32,
    pub(crate) intent: Intent,
    /// What is asked for: snapshot record, its incarnation in the high half.
    snapshot: AtomicU64,
    first: AtomicU64,
    count: AtomicU64,
    frames: [CallFrame; FRAMES],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<WriterSlot>() == 512 && core::mem::offset_of!(WriterSlot, frames) == 64);

const INDEX_BITS: u32 = 16;
const INDEX_MASK: u64 = (1 << INDEX_BITS) - 1;
const NUMBER_BITS: u32 = 22;
const NUMBER_MASK: u64 = (1 << NUMBER_BITS) - 1;
const EPOCH_SHIFT: u32 = INDEX_BITS + NUMBER_BITS;
const _: () = assert!(EPOCH_SHIFT + EPOCH_BITS == 64);
/// No thread id is as large (linux/threads.h, PID_MAX_LIMIT).
const THREAD_BITS: u32 = 22;
const _: () = assert!(PROCESSES < 1 << INDEX_BITS);

/// One lease of a slot: the time for which one thread has it, or for which no thread has it. Leases are numbered, and no two are
/// the same. So a late process does not take a thread for another that had the same id before it.
///
/// epoch:26 | number:22 | process record index + 1:16. Without epoch and index: vacant since the lease of that number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease(u64);

impl Lease {
    /// The process whose thread has the slot, as records refer to it; 0 if none has.
    #[must_use]
    pub const fn process(self) -> u64 {
        self.0 >> EPOCH_SHIFT << 32 | self.0 & INDEX_MASK
    }

    /// Whether no thread has the slot.
    #[must_use]
    pub const fn is_vacant(self) -> bool {
        self.process() == 0
    }

    const fn number(self) -> u64 {
        self.0 >> INDEX_BITS & NUMBER_MASK
    }

    const fn vacated(self) -> Self {
        Self(self.number() << INDEX_BITS)
    }

    fn next(self, process: u64) -> Self {
        let number = if planted(Fault::LeaseNumber) { self.number() } else { (self.number() + 1) & NUMBER_MASK };
        Self(process >> 32 << EPOCH_SHIFT | number << INDEX_BITS | process & INDEX_MASK)
    }

    /// The word that says that `thread` has this lease.
    const fn held_by(self, thread: u32) -> u32 {
        (self.number() as u32) << THREAD_BITS | thread & ((1 << THREAD_BITS) - 1)
    }
}

/// What a writer asks a mapper's agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The snapshot record.
    pub snapshot: u32,
    /// The incarnation of it that is meant.
    pub incarnation: u32,
    /// What is to be done.
    pub task: Task,
    /// The first of the origin's pages to do it with; of [`Task::Break`] the code of the cause.
    pub first: u64,
    /// How many.
    pub count: u64,
}

/// What an agent is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Task {
    /// Give the snapshot its own copy of the pages, where they are.
    Preserve = 0,
    /// Move all pages, from the first on, to memory that does not belong to the file.
    Relocate = 1,
    /// Make the whole segment fault.
    Break = 2,
    /// Move the pages of a guarded mapping to memory that does not belong to the file, as far as they can be read.
    Keep = 3,
}

const TASK_SHIFT: u32 = 56;

/// How a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Not answered yet.
    Asked,
    /// The agent has done it and verified it.
    Done,
    /// The agent could not do it.
    Failed,
    /// There is no such request any more: a handler has asked something else meanwhile.
    Lost,
}

const ASKED: u32 = 1;
const DONE: u32 = 2;
const FAILED: u32 = 3;
const STATE: u32 = 3;

impl WriterSlot {
    /// The lease of the slot.
    pub fn lease(&self) -> Lease {
        // Acquire: pairs with the AcqRel in `claim`.
        Lease(self.lease.load(Ordering::Acquire))
    }

    /// The thread that has the slot for `lease`; 0 if that is not known.
    pub fn thread(&self, lease: Lease) -> u32 {
        // Relaxed: the number in the word tells whether it belongs to this lease.
        let word = self.thread.load(Ordering::Relaxed);
        let thread = word & ((1 << THREAD_BITS) - 1);
        if !lease.is_vacant() && lease.held_by(thread) == word { thread } else { 0 }
    }

    /// The frames, innermost last.
    pub fn frames(&self) -> &[CallFrame; FRAMES] {
        &self.frames
    }

    /// The intent of the thread's creation.
    pub fn intent(&self) -> &Intent {
        &self.intent
    }

    /// Vacant -> held by thread `tid` (0: not known) of `process`.
    pub fn claim(&self, process: u64, tid: u32) -> bool {
        let vacant = self.lease();
        let mine = vacant.next(process);
        // AcqRel: against other claims; pairs with the Acquire in `lease`, and with the Release in `release`.
        let is_claimed = vacant.is_vacant()
            && self.lease.compare_exchange(vacant.0, mine.0, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if is_claimed {
            self.frames.iter().for_each(CallFrame::reset);
            self.thread.store(mine.held_by(tid), Ordering::Relaxed);
        }
        is_claimed
    }

    /// Notes the id of the thread that claimed the slot. That thread calls it.
    pub fn set_thread(&self, tid: u32) {
        self.thread.store(self.lease().held_by(tid), Ordering::Relaxed);
    }

    /// Ends `lease`: called by the thread that ends, or by a process that proved it gone. Its calls are over.
    ///
    /// Several may do it at once, and one of them late. The announcements are read before the lease is looked at again, so the
    /// announcements of the next lease, which are later ones, are not touched.
    pub fn release(&self, lease: Lease) {
        let announcements: [_; FRAMES] = core::array::from_fn(|index| self.frames[index].load().1);
        // Acquire: orders the loads.
        crate::sys::sync::fence(Ordering::Acquire);
        if lease.is_vacant() || self.lease() != lease && !planted(Fault::SlotOwner) {
            return;
        }
        for (frame, announcement) in self.frames.iter().zip(announcements) {
            frame.reclaim(announcement);
        }
        // Release: pairs with the AcqRel in `claim`: the thread that claims the slot next finds the frames idle.
        let _ = self.lease.compare_exchange(lease.0, lease.vacated().0, Ordering::Release, Ordering::Relaxed);
    }

    /// Puts a request. The returned number names it.
    pub fn ask(&self, request: Request) -> u32 {
        // Release: pairs with the fence in `pending`: an agent that reads these stores finds the last request over.
        sync::fence(Ordering::Release);
        self.snapshot.store(u64::from(request.incarnation) << 32 | u64::from(request.snapshot), Ordering::Relaxed);
        self.first.store(request.first, Ordering::Relaxed);
        self.count.store(request.count | (request.task as u64) << TASK_SHIFT, Ordering::Relaxed);
        let number = (self.request.load(Ordering::Relaxed) & !STATE).wrapping_add(STATE + 1);
        // Release: pairs with the Acquire in `pending`.
        self.request.store(number | ASKED, Ordering::Release);
        number
    }

    /// The request that waits for an agent, and its number.
    pub fn pending(&self) -> Option<(Request, u32)> {
        // Acquire: pairs with the Release in `ask`.
        let state = self.request.load(Ordering::Acquire);
        if state & STATE != ASKED {
            return None;
        }
        let snapshot = self.snapshot.load(Ordering::Relaxed);
        let count = self.count.load(Ordering::Relaxed);
        let request = Request {
            snapshot: snapshot as u32,
            incarnation: (snapshot >> 32) as u32,
            task: match count >> TASK_SHIFT {
                0 => Task::Preserve,
                1 => Task::Relocate,
                3 => Task::Keep,
                _ => Task::Break,
            },
            first: self.first.load(Ordering::Relaxed),
            count: count & ((1 << TASK_SHIFT) - 1),
        };
        // Acquire: pairs with the Release fence in `ask`; orders the loads, so that the fields belong to this request.
        crate::sys::sync::fence(Ordering::Acquire);
        (self.request.load(Ordering::Relaxed) == state).then_some((request, state & !STATE))
    }

    /// Answers request `number`, if the thread still waits for it.
    pub fn answer(&self, number: u32, done: bool) {
        let number = if planted(Fault::RequestNumber) { self.request.load(Ordering::Relaxed) & !STATE } else { number };
        let answer = number | if done { DONE } else { FAILED };
        // AcqRel: pairs with the Acquire in `look_for_answer`; what was asked is done before the answer is visible.
        if self.request.compare_exchange(number | ASKED, answer, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            futex::wake(&self.request);
        }
    }

    /// How request `number` stands.
    pub fn look_for_answer(&self, number: u32) -> Answer {
        // Acquire: pairs with the AcqRel in `answer`.
        let state = self.request.load(Ordering::Acquire);
        match (state & !STATE == number, state & STATE) {
            (true, ASKED) => Answer::Asked,
            (true, DONE) => Answer::Done,
            (true, FAILED) => Answer::Failed,
            _ => Answer::Lost,
        }
    }

    /// Takes request `number` back.
    pub fn withdraw_request(&self, number: u32) {
        let _ = self.request.compare_exchange(number | ASKED, number, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// The word that the asking thread waits on, and its value while request `number` is not answered.
    pub fn request_futex(&self, number: u32) -> (&AtomicU32, u32) {
        (&self.request, number | ASKED)
    }
}
