//! The count of changes to the descriptor table, by which a writer's descriptor is looked up from outside.

use core::ffi::c_int;

use super::identity;

/// Counted before the call, in the record of an attached process; one that is not attached has no writer to be looked up.
#[inline]
pub fn count_change(fd: c_int) {
    if let Some(record) = identity::attached().and_then(|own| own.record()) {
        record.change_descriptor(fd as u32);
    }
}

/// The same for every number.
pub fn count_all() {
    if let Some(record) = identity::attached().and_then(|own| own.record()) {
        record.change_all_descriptors();
    }
}
