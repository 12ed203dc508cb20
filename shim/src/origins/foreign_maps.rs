//! Programs without the shim that have an origin mapped shared and writable: their stores make no call, and often move no time
//! ([`snapshim::cooperate::foreign`]).
//!
//! The agent looks for them right after a snapshot was made, and once a second: it asks the kernel for the writable shared mappings
//! of every process that it may look into, and compares what the kernel says of their file with what it says of the snapshot's own
//! mapping. Where that is not what stat(2) says of the file (btrfs, overlayfs, devices), others may be called the same, so stat(2)
//! decides. All cooperating processes together take at most a hundredth of a processor: the more there are, the less often each
//! looks.
//!
//! Of a cooperating process a mapping counts that it made past the hooks, and so did not say in the table.

use core::ops::ControlFlow;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use snapshim::PAGE;
use snapshim::cooperate::liveness::{self, Liveness};
use snapshim::cooperate::locate::place_of;
use snapshim::protocol::creation::Scope;
use snapshim::protocol::origin::{Origin, Place};
use snapshim::protocol::process::Process;
use snapshim::protocol::process_id::ProcessId;
use snapshim::protocol::snapshot::{FOREIGN_MAPPING, State};
use snapshim::sys::procfs::{ProcPath, Stat};
use snapshim::sys::wait::Patience;
use snapshim::sys::{raw, signal_block};

use super::fanotify;
use crate::base::file_mappings::{Backing, Filter, Mapping, Query, each_mapping, each_process, maps_of};
use crate::base::sysfs;
use crate::process::identity::Own;
use crate::process::log::{Level, Named, Program, say};
use crate::process::other_tables::OtherTables;

/// Snapshots made, and how many of them had been made when the last look began that is over.
static MADE: AtomicU64 = AtomicU64::new(0);
static LOOKED_AT: AtomicU64 = AtomicU64::new(0);
/// When looks have cost little enough for another one, and what the last one cost.
static NEXT: AtomicU64 = AtomicU64::new(0);
static COST: AtomicU64 = AtomicU64::new(0);
/// Set in a forked child: how many look is another number than when its parent looked.
static HAS_NEW_COMPANY: AtomicBool = AtomicBool::new(false);

const ROUND: u64 = 1_000_000_000;
/// A look that cost so much is followed by so many times that without one, for each process with snapshots: others look too.
const REST: u64 = 100;

/// A snapshot was made: the agent looks at once.
pub fn want(own: &Own) {
    // Release: pairs with the Acquire in `look_alone`; the snapshot is there before it is looked for.
    let before = MADE.fetch_add(1, Ordering::Release);
    // Else the agent knows that there is something to look for.
    if before == LOOKED_AT.load(Ordering::Relaxed)
        && let Some(record) = own.record()
    {
        record.ring();
    }
}

pub fn is_wanted() -> bool {
    MADE.load(Ordering::Relaxed) != LOOKED_AT.load(Ordering::Acquire)
}

/// The agent's part; how long it may sleep.
///
/// On a busy machine a look takes seconds, and the kernel waits in it for locks of other processes. `attend` is called again and
/// again meanwhile: to do what others wait for. It tells how much of this thread's time that took.
pub fn look_if_due(own: &Own, attend: &mut dyn FnMut() -> u64) -> Duration {
    if !own.identity.is_mapper() {
        return Duration::from_secs(3600);
    }
    let now = raw::now();
    if HAS_NEW_COMPANY.swap(false, Ordering::Relaxed) {
        // The parent may not know yet.
        COST.fetch_max(LIKELY_COST, Ordering::Relaxed);
        rest(own);
    }
    let next = NEXT.load(Ordering::Relaxed);
    let due = if is_wanted() { next } else { next.saturating_add(ROUND) };
    if now < due {
        return Duration::from_nanos(due - now);
    }
    look_alone(own, attend);
    Duration::from_millis(1)
}

/// For who asks what a snapshot is worth that was made a moment ago.
pub fn look_if_wanted(own: &Own) {
    let begun = raw::now();
    let mut patience = Patience::default();
    while is_wanted() && begun >= NEXT.load(Ordering::Relaxed) && raw::now() < begun + MOMENT {
        {
            let _signals = signal_block::SignalsBlocked::new();
            look_alone(own, &mut || 0);
        }
        // The agent may be looking: what it finds is waited for.
        patience.pause();
    }
}

const MOMENT: u64 = 100_000_000;

/// One thread at a time; where another one looks, this is left to it.
fn look_alone(own: &Own, attend: &mut dyn FnMut() -> u64) {
    if !own.identity.begin_look() {
        return;
    }
    let begun = time_used();
    // Acquire: pairs with the Release in `want`.
    let made = MADE.load(Ordering::Acquire);
    let elsewhere = look(own, attend);
    // Release: pairs with the Acquire in `is_wanted`; who finds the look over finds what came of it.
    LOOKED_AT.store(made, Ordering::Release);
    COST.store(time_used().saturating_sub(begun).saturating_sub(elsewhere), Ordering::Relaxed);
    rest(own);
    own.identity.end_look();
}

/// In a forked child. What it inherited its parent has looked at, so it takes its turn: two hundred children that each look at once
/// are slowed down by it.
pub fn begin_anew_in_child() {
    HAS_NEW_COMPANY.store(true, Ordering::Relaxed);
}

/// Of a look, nanoseconds: a machine with some hundred processes.
const LIKELY_COST: u64 = 1_000_000;

fn rest(own: &Own) {
    let rest = COST.load(Ordering::Relaxed).saturating_mul(REST).saturating_mul(looking(own));
    NEXT.store(raw::now().saturating_add(rest), Ordering::Relaxed);
}

/// How many processes have snapshots, about: those that only write do not look. Of more than some thousand a part is counted.
fn looking(own: &Own) -> u64 {
    let mut seen = [0u64; 64];
    // A single walk: what it misses is of a process that has more of them, or is one less for a second.
    for (_, view) in own.table.walk_once().live() {
        let (word, bit) = (view.identity.owner % 4096 / 64, view.identity.owner % 64);
        seen[word as usize] |= 1 << bit;
    }
    u64::from(seen.iter().map(|word| word.count_ones()).sum::<u32>()).max(1)
}

/// By this thread, nanoseconds.
pub fn time_used() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// An origin that is looked for.
#[derive(Clone, Copy)]
struct Sought {
    origin: Origin,
    backing: Backing,
}

/// More are not looked for at once; what is left comes when the others are gone.
const MOST: usize = 16;

/// How much time `attend` took.
fn look(own: &Own, attend: &mut dyn FnMut() -> u64) -> u64 {
    let mut sought = [const { None }; MOST];
    seek(own, &mut sought);
    if sought[0].is_none() {
        return 0;
    }
    let others = OtherTables::find();
    let mut elsewhere = 0;
    each_process(|pid| {
        elsewhere += attend();
        look_into(own, pid, &sought, &others, || elsewhere += attend());
    });
    elsewhere
}

/// Lists the origins of this process's snapshots that can still be spoilt.
fn seek(own: &Own, sought: &mut [Option<Sought>; MOST]) {
    let mut count = 0;
    // What a single walk misses was split from a piece of the same origin; where that alone was met too late, the next look comes.
    for (index, view) in own.table.walk_once().owned_by(own.owner()) {
        let origin = view.identity.origin;
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
        // It may have been moved, or given up, meanwhile.
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

fn look_into(own: &Own, pid: u32, sought: &[Option<Sought>; MOST], others: &OtherTables, mut attend: impl FnMut()) {
    // One file for all looks: it stays with the memory that it was opened for. What is found in one and missing in the next is not
    // another program's that this process has executed meanwhile.
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
            && own.table.doubt_all_of(own.owner(), *origin, FOREIGN_MAPPING)
        {
            say_mapped(pid, *origin);
        }
        ControlFlow::Continue(())
    });
}

/// Whether a mapping of a file that is called as the origin's mappings are shows the origin.
fn is_of(pid: u32, maps: &OwnedFd, mapping: &Mapping, origin: Origin) -> bool {
    let Backing { device: (major, minor), inode } = mapping.backing;
    if origin == Origin::file(rustix::fs::makedev(major, minor), inode) {
        return true;
    }
    let Mapping { start, end, .. } = *mapping;
    // Of those who may not follow it (it takes CAP_CHECKPOINT_RESTORE), the path may tell.
    let found = sysfs::stat(format_args!("/proc/{pid}/map_files/{start:x}-{end:x}")).or_else(|_| {
        let mut name = [0u8; 400];
        let name = Query::name(maps, mapping, &mut name).ok_or(Errno::NOENT)?;
        sysfs::stat(format_args!("/proc/{pid}/root{name}"))
    });
    found.is_ok_and(|found| place_of(&found) == Place::Origin(origin))
}

#[cold]
fn say_mapped(pid: u32, origin: Origin) {
    // Once for each of them, unless they take turns.
    static LAST: AtomicU64 = AtomicU64::new(0);
    let what = origin.mark() ^ u64::from(pid);
    if LAST.swap(what, Ordering::Relaxed) != what {
        say!(
            Level::Warn,
            "snapshots of {} in {} are doubtful from now on: {} has it mapped shared and writable without the shim, and its stores are \
             not seen; run it under the shim, on the same table, and let it map the file by libc; then take the snapshot again",
            Named(origin),
            Program(raw::own_pid()),
            Program(pid)
        );
    }
}

/// Whether stores through `mapping`, which process `pid` had a moment ago, are not held back.
fn is_foreign(own: &Own, pid: u32, maps: &OwnedFd, mapping: &Mapping, origin: Origin) -> bool {
    let record = record_of(own, pid);
    let has_shim = if record.is_some() { Some(true) } else { fanotify::names_library(maps) };
    let is_outside = match (has_shim, record) {
        (None, _) => false,
        (Some(false), _) => true,
        // A forked child has its parent's mappings before it has a record, and before it says so there.
        (Some(true), _) if !has_executed(pid) => false,
        (Some(true), Some((record, id))) => is_past_the_hooks(own, record, id, maps, mapping, origin),
        // It takes no part.
        (Some(true), None) => true,
    };
    is_outside && is_there(maps, mapping)
}

fn has_executed(pid: u32) -> bool {
    Stat::read(&ProcPath::of(pid, "stat")).is_ok_and(|stat| stat.has_executed())
}

/// The record of a process that cooperates.
fn record_of(own: &Own, pid: u32) -> Option<(&'static Process, ProcessId)> {
    let records = own.table.processes_used().iter().filter_map(|record| Some((record, record.id()?)));
    records.filter(|(_, id)| id.pid() == pid).find(|(record, id)| liveness::of_image(record, *id) != Liveness::Dead)
}

/// How often it has to be seen that nobody says that a mapping is there.
const LOOKS: u32 = 3;

/// Whether a cooperating process has a mapping that it does not say in the table.
///
/// One that comes in through a hook is made announced, and said before the announcement is over. So when no call that concerns the
/// origin was under way after the mapping had been seen, it is said, unless it was unmapped and made again in between: that does
/// not come out even three times.
fn is_past_the_hooks(
    own: &Own,
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
            && !record.sharing.includes(Scope::One(origin))
            && record.id() == Some(id)
            && is_there(maps, mapping)
    })
}

fn is_there(maps: &OwnedFd, mapping: &Mapping) -> bool {
    let mut is_there = false;
    let _ = each_mapping(maps, Filter::WritableAndShared, |found| {
        is_there = found == *mapping;
        if is_there || found.start > mapping.start { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    is_there
}
