//! Time namespaces (time_namespaces(7)): by how much this process's clocks differ from the initial namespace's.
//!
//! Processes of other namespaces read the deadlines in the table, and /proc/PID/stat says when a process started in the time of its
//! reader (proc_pid_stat, fs/proc/array.c). So both are translated: the table holds the time of the initial namespace.
//!
//! A process comes to another namespace by fork and exec (after unshare(2) or setns(2)), or by setns(2) itself. After each of these
//! it calls [`read_offsets`].

use core::ffi::CStr;
use core::sync::atomic::{AtomicU64, Ordering};

use super::clock;
use super::procfs::{self, ProcPath};

/// The process is in a time namespace by whose clocks the shim cannot tell the initial namespace's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unknown;

/// Inode of the initial time namespace (linux/nsfs.h, TIME_NS_INIT_INO).
const INITIAL: u64 = 0xEFFF_FFFA;

/// The namespace that the offsets are of.
static SPACE: AtomicU64 = AtomicU64::new(INITIAL);

/// Finds out in which time namespace the process is.
///
/// Where there is no /proc, or no such namespace (before Linux 5.6), the process is where it was.
pub fn read_offsets() -> Result<(), Unknown> {
    let inode = |path: &CStr| rustix::fs::stat(path).map(|found| found.st_ino);
    let Ok(space) = inode(ProcPath::thread_self("ns/time").as_c_str()) else { return Ok(()) };
    if space == SPACE.load(Ordering::Relaxed) {
        return Ok(());
    }
    let offsets = if space == INITIAL {
        Offsets { monotonic: 0, since_boot: 0 }
    } else if inode(c"/proc/self/ns/time_for_children") == Ok(space) {
        Offsets::of_children().ok_or(Unknown)?
    } else {
        // The file with the offsets is about the children's namespace, which is another one.
        return Err(Unknown);
    };
    clock::set_ahead(offsets.monotonic, offsets.since_boot);
    SPACE.store(space, Ordering::Relaxed);
    Ok(())
}

/// By how many nanoseconds clocks are ahead of the initial namespace's.
#[derive(Debug, PartialEq, Eq)]
struct Offsets {
    monotonic: i64,
    since_boot: i64,
}

impl Offsets {
    /// The offsets of the namespace that children come to (proc_pid_timens_offsets, fs/proc/base.c).
    fn of_children() -> Option<Self> {
        let mut buffer = [0u8; 160];
        Self::parse(procfs::read_file(c"/proc/self/timens_offsets", &mut buffer).ok()?)
    }

    /// The file has a line for each clock: its name, seconds, nanoseconds.
    fn parse(text: &[u8]) -> Option<Self> {
        let text = core::str::from_utf8(text).ok()?;
        let of = |clock: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(clock))?;
            let mut numbers = line.split_ascii_whitespace().map(|number| number.parse::<i64>().ok());
            numbers.next()??.checked_mul(1_000_000_000)?.checked_add(numbers.next()??)
        };
        Some(Self { monotonic: of("monotonic ")?, since_boot: of("boottime ")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offsets_of_both_clocks_are_read() {
        let text = b"monotonic           -86400     500000000\nboottime             604800         0\n";
        assert_eq!(
            Offsets::parse(text),
            Some(Offsets { monotonic: -86_399_500_000_000, since_boot: 604_800_000_000_000 })
        );
        assert_eq!(Offsets::parse(b"monotonic 1 0\n"), None);
        assert_eq!(Offsets::parse(b""), None);
    }
}
