//! Arming: taking the write permission of shared mappings away, so that the next store traps.
//!
//! That is done by mprotect(2), which lasts as long as the address space. userfaultfd(2) would have the advantage that the
//! kernel's own stores into shared memory wait until they are resolved. But it ends with the last thread that has the descriptor,
//! in whatever table. A process that is killed or calls exec ends its threads in no order, so a `read` under way, or the mark of a
//! robust mutex, would then get into pages that are not preserved. It also costs a page table entry for each page, mapped or not,
//! and splits large folios.

use rustix::io::Errno;
use snapshim::protocol::origin::{Origin, Target};
use snapshim::sys::raw;
use snapshim::sys::signal_block::SignalsBlocked;

use super::fault;
use super::list::{self};
use super::protection::arm_entry;
use crate::process::identity::ThisProcess;
use crate::process::log::{Level, say};

/// Arms this process's mappings of every origin that `covers` names, if `is_wanted` is true while the list is held.
///
/// The gate is closed, or was until a moment ago. A thread that has passed the gate since may open a mapping, to have the kernel
/// store into it. It holds the list either before, and then no arming is wanted any more, or afterwards, and then it opens what
/// was armed.
pub fn arm(covers: impl Fn(Origin) -> bool, is_wanted: impl FnOnce() -> bool) -> Result<(), Errno> {
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
    list.entries().iter().filter(|entry| covers(entry.origin)).try_for_each(arm_entry)
}

/// The agent's part: arms for the creations that wait for this process, and answers them. True if there was one.
pub fn answer_creations(own: &ThisProcess) -> bool {
    let Some(record) = own.record() else { return false };
    if list::is_sealed() {
        // The stores of a thread that is confined cannot be led through a trap. The creation is refused in time.
        return false;
    }
    let mut has_armed = false;
    let creations = own.table.gate().creations;
    for creation in own.table.creations_to_arm_for(record, own.id) {
        has_armed = true;
        let covers = |origin| creations.covers(creation, Target::Origin(origin), own.table) == Some(true);
        match arm(covers, || creations.is(creation)) {
            Ok(()) => record.sharing.acknowledge(own.id.epoch(), creation),
            Err(error) => say!(
                Level::Error,
                "process {} cannot write-protect its shared mapping of a file of which a snapshot is being made (errno {}), so \
                 the snapshot will be refused; raise vm.max_map_count",
                raw::own_pid(),
                error.raw_os_error()
            ),
        }
    }
    has_armed
}
