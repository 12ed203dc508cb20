//! A process that cooperates: one image, from its attach to its exec or death.

use super::aio_queues::DirectTargets;
use super::delay::AtomicDelay;
use super::executing::Executing;
use super::holdings::{Holdings, Places};
use super::process_id::{ProcessId, owner_epoch};
use super::sharing::Sharing;
use crate::sys::futex;
use crate::sys::sync::{self, AtomicU32, AtomicU64, Fault, Ordering, full_fence, planted};

/// All-zero is "free". `identity` is written by claim, set_pid and free; the rest by the process itself, or by its parent before
/// it exists. Freeing a record clears nothing else: each word carries the epoch of the image that it belongs to, or is begun anew
/// by the next claim. A dead `summoner` is taken out by the next one.
#[cfg_attr(not(loom), derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout))]
#[cfg_attr(loom, derive(Default))]
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Process {
    /// epoch:32 | pid:32, or what stands in the place of the pid in a pending child: see [`ProcessId::pending_child`].
    identity: AtomicU64,
    /// epoch:32 | low half of the start time in clock ticks after boot (/proc/PID/stat, field 22):32.
    start: AtomicU64,
    /// Low bits of the epoch:28 | page:36, of a word in the process's memory. That word holds `identity` as long as this image
    /// lives, and is zero in a forked child.
    cookie: AtomicU64,
    /// epoch:32 | thread id of the agent:32, or `NO_AGENT`.
    agent: AtomicU64,
    /// [`ForkOutcome`]:32, which is a futex | epoch:32.
    fork_outcome: AtomicU64,
    /// Owner word of the process that forked this one, while `fork_outcome` is pending.
    parent: AtomicU64,
    /// The agent sleeps on it.
    doorbell: AtomicU32,
    /// Which process is about to send this one a signal (see [`Process::begin_summons`]); 0: none.
    summoner: AtomicU32,
    /// Its shared mappings of files.
    pub sharing: Sharing,
    /// epoch:32 | calls under way that found no free slot:32.
    unannounced: AtomicU64,
    /// epoch:32 | 1 once the process submits direct writes (see [`aio_queues`](super::aio_queues)):32.
    queues: AtomicU64,
    /// Whether it calls exec.
    pub executing: Executing,
    /// epoch:32 | 1 + the user for which a child may act in the process's memory (vfork(2)) and outlive it, 0: none may:32.
    mm_shared: AtomicU64,
    /// What its direct writes concern.
    pub direct: DirectTargets,
    /// epoch:32 | what acts for the process, or in its memory, without a call of its own ([`HAS_RINGS`], [`SHARES_FOR_GOOD`]):2 |
    /// calls of posix_spawn(3) under way, whose children act in its memory:30.
    others: AtomicU64,
    /// The creation that it holds back.
    pub delay: AtomicDelay,
    /// Where what it has may stand.
    pub holdings: Holdings,
    /// Counts changes of the descriptor table that can make a number mean another file, by [`group_of`] the number: ended:32 |
    /// begun:32.
    descriptors: [AtomicU64; DESCRIPTOR_GROUPS],
}

/// Descriptors below this have a counter each. Most calls that wait for long go to one of them.
const COUNTED_ALONE: u32 = if cfg!(loom) { 4 } else { 48 };
const SHARED_COUNTERS: usize = if cfg!(loom) { 4 } else { 16 };
const DESCRIPTOR_GROUPS: usize = COUNTED_ALONE as usize + SHARED_COUNTERS;

/// A generation that stands for none that changes lead to for a long time.
#[must_use]
pub const fn distrusted(generation: u32) -> u32 {
    generation ^ 1 << 31
}

/// The counter of `descriptor`: its own, or one that it shares with others that have the same low bits.
const fn group_of(descriptor: u32) -> usize {
    let descriptor = descriptor as usize;
    if descriptor < COUNTED_ALONE as usize { descriptor } else { COUNTED_ALONE as usize + descriptor % SHARED_COUNTERS }
}

const NO_AGENT: u32 = u32::MAX;
const COOKIE_BITS: u32 = 36;

#[cfg(not(loom))]
const _: () = assert!(size_of::<Process>() == 832);

/// `value` if `word` carries the epoch of `id` in its high half.
fn of_image(word: u64, id: ProcessId) -> Option<u32> {
    ((word >> 32) as u32 == id.epoch()).then_some(word as u32)
}

/// In `others`: the process has a ring of io_uring, whose writes are not announced.
const HAS_RINGS: u32 = 1 << 31;
/// In `others`: a child may act in the memory until the process is gone, and longer.
#[cfg(not(loom))]
const SHARES_FOR_GOOD: u32 = 1 << 30;

/// Changes a count that belongs to an image: when the image dies, what it counts ends with it.
fn count(word: &AtomicU64, id: ProcessId, change: impl Fn(u32) -> u32) {
    let mut seen = word.load(Ordering::Relaxed);
    loop {
        let count = change(of_image(seen, id).unwrap_or(0));
        let counted = u64::from(id.epoch()) << 32 | u64::from(count);
        // Release: pairs with the Acquire in `unannounced` and in `mm_sharer`.
        match word.compare_exchange(seen, counted, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => return,
            Err(now) => seen = now,
        }
    }
}

/// How a fork went: whether the child has inherited its snapshots exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ForkOutcome {
    /// Nothing was inherited, or all of it exactly.
    Settled = 0,
    /// The parent is forking, and will say how it went.
    Pending = 1,
    /// The fork was not one instant: the child has to break the snapshots that it inherited.
    Failed = 2,
}

/// How the process of a record stands to a process that died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Child {
    /// It is no child of the dead process, or knows by now how its fork went.
    Settled,
    /// Its record was freed while it was pending. What was published for it belongs to no process.
    NeverForked(ProcessId),
}

/// A process that died, and its record.
#[derive(Clone, Copy, Debug)]
pub struct Dead<'a> {
    /// Of the record.
    pub index: u32,
    /// Its record.
    pub record: &'a Process,
    /// Its id.
    pub id: ProcessId,
}

impl Dead<'_> {
    /// How records refer to it.
    #[must_use]
    pub fn owner(&self) -> u64 {
        self.id.owner_word(self.index)
    }

    /// Whether the record still is that of the dead process. A caller that took something for the dead process's by the record's
    /// index alone asks this afterwards: another process may have reaped it meanwhile, and a new one have the record.
    #[must_use]
    pub fn has_record(&self) -> bool {
        // Acquire: orders the caller's look before this one.
        sync::fence(Ordering::Acquire);
        self.record.id() == Some(self.id) || planted(Fault::DeadRecord)
    }
}

impl Process {
    /// The process that has the record. Acquire: pairs with the AcqRel in `claim`.
    pub fn id(&self) -> Option<ProcessId> {
        ProcessId::from_word(self.identity.load(Ordering::Acquire))
    }

    /// The process that has the record, if it is the image that `owner` refers to.
    pub fn owner_id(&self, owner: u64) -> Option<ProcessId> {
        self.id().filter(|id| id.epoch() == owner_epoch(owner))
    }

    /// Where the image that `owner` refers to may have snapshots: anywhere, if it does not have the record.
    pub fn places_of(&self, owner: u64) -> Places {
        let places = self.holdings.places();
        // The places come first: another image that has the record by now may have begun them anew.
        if self.owner_id(owner).is_some() || planted(Fault::HoldingsOwner) { places } else { Places::ALL }
    }

    /// Free -> `id`.
    pub fn claim(&self, id: ProcessId) -> bool {
        // AcqRel: against other claims.
        self.identity.compare_exchange(0, id.to_word(), Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Gives the record of a pending child its pid. The child or its parent does it.
    pub fn set_pid(&self, pending: ProcessId, id: ProcessId) {
        let _ = self.identity.compare_exchange(pending.to_word(), id.to_word(), Ordering::AcqRel, Ordering::Relaxed);
    }

    /// `id` -> free. False: another process did it before, or the record has another id by now.
    pub fn free(&self, id: ProcessId) -> bool {
        self.identity.compare_exchange(id.to_word(), 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Notes the start time of `id`; 0 is not known.
    pub fn describe_start(&self, id: ProcessId, start: u64) {
        if start == 0 {
            return;
        }
        // Release: pairs with the fence in `describe_start_of_child`: a late parent that finds this start finds this image. An
        // exchange, because it is ordered with the parent's, and a store is not.
        self.start.swap(u64::from(id.epoch()) << 32 | (start & 0xffff_ffff), Ordering::Release);
    }

    /// Notes the start time of `id`, a child that another process describes, and that may be over by now: then the record's next
    /// image has described itself, or will.
    pub fn describe_start_of_child(&self, id: ProcessId, start: u64) {
        let seen = self.start.load(Ordering::Relaxed);
        // Acquire: pairs with the Release in `describe_start`; orders the load above before the look at the image.
        sync::fence(Ordering::Acquire);
        if start == 0 || self.id() != Some(id) {
            return;
        }
        let word = u64::from(id.epoch()) << 32 | (start & 0xffff_ffff);
        if planted(Fault::LateStart) {
            self.start.store(word, Ordering::Relaxed);
        }
        let _ = self.start.compare_exchange(seen, word, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Notes the page at whose start `id` stands by now.
    pub fn describe_cookie(&self, id: ProcessId, page: u64) {
        // Release: pairs with the Acquire in `cookie`; the word is there before another process looks for it.
        self.cookie.store((u64::from(id.epoch()) << COOKIE_BITS) | (page / crate::PAGE), Ordering::Release);
    }

    /// Whether `start` can be the start time of `id`; `None` while that is not known.
    ///
    /// The start time that a process of another time namespace reads may differ by a tick. No pid is used again as soon, and the
    /// cookie tells such a process too.
    pub fn is_start(&self, id: ProcessId, start: u64) -> Option<bool> {
        of_image(self.start.load(Ordering::Relaxed), id).map(|low| low.wrapping_sub(start as u32).wrapping_add(1) <= 2)
    }

    /// A time no later than the start of `id`, in ticks after boot: its lower half.
    pub fn earliest_start(&self, id: ProcessId) -> u64 {
        of_image(self.start.load(Ordering::Relaxed), id).map_or(0, |low| u64::from(low).saturating_sub(1))
    }

    /// The address of the word by which `id` is known; `None` while that is not known. Acquire: pairs with the Release in
    /// `describe_cookie`.
    pub fn cookie(&self, id: ProcessId) -> Option<u64> {
        let word = self.cookie.load(Ordering::Acquire);
        let is_of = word >> COOKIE_BITS == u64::from(id.epoch()) << COOKIE_BITS >> COOKIE_BITS;
        is_of.then_some((word & ((1 << COOKIE_BITS) - 1)) * crate::PAGE)
    }

    /// Notes that `id` submits asynchronous writes that bypass the page cache. Called before the first of them.
    pub fn note_queues(&self, id: ProcessId) {
        if !self.has_queues(id) {
            // Release: pairs with the Acquire in `has_queues`; the counts are there before another process looks for them.
            self.queues.store(u64::from(id.epoch()) << 32 | 1, Ordering::Release);
        }
    }

    /// Whether `id` submits such writes.
    pub fn has_queues(&self, id: ProcessId) -> bool {
        of_image(self.queues.load(Ordering::Acquire), id) == Some(1)
    }

    /// Notes that `id` has a ring of io_uring. Called before the ring is made.
    pub fn note_rings(&self, id: ProcessId) {
        count(&self.others, id, |others| others | HAS_RINGS);
        // SeqCst: pairs with the fence in `origins::ring_users`: the note before the look at the snapshots.
        full_fence();
    }

    /// Whether `id` has a ring of io_uring.
    pub fn has_rings(&self, id: ProcessId) -> bool {
        of_image(self.others.load(Ordering::Relaxed), id).is_some_and(|others| others & HAS_RINGS != 0)
    }

    /// The descriptor-table generation that `descriptor` falls under: how many changes have begun.
    #[inline]
    pub fn descriptors(&self, descriptor: u32) -> u32 {
        self.descriptors[group_of(descriptor)].load(Ordering::Relaxed) as u32
    }

    /// The generation that a call with `descriptor` notes, read before the call. While a change is under way it is none that
    /// [`Process::descriptors`] will give: the number may mean the one file or the other.
    #[inline]
    pub fn descriptors_for_call(&self, descriptor: u32) -> u32 {
        // Acquire: pairs with the Release in `end_change`: the call comes after every change that has ended.
        let word = self.descriptors[group_of(descriptor)].load(Ordering::Acquire);
        let is_between = (word >> 32) as u32 == word as u32 || planted(Fault::EndedChanges);
        if is_between { word as u32 } else { distrusted(word as u32) }
    }

    /// `descriptor` may mean another file from now on. The process itself calls this before the change.
    #[inline]
    pub fn begin_change(&self, descriptor: u32) {
        // Release: pairs with the Acquire fence in `Table::is_elsewhere`: a creation that looks the descriptor up and then finds
        // the generation unchanged has looked before the change.
        self.descriptors[group_of(descriptor)].fetch_add(1, Ordering::Release);
    }

    /// The change is made. If a thread never comes to this, calls with the number are not believed to be unchanged any more.
    #[inline]
    pub fn end_change(&self, descriptor: u32) {
        // Release: pairs with the Acquire in `descriptors_for_call`.
        self.descriptors[group_of(descriptor)].fetch_add(1 << 32, Ordering::Release);
    }

    /// Begins, or ends, a change of the descriptors from `first` to `last`.
    pub fn change_range(&self, first: u32, last: u32, change: impl Fn(&Self, u32)) {
        let sharing = first.max(COUNTED_ALONE)..=last;
        let alone = first..=last.min(COUNTED_ALONE - 1);
        alone.chain(sharing.take(SHARED_COUNTERS)).for_each(|descriptor| change(self, descriptor));
    }

    /// No change is under way: an image begins. What an earlier image of the record did not end, never ends.
    pub fn begin_descriptors(&self) {
        for group in &self.descriptors {
            let begun = group.load(Ordering::Relaxed) & 0xffff_ffff;
            group.store(begun << 32 | begun, Ordering::Relaxed);
        }
    }

    /// How often `descriptor` came to mean another file since its generation was `seen`; `None`: it shares its counter with others.
    #[must_use]
    pub fn replacements_of(&self, descriptor: u32, seen: u32) -> Option<u32> {
        (descriptor < COUNTED_ALONE).then(|| self.descriptors(descriptor).wrapping_sub(seen))
    }

    /// The word that the agent sleeps on.
    pub fn doorbell(&self) -> &AtomicU32 {
        &self.doorbell
    }

    /// Wakes the agent.
    pub fn ring(&self) {
        // Release: pairs with the Acquire with which the agent reads the bell before it looks for requests.
        self.doorbell.fetch_add(1, Ordering::Release);
        futex::wake(&self.doorbell);
    }

    /// The agent of `id`.
    pub fn agent(&self, id: ProcessId) -> Agent {
        match of_image(self.agent.load(Ordering::Relaxed), id) {
            None => Agent::NotYet,
            Some(NO_AGENT) => Agent::None,
            Some(tid) => Agent::Thread(tid),
        }
    }

    /// The process `summoner` is about to send the image `id` a signal, whose handler starts an agent. False: it must not, because
    /// another process does, or because the image calls exec: the next one has no handler.
    ///
    /// AcqRel: against other summoners.
    pub fn begin_summons(&self, id: ProcessId, summoner: u32) -> bool {
        let is_first = self.summoner.compare_exchange(0, summoner, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if !planted(Fault::SummonsFence) {
            // SeqCst: pairs with the fence in `Executing::begin`: the word before the look whether an exec is under way.
            full_fence();
        }
        if is_first && self.executing.is_under_way(id) {
            self.end_summons(summoner);
            return false;
        }
        is_first
    }

    /// The signal has been sent, or will not be.
    pub fn end_summons(&self, summoner: u32) {
        // Release: pairs with the Acquire in `is_summoned`: a process that finds no summoner has the signal.
        let _ = self.summoner.compare_exchange(summoner, 0, Ordering::Release, Ordering::Relaxed);
    }

    /// Whether a process is about to send this one a signal. Ask after [`Executing::begin`].
    pub fn is_summoned(&self) -> bool {
        // Acquire: pairs with the Release in `end_summons`.
        self.summoner.load(Ordering::Acquire) != 0
    }

    /// Which process is about to send this one a signal; 0: none.
    pub fn summoner(&self) -> u32 {
        self.summoner.load(Ordering::Relaxed)
    }

    /// Notes the thread id of the agent of `id`; `None`: there will be no agent.
    pub fn set_agent(&self, id: ProcessId, tid: Option<u32>) {
        self.agent.store(u64::from(id.epoch()) << 32 | u64::from(tid.unwrap_or(NO_AGENT)), Ordering::Relaxed);
    }

    /// Notes that the agent leaves, and that another will come.
    pub fn forget_agent(&self) {
        self.agent.store(0, Ordering::Relaxed);
    }

    /// From now on a child may act in the memory of `id`, for `user`: the end of the process is not the end of its calls.
    /// `for_good`: it is not known for how long; else until [`Process::end_spawn`].
    #[cfg(not(loom))]
    pub(crate) fn set_lender(&self, id: ProcessId, user: u32, for_good: bool) {
        count(&self.others, id, |others| if for_good { others | SHARES_FOR_GOOD } else { others + 1 });
        // No user is u32::MAX.
        self.mm_shared.store(u64::from(id.epoch()) << 32 | u64::from(user.wrapping_add(1)), Ordering::Relaxed);
    }

    /// The child of a posix_spawn(3) of `id` has its own memory by now, or has ended.
    #[cfg(not(loom))]
    pub fn end_spawn(&self, id: ProcessId) {
        count(
            &self.others,
            id,
            |others| if others & !(HAS_RINGS | SHARES_FOR_GOOD) == 0 { others } else { others - 1 },
        );
    }

    /// For which user `id` shares its memory with a child, if it does.
    pub fn mm_sharer(&self, id: ProcessId) -> Option<u32> {
        let user = of_image(self.mm_shared.load(Ordering::Relaxed), id).and_then(|user| user.checked_sub(1))?;
        // Acquire: pairs with the Release in `count`: what a child did before `end_spawn` is seen. The next image of the process
        // may have the word by now.
        let is_over = of_image(self.others.load(Ordering::Acquire), id).is_some_and(|others| others & !HAS_RINGS == 0);
        (!is_over).then_some(user)
    }

    /// How the fork of `id` went. Acquire: pairs with the AcqRel in `decide_fork`.
    pub fn fork_outcome(&self, id: ProcessId) -> ForkOutcome {
        let word = self.fork_outcome.load(Ordering::Acquire);
        match (word >> 32) as u32 == id.epoch() {
            true if word as u32 == ForkOutcome::Pending as u32 => ForkOutcome::Pending,
            true if word as u32 != ForkOutcome::Settled as u32 => ForkOutcome::Failed,
            _ => ForkOutcome::Settled,
        }
    }

    /// The process that says how the fork went, as records refer to it.
    pub fn parent(&self) -> u64 {
        self.parent.load(Ordering::Relaxed)
    }

    /// Notes, in a record that `parent` (an owner word) has claimed for its child, that the fork is pending.
    pub fn expect_fork(&self, pending: ProcessId, parent: u64) {
        self.parent.store(parent, Ordering::Relaxed);
        self.fork_outcome.store(u64::from(pending.epoch()) << 32 | ForkOutcome::Pending as u64, Ordering::Release);
    }

    /// Pending -> settled or failed. The first caller decides.
    pub fn decide_fork(&self, id: ProcessId, outcome: ForkOutcome) {
        let epoch = u64::from(id.epoch()) << 32;
        let (pending, outcome) = (epoch | ForkOutcome::Pending as u64, epoch | outcome as u64);
        let _ = self.fork_outcome.compare_exchange(pending, outcome, Ordering::AcqRel, Ordering::Relaxed);
        #[cfg(not(loom))]
        futex::wake(self.fork_futex());
    }

    /// Tells the process of this record, if `parent` was forking it when it died, how the fork went.
    ///
    /// A pending child may never have existed: its record is freed. If it does exist, it finds its record gone and breaks what it
    /// inherited.
    pub fn resolve_orphan(&self, parent: &Dead<'_>, committed: bool, retire_claims: impl Fn(ProcessId)) -> Child {
        // Again if its pid is set meanwhile: no other process would tell it.
        while let Some(id) = self.id() {
            if id.parent_of_pending().is_none() {
                if self.fork_outcome(id) == ForkOutcome::Pending && self.parent() == parent.owner() {
                    self.decide_fork(id, if committed { ForkOutcome::Settled } else { ForkOutcome::Failed });
                }
                return Child::Settled;
            }
            if id.parent_of_pending() != Some(parent.index) || !parent.has_record() {
                return Child::Settled;
            }
            retire_claims(id);
            if self.free(id) {
                return Child::NeverForked(id);
            }
            if planted(Fault::SecondPid) {
                return Child::Settled;
            }
        }
        Child::Settled
    }

    /// A call of `id` without a slot begins. A creation that has raised the active word sees it, or the call finds the word raised.
    pub fn enter_unannounced(&self, id: ProcessId) {
        count(&self.unannounced, id, |count| count + 1);
        if !planted(Fault::UnannouncedFence) {
            // SeqCst: pairs with the fence in `ActiveWord::raise`: the count before the active word.
            full_fence();
        }
    }

    /// A call without a slot is over.
    pub fn leave_unannounced(&self, id: ProcessId) {
        count(&self.unannounced, id, |count| count.saturating_sub(1));
    }

    /// Calls of `id` under way that found no slot.
    pub fn unannounced(&self, id: ProcessId) -> u32 {
        // Acquire: pairs with the Release in `count`; the changes of the calls that are over are done.
        of_image(self.unannounced.load(Ordering::Acquire), id).unwrap_or(0)
    }

    /// The word that a child waits on until its parent has decided its fork.
    #[cfg(not(loom))]
    pub fn fork_futex(&self) -> &AtomicU32 {
        crate::sys::futex::low_half(&self.fork_outcome)
    }
}

/// The helper thread of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agent {
    /// The process, a child that was just forked, has not come to starting it.
    NotYet,
    /// It could not be started.
    None,
    /// This thread.
    Thread(u32),
}

#[cfg(all(test, not(loom)))]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    #[test]
    fn memory_is_lent_while_a_child_is_spawned_and_for_good_behind_a_vfork() {
        const USER: u32 = 1000;
        let (id, next) = (ProcessId::new(7, 1), ProcessId::new(7, 2));
        let process = Process::new_zeroed();
        assert_eq!(process.mm_sharer(id), None);
        process.set_lender(id, USER, false);
        process.set_lender(id, USER, false);
        process.note_rings(id);
        process.end_spawn(id);
        assert_eq!(process.mm_sharer(id), Some(USER));
        process.end_spawn(id);
        assert_eq!((process.mm_sharer(id), process.has_rings(id)), (None, true));
        process.set_lender(id, USER, true);
        process.set_lender(id, USER, false);
        process.end_spawn(id);
        assert_eq!((process.mm_sharer(id), process.mm_sharer(next)), (Some(USER), None));
        // The next image of the process has the word, and what the one before lent is lent.
        process.note_rings(next);
        assert_eq!((process.mm_sharer(id), process.has_rings(id)), (Some(USER), false));
    }
}
