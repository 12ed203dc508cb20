//! Atomics, and the places where a model may plant a fault.
//!
//! The protocol is written once and runs on real atomics in the table, and on loom's in `tests/models`.

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering, fence};
#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// A sequentially consistent fence: every thread sees the stores before it before the results of the loads behind it.
///
/// On x86-64 a locked instruction orders as MFENCE does (Intel SDM vol. 3, 9.2.3.9; AMD APM vol. 2, 7.4.2) and takes a fraction of
/// its time. Every announcement pays for it.
#[inline(always)]
pub fn full_fence() {
    #[cfg(all(not(loom), not(miri), target_arch = "x86_64"))]
    // SAFETY: or-ing zero into the stack changes nothing; without `nomem` the compiler keeps every access on its side.
    unsafe {
        core::arch::asm!("lock or dword ptr [rsp - 64], 0", options(nostack));
    }
    #[cfg(any(loom, miri, not(target_arch = "x86_64")))]
    fence(Ordering::SeqCst);
}

/// Stores `value` where there is 0. True if there was. It is one step for the handlers of the calling thread; no other thread may
/// change the word at the same time.
///
/// It is one instruction, which no signal divides. A locked one would take several times as long, and every call pays for it.
#[inline(always)]
pub fn set_own(word: &AtomicU64, value: u64) -> bool {
    #[cfg(all(not(loom), not(miri), target_arch = "x86_64"))]
    {
        let was_zero: u8;
        // SAFETY: the word is valid and aligned, and no other thread stores to it at the same time.
        unsafe {
            core::arch::asm!(
                "cmpxchg qword ptr [{word}], {value}",
                "sete {was_zero}",
                word = in(reg) word.as_ptr(),
                value = in(reg) value,
                was_zero = out(reg_byte) was_zero,
                inout("rax") 0u64 => _,
                options(nostack),
            );
        }
        was_zero != 0
    }
    #[cfg(any(loom, miri, not(target_arch = "x86_64")))]
    word.compare_exchange(0, value, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

/// Keeps the compiler from moving memory accesses across, so that a handler on the same thread sees them in order.
#[inline(always)]
pub fn signal_fence() {
    #[cfg(not(loom))]
    core::sync::atomic::compiler_fence(Ordering::SeqCst);
}

/// A step of the protocol that a model can leave out, to show that it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The fence between a writer's announcement and its look at the active word.
    AnnounceFence,
    /// The fence between a creation's raising of the active word and its look at the writers.
    RaiseFence,
    /// The look, when a call passes, whether a handler has withdrawn its announcement.
    PassedPhase,
    /// The single step in which a call takes a frame (a look and a store instead).
    FrameTaken,
    /// The wait for writers that are already under way.
    Drain,
    /// The look, after a call that a creation found to go elsewhere, where its descriptor leads.
    ReliedOn,
    /// The look whether a descriptor's number was given another file since a call with it was announced.
    DescriptorCount,
    /// The look, before a call, whether a change of its descriptor's number is under way.
    EndedChanges,
    /// The look at the creation record between announcing and passing.
    CreationCheck,
    /// The look at the active word between the announcement of a call by path and the call.
    UnusedLook,
    /// The fence between a summoner's announcement and its look whether the process calls exec.
    SummonsFence,
    /// The second look at the generation after a push.
    GenerationCheck,
    /// The odd generation while a mapper changes its mapping.
    OddGeneration,
    /// The wait for announced pushers before preserved pages are dropped.
    PusherDrain,
    /// The compare-exchange that lets either commit or abort win (a plain store instead).
    CommitExchange,
    /// The clearing of an interrupted announcement by the handler that interrupted it.
    NestedWithdraw,
    /// The tag that ties a preserved bit to one incarnation of a snapshot.
    BitTag,
    /// The look for a creation of the same origin between a creation's proposal and its going on.
    RivalLook,
    /// The look, before a fork, for snapshots that the process has published since the gate was closed for the fork.
    PublishedBeside,
    /// The naming of a group's files before its creation is claimed.
    GroupNames,
    /// The look at each of the creation records, and not at the first alone.
    EachCreation,
    /// The word of its own for each creation record, in which a process says that it has armed.
    ArmedRecord,
    /// The arming of shared mappings before the instant.
    Arming,
    /// The delay of arming until the writers are drained.
    ArmingAfterDrain,
    /// The announcement of a new shared mapping.
    MappingAnnouncement,
    /// The creation record's comparison when the active word is lowered.
    LowerExchange,
    /// The count of a cooperating change.
    CountedChange,
    /// The look at the calls under way before the look at a file.
    QuietCheck,
    /// The second look at the count, after the look at a file.
    SecondCount,
    /// The look whether a dead process still has its record, after the look at what seems to be its own.
    DeadRecord,
    /// The second look at a child whose pid was set while its dead parent was reaped.
    SecondPid,
    /// The fence between the count of a call without a slot and its look at the active word.
    UnannouncedFence,
    /// The wait for calls without a slot.
    UnannouncedDrain,
    /// The look whether a slot still has the same lease, between the look at its frames and their reclaiming.
    SlotOwner,
    /// The number that tells a thread's lease of a slot from a later lease of a thread with the same id.
    LeaseNumber,
    /// The number by which an agent answers a request.
    RequestNumber,
    /// The look at the doorbell before the look for what is asked.
    BellFirst,
    /// The second look whether an intent that was read is that of the creation it was read for.
    IntentOfOther,
    /// The end, by another process, of a committed creation whose owner has left it.
    CommittedEnd,
    /// The order in which bytes at a movable position are announced: first in the frame, then in the count.
    UnplacedFrame,
    /// The count of splits.
    SplitCount,
    /// The second walk where the count of splits moved beside the first.
    SplitWalk,
    /// The raise of the active word when a segment is split off.
    SplitRaise,
    /// The second look at the state of a segment that another was split from.
    SplitMark,
    /// The name of the incarnation that gives a block back.
    GivenBackByOwner,
    /// The second look for a range that another thread is taking apart.
    MovedHolding,
    /// The look whether a submission is still under way in an entry that another context gets.
    UnusedQueue,
    /// The number that tells the end of a queue from the end of a later queue of the same name.
    EndNumber,
    /// The comparison of the start time that a late parent writes.
    LateStart,
    /// The count of the raises of a mark, which tells a raise that changes nothing.
    MarkRaises,
    /// The note, before the claim of a snapshot record, where it stands.
    NotedHolding,
    /// The look which image has a process record, after the look at where its snapshots stand.
    HoldingsOwner,
    /// The high-water mark that counts a slot as used before it is claimed.
    UsedFirst,
    /// The look at the pages between the read of bytes and their store.
    UncheckedStore,
    /// The fence between an unseen process's entry and its look at the snapshots.
    UnseenFence,
    /// The look for unseen processes once a snapshot is published.
    UnseenAfterPublishing,
    /// The look for unseen processes before the instant.
    UnseenBeforeInstant,
    /// The walk over the snapshots before an unseen process's entry is lowered.
    UnseenWalk,
}

/// Whether the model under way leaves `fault`'s step out. Always false in the library.
#[cfg(not(loom))]
#[inline(always)]
#[must_use]
pub const fn planted(_fault: Fault) -> bool {
    false
}

/// Whether `SNAPSHIM_PLANT` names `fault`.
#[cfg(loom)]
#[must_use]
pub fn planted(fault: Fault) -> bool {
    std::env::var("SNAPSHIM_PLANT").is_ok_and(|name| name == format!("{fault:?}"))
}
