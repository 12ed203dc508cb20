//! The counts of changes to the descriptor table: another process that looks a writer's descriptor up sees by them whether the
//! number still leads to the same file.

use core::ffi::c_int;

use super::identity;

/// Counts a change of `fd`, before the call that makes it. A process without a record has no writer whose descriptor is looked up.
#[inline]
pub fn count_change(fd: c_int) {
    if let Some(record) = identity::attached().and_then(|own| own.record()) {
        record.change_descriptor(fd as u32);
    }
}

/// Counts a change of every number.
pub fn count_all() {
    if let Some(record) = identity::attached().and_then(|own| own.record()) {
        record.change_all_descriptors();
    }
}
