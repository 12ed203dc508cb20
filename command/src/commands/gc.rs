//! `snapshim gc`: takes out of the table what dead processes left in it.

use std::process::ExitCode;

use anstream::println;

use crate::failure::Outcome;
use crate::table;

/// Takes out what dead processes left, as every process does when it meets one of them, but for all of them now.
pub fn run() -> Outcome<ExitCode> {
    let attached = table::attached()?;
    let count = || attached.table.processes_used().iter().filter(|record| record.id().is_some()).count();
    let before = count();
    attached.table.free_abandoned_slots();
    println!("took {} dead processes out of the table, {} are left", before - count().min(before), count());
    Ok(ExitCode::SUCCESS)
}
