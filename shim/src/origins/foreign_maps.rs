//! Programs without the shim that have an origin mapped shared and writable: their stores make no call, and often move no time
//! ([`snapshim::foreign`]).
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

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::OFlags;
use rustix::io::Errno;
use snapshim::PAGE;
use snapshim::creation::Scope;
use snapshim::drain::{Patience, place_of};
use snapshim::origin::{Origin, Place};
use snapshim::raw::{self, ProcPath};
use snapshim::snapshot::{FOREIGN_MAPPING, State};
use snapshim::table::liveness::{self, Liveness, Stat};
use snapshim::table::process::{Process, ProcessId};

use super::fanotify;
use super::other_tables::OtherTables;
use crate::base::sysfs;
use crate::process::identity::Own;
use crate::process::log::{Level, Program, say};
use crate::writer::enter::Named;

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

fn is_wanted() -> bool {
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
            let _signals = raw::SignalsBlocked::new();
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

/// What the kernel says of the file behind a mapping: the same for all mappings of a file by one file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backing {
    pub device: (u32, u32),
    pub inode: u64,
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

/// Hands over each pid that there is.
pub fn each_process(mut see: impl FnMut(u32)) {
    let Ok(all) = raw::open(c"/proc", OFlags::DIRECTORY | OFlags::RDONLY) else { return };
    raw::any_entry(all, |name| {
        if let Ok(pid) = name.parse() {
            see(pid);
        }
        false
    });
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

/// One of the kernel's mappings of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mapping {
    start: u64,
    end: u64,
    offset: u64,
    is_shared: bool,
    backing: Backing,
}

/// Which mappings are asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Filter {
    WritableAndShared,
    /// The one that has this address.
    At(u64),
}

/// Where the kernel says what a process has mapped. Of memory that is gone it says nothing any more.
fn maps_of(pid: u32) -> Result<OwnedFd, Errno> {
    raw::open(ProcPath::of(pid, "maps").as_c_str(), OFlags::RDONLY)
}

/// Whether process `pid` has a writable shared mapping of a file that is `wanted`.
pub fn has_shared(pid: u32, wanted: impl Fn(Backing) -> bool) -> bool {
    let Ok(maps) = maps_of(pid) else { return false };
    let mut is_found = false;
    let _ = each_mapping(&maps, Filter::WritableAndShared, |mapping| {
        is_found = wanted(mapping.backing);
        if is_found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    is_found
}

/// Hands over the mappings of a process, from the lowest address on.
fn each_mapping(maps: &OwnedFd, filter: Filter, mut see: impl FnMut(Mapping) -> ControlFlow<()>) -> Result<(), Errno> {
    let mut next = if let Filter::At(address) = filter { address } else { 0 };
    loop {
        let mapping = match Query::ask(maps, next, filter) {
            Ok(mapping) => mapping,
            Err(Errno::NOTTY) => return read_each_mapping(maps, filter, see),
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error),
        };
        next = mapping.end;
        if see(mapping).is_break() || filter != Filter::WritableAndShared {
            return Ok(());
        }
    }
}

/// `struct procmap_query` (linux/fs.h, from Linux 6.11 on).
#[derive(Default)]
#[repr(C)]
struct Query {
    size: u64,
    wanted: u64,
    address: u64,
    start: u64,
    end: u64,
    flags: u64,
    page_size: u64,
    offset: u64,
    inode: u64,
    major: u32,
    minor: u32,
    name_size: u32,
    build_id_size: u32,
    name: u64,
    build_id: u64,
}

/// _IOWR('f', 17, struct procmap_query).
const PROCMAP_QUERY: u32 = 0xC068_6611;
const _: () = assert!(size_of::<Query>() == 0x68);
const WRITABLE: u64 = 0x02;
const SHARED: u64 = 0x08;
const COVERING_OR_NEXT: u64 = 0x10;
const OF_A_FILE: u64 = 0x20;

impl Query {
    /// The path by which the file was mapped.
    fn name<'a>(maps: &OwnedFd, mapping: &Mapping, buffer: &'a mut [u8]) -> Option<&'a str> {
        let (name, name_size) = (buffer.as_mut_ptr() as u64, buffer.len() as u32);
        let size = size_of::<Self>() as u64;
        let mut query = Self { size, wanted: OF_A_FILE, address: mapping.start, name, name_size, ..Self::default() };
        // SAFETY: as in `ask`; the name is stored into the buffer, which is as large as the structure says.
        unsafe { raw::ioctl(maps.as_fd(), PROCMAP_QUERY, (&raw mut query) as usize) }.ok()?;
        core::ffi::CStr::from_bytes_until_nul(buffer).ok()?.to_str().ok().filter(|name| name.starts_with('/'))
    }

    fn ask(maps: &OwnedFd, address: u64, filter: Filter) -> Result<Mapping, Errno> {
        let wanted = match filter {
            Filter::WritableAndShared => WRITABLE | SHARED | COVERING_OR_NEXT | OF_A_FILE,
            Filter::At(_) => OF_A_FILE,
        };
        let mut query = Self { size: size_of::<Self>() as u64, wanted, address, ..Self::default() };
        // SAFETY: the argument is the structure that the request takes, of the size that it says; no names are asked for.
        unsafe { raw::ioctl(maps.as_fd(), PROCMAP_QUERY, (&raw mut query) as usize) }?;
        let backing = Backing { device: (query.major, query.minor), inode: query.inode };
        let Self { start, end, offset, flags, .. } = query;
        Ok(Mapping { start, end, offset, is_shared: flags & SHARED != 0, backing })
    }
}

/// The same by the text of proc_pid_maps(5).
fn read_each_mapping(
    maps: &OwnedFd,
    filter: Filter,
    mut see: impl FnMut(Mapping) -> ControlFlow<()>,
) -> Result<(), Errno> {
    let is_wanted = |line: &Line| match filter {
        Filter::WritableAndShared => line.is_writable && line.mapping.is_shared,
        Filter::At(address) => (line.mapping.start..line.mapping.end).contains(&address),
    };
    let mut buffer = [0u8; 512];
    // The beginning of the line under way; what the numbers stand in is shorter.
    let (mut line, mut length) = ([0u8; 100], 0);
    let mut position = 0;
    loop {
        // The file's own position would be moved by what `see` asks of it.
        let count = rustix::io::pread(maps, &mut buffer, position)?;
        position += count as u64;
        if count == 0 {
            return Ok(());
        }
        for byte in &buffer[..count] {
            if *byte != b'\n' {
                if length < line.len() {
                    line[length] = *byte;
                    length += 1;
                }
                continue;
            }
            let parsed = Line::parse(&line[..length]).filter(|line| line.mapping.backing.inode != 0 && is_wanted(line));
            length = 0;
            if let Some(line) = parsed
                && see(line.mapping).is_break()
            {
                return Ok(());
            }
        }
    }
}

/// A line of proc_pid_maps(5).
struct Line {
    is_writable: bool,
    mapping: Mapping,
}

impl Line {
    fn parse(text: &[u8]) -> Option<Self> {
        let numbers = text.utf8_chunks().next()?.valid();
        let mut fields = numbers.split_ascii_whitespace();
        let hexadecimal = |text: &str| u64::from_str_radix(text, 16).ok();
        let (start, end) = fields.next()?.split_once('-')?;
        let rights = fields.next()?.as_bytes();
        let offset = hexadecimal(fields.next()?)?;
        let (major, minor) = fields.next()?.split_once(':')?;
        let device = (hexadecimal(major)? as u32, hexadecimal(minor)? as u32);
        let backing = Backing { device, inode: fields.next()?.parse().ok()? };
        let (start, end) = (hexadecimal(start)?, hexadecimal(end)?);
        let is_shared = rights.get(3) == Some(&b's');
        Some(Self {
            is_writable: rights.get(1) == Some(&b'w'),
            mapping: Mapping { start, end, offset, is_shared, backing },
        })
    }
}
