//! The trap of a shared mapping: a store into an armed page preserves a chunk of pages, opens the chunk, and runs again.
//!
//! (The other trap, which holds stores back while a range is copied, is `address_space::freeze`.)
//!
//! A chunk starts small, and doubles while stores go on where the last chunk ended. Each chunk may split a mapping of the
//! kernel's, and the number of mappings is limited (vm.max_map_count). So once many chunks have been opened, all mappings are
//! armed anew, which joins their parts. What was preserved stays preserved.

use core::ffi::c_void;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;
use rustix::mm::{Advice, madvise};
use snapshim::PAGE;
use snapshim::preserve::policy::Failure;
use snapshim::protocol::origin::Origin;
use snapshim::sys::{procfs, raw};

use super::list::{self, Entry, List};
use super::protection::{self, set_protection};
use crate::base::config::config;
use crate::base::own_stacks::Outcome;
use crate::process::log::{Level, Program, say};
use crate::signals::frame::Access;
use crate::signals::{self, Asked};
use crate::writer::announced::{Announced, announced};

/// Has faults of stores resolved here. To be called before anything is armed; false: that is not possible.
pub fn install() -> bool {
    signals::install(Asked::First, resolve)
}

fn resolve(address: u64, access: Access) -> Outcome {
    match access.is_store() && !access.is_fetch() {
        true => open_for_store(address, access.found_page()),
        false => Outcome::Foreign,
    }
}

/// Opens what a store at `address` needs. `is_read_in`: its page is in memory. Signals are blocked.
///
/// [`Outcome::Foreign`]: there is no shared mapping into which the application may store. [`Outcome::Refused`]: a page could not be
/// preserved, and the policy is that the store fails: by SIGBUS, as on a full disk.
fn open_for_store(address: u64, is_read_in: bool) -> Outcome {
    if !list::is_any() {
        return Outcome::Foreign;
    }
    loop {
        let Some(origin) = writable_origin(address) else { return Outcome::Foreign };
        let store = Store { origin, address, is_read_in };
        match announced(origin, |announced| open_at(announced, &store)) {
            Ok(Ok(true)) => return Outcome::Resolved,
            Ok(Ok(false)) => {}
            Ok(Err(Refused)) | Err(_) => return Outcome::Refused,
        }
    }
}

fn writable_origin(address: u64) -> Option<Origin> {
    list::read().at(address).filter(|entry| entry.is_writable()).map(|entry| entry.origin)
}

/// A store that trapped.
struct Store {
    origin: Origin,
    address: u64,
    /// Whether the page is in memory.
    is_read_in: bool,
}

/// The store must not happen.
pub struct Refused;

/// Opens what a store needs, under its announcement. False: the mapping has changed meanwhile.
fn open_at(announced: Option<&Announced<'_>>, store: &Store) -> Result<bool, Refused> {
    let Store { origin, address, .. } = *store;
    // Without snapshots no store needs to trap any more.
    let Some(watched) = announced.filter(|announced| announced.is_in_use()) else {
        return open_at_once(origin, address).map_err(|error| refuse(origin, error));
    };
    if is_split_too_much() {
        join_parts(watched);
    }
    let chunk = |entry: &Entry| chunk_at(entry, address);
    match open_preserved(watched, store, chunk) {
        Err(Failed::Kernel(_)) => join_parts(watched),
        other => return other.map_err(|failed| failed.logged(origin)),
    }
    // If there is still no room for one more mapping of the kernel's, all of this one is opened: that needs no further mapping.
    let again = open_preserved(watched, store, chunk);
    let again = again.or_else(|_| open_preserved(watched, store, |entry| entry.range.clone()));
    again.map_err(|failed| failed.logged(origin))
}

/// Why a part could not be opened.
enum Failed {
    /// The pages could not be preserved.
    Preserving(Failure),
    /// mprotect(2) failed.
    Kernel(Errno),
}

impl Failed {
    /// Logs it.
    fn logged(self, origin: Origin) -> Refused {
        match self {
            Self::Kernel(error) => refuse(origin, error),
            Self::Preserving(failure) => {
                say!(
                    Level::Warn,
                    file = origin, process = failure.pid;
                    "store of process {} into {} refused (SIGBUS): a page could not be preserved for the snapshot of {}: {}",
                    raw::own_pid(),
                    origin,
                    Program(failure.pid),
                    failure.reason.in_full()
                );
                Refused
            }
        }
    }
}

/// Logs a refusal by the kernel.
fn refuse(origin: Origin, error: Errno) -> Refused {
    say!(
        Level::Error,
        file = origin;
        "store of process {} into {} refused (SIGBUS): the kernel does not make its mapping writable again (errno {}); raise \
         vm.max_map_count",
        raw::own_pid(),
        origin,
        error.raw_os_error()
    );
    Refused
}

/// Preserves what snapshots have of the part that `choose` names, then opens it.
fn open_preserved(
    watched: &Announced<'_>,
    store: &Store,
    choose: impl Fn(&Entry) -> Range<u64>,
) -> Result<bool, Failed> {
    let Store { origin, address, is_read_in } = *store;
    let Some((part, bytes)) = find(&list::read(), origin, address).map(|entry| {
        let part = choose(entry);
        let bytes = entry.bytes(&part);
        (part, bytes)
    }) else {
        return Ok(false);
    };
    let page = address / PAGE * PAGE;
    let read_in = |missing: &Range<u64>| {
        let start = part.start + (missing.start.max(bytes.start) - bytes.start);
        let is_that_page = start == page && missing.end - missing.start <= PAGE;
        if !(is_read_in && is_that_page) {
            read_in(start, missing);
        }
    };
    watched.make_way_reading(bytes.clone(), &read_in).map_err(Failed::Preserving)?;
    let list = list::read();
    let is_same = |entry: &&Entry| entry.part(&part) == part && entry.bytes(&part) == bytes;
    let Some(entry) = find(&list, origin, address).filter(is_same) else { return Ok(false) };
    set_protection(entry, &part, true).map_err(Failed::Kernel)?;
    note_fault(entry, &part);
    Ok(true)
}

/// Preserves what snapshots have of shared mappings in `range`, and opens them, for stores of the kernel's. False: one of them
/// shows another origin, or could not be preserved or opened. Signals are blocked.
pub fn open_for_kernel(watched: &Announced<'_>, origin: Origin, range: &Range<u64>) -> bool {
    let mut at = range.start / PAGE * PAGE;
    let end = range.end.checked_next_multiple_of(PAGE).unwrap_or(range.end);
    while let Some((there, part)) = next_writable(&(at..end)) {
        let store = Store { origin, address: part.start, is_read_in: false };
        let is_open = there == origin && matches!(open_preserved(watched, &store, |entry| entry.part(&part)), Ok(true));
        if !is_open {
            return false;
        }
        at = part.end;
    }
    true
}

/// The first part of a range that lies in a shared mapping which the application may store into. A function, so that the list is
/// not held afterwards.
fn next_writable(range: &Range<u64>) -> Option<(Origin, Range<u64>)> {
    let list = list::read();
    list.touching(range).rfind(|entry| entry.is_writable()).map(|entry| (entry.origin, entry.part(range)))
}

/// Has the kernel read `bytes` from the disk, by madvise(2) on the mapping that is stored to.
fn read_in(address: u64, bytes: &Range<u64>) {
    // SAFETY: the advice changes nothing, whatever is mapped there.
    let _ = unsafe { madvise(address as *mut c_void, (bytes.end - bytes.start) as usize, Advice::WillNeed) };
}

/// Opens all of the mapping at `address`, where nothing has to be preserved. False: the mapping has changed meanwhile.
fn open_at_once(origin: Origin, address: u64) -> Result<bool, Errno> {
    let list = list::read();
    find(&list, origin, address).map_or(Ok(false), |entry| open_whole(entry).map(|()| true))
}

/// Opens all of a mapping. The list is held; nothing has to be preserved.
pub fn open_whole(entry: &Entry) -> Result<(), Errno> {
    set_protection(entry, &entry.range, true)?;
    // Relaxed: the list's lock orders it.
    entry.history.is_open.store(true, Ordering::Relaxed);
    Ok(())
}

fn find(list: &List, origin: Origin, address: u64) -> Option<&Entry> {
    list.at(address).filter(|entry| entry.origin == origin && entry.is_writable())
}

/// Pages of the largest chunk: a huge page.
const LARGEST: u64 = 512;

/// The chunk to open for a store. It is aligned in the file, so that large folios are not split needlessly.
fn chunk_at(entry: &Entry, address: u64) -> Range<u64> {
    let smallest = config().chunk;
    let before = entry.history.chunk.load(Ordering::Relaxed);
    let page = address / PAGE * PAGE;
    let goes_on = before != 0 && page == entry.history.next_expected.load(Ordering::Relaxed);
    let pages = if goes_on { (before * 2).min(LARGEST.max(smallest)) } else { smallest };
    let at = entry.first + (page - entry.range.start) / PAGE;
    let back = (at % pages).min(at - entry.first) * PAGE;
    let start = page - back;
    let end = page.saturating_add((pages - at % pages) * PAGE);
    entry.part(&(start..end))
}

/// Notes what was opened, for the next chunk.
fn note_fault(entry: &Entry, part: &Range<u64>) {
    let pages = ((part.end - part.start) / PAGE).next_power_of_two();
    entry.history.next_expected.store(part.end, Ordering::Relaxed);
    entry.history.chunk.store(pages, Ordering::Relaxed);
    OPENED.fetch_add(1, Ordering::Relaxed);
}

/// Parts opened since all mappings were armed anew.
static OPENED: AtomicU32 = AtomicU32::new(0);

/// Whether so many parts were opened that the mappings are to be armed anew. Each part may cost two of the kernel's mappings, and
/// most mappings are left to the application.
fn is_split_too_much() -> bool {
    OPENED.load(Ordering::Relaxed) >= most_parts()
}

/// How many parts may be open.
fn most_parts() -> u32 {
    static MOST: AtomicU32 = AtomicU32::new(0);
    let known = MOST.load(Ordering::Relaxed);
    if known != 0 {
        return known;
    }
    let mut buffer = [0u8; 16];
    let text = procfs::read_file(c"/proc/sys/vm/max_map_count", &mut buffer).unwrap_or(b"");
    let text = core::str::from_utf8(text).unwrap_or("").trim_ascii();
    let most = (text.parse().unwrap_or(65530_u32) / 8).max(1);
    MOST.store(most, Ordering::Relaxed);
    most
}

/// Arms all mappings anew, which joins their parts.
fn join_parts(watched: &Announced<'_>) {
    OPENED.store(0, Ordering::Relaxed);
    protection::arm_again(&list::write(), watched.table());
}
