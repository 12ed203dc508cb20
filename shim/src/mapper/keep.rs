//! Keeping the process's own snapshots without the library's help: each is copied whole, off its file, and given out of the table.

use snapshim::protocol::writer_slot::{Request, Task};

use super::preserve_own::local_preserver;
use crate::address_space::lock::{self, EVERYWHERE, Mappings, find_segment};
use crate::process::identity::ThisProcess;

/// Makes each snapshot of the process ordinary memory that shows what it showed. One that cannot be copied faults from then on. The
/// result is how many segments there were.
pub fn keep_whole(own: &ThisProcess) -> u32 {
    let mut count = 0;
    while let Some((index, view)) = find_segment(own, &EVERYWHERE, |_, _| true) {
        if own.leaves_damaged() {
            break;
        }
        let incarnation = view.head.incarnation();
        let request = |task| Request { snapshot: index, incarnation, task, first: view.extent.first, count: 0 };
        let means = local_preserver(own, Mappings::deadline());
        let wants_pages = view.head.wants_pages() && !view.is_relocated();
        if wants_pages && !means.handle_whole(&request(Task::Relocate)) && !means.handle_whole(&request(Task::Break)) {
            // The segment has changed meanwhile, or another thread keeps it for long: it is looked at again.
            continue;
        }
        let range = view.extent.address..view.extent.end();
        if lock::hold(*own).replace(&range, || Ok(())).is_ok() {
            count += 1;
        }
    }
    count
}
