//! Programs without the shim that have an origin mapped shared and writable: their stores make no call, and often do not change the
//! file's time of modification ([`snapshim::cooperate::foreign`]).
//!
//! The agent searches for them right after a snapshot was made, and once a second. It asks the kernel for the writable shared
//! mappings of every process that it may look into, and compares how the kernel names their file with how it names the file of the
//! snapshot's own mapping. On btrfs, overlayfs and devices that name is not what stat(2) says, and other files may have the same,
//! so stat(2) decides. All cooperating processes together take at most a hundredth of a processor: the more there are, the less
//! often each of them searches.
//!
//! A cooperating process describes its mappings in the table. A mapping that it made past the hooks is not described, and counts as
//! foreign.

use core::ops::ControlFlow;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use snapshim::PAGE;
use snapshim::cooperate::liveness::{self, Liveness};
use snapshim::cooperate::locate::target_of_stat;
use snapshim::protocol::cause::Cause;
use snapshim::protocol::origin::{Origin, Target};
use snapshim::protocol::process::Process;
use snapshim::protocol::process_id::ProcessId;
use snapshim::protocol::snapshot::State;
use snapshim::sys::procfs::{ProcPath, ProcStat};
use snapshim::sys::wait::Backoff;
use snapshim::sys::{raw, signal_block};

use super::fanotify;
use crate::base::file_mappings::{Backing, Filter, Mapping, Query, each_mapping, each_process, maps_of};
use crate::base::sysfs;
use crate::process::identity::ThisProcess;
use crate::process::log::{Level, Program, say};
use crate::process::other_tables::OtherTables;

/// How many snapshots were made.
static MADE: AtomicU64 = AtomicU64::new(0);
/// How many had been made when the last complete search began.
static SEARCHED: AtomicU64 = AtomicU64::new(0);
/// When the next search may begin, by what searches have cost.
static NEXT: AtomicU64 = AtomicU64::new(0);
/// When the agent could have searched first.
static FIRST_TURN: AtomicU64 = AtomicU64::new(0);
/// What the last one cost, in nanoseconds of this process's time.
static COST: AtomicU64 = AtomicU64::new(0);
/// Set in a forked child: more processes search than when its parent did last.
static HAS_NEW_SEARCHERS: AtomicBool = AtomicBool::new(false);

const ROUND: u64 = 1_000_000_000;
/// A search is followed by a rest of so many times its cost, for each process with snapshots: they all search.
const REST: u64 = 100;

/// Notes that a snapshot was made: the agent searches at once.
pub fn request_search(own: &ThisProcess) {
    // Release: pairs with the Acquire in `search_alone`; the snapshot is visible to the search that counts it.
    let before = MADE.fetch_add(1, Ordering::Release);
    // In the other case the agent knows already that there is something to search for.
    if before == SEARCHED.load(Ordering::Relaxed)
        && let Some(record) = own.record()
    {
        record.ring();
    }
}

/// Whether a snapshot was made since the last complete search began. Acquire: pairs with the Release in `search_alone`.
pub fn is_wanted() -> bool {
    MADE.load(Ordering::Relaxed) != SEARCHED.load(Ordering::Acquire)
}

/// The agent's part: searches if it is time; how long the agent may sleep.
///
/// On a busy machine a search takes seconds, as the kernel waits for locks of other processes. `attend` is called again and again
/// meanwhile, to answer what other processes wait for; it returns how much of this thread's time that took.
pub fn search_if_due(own: &ThisProcess, attend: &mut dyn FnMut() -> u64) -> Duration {
    if !own.image.is_mapper() {
        return Duration::from_secs(3600);
    }
    let now = raw::now();
    if HAS_NEW_SEARCHERS.swap(false, Ordering::Relaxed) {
        // The cost is inherited, and may be 0: the parent may not have searched yet.
        COST.fetch_max(LIKELY_COST, Ordering::Relaxed);
        rest(own);
    }
    let due = match (is_wanted(), NEXT.load(Ordering::Relaxed)) {
        (true, next) => next,
        // The agent is up before the first snapshot is whole. A search by then finds nothing to search for, and its rest would have
        // a caller that asks about that snapshot be answered without a search.
        (false, 0) => first_turn(now).saturating_add(ROUND),
        (false, next) => next.saturating_add(ROUND),
    };
    if now < due {
        return Duration::from_nanos(due - now);
    }
    search_alone(own, attend);
    Duration::from_millis(1)
}

/// When the agent could have searched first: `now`, if that is its first turn.
fn first_turn(now: u64) -> u64 {
    FIRST_TURN.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed).map_or_else(|first| first, |_| now)
}

/// For a caller that asks whether a snapshot is exact: searches if that snapshot may have been made since the last search.
pub fn search_if_wanted(own: &ThisProcess) {
    let begun = raw::now();
    let mut backoff = Backoff::default();
    while is_wanted() && begun >= NEXT.load(Ordering::Relaxed) && raw::now() < begun + MOMENT {
        {
            let _signals = signal_block::SignalsBlocked::new();
            search_alone(own, &mut || 0);
        }
        // The agent may be searching: its result is waited for.
        backoff.pause();
    }
}

/// How long such a caller waits, nanoseconds.
const MOMENT: u64 = 100_000_000;

/// A search, by one thread at a time: if another thread is at it, it is left to that one.
fn search_alone(own: &ThisProcess, attend: &mut dyn FnMut() -> u64) {
    if !own.image.begin_search() {
        return;
    }
    let begun = time_used();
    // Acquire: pairs with the Release in `request_search`.
    let made = MADE.load(Ordering::Acquire);
    let elsewhere = search(own, attend);
    // Release: pairs with the Acquire in `is_wanted`; a thread that finds the search complete finds its results.
    SEARCHED.store(made, Ordering::Release);
    COST.store(time_used().saturating_sub(begun).saturating_sub(elsewhere), Ordering::Relaxed);
    rest(own);
    own.image.end_search();
}

/// In a forked child: lets time pass before its first search. Its parent has searched for what the child inherited, and two hundred
/// children that search at once would be slowed down.
pub fn begin_anew_in_child() {
    HAS_NEW_SEARCHERS.store(true, Ordering::Relaxed);
}

/// The cost of a search, nanoseconds, on a machine with some hundred processes.
const LIKELY_COST: u64 = 1_000_000;

/// Sets when the next search may begin.
fn rest(own: &ThisProcess) {
    let rest = COST.load(Ordering::Relaxed).saturating_mul(REST).saturating_mul(searchers(own));
    NEXT.store(raw::now().saturating_add(rest), Ordering::Relaxed);
}

/// About how many processes have snapshots: those are the ones that search. Of more than some thousand only a part is counted.
fn searchers(own: &ThisProcess) -> u64 {
    let mut seen = [0u64; 64];
    // A single walk may miss a segment. Its process mostly has more of them; else it is not counted for a second.
    for (_, view) in own.table.walk_once().live() {
        let (word, bit) = (view.meta.owner % 4096 / 64, view.meta.owner % 64);
        seen[word as usize] |= 1 << bit;
    }
    u64::from(seen.iter().map(|word| word.count_ones()).sum::<u32>()).max(1)
}

/// The processor time that this thread has used, nanoseconds.
pub fn time_used() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// An origin that is searched for, and how the kernel names it in lists of mappings.
#[derive(Clone, Copy)]
struct Sought {
    origin: Origin,
    backing: Backing,
}

/// How many origins are searched for at once. Further ones are not searched for until some of the first have no snapshots any more.
const MOST: usize = 16;

/// Searches every process; how much time `attend` took.
fn search(own: &ThisProcess, attend: &mut dyn FnMut() -> u64) -> u64 {
    let mut sought = [const { None }; MOST];
    seek(own, &mut sought);
    if sought[0].is_none() {
        return 0;
    }
    let others = OtherTables::find();
    let mut elsewhere = 0;
    each_process(|pid| {
        elsewhere += attend();
        search_process(own, pid, &sought, &others, || elsewhere += attend());
    });
    elsewhere
}

/// Lists the origins of those snapshots of this process that can still be spoilt.
fn seek(own: &ThisProcess, sought: &mut [Option<Sought>; MOST]) {
    let mut count = 0;
    // A single walk may miss a segment that was split from another of the same origin meanwhile. The next search meets it.
    for (index, view) in own.table.walk_once().owned_by(own.owner()) {
        let origin = view.meta.origin;
        let is_wanted = view.head.state() == State::Exact && !view.is_relocated();
        if !is_wanted || sought.iter().flatten().any(|known| known.origin == origin) {
            continue;
        }
        let mut found = None;
        let Ok(maps) = maps_of(raw::own_pid()) else { return };
        let _ = each_mapping(&maps, Filter::At(view.extent.address), |mapping| {
            found = Some(mapping);
            ControlFlow::Break(())
        });
        let shows = |mapping: &Mapping| {
            let into = view.extent.address.saturating_sub(mapping.start);
            !mapping.is_shared && mapping.offset.wrapping_add(into) == view.extent.first * PAGE
        };
        // The segment may have been moved or unmapped meanwhile.
        let is_still = own.table.snapshot(index).is_some_and(|snapshot| snapshot.is_still(view.head));
        if let Some(mapping) = found.filter(|mapping| shows(mapping) && is_still) {
            sought[count] = Some(Sought { origin, backing: mapping.backing });
            count += 1;
        }
        if count == MOST {
            return;
        }
    }
}

/// Makes snapshots doubtful that process `pid` may spoil by a mapping.
fn search_process(
    own: &ThisProcess,
    pid: u32,
    sought: &[Option<Sought>; MOST],
    others: &OtherTables,
    mut attend: impl FnMut(),
) {
    // All questions go to one open file, which stays with the memory that it was opened for. If the process executes another
    // program meanwhile, the mappings of the two are not mixed up.
    let Ok(maps) = maps_of(pid) else { return };
    let _ = each_mapping(&maps, Filter::WritableAndShared, |mapping| {
        attend();
        if others.include(mapping.backing) {
            others.note_user(own.table, pid);
        }
        let found = sought.iter().flatten().find(|sought| sought.backing == mapping.backing);
        if let Some(Sought { origin, .. }) = found
            && is_of(pid, &maps, &mapping, *origin)
            && is_foreign(own, pid, &maps, &mapping, *origin)
            && own.table.doubt_all_of(own.owner(), *origin, Cause::ForeignMapping)
        {
            log_mapped(pid, *origin);
        }
        ControlFlow::Continue(())
    });
}

/// Whether a mapping shows the origin, given that the kernel names its file as it names the origin.
fn is_of(pid: u32, maps: &OwnedFd, mapping: &Mapping, origin: Origin) -> bool {
    let Backing { device: (major, minor), inode } = mapping.backing;
    if origin == Origin::file(rustix::fs::makedev(major, minor), inode) {
        return true;
    }
    let Mapping { start, end, .. } = *mapping;
    // To follow that link takes CAP_CHECKPOINT_RESTORE. Without it, the path by which the file was mapped may lead to the file.
    let found = sysfs::stat(format_args!("/proc/{pid}/map_files/{start:x}-{end:x}")).or_else(|_| {
        let mut name = [0u8; 400];
        let name = Query::name(maps, mapping, &mut name).ok_or(Errno::NOENT)?;
        sysfs::stat(format_args!("/proc/{pid}/root{name}"))
    });
    found.is_ok_and(|found| target_of_stat(&found) == Target::Origin(origin))
}

#[cold]
fn log_mapped(pid: u32, origin: Origin) {
    // Once for each process and origin, unless two of them alternate.
    static LAST: AtomicU64 = AtomicU64::new(0);
    let what = origin.fingerprint() ^ u64::from(pid);
    if LAST.swap(what, Ordering::Relaxed) != what {
        say!(
            Level::Warn,
            file = origin, process = pid;
            "snapshots of {} in {} are doubtful from now on: {}",
            origin,
            Program(raw::own_pid()),
            Cause::ForeignMapping.of(Program(pid)).in_full()
        );
    }
}

/// Whether stores through `mapping`, which process `pid` had a moment ago, are not held back.
fn is_foreign(own: &ThisProcess, pid: u32, maps: &OwnedFd, mapping: &Mapping, origin: Origin) -> bool {
    let record = record_of(own, pid);
    let has_shim = if record.is_some() { Some(true) } else { fanotify::names_library(maps) };
    let is_outside = match (has_shim, record) {
        (None, _) => false,
        (Some(false), _) => true,
        // A forked child has its parent's mappings before it has a record, and before it describes them there.
        (Some(true), _) if !has_executed(pid) => false,
        (Some(true), Some((record, id))) => is_past_the_hooks(own, record, id, maps, mapping, origin),
        // It has the shim and could not join.
        (Some(true), None) => true,
    };
    is_outside && is_there(maps, mapping)
}

fn has_executed(pid: u32) -> bool {
    ProcStat::read(&ProcPath::of(pid, "stat")).is_ok_and(|stat| stat.has_executed())
}

/// The record of a process that cooperates.
fn record_of(own: &ThisProcess, pid: u32) -> Option<(&'static Process, ProcessId)> {
    let records = own.table.processes_used().iter().filter_map(|record| Some((record, record.id()?)));
    records.filter(|(_, id)| id.pid() == pid).find(|(record, id)| liveness::of_image(record, *id) != Liveness::Dead)
}

/// How often a mapping has to be found that the table does not describe.
const LOOKS: u32 = 3;

/// Whether a cooperating process has a mapping that it does not describe in the table.
///
/// A mapping that comes in through a hook is made under an announcement, and described before the announcement ends. So if the
/// mapping was seen, and no call on the origin was under way afterwards, it is described. The exception is a mapping that was
/// unmapped and made again in between, which hardly happens three times in a row.
fn is_past_the_hooks(
    own: &ThisProcess,
    record: &Process,
    id: ProcessId,
    maps: &OwnedFd,
    mapping: &Mapping,
    origin: Origin,
) -> bool {
    (0..LOOKS).all(|look| {
        if look > 0 {
            raw::nap(Duration::from_millis(1));
        }
        own.table.is_quiet(origin)
            && !record.sharing.includes(origin)
            && record.id() == Some(id)
            && is_there(maps, mapping)
    })
}

/// Whether the process still has the mapping.
fn is_there(maps: &OwnedFd, mapping: &Mapping) -> bool {
    let mut is_there = false;
    let _ = each_mapping(maps, Filter::WritableAndShared, |found| {
        is_there = found == *mapping;
        if is_there || found.start > mapping.start { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    is_there
}
