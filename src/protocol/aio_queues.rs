//! Direct writes in flight: asynchronous writes that bypass the page cache (io_submit(2) with O_DIRECT).
//!
//! They land after the call, when no hook runs. So a creation waits until those of its origins have landed.
//!
//! The kernel's own ring tells how many are under way. The ring begins at the address that is the context's name. Of a context with
//! room for `nr` events fewer than `nr` are under way, and each that ends moves the ring's tail by one, modulo `nr`. So the
//! difference between the number of submissions and the tail is the number under way. It makes no difference whether the program
//! has fetched the events.
//!
//! The counts stand in the process's own memory, behind the word of its cookie. A creation reads them, and the ring, from outside,
//! after it has closed the gate. From then on no write of its origins begins, and each that it has to wait for is counted. What
//! could not be counted, or cannot be seen, is never taken for none. A process that ends or executes another program takes nothing
//! along: the kernel lets all of them land before the memory goes, and before another program's memory can be read
//! (`exec_update_lock`).

use super::origin::Origin;
use crate::sys::sync::{AtomicU64, Fault, Ordering, full_fence, planted};

/// Where a process keeps its [`Queues`]: this many bytes behind its cookie.
pub const QUEUES_AT: u64 = 1024;
/// Contexts of one process that are counted. Direct writes through more contexts make it [`Queues::overflow`].
#[cfg(not(loom))]
pub const QUEUES: usize = 64;
#[cfg(loom)]
/// Contexts of one process that are counted: one, for the model.
pub const QUEUES: usize = 1;

/// One context.
#[cfg_attr(loom, derive(Default))]
#[derive(Debug)]
#[repr(C)]
pub struct Queue {
    /// The context's name, which is a page's address, or one of the states below. While the context is destroyed: with `ENDING` and
    /// the number of its end, so that a thread that finishes late does not take a later context of that name for it.
    context: AtomicU64,
    /// [`Origin::fingerprint`] of the file that is written past the page cache, 0 for none, `SEVERAL` for more than one.
    target: AtomicU64,
    /// Counts of submissions that have begun, of submissions that have ended, and of requests that the kernel took.
    begun: AtomicU64,
    ended: AtomicU64,
    taken: AtomicU64,
}

/// The states of an entry that no context has, and of one that is being given to a context.
pub(crate) const FREE: u64 = 0;
pub(crate) const CLAIMED: u64 = 2;
pub(crate) const ENDING: u64 = 1;
const END_NUMBERS: u64 = 0xffc;
const NAME: u64 = !0xfff;

#[cfg(not(loom))]
pub(crate) const WORDS: usize = 5;
const SEVERAL: u64 = u64::MAX;

/// The origins that a process has ever written past the page cache, in its record: for every process to see, also where the counts
/// cannot be read. Four bits for each, and other origins may have the same ones. Nothing takes a bit away but the image's end.
#[cfg_attr(not(loom), derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout))]
#[cfg_attr(loom, derive(Default))]
#[derive(Debug)]
#[repr(C)]
pub struct DirectTargets([AtomicU64; 2]);

impl DirectTargets {
    /// No origin. Called by a process that has submitted nothing yet.
    pub fn clear(&self) {
        self.0.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }

    /// Notes `origin`, after the gate let its write pass and before the kernel has it: a creation that waits for the call finds it.
    pub fn add(&self, origin: Origin) {
        for (word, bits) in self.0.iter().zip(Self::bits_of(origin)) {
            if word.load(Ordering::Relaxed) & bits != bits {
                // SeqCst: before the call is over, whose end the creation waits for.
                word.fetch_or(bits, Ordering::SeqCst);
            }
        }
    }

    /// Notes every origin: what is written is not known.
    pub fn add_all(&self) {
        self.0.iter().for_each(|word| word.store(u64::MAX, Ordering::SeqCst));
    }

    /// Whether `origin` may be among them.
    pub fn may_include(&self, origin: Origin) -> bool {
        self.0.iter().zip(Self::bits_of(origin)).all(|(word, bits)| word.load(Ordering::SeqCst) & bits == bits)
    }

    const fn bits_of(origin: Origin) -> [u64; 2] {
        let fingerprint = origin.fingerprint();
        [pair(fingerprint >> 20), pair(fingerprint >> 32)]
    }
}

/// Two bits, by twelve bits of a fingerprint.
const fn pair(of: u64) -> u64 {
    1 << (of & 63) | 1 << (of >> 6 & 63)
}

/// The contexts of one process.
#[cfg_attr(loom, derive(Default))]
#[derive(Debug)]
#[repr(C)]
pub struct Queues {
    overflow: AtomicU64,
    all: [Queue; QUEUES],
    /// Contexts that were destroyed, ever.
    ends: AtomicU64,
}

/// A context that is being destroyed.
#[derive(Debug)]
pub struct Closing<'a> {
    queue: &'a Queue,
    name: u64,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Queue>() == WORDS * 8 && QUEUES_AT as usize + size_of::<Queues>() <= 4096);

impl Queues {
    /// The entry of `context`, if it is counted.
    pub fn of(&self, context: u64) -> Option<&Queue> {
        self.all.iter().find(|queue| queue.is_of(context))
    }

    /// The kernel has just made `context`, with an empty ring. Without a free entry it will not be counted.
    pub fn open(&self, context: u64) {
        // An earlier context of that name was destroyed unseen, or by a thread that is about to say so.
        for earlier in &self.all {
            earlier.leave(context);
        }
        let _ = self.all.iter().any(|queue| queue.claim(context));
    }

    /// The kernel is about to destroy `context`. Until it has, nothing says whether all writes have landed: the ring goes first.
    pub fn start_close(&self, context: u64) -> Option<Closing<'_>> {
        let queue = self.of(context)?;
        let number = if planted(Fault::EndNumber) { 0 } else { self.ends.fetch_add(4, Ordering::Relaxed) };
        let name = context | ENDING | number & END_NUMBERS;
        let is_started = queue.context.compare_exchange(context, name, Ordering::SeqCst, Ordering::Relaxed).is_ok();
        is_started.then_some(Closing { queue, name })
    }

    /// Notes that a file is written past the page cache that is not counted.
    pub fn overflow(&self) {
        self.overflow.store(1, Ordering::SeqCst);
    }
}

impl Queue {
    fn is_of(&self, context: u64) -> bool {
        context > CLAIMED && self.context.load(Ordering::SeqCst) & NAME == context
    }

    /// Free -> counts `context`. An entry stays unused while a submission is under way that found it before.
    fn claim(&self, context: u64) -> bool {
        if self.context.compare_exchange(FREE, CLAIMED, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return false;
        }
        // SeqCst: pairs with the fence in `begin`: either the submission is seen here, or it sees that the entry is no longer its
        // context's.
        full_fence();
        // Acquire: pairs with the SeqCst in `end`: a submission that has ended has been counted as begun before, and has left its
        // count.
        let ended = self.ended.load(Ordering::Acquire);
        let is_unused = ended == self.begun.load(Ordering::Acquire) || planted(Fault::UnusedQueue);
        if is_unused {
            self.target.store(0, Ordering::Relaxed);
            self.taken.store(0, Ordering::Relaxed);
        }
        // SeqCst: pairs with the loads in `is_of`: the entry is clean when a thread finds it.
        self.context.store(if is_unused { context } else { FREE }, Ordering::SeqCst);
        is_unused
    }

    /// `context`, or its end -> free.
    fn leave(&self, context: u64) {
        let found = self.context.load(Ordering::SeqCst);
        if found & NAME == context {
            let _ = self.context.compare_exchange(found, FREE, Ordering::SeqCst, Ordering::Relaxed);
        }
    }

    /// Whether `origin` is, or may be, written past the page cache.
    pub fn aims_at(&self, origin: Origin) -> bool {
        is_aimed(self.target.load(Ordering::Relaxed), origin)
    }

    /// Notes that `origin` is written past the page cache.
    pub fn aim_at(&self, origin: Origin) {
        let fingerprint = origin.fingerprint();
        let first = self.target.compare_exchange(0, fingerprint, Ordering::SeqCst, Ordering::Relaxed);
        if first.is_err_and(|other| other != fingerprint) {
            self.target.store(SEVERAL, Ordering::SeqCst);
        }
    }

    /// A submission begins. False: the entry is no longer that of `context`.
    pub fn begin(&self, context: u64) -> bool {
        // SeqCst: comes before what the kernel takes. A creation that finds no submission under way has counted all before.
        self.begun.fetch_add(1, Ordering::SeqCst);
        // SeqCst: pairs with the fence in `claim`.
        full_fence();
        let is_counted = self.is_of(context);
        if !is_counted {
            self.ended.fetch_add(1, Ordering::SeqCst);
        }
        is_counted
    }

    /// Requests of the context that the kernel took.
    #[cfg(loom)]
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// A submission ends; the kernel took this many requests.
    pub fn end(&self, taken: u64) {
        self.taken.fetch_add(taken, Ordering::SeqCst);
        self.ended.fetch_add(1, Ordering::SeqCst);
    }
}

impl Closing<'_> {
    /// Ends what [`Queues::start_close`] began. Either the context is gone, and all has landed, or it stays.
    pub fn finish(self, is_gone: bool) {
        let next = if is_gone { FREE } else { self.name & NAME };
        let _ = self.queue.context.compare_exchange(self.name, next, Ordering::SeqCst, Ordering::Relaxed);
    }
}

pub(crate) fn is_aimed(target: u64, origin: Origin) -> bool {
    target == origin.fingerprint() || target == SEVERAL
}
