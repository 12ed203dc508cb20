//! Keeping the process's own snapshots without the library's help: each is copied whole, off its file, and given out of the table.

use rustix::io::Errno;
use snapshim::protocol::cause::Cause;
use snapshim::protocol::snapshot::View;
use snapshim::protocol::writer_slot::{Request, Task};
use snapshim::sys::raw;
use snapshim::table;

use super::preserve_own::local_preserver;
use super::unmap::MOMENT;
use crate::address_space::lock::{self, EVERYWHERE, Mappings, each_segment, find_segment};
use crate::process::identity::ThisProcess;

/// What became of the segments.
#[derive(Clone, Copy, Default)]
pub struct Kept {
    /// Ordinary memory that shows what they showed, or that faults.
    pub whole: u32,
    /// Those of them into which a writer that did not go on in time may store a byte yet.
    pub unquiet: u32,
    /// Doubtful from now on: they could neither be copied nor be made to fault.
    pub doubted: u32,
}

/// Makes each snapshot of the process ordinary memory that shows what it showed. One that cannot be copied faults from then on.
///
/// It ends when nothing has progressed for `SNAPSHIM_TIMEOUT_MS`.
pub fn keep_whole(own: &ThisProcess) -> Kept {
    let mut kept = Kept::default();
    let mut until = Mappings::deadline();
    while find_segment(own, &EVERYWHERE, |_, _| true).is_some() && !own.leaves_damaged() {
        let mut count = 0;
        each_segment(own, &EVERYWHERE, |index, view| count += u32::from(keep(own, index, &view, until)));
        kept.whole += count;
        if count > 0 {
            until = Mappings::deadline();
        } else if raw::now() > until {
            leave(own, &mut kept);
            break;
        }
    }
    kept
}

fn wants_copies(view: &View) -> bool {
    view.head.wants_pages() && !view.is_relocated()
}

/// Copies a segment and gives it out of the table. False: it has changed meanwhile, another thread keeps it for long, or a writer
/// that stores bytes into it does not go on.
fn keep(own: &ThisProcess, index: u32, view: &View, until: u64) -> bool {
    let incarnation = view.head.incarnation();
    let request = |task| Request { snapshot: index, incarnation, task, first: view.extent.first, count: 0 };
    let means = local_preserver(own, until);
    let off = request(Task::Relocate);
    let is_off = !wants_copies(view)
        || means.handle_whole(&off)
        // A writer that is stopped while it stores a byte keeps the segment from being split, but not from being moved.
        || means.relocate_at_once(&off)
        || means.handle_whole(&request(Task::Break));
    if !is_off {
        return false;
    }
    let mappings = lock::hold(*own);
    // Other segments may be behind this writer's, so none is waited for long.
    mappings.patience.set(MOMENT);
    mappings.replace(&(view.extent.address..view.extent.end()), || is_kept(own, view)).is_ok()
}

/// Another thread may have put another snapshot there meanwhile. BUSY: it is looked at again.
fn is_kept(own: &ThisProcess, view: &View) -> Result<(), Errno> {
    let range = view.extent.address..view.extent.end();
    let is_there = find_segment(own, &range, |_, _| true).is_some();
    if is_there && find_segment(own, &range, |_, there| wants_copies(there)).is_none() {
        Ok(())
    } else {
        Err(Errno::BUSY)
    }
}

/// What is left when the time is up. Segments off the file go out of the table all the same: a byte that a stopped writer stores
/// is one that the page has had, and a record would have the library wait for the writer at each call on that memory. The others
/// stay: only the table has writers preserve for them.
fn leave(own: &ThisProcess, kept: &mut Kept) {
    each_segment(own, &EVERYWHERE, |index, view| {
        if !wants_copies(&view) {
            let range = view.extent.address..view.extent.end();
            kept.unquiet += u32::from(lock::hold(*own).give_out(&range, || is_kept(own, &view)).is_ok());
        } else if table::doubt(own.table, index, view.head.incarnation(), Cause::MapperBusy) {
            kept.doubted += 1;
        }
    });
    kept.whole += kept.unquiet;
}
