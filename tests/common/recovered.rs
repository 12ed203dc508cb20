//! A table that is as empty as a new one.

use std::ffi::CString;

use snapshim::snapshot::State;
use snapshim::table::attach::{Place, attach_existing};
use snapshim::table::{PROCESSES, SNAPSHOTS, Table, WRITERS};

use super::Scratch;

/// The invariants of a table whose processes are all gone, once two have taken the dead out at the same time: no record, no slot, no
/// call under way, no snapshot, no claim, no block, no creation has an owner, and writers do not look for snapshots.
pub fn assert_recovered(scratch: &Scratch, about: &str) {
    let directory = CString::new(scratch.table().as_os_str().as_encoded_bytes()).unwrap();
    let place = Place { directory: &directory, is_chosen: true };
    let Some(attached) = attach_existing(&place).unwrap() else { return };
    let table = attached.table;
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| table.free_abandoned_slots());
        }
    });
    for index in 0..PROCESSES as u32 {
        assert_eq!(table.process(index).unwrap().id(), None, "{about}: process record {index}");
    }
    for index in 0..WRITERS as u32 {
        let slot = table.writer(index).unwrap();
        assert_eq!(slot.owner(), 0, "{about}: slot {index}");
        assert!(slot.frames().iter().all(|frame| !frame.look().0.is_under_way()), "{about}: slot {index}");
    }
    for index in 0..SNAPSHOTS as u32 {
        assert_eq!(table.snapshot(index).unwrap().head().state(), State::Free, "{about}: snapshot {index}");
    }
    assert_eq!(table.blocks_in_use(), 0, "{about}: blocks");
    assert!(!table.gate().creation.look().is_busy(), "{about}: creation");
    assert!(!table.gate().active.is_raised(), "{about}: active word");
    // SAFETY: mapped by `attach_existing` for this function; nothing refers to it any more.
    unsafe { libc::munmap(std::ptr::from_ref(table).cast_mut().cast(), size_of::<Table>()) };
}
