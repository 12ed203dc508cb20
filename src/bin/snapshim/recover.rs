//! `snapshim recover`

use snapshim::table::attach::Attached;

/// Does what any process does when it meets the dead, now and for all of them.
pub fn run(attached: &Attached) {
    let count = || attached.table.processes_used().iter().filter(|record| record.id().is_some()).count();
    let before = count();
    attached.table.free_abandoned_slots();
    println!("took {} dead processes out of the table, {} are left", before - count().min(before), count());
}
