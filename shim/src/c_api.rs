//! The functions of snapshim.h.

use core::ffi::{c_char, c_int, c_void};

use snapshim::protocol::snapshot::{FOREIGN_CHANGE, FOREIGN_MAPPING, FOREIGN_TRUNCATION, SegmentFlags, State, View};
use snapshim::table::walk::Walk;

use crate::address_space::lock;
use crate::interpose::answer::{fail, status};
use crate::origins::{foreign_maps, watch};
use crate::process::{identity, membership};
use crate::snapshot::group::{SnapshimMap, map_all};

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
    let held = identity::attached().filter(|own| {
        let _mappings = lock::hold(*own);
        !own.leaves_after_long_inspection_of(&(address as u64..(address as u64).saturating_add(1)))
    });
    let found = match held {
        Some(own) => describe(&own, address as u64),
        None => describe_unvouched(address as u64),
    };
    match found {
        // SAFETY: as above.
        Some(found) => unsafe {
            stat.write(found);
            0
        },
        None => fail(libc::EINVAL),
    }
}

/// `snapshim_check()`: the same, after a look at the file through a descriptor of the program's.
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
const CAUSES: [(SegmentFlags, c_int); 3] = [(FOREIGN_CHANGE, 1), (FOREIGN_TRUNCATION, 2), (FOREIGN_MAPPING, 4)];

/// The state of a snapshot in a process that has left a damaged table, and knows only where its snapshots lie.
fn describe_unvouched(address: u64) -> Option<SnapshimStat> {
    let held = identity::own_ranges().ranges().find(|range| membership::has_left() && range.contains(&address))?;
    let pages = (held.end - held.start) / snapshim::PAGE;
    Some(SnapshimStat { state: DOUBTFUL, cause: 0, size: 0, pages, preserved: 0, held: 0 })
}

/// The state of the snapshot at `address`, after a look for foreign changes.
fn describe(own: &identity::ThisProcess, address: u64) -> Option<SnapshimStat> {
    let here = address..address.checked_add(1)?;
    own.table.doubt_if_unseen();
    watch::check_range(own, &here);
    foreign_maps::search_if_wanted(own);
    let (_, here) = lock::find_segment(own, &here, |_, _| true)?;
    Some(own.table.over_splits(|walk| sum(own, walk, &here)))
}

/// The state and the sums of all segments of the mmap that `here` is a segment of.
fn sum(own: &identity::ThisProcess, walk: Walk<'_>, here: &View) -> SnapshimStat {
    let mut stat = SnapshimStat { state: EXACT, cause: 0, size: here.meta.size, pages: 0, preserved: 0, held: 0 };
    let is_same = |view: &View| view.meta.owner == own.owner() && view.meta.mapping == here.meta.mapping;
    let same = walk.near(here.meta.origin).filter(|(_, view)| is_same(view));
    for (index, view) in same {
        let covered = view.covered_pages();
        stat.pages += covered.end - covered.start;
        stat.state = stat.state.max(match view.head.state() {
            State::Exact => EXACT,
            State::Doubtful => DOUBTFUL,
            _ => BROKEN,
        });
        if view.head.state() != State::Exact {
            stat.cause |=
                CAUSES.iter().filter(|(flag, _)| view.flags.contains(*flag)).map(|(_, cause)| cause).sum::<c_int>();
        }
        stat.preserved += own.table.preserved_pages(index, &view);
        stat.held += own.table.blocks_for(index).taken(view.head.incarnation()) * snapshim::PAGE;
    }
    stat.held += stat.preserved * snapshim::PAGE;
    if here.is_guarded() && stat.state == EXACT {
        stat.state = LIVE;
    }
    stat
}
