//! Arming: taking the write permission of shared mappings away, so that the next store traps.
//!
//! By mprotect(2), which lasts as long as the address space. userfaultfd(2) would have the kernel's own stores into shared memory
//! wait until they are resolved, but it ends with the thread that keeps the descriptor, in whatever table: a process that is killed
//! or calls exec ends its threads in no order, and a `read` under way, or the mark of a robust mutex, then gets into pages that
//! nobody has preserved. It also costs a page table entry for each page, mapped or not, and large folios are split.

use rustix::io::Errno;
use snapshim::protocol::creation::Scope;
use snapshim::sys::raw;
use snapshim::sys::signal_block::SignalsBlocked;

use super::fault;
use super::list::{self};
use super::protection::arm_entry;
use crate::process::identity::Own;
use crate::process::log::{Level, say};

/// Arms every mapping of this process that `scope` covers, if `is_wanted` says so while the list is held.
///
/// The gate is closed for it, or was until a moment ago: who has come through since, and opens a mapping to have the kernel store
/// into it, holds the list before and finds no arming wanted, or behind and opens what was armed.
pub fn arm(scope: Scope, is_wanted: impl FnOnce() -> bool) -> Result<(), Errno> {
    if !list::is_any() {
        return Ok(());
    }
    if !fault::install() {
        return Err(Errno::NOMEM);
    }
    let _signals = SignalsBlocked::new();
    let list = list::write();
    if !is_wanted() {
        return Ok(());
    }
    list.entries().iter().filter(|entry| scope.covers(entry.origin)).try_for_each(arm_entry)
}

/// The agent's part: answers the creation that waits for this process. True if there was one.
pub fn answer_creation(own: &Own) -> bool {
    let Some(record) = own.record() else { return false };
    let Some((creation, scope)) = own.table.creation_to_arm_for(record, own.id) else { return false };
    let is_wanted = || own.table.gate().creation.look() == creation;
    match arm(scope, is_wanted) {
        Ok(()) => record.sharing.acknowledge(own.id.epoch(), creation),
        Err(error) => say!(
            Level::Error,
            "process {} cannot be kept from storing into a shared mapping of a file that a snapshot is wanted of (errno {}), so the \
             snapshot will be refused; raise vm.max_map_count",
            raw::own_pid(),
            error.raw_os_error()
        ),
    }
    true
}
