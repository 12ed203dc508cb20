//! Headroom: how much memory the machine and a mapper's memory cgroup still give the mapper.
//!
//! Each page that is preserved is charged to the mapper. At the limit of its cgroup, and where the machine has no more, the kernel
//! answers no errno: it kills. So the headroom is looked at before, and too little is a failure like any other
//! (Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/memory.rst, filesystems/proc.rst on /proc/meminfo).
//!
//! A look costs some ten system calls. So it is made once a second, or when an eighth of what was found has been used.

use crate::PAGE;
use crate::protocol::process_id::ProcessId;
use crate::sys::procfs::{self, ProcPath};
use crate::sys::raw;
use crate::sys::stack_str::StackStr;
use crate::sys::sync::{AtomicU64, Ordering};

/// What was found of one mapper. These words are guesses: two threads that race look once more, or once less.
#[derive(Debug)]
struct Found {
    image: AtomicU64,
    /// Until when the rest is believed (CLOCK_MONOTONIC, nanoseconds).
    until: AtomicU64,
    /// Pages that may be used until the next look.
    budget: AtomicU64,
    /// Pages for which there was room at the last look.
    room: AtomicU64,
}

/// Findings, of many mappers.
const ENTRIES: usize = 256;
/// Places in which a mapper's finding may stand.
const PLACES: usize = 8;
const BELIEVED: u64 = 1_000_000_000;
/// Bytes left alone: the kernel charges in batches for each processor, and page tables too.
const RESERVE: u64 = 4 << 20;
/// The part of the machine's memory that is left alone, as a divisor: other programs need some before the next look.
const RESERVE_OF_MACHINE: u64 = 64;

/// The calling process's findings.
#[derive(Debug)]
pub struct Headroom {
    found: [Found; ENTRIES],
}

impl Headroom {
    /// No findings yet.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "only ever a static")]
    pub const fn new() -> Self {
        const fn nothing() -> Found {
            Found {
                image: AtomicU64::new(0),
                until: AtomicU64::new(0),
                budget: AtomicU64::new(0),
                room: AtomicU64::new(0),
            }
        }
        Self { found: [const { nothing() }; ENTRIES] }
    }

    /// Whether process `id` can be made to hold `pages` pages more. True where that cannot be told.
    pub fn allows(&self, id: ProcessId, pages: u64) -> bool {
        let found = self.place_for(id);
        let is_known = found.image.load(Ordering::Relaxed) == id.to_word()
            && raw::now() < found.until.load(Ordering::Relaxed)
            && found.budget.load(Ordering::Relaxed) >= pages;
        if !is_known {
            let room = bytes_left(id.pid()).saturating_sub(RESERVE) / PAGE;
            if room < pages {
                return false;
            }
            found.image.store(id.to_word(), Ordering::Relaxed);
            found.room.store(room, Ordering::Relaxed);
            found.budget.store((room / 8).max(pages), Ordering::Relaxed);
            found.until.store(raw::now() + BELIEVED, Ordering::Relaxed);
        }
        let _ = found.budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |budget| budget.checked_sub(pages));
        true
    }

    /// Where what was found of process `id` stands, or may be put: in the place of what is believed least long.
    fn place_for(&self, id: ProcessId) -> &Found {
        let places = || (0..PLACES).map(|step| &self.found[(id.epoch() as usize + step) % ENTRIES]);
        let is_its = |found: &&Found| found.image.load(Ordering::Relaxed) == id.to_word();
        let oldest = || places().min_by_key(|found| found.until.load(Ordering::Relaxed));
        places().find(is_its).or_else(oldest).unwrap_or(&self.found[0])
    }

    /// Whether process `id` had room for `pages` pages when [`Headroom::allows`] looked last. False where that is not known.
    pub fn had_room(&self, id: ProcessId, pages: u64) -> bool {
        let found = self.place_for(id);
        found.image.load(Ordering::Relaxed) == id.to_word() && found.room.load(Ordering::Relaxed) >= pages
    }
}

/// How a kind of memory cgroup names things.
struct Kind {
    /// What its line in /proc/PID/cgroup has between the colons.
    controllers: &'static [u8],
    root: &'static str,
    limit: &'static str,
    usage: &'static str,
    /// In memory.stat: page cache, which the kernel takes back first.
    reclaimable: [&'static [u8]; 2],
}

const KINDS: [Kind; 2] = [
    Kind {
        controllers: b"",
        root: "/sys/fs/cgroup",
        limit: "memory.max",
        usage: "memory.current",
        reclaimable: [b"inactive_file ", b"active_file "],
    },
    Kind {
        controllers: b"memory",
        root: "/sys/fs/cgroup/memory",
        limit: "memory.limit_in_bytes",
        usage: "memory.usage_in_bytes",
        reclaimable: [b"total_inactive_file ", b"total_active_file "],
    },
];

/// Bytes that the machine, the cgroup of a process, and the cgroups around it still give.
fn bytes_left(pid: u32) -> u64 {
    let mut least = bytes_left_in_machine(|take| procfs::each_line(c"/proc/meminfo", take));
    procfs::each_line(ProcPath::of(pid, "cgroup").as_c_str(), |line| {
        let Some((kind, path)) = KINDS.iter().find_map(|kind| Some((kind, path_of(line, kind.controllers)?))) else {
            return;
        };
        if !is_shown(kind, path, pid) {
            return;
        }
        let mut path = path;
        loop {
            least = least.min(bytes_left_in(kind, path));
            match path.rsplit_once('/') {
                Some((parent, _)) => path = parent,
                None => break,
            }
        }
    });
    least
}

/// What can be had without killing any process: free memory, what the kernel takes back first, and room to swap to. Without a limit
/// where that cannot be told.
fn bytes_left_in_machine(each_line: impl Fn(&mut dyn FnMut(&[u8]))) -> u64 {
    let (mut total, mut available, mut swap) = (0, None, 0);
    each_line(&mut |line| {
        let number = |name: &[u8]| parse(line.strip_prefix(name)?.strip_suffix(b" kB")?.trim_ascii_start());
        total = number(b"MemTotal:").unwrap_or(total);
        available = number(b"MemAvailable:").or(available);
        swap = number(b"SwapFree:").unwrap_or(swap);
    });
    let Some(available) = available else { return u64::MAX };
    (available + swap).saturating_sub(total / RESERVE_OF_MACHINE) << 10
}

/// Inode of the initial cgroup namespace (linux/nsfs.h, CGROUP_NS_INIT_INO).
const INITIAL_NAMESPACE: u64 = 0xEFFF_FFFB;

/// Whether `path`, which is relative to this process's cgroup namespace (cgroup_namespaces(7)), is found below the mount. A process
/// outside of the namespace is not, and the mount may have been made in another namespace. The limits of other cgroups say nothing
/// of this process.
fn is_shown(kind: &Kind, path: &str, pid: u32) -> bool {
    if path == "/.." || path.starts_with("/../") {
        return false;
    }
    let is_initial = rustix::fs::stat(ProcPath::thread_self("ns/cgroup").as_c_str())
        .map_or(true, |namespace| namespace.st_ino == INITIAL_NAMESPACE);
    let mut is_there = is_initial;
    if !is_initial {
        let members = file_in(kind, path, "cgroup.procs");
        procfs::each_line(members.as_c_str(), |line| is_there |= parse(line) == Some(u64::from(pid)));
    }
    is_there
}

/// The path in a line of /proc/PID/cgroup: hierarchy:controllers:path.
fn path_of<'a>(line: &'a [u8], controllers: &[u8]) -> Option<&'a str> {
    let mut parts = line.splitn(3, |byte| *byte == b':');
    let is_wanted = parts.nth(1)?.split(|byte| *byte == b',').any(|name| name == controllers);
    let path = core::str::from_utf8(parts.next()?).ok()?;
    is_wanted.then(|| path.trim_end_matches('/'))
}

/// What one cgroup gives; `u64::MAX` if it has no limit.
fn bytes_left_in(kind: &Kind, path: &str) -> u64 {
    let Some(limit) = number_in(kind, path, kind.limit) else { return u64::MAX };
    let Some(usage) = number_in(kind, path, kind.usage) else { return u64::MAX };
    let mut left = limit.saturating_sub(usage);
    procfs::each_line(file_in(kind, path, "memory.stat").as_c_str(), |line| {
        let value = kind.reclaimable.iter().find_map(|name| parse(line.strip_prefix(*name)?));
        left = left.saturating_add(value.unwrap_or(0));
    });
    left
}

fn number_in(kind: &Kind, path: &str, name: &str) -> Option<u64> {
    let mut buffer = [0u8; 24];
    parse(procfs::read_file(file_in(kind, path, name).as_c_str(), &mut buffer).ok()?)
}

/// The file `name` of the cgroup `path`.
fn file_in(kind: &Kind, path: &str, name: &str) -> StackStr<400> {
    StackStr::whole(format_args!("{}{path}/{name}", kind.root))
}

/// A number; "max" is none.
fn parse(text: &[u8]) -> Option<u64> {
    core::str::from_utf8(text.trim_ascii_end()).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_the_memory_controller_is_found_in_both_kinds() {
        assert_eq!(path_of(b"0::/user.slice/a:b", KINDS[0].controllers), Some("/user.slice/a:b"));
        assert_eq!(path_of(b"4:memory:/job", KINDS[1].controllers), Some("/job"));
        assert_eq!(path_of(b"4:cpu,memory:/", KINDS[1].controllers), Some(""));
        for (line, kind) in [(&b"4:memory:/job"[..], 0), (b"0::/", 1), (b"9:name=systemd:/", 1), (b"nonsense", 0)] {
            assert_eq!(path_of(line, KINDS[kind].controllers), None);
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "asks the kernel")]
    fn room_is_believed_of_the_process_that_was_looked_at_alone() {
        let headroom = Headroom::new();
        let [own, other] = [1, 2].map(|epoch| ProcessId::new(raw::own_pid(), epoch));
        assert!(!headroom.had_room(own, 1), "no look so far");
        assert!(headroom.allows(own, 1));
        assert!(headroom.had_room(own, 1) && !headroom.had_room(own, u64::MAX));
        assert!(!headroom.had_room(other, 1));
    }

    #[test]
    fn the_machine_gives_what_is_available_and_free_swap_but_for_a_reserve() {
        let lines = |lines: &'static [&'static [u8]]| {
            move |take: &mut dyn FnMut(&[u8])| lines.iter().for_each(|line| take(line))
        };
        let all =
            lines(&[b"MemTotal:       6400 kB", b"MemFree: 1 kB", b"MemAvailable:   1100 kB", b"SwapFree:   20 kB"]);
        assert_eq!(bytes_left_in_machine(all), 1020 << 10);
        assert_eq!(bytes_left_in_machine(lines(&[b"MemTotal: 6400 kB", b"MemAvailable: 7 kB"])), 0);
        assert_eq!(bytes_left_in_machine(lines(&[b"MemTotal: 6400 kB"])), u64::MAX);
    }

    #[test]
    fn no_limit_is_no_number() {
        assert_eq!((parse(b"max\n"), parse(b"4096\n"), parse(b"")), (None, Some(4096), None));
    }
}
