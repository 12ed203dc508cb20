//! Lives through a history under the library and judges what is left of it.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use snapshim::PAGE;
use snapshim::protocol::limits::BLOCKS;
use snapshim::table::Table;

use super::history::kinds;
use super::model::judge;
use super::record::Records;
use crate::common::{Scratch, program, root};

/// A process that has not ended by then after the history's time is over hangs: none waits for anything but others' calls.
const LONGEST: u64 = 90;

#[derive(Default)]
pub struct Outcome {
    pub faults: Vec<String>,
    /// What this machine does not allow.
    pub skipped: BTreeSet<String>,
    pub snapshots: u64,
    pub looks: u64,
    pub changes: u64,
}

/// Where in the table the records of snapshots are, and what is found by them: no system call is given an address there.
fn records_of_snapshots() -> (usize, usize) {
    let layout = Layout::new::<Table>();
    // SAFETY: all-zero is a table; it is not looked at, only where its parts are.
    unsafe {
        let at = alloc_zeroed(layout);
        let table = &*at.cast::<Table>();
        let start = std::ptr::from_ref(table.snapshot(0).unwrap()).addr() - at.addr();
        dealloc(at, layout);
        let end = layout.size() - BLOCKS * PAGE as usize;
        let first = start.next_multiple_of(PAGE as usize);
        (first, end / PAGE as usize * PAGE as usize - first)
    }
}

/// One life of a history.
pub fn live(script: &str) -> Outcome {
    let (scratch, disk) = (Scratch::on_tmpfs(), Scratch::new(&root().join("target/scratch")));
    let (history, records, said) = (scratch.file("history"), scratch.file("records"), scratch.file("said"));
    fs::write(&history, script).unwrap();
    let mut command = scratch.shimmed(program("storm/oracle"), "auto");
    command.args([&history, &records, &scratch.path, &disk.path]).arg(LONGEST.to_string());
    let (offset, length) = records_of_snapshots();
    command.args([offset.to_string(), length.to_string()]);
    let log = File::create(&said).unwrap();
    command.stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null()).process_group(0);
    let mut child = command.spawn().unwrap();
    let end = Instant::now() + Duration::from_secs(2 * LONGEST);
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break Some(status),
            None if Instant::now() > end => break None,
            None => sleep(Duration::from_millis(3)),
        }
    };
    // SAFETY: kill(2) of the group that the child began; what is left of it.
    unsafe { libc::kill(-(child.id() as i32), libc::SIGKILL) };
    let status = status.unwrap_or_else(|| child.wait().unwrap());
    let said = String::from_utf8_lossy(&fs::read(&said).unwrap_or_default()).into_owned();
    let mut outcome = fs::read(&records).map_or_else(|_| Outcome::default(), |bytes| outcome(script, &bytes));
    outcome.skipped = said.lines().filter_map(|line| Some(line.strip_prefix("SKIPPED ")?.to_owned())).collect();
    if !status.success() {
        outcome.faults.push(format!("the history ends with {status}"));
    }
    if !outcome.faults.is_empty() && !said.is_empty() {
        outcome.faults.push(format!("said meanwhile:\n{said}"));
    }
    outcome
}

fn outcome(script: &str, bytes: &[u8]) -> Outcome {
    let records = Records::parse(bytes);
    let changes = (records.written.len() + records.resized.len()) as u64;
    let faults = judge(&kinds(script), &records);
    Outcome { faults, snapshots: records.snapshots, looks: records.looks, changes, ..Outcome::default() }
}
