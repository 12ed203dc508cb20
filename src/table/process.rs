//! A process that cooperates: one image, from its attach to its exec or death.

use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// All-zero is "free". `identity` is written by claim and bury; the rest by the process itself, or by its parent before it exists.
#[derive(Debug, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout)]
#[repr(C, align(128))]
pub struct Process {
    /// epoch:32 | pid:32.
    identity: AtomicU64,
    /// Start time of the process in clock ticks after boot (/proc/PID/stat, field 22); 0 while not filled in.
    start: AtomicU64,
    /// Address, in the process, of a word that holds `identity` as long as this image lives and is zero in a forked child.
    cookie: AtomicU64,
    /// Counts changes of the descriptor table that can make a number mean another file.
    descriptors: AtomicU32,
    /// The agent sleeps on it.
    doorbell: AtomicU32,
    /// Thread id of the agent, 0 if there is none.
    agent: AtomicU32,
    /// See [`Birth`].
    birth: AtomicU32,
    /// Owner word of the process that forked this one, while `birth` is pending.
    parent: AtomicU64,
    reserved: [AtomicU64; 10],
}

const _: () = assert!(size_of::<Process>() == 128);

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

    /// `id` -> free.
    pub(super) fn free(&self, id: ProcessId) {
        self.start.store(0, Ordering::Relaxed);
        self.cookie.store(0, Ordering::Relaxed);
        self.agent.store(0, Ordering::Relaxed);
        self.birth.store(Birth::Settled as u32, Ordering::Relaxed);
        let _ = self.identity.compare_exchange(id.to_word(), 0, Ordering::Release, Ordering::Relaxed);
    }

    /// Fills in what liveness is judged by.
    pub fn describe(&self, start: u64, cookie: u64) {
        self.start.store(start, Ordering::Relaxed);
        self.cookie.store(cookie, Ordering::Release);
    }

    /// Start time and cookie address, 0 where not filled in.
    pub fn marks(&self) -> (u64, u64) {
        let cookie = self.cookie.load(Ordering::Acquire);
        (self.start.load(Ordering::Relaxed), cookie)
    }

    /// The descriptor-table generation.
    #[inline]
    pub fn descriptors(&self) -> u32 {
        self.descriptors.load(Ordering::Relaxed)
    }

    /// A number may mean another file from now on. Called before the change, by the process itself.
    #[inline]
    pub fn change_descriptors(&self) {
        // Release: who looks the descriptor up and finds the generation unchanged looked before the change.
        self.descriptors.fetch_add(1, Ordering::Release);
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

    /// The agent's thread id, if there is an agent.
    pub fn agent(&self) -> Option<u32> {
        Some(self.agent.load(Ordering::Relaxed)).filter(|tid| *tid != 0)
    }

    /// Says who the agent is.
    pub fn set_agent(&self, tid: u32) {
        self.agent.store(tid, Ordering::Relaxed);
    }

    /// How the record's process came to its snapshots. Acquire: pairs with the Release in `settle`.
    pub fn birth(&self) -> Birth {
        match self.birth.load(Ordering::Acquire) {
            0 => Birth::Settled,
            1 => Birth::Pending,
            _ => Birth::Failed,
        }
    }

    /// The process that says how the birth went.
    pub fn parent(&self) -> u64 {
        self.parent.load(Ordering::Relaxed)
    }

    /// Marks a record claimed for a child of `parent` (an owner word).
    pub fn expect_birth(&self, parent: u64) {
        self.parent.store(parent, Ordering::Relaxed);
        self.birth.store(Birth::Pending as u32, Ordering::Relaxed);
    }

    /// Pending -> settled or failed; the first to say so decides.
    pub fn settle(&self, outcome: Birth) {
        let _ = self.birth.compare_exchange(Birth::Pending as u32, outcome as u32, Ordering::AcqRel, Ordering::Relaxed);
        crate::raw::wake(&self.birth);
    }

    /// What a child waits on until its parent has settled its birth.
    pub fn birth_futex(&self) -> &AtomicU32 {
        &self.birth
    }
}
