//! Aliases: origins with the same bytes behind another page cache. A partition and its disk, a loop device and the file behind it.
//!
//! They are found in sysfs, as they are now. A file behind a loop device that its path does not lead to (deleted, or in another
//! mount namespace) is not found.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use snapshim::cooperate::locate::target_of_stat;
use snapshim::protocol::origin::{Origin, Target};
use snapshim::sys::raw;

use crate::base::sysfs::{self, Device};

/// What an alias is to the origin, or to the alias by which it was found.
#[derive(Clone, Copy)]
enum Kind {
    Disk,
    Partition,
    Backing,
    Loop,
}

/// Another origin with the same bytes.
#[derive(Clone, Copy)]
pub struct Alias {
    pub origin: Origin,
    kind: Kind,
}

impl fmt::Display for Alias {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Disk => "the disk that it is a part of",
            Kind::Partition => "a partition of it",
            Kind::Backing => "what the loop device is backed by",
            Kind::Loop => "a loop device backed by it",
        };
        write!(formatter, "{} ({kind})", self.origin)
    }
}

/// Whether `wanted` is true of one of the aliases: of what `origin` lies on, and of what lies on it.
pub fn any_alias(origin: Origin, wanted: &mut dyn FnMut(Alias) -> bool) -> bool {
    any_below(origin, DEEPEST, wanted) || any_above(origin, DEEPEST, wanted)
}

/// How far aliases are followed: a partition of a loop device over a partition of a disk is the deepest case.
const DEEPEST: u32 = 3;

fn any_below(origin: Origin, depth: u32, wanted: &mut dyn FnMut(Alias) -> bool) -> bool {
    let below = if origin.is_block_device() { disk_of(origin).or_else(|| backing_of(origin)) } else { None };
    below.is_some_and(|alias| wanted(alias) || (depth > 1 && any_below(alias.origin, depth - 1, wanted)))
}

/// A device that is read-only is passed over: nothing is written through it.
fn any_above(origin: Origin, depth: u32, wanted: &mut dyn FnMut(Alias) -> bool) -> bool {
    let mut look = |alias: Alias| {
        let is_read_only = sysfs::is_set(format_args!("{}/ro", Device(alias.origin.device())));
        !is_read_only && (wanted(alias) || (depth > 1 && any_above(alias.origin, depth - 1, wanted)))
    };
    any_partition(origin, &mut look)
        || any_loop(|device, backing| backing == origin && look(Alias { origin: device, kind: Kind::Loop }))
}

fn disk_of(origin: Origin) -> Option<Alias> {
    let disk = Device(origin.device()).disk()?;
    Some(Alias { origin: Origin::block_device(disk), kind: Kind::Disk })
}

fn any_partition(origin: Origin, wanted: &mut dyn FnMut(Alias) -> bool) -> bool {
    let directory = Device(origin.device());
    origin.is_block_device()
        && sysfs::any_entry(format_args!("{directory}"), |name| {
            let is_partition = sysfs::read(format_args!("{directory}/{name}/partition"), &mut [0; 8]).is_some();
            let partition = if is_partition { sysfs::device(format_args!("{directory}/{name}/dev")) } else { None };
            partition
                .is_some_and(|device| wanted(Alias { origin: Origin::block_device(device), kind: Kind::Partition }))
        })
}

/// The file or device behind a loop device.
fn backing_of(origin: Origin) -> Option<Alias> {
    let found = origin_at(format_args!("{}/loop/backing_file", Device(origin.device())))?;
    Some(Alias { origin: found, kind: Kind::Backing })
}

/// Whether `wanted` is true of one of the loop devices in use and the origin behind it.
pub fn any_loop(mut wanted: impl FnMut(Origin, Origin) -> bool) -> bool {
    let mut behind = 0;
    let found = sysfs::any_entry(format_args!("/sys/block"), |name| {
        let backing = name.starts_with("loop").then(|| origin_at(format_args!("/sys/block/{name}/loop/backing_file")));
        let Some(backing) = backing.flatten() else { return false };
        behind |= bit_of(backing);
        let device = sysfs::device(format_args!("/sys/block/{name}/dev"));
        device.is_some_and(|device| wanted(Origin::block_device(device), backing))
    });
    if !found {
        BEHIND_LOOPS.store(behind, Ordering::Relaxed);
        LAST_SEARCH.store(raw::now(), Ordering::Relaxed);
    }
    found
}

/// The origin at the path that is the content of a file. A path that is too long to be read whole, or where nothing is, has none.
fn origin_at(path: fmt::Arguments<'_>) -> Option<Origin> {
    let mut buffer = [0u8; 900];
    let length = sysfs::read(path, &mut buffer)?.len();
    *buffer.get_mut(length)? = 0;
    let target = core::ffi::CStr::from_bytes_until_nul(&buffer).ok()?;
    let stat = rustix::fs::stat(target).ok()?;
    match target_of_stat(&stat) {
        Target::Origin(origin) => Some(origin),
        _ => None,
    }
}

/// A bit for each origin that was behind a loop device at the last search; several origins may share a bit.
static BEHIND_LOOPS: AtomicU64 = AtomicU64::new(0);
/// When that was.
static LAST_SEARCH: AtomicU64 = AtomicU64::new(0);

const fn bit_of(origin: Origin) -> u64 {
    1 << (origin.fingerprint() >> 58)
}

/// Whether a file may be behind a loop device. A search for loop devices costs more than a snapshot of a file, so the last one
/// counts for a second; the agent's next round finds what is missed here.
pub fn may_be_behind_loop(origin: Origin) -> bool {
    const LATELY: u64 = 1_000_000_000;
    if raw::now().saturating_sub(LAST_SEARCH.load(Ordering::Relaxed)) > LATELY {
        any_loop(|_, _| false);
    }
    BEHIND_LOOPS.load(Ordering::Relaxed) & bit_of(origin) != 0
}
