//! The functions of snapshim.h.

use core::ffi::{c_char, c_int, c_void};
use core::fmt::{self, Write};

use snapshim::protocol::cause::Cause;
use snapshim::protocol::snapshot::{State, View};
use snapshim::table::walk::Walk;

use crate::address_space::lock;
use crate::interpose::answer::{fail, status};
use crate::origins::{foreign_maps, watch};
use crate::process::{identity, membership};
use crate::snapshot::group::{SnapshimMap, map_all};
use crate::writer::dropped;

/// `struct snapshim_stat` of snapshim.h.
#[repr(C)]
pub struct SnapshimStat {
    state: c_int,
    cause: c_int,
    size: u64,
    pages: u64,
    preserved: u64,
    held: u64,
}

/// `snapshim_active()`: 1 if this process takes part; 0 if it could not join the table, or the shim is switched off.
#[unsafe(no_mangle)]
extern "C" fn __snapshim_active() -> c_int {
    c_int::from(membership::join_at_once().is_ok())
}

/// `snapshim_stat()`: the state of the snapshot at `address`.
#[unsafe(no_mangle)]
unsafe extern "C" fn __snapshim_stat(address: *const c_void, stat: *mut SnapshimStat) -> c_int {
    // SAFETY: the caller passes a writable struct snapshim_stat, as the header says.
    unsafe { tell(address, stat) }
}

/// Stores the state of the snapshot at `address` at `stat`, and returns what the functions return.
///
/// # Safety
///
/// `stat` leads to memory for a `struct snapshim_stat`.
unsafe fn tell(address: *const c_void, stat: *mut SnapshimStat) -> c_int {
    match find(address as u64) {
        // SAFETY: as above.
        Some(found) => unsafe {
            stat.write(found.stat);
            0
        },
        None => fail(libc::EINVAL),
    }
}

/// `snapshim_check()`: the same as `snapshim_stat()`, after a look at the file through a descriptor of the program's.
#[unsafe(no_mangle)]
unsafe extern "C" fn __snapshim_check(address: *const c_void, file: c_int, stat: *mut SnapshimStat) -> c_int {
    let here = address as u64..(address as u64).saturating_add(1);
    let checked = identity::attached().map_or(Ok(()), |own| watch::check_through(&own, &here, file));
    match checked {
        // SAFETY: as the caller of `snapshim_stat()`, the caller passes a writable struct snapshim_stat.
        Ok(()) => unsafe { tell(address, stat) },
        Err(error) => fail(error.raw_os_error()),
    }
}

/// `snapshim_why()`: why the snapshot at `address` is doubtful or broken, as the log has it.
#[unsafe(no_mangle)]
unsafe extern "C" fn __snapshim_why(address: *const c_void, buffer: *mut c_char, size: usize) -> c_int {
    let Some(found) = find(address as u64) else { return fail(libc::EINVAL) };
    let mut text = Text { to: buffer, room: size, length: 0 };
    let _ = match (found.cause, identity::attached()) {
        (None, _) => Ok(()),
        (Some(Cause::TableDamaged), _) | (_, None) => write!(text, "{}", Cause::TableDamaged.in_full()),
        (Some(cause), Some(own)) => write!(text, "{}", own.table.why(cause)),
    };
    // SAFETY: the caller passes a buffer of that size, as the header says.
    unsafe { text.end() }
}

/// A string in a buffer of C. What there is no room for is counted.
struct Text {
    to: *mut c_char,
    room: usize,
    length: usize,
}

impl Text {
    /// Ends the string; its length, as if there were room for it.
    ///
    /// # Safety
    ///
    /// `to` leads to `room` bytes.
    unsafe fn end(&self) -> c_int {
        if let Some(last) = self.room.checked_sub(1) {
            // SAFETY: the place is in the buffer.
            unsafe { self.to.add(self.length.min(last)).write(0) };
        }
        c_int::try_from(self.length).unwrap_or(c_int::MAX)
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // The last byte is for the NUL.
        let left = self.room.saturating_sub(self.length + 1);
        // SAFETY: as many bytes of the buffer are left.
        unsafe {
            core::ptr::copy_nonoverlapping(
                text.as_ptr().cast(),
                self.to.add(self.length.min(self.room)),
                text.len().min(left),
            )
        };
        self.length += text.len();
        Ok(())
    }
}

/// `snapshim_mapv()`: several snapshots at one instant.
#[unsafe(no_mangle)]
unsafe extern "C" fn __snapshim_mapv(maps: *mut SnapshimMap, count: c_int) -> c_int {
    let count = usize::try_from(count).unwrap_or(0);
    if count == 0 {
        return fail(libc::EINVAL);
    }
    // SAFETY: the caller passes so many struct snapshim_map, as the header says.
    status(map_all(unsafe { core::slice::from_raw_parts_mut(maps, count) }))
}

/// Ends the snapshots with that number; see [`dropped::drop_mapping`]. For the command, so not in snapshim.h. `process` gets the
/// number of the process that is the reason of an error.
#[unsafe(no_mangle)]
unsafe extern "C" fn __snapshim_drop(mapping: u64, process: *mut u32) -> c_int {
    match membership::join_at_once().map_err(|error| (error, 0)).and_then(|_| dropped::drop_mapping(mapping)) {
        Ok(count) => c_int::try_from(count).unwrap_or(c_int::MAX),
        Err((error, pid)) => {
            // SAFETY: the caller passes a writable number.
            unsafe { process.write(pid) };
            fail(error.raw_os_error())
        }
    }
}

/// `snapshim_version()`: `"MAJOR.MINOR.PATCH"`.
#[unsafe(no_mangle)]
extern "C" fn __snapshim_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

const EXACT: c_int = 0;
const DOUBTFUL: c_int = 1;
const BROKEN: c_int = 2;
const LIVE: c_int = 3;

/// SNAPSHIM_FOREIGN_CHANGE and its kin.
fn foreign(cause: Option<Cause>) -> c_int {
    match cause {
        Some(Cause::ForeignChange) => 1,
        Some(Cause::ForeignTruncation | Cause::PagesGone) => 2,
        Some(Cause::ForeignMapping) => 4,
        _ => 0,
    }
}

/// What is known of a snapshot, and why it is not exact.
struct Found {
    stat: SnapshimStat,
    cause: Option<Cause>,
}

/// The snapshot at `address`, after a look for foreign changes.
fn find(address: u64) -> Option<Found> {
    let here = address..address.saturating_add(1);
    let held = identity::attached().filter(|own| {
        let _mappings = lock::hold(*own);
        !own.leaves_after_long_inspection_of(&here)
    });
    match held {
        Some(own) => describe(&own, address),
        None => describe_unvouched(address),
    }
}

/// The state of a snapshot in a process that has left a damaged table, and knows only where its snapshots lie.
fn describe_unvouched(address: u64) -> Option<Found> {
    let held = identity::own_ranges().ranges().find(|range| membership::has_left() && range.contains(&address))?;
    let pages = (held.end - held.start) / snapshim::PAGE;
    let stat = SnapshimStat { state: DOUBTFUL, cause: 0, size: 0, pages, preserved: 0, held: 0 };
    Some(Found { stat, cause: Some(Cause::TableDamaged) })
}

fn describe(own: &identity::ThisProcess, address: u64) -> Option<Found> {
    let here = address..address.checked_add(1)?;
    own.table.doubt_if_unseen();
    watch::check_range(own, &here);
    foreign_maps::search_if_wanted(own);
    let (_, here) = lock::find_segment(own, &here, |_, _| true)?;
    Some(own.table.over_splits(|walk| sum(own, walk, &here)))
}

/// The sums of all segments of the mmap that `here` is a segment of, with the state of the worst.
fn sum(own: &identity::ThisProcess, walk: Walk<'_>, here: &View) -> Found {
    let mut stat = SnapshimStat { state: EXACT, cause: 0, size: here.meta.size, pages: 0, preserved: 0, held: 0 };
    let mut cause = None;
    let is_same = |view: &View| view.meta.owner == own.owner() && view.meta.mapping == here.meta.mapping;
    let same = walk.near(here.meta.origin).filter(|(_, view)| is_same(view));
    for (index, view) in same {
        let covered = view.covered_pages();
        stat.pages += covered.end - covered.start;
        let state = match view.head.state() {
            State::Exact => EXACT,
            State::Doubtful => DOUBTFUL,
            _ => BROKEN,
        };
        if state > stat.state {
            (stat.state, cause) = (state, view.head.cause());
        }
        stat.cause |= foreign(view.head.cause());
        stat.preserved += own.table.preserved_pages(index, &view);
        stat.held += own.table.blocks_for(index).taken(view.head.incarnation()) * snapshim::PAGE;
    }
    stat.held += stat.preserved * snapshim::PAGE;
    if here.is_guarded() && stat.state == EXACT {
        stat.state = LIVE;
    }
    Found { stat, cause }
}
