//! A process that cooperates: one image, from its attach to its exec or death.

use crate::sharing::Sharing;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// All-zero is "free". `identity` is written by claim, christen and free; the rest by the process itself, or by its parent before it
/// exists. Nothing else is cleared when the record is freed: each word carries the epoch of the image that it belongs to.
#[derive(Debug, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout)]
#[repr(C, align(64))]
pub struct Process {
    /// epoch:32 | pid:32.
    identity: AtomicU64,
    /// epoch:32 | low half of the start time in clock ticks after boot (/proc/PID/stat, field 22):32.
    start: AtomicU64,
    /// Low bits of the epoch:28 | page:36 of a word, in the process, that holds `identity` as long as this image lives and is zero
    /// in a forked child.
    cookie: AtomicU64,
    /// epoch:32 | thread id of the agent:32, or `NO_AGENT`.
    agent: AtomicU64,
    /// [`Birth`]:32, which is a futex | epoch:32.
    birth: AtomicU64,
    /// Owner word of the process that forked this one, while `birth` is pending.
    parent: AtomicU64,
    /// The agent sleeps on it.
    doorbell: AtomicU32,
    reserved: AtomicU32,
    /// Count changes of the descriptor table that can make a number mean another file, by the number's low bits.
    descriptors: [AtomicU32; DESCRIPTOR_GROUPS],
    /// Its shared mappings of files.
    pub sharing: Sharing,
    /// epoch:32 | whether direct writes are submitted (`queues`):32.
    queues: AtomicU64,
    /// epoch:32 | 1 once a handler of the process may run on a stack of its own.
    stacks: AtomicU64,
    rest: [AtomicU64; 5],
}

const DESCRIPTOR_GROUPS: usize = 16;
const NO_AGENT: u32 = u32::MAX;
const COOKIE_BITS: u32 = 36;

const _: () = assert!(size_of::<Process>() == 192);

/// `value` if `word` carries the epoch of `id` in its high half.
fn of_image(word: u64, id: ProcessId) -> Option<u32> {
    ((word >> 32) as u32 == id.epoch()).then_some(word as u32)
}

/// One image of one process; never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessId(u64);

/// Whether a forked process is known to have inherited its snapshots exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Birth {
    /// Nothing was inherited, or all of it exactly.
    Settled = 0,
    /// The parent is forking; it will say.
    Pending = 1,
    /// The fork was not one instant: the child has to break what it inherited.
    Failed = 2,
}

impl ProcessId {
    /// The image `epoch` (random, not 0) of `pid`.
    #[must_use]
    pub fn new(pid: u32, epoch: u32) -> Self {
        Self(u64::from(epoch.max(1)) << 32 | u64::from(pid))
    }

    /// From a word that [`ProcessId::to_word`] made.
    #[must_use]
    pub fn from_word(word: u64) -> Option<Self> {
        (word != 0).then_some(Self(word))
    }

    /// As a word of the table.
    #[must_use]
    pub fn to_word(self) -> u64 {
        self.0
    }

    /// The process id; 0 for a child that is not born yet.
    #[must_use]
    pub fn pid(self) -> u32 {
        self.0 as u32
    }

    /// The image epoch.
    #[must_use]
    pub fn epoch(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// How records refer to process record `index` of this image.
    #[must_use]
    pub fn owner_word(self, index: u32) -> u64 {
        u64::from(self.epoch()) << 32 | u64::from(index + 1)
    }
}

/// The process record index in an owner word.
#[must_use]
pub fn owner_index(owner: u64) -> Option<u32> {
    (owner as u32).checked_sub(1)
}

/// The image epoch in an owner word.
#[must_use]
pub fn owner_epoch(owner: u64) -> u32 {
    (owner >> 32) as u32
}

impl Process {
    /// Who has the record. Acquire: pairs with the Release in `claim`.
    pub fn id(&self) -> Option<ProcessId> {
        ProcessId::from_word(self.identity.load(Ordering::Acquire))
    }

    /// Who has the record, if it is the image that `owner` refers to.
    pub fn owner_id(&self, owner: u64) -> Option<ProcessId> {
        self.id().filter(|id| id.epoch() == owner_epoch(owner))
    }

    /// Free -> `id`.
    pub(super) fn claim(&self, id: ProcessId) -> bool {
        // AcqRel: against other claims.
        self.identity.compare_exchange(0, id.to_word(), Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// A child that its parent claimed the record for says, or is said, to be `id`.
    pub fn christen(&self, unborn: ProcessId, id: ProcessId) {
        let _ = self.identity.compare_exchange(unborn.to_word(), id.to_word(), Ordering::AcqRel, Ordering::Relaxed);
    }

    /// `id` -> free. False: somebody else did it before, or it has another name by now.
    pub(super) fn free(&self, id: ProcessId) -> bool {
        self.identity.compare_exchange(id.to_word(), 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Fills in the start time of `id`; 0 is not known.
    pub fn describe_start(&self, id: ProcessId, start: u64) {
        if start == 0 {
            return;
        }
        self.start.store(u64::from(id.epoch()) << 32 | (start & 0xffff_ffff), Ordering::Relaxed);
    }

    /// Fills in where the page is, at whose start `id` stands by now.
    pub fn describe_cookie(&self, id: ProcessId, page: u64) {
        // Release: the word is there before it is looked for.
        self.cookie.store((u64::from(id.epoch()) << COOKIE_BITS) | (page / crate::PAGE), Ordering::Release);
    }

    /// Whether `start` can be the start time of `id`; `None` while it has not been filled in.
    pub fn is_start(&self, id: ProcessId, start: u64) -> Option<bool> {
        of_image(self.start.load(Ordering::Relaxed), id).map(|low| low == start as u32)
    }

    /// The address of the word by which `id` is known; `None` while it has not been filled in.
    pub fn cookie(&self, id: ProcessId) -> Option<u64> {
        let word = self.cookie.load(Ordering::Acquire);
        let is_of = word >> COOKIE_BITS == u64::from(id.epoch()) << COOKIE_BITS >> COOKIE_BITS;
        is_of.then_some((word & ((1 << COOKIE_BITS) - 1)) * crate::PAGE)
    }

    /// Notes, before the first, that `id` submits asynchronous writes that bypass the page cache.
    pub fn note_queues(&self, id: ProcessId) {
        if !self.has_queues(id) {
            // Release: the counts are there before they are looked for.
            self.queues.store(u64::from(id.epoch()) << 32 | 1, Ordering::Release);
        }
    }

    /// Whether `id` submits such writes.
    pub fn has_queues(&self, id: ProcessId) -> bool {
        of_image(self.queues.load(Ordering::Acquire), id) == Some(1)
    }

    /// The descriptor-table generation that `descriptor` falls under.
    #[inline]
    pub fn descriptors(&self, descriptor: u32) -> u32 {
        self.descriptors[descriptor as usize % DESCRIPTOR_GROUPS].load(Ordering::Relaxed)
    }

    /// `descriptor` may mean another file from now on. Called before the change, by the process itself.
    #[inline]
    pub fn change_descriptor(&self, descriptor: u32) {
        // Release: who looks the descriptor up and finds the generation unchanged looked before the change.
        self.descriptors[descriptor as usize % DESCRIPTOR_GROUPS].fetch_add(1, Ordering::Release);
    }

    /// Every descriptor may.
    pub fn change_all_descriptors(&self) {
        for group in &self.descriptors {
            group.fetch_add(1, Ordering::Release);
        }
    }

    /// What the agent sleeps on.
    pub fn doorbell(&self) -> &AtomicU32 {
        &self.doorbell
    }

    /// Wakes the agent.
    pub fn ring(&self) {
        // Release: pairs with the Acquire with which the agent reads the bell before it looks for requests.
        self.doorbell.fetch_add(1, Ordering::Release);
        crate::raw::wake(&self.doorbell);
    }

    /// The agent of `id`.
    pub fn agent(&self, id: ProcessId) -> Agent {
        match of_image(self.agent.load(Ordering::Relaxed), id) {
            None => Agent::NotYet,
            Some(NO_AGENT) => Agent::None,
            Some(tid) => Agent::Thread(tid),
        }
    }

    /// Says who the agent of `id` is, or that there will be none.
    pub fn set_agent(&self, id: ProcessId, tid: Option<u32>) {
        self.agent.store(u64::from(id.epoch()) << 32 | u64::from(tid.unwrap_or(NO_AGENT)), Ordering::Relaxed);
    }

    /// Says that the agent leaves, and that another will come.
    pub fn forget_agent(&self) {
        self.agent.store(0, Ordering::Relaxed);
    }

    /// From now on a handler of `id` may run on a stack other than its thread's: where the stack pointer is says nothing any more.
    pub fn note_other_stacks(&self, id: ProcessId) {
        self.stacks.store(u64::from(id.epoch()) << 32 | 1, Ordering::Relaxed);
    }

    /// Whether `id` has said so.
    pub fn has_other_stacks(&self, id: ProcessId) -> bool {
        of_image(self.stacks.load(Ordering::Relaxed), id) == Some(1)
    }

    /// How `id` came to its snapshots. Acquire: pairs with the AcqRel in `settle`.
    pub fn birth(&self, id: ProcessId) -> Birth {
        let word = self.birth.load(Ordering::Acquire);
        match (word >> 32) as u32 == id.epoch() {
            true if word as u32 == Birth::Pending as u32 => Birth::Pending,
            true if word as u32 != Birth::Settled as u32 => Birth::Failed,
            _ => Birth::Settled,
        }
    }

    /// The process that says how the birth went.
    pub fn parent(&self) -> u64 {
        self.parent.load(Ordering::Relaxed)
    }

    /// Marks a record claimed for the child `unborn` of `parent` (an owner word).
    pub fn expect_birth(&self, unborn: ProcessId, parent: u64) {
        self.parent.store(parent, Ordering::Relaxed);
        self.birth.store(u64::from(unborn.epoch()) << 32 | Birth::Pending as u64, Ordering::Release);
    }

    /// Pending -> settled or failed; the first to say so decides.
    pub fn settle(&self, id: ProcessId, outcome: Birth) {
        let epoch = u64::from(id.epoch()) << 32;
        let (pending, outcome) = (epoch | Birth::Pending as u64, epoch | outcome as u64);
        let _ = self.birth.compare_exchange(pending, outcome, Ordering::AcqRel, Ordering::Relaxed);
        crate::raw::wake(self.birth_futex());
    }

    /// What a child waits on until its parent has settled its birth.
    pub fn birth_futex(&self) -> &AtomicU32 {
        crate::raw::low_half(&self.birth)
    }
}

/// The helper thread of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agent {
    /// The process (a child that was just forked) has not come to starting it.
    NotYet,
    /// It could not be started.
    None,
    /// This thread.
    Thread(u32),
}
