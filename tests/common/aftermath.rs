//! What is done beside and after a process that was killed or stopped in the middle of something, and what has to be left in the
//! end.

use std::ffi::CString;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use snapshim::protocol::limits::{PROCESSES, SNAPSHOTS, WRITERS};
use snapshim::protocol::process::{Agent, ForkOutcome};
use snapshim::protocol::process_id::ProcessId;
use snapshim::protocol::snapshot::State;
use snapshim::table::Table;
use snapshim::table::attach::{TableLocation, attach_existing};

use super::tracer::{Target, run_to};
use super::{Scratch, command, program, run_within, text};

const PAGE: usize = 4096;
const PAGES: usize = 8;

/// The file that all processes are after.
pub fn fill(file: &Path) {
    let stamp = |page: usize| (1 + page * 7 % 255) as u8;
    let bytes: Vec<u8> = (0..PAGES).flat_map(|page| [stamp(page); PAGE]).collect();
    fs::write(file, bytes).unwrap();
}

/// Leaves dead processes in the table: one that had everything, one in the middle of a fork, one in the middle of a creation.
pub fn leave_dead(scratch: &Scratch, file: &Path) {
    scratch.shimmed(program("lifecycle/kill_point"), "direct").arg("die").arg(file).status().unwrap();
    for (operation, number) in [("fork", 30), ("create", 20)] {
        let mut command = scratch.shimmed(program("lifecycle/kill_point"), "direct");
        command.arg(operation).arg(file).stdout(Stdio::null());
        let (mut dead, _) = run_to(&mut command, Target::Itself, true, number);
        let _ = dead.wait();
    }
}

/// What the command ends with where no process has made a table yet.
const NO_TABLE: i32 = 5;

/// `snapshim recover`.
pub fn recover(scratch: &Scratch) -> Command {
    let mut command = Command::new(command());
    command.arg("recover").env("SNAPSHIM_DIR", scratch.table());
    command
}

/// Two processes take snapshots and write, two take out the dead, all at once. No process may have to wait for one that is gone:
/// all of them succeed, well before they would give up.
pub fn use_by_others(scratch: &Scratch, file: &Path, about: &str) {
    let users = ["0", "1"].map(|page| {
        let mut command = scratch.shimmed(program("lifecycle/after_kill"), "direct");
        command.arg(file).arg(page);
        command
    });
    std::thread::scope(|scope| {
        for mut command in users.into_iter().chain([recover(scratch), recover(scratch)]) {
            scope.spawn(move || {
                let output = run_within(&mut command, Duration::from_secs(20));
                let has_no_table = output.status.code() == Some(NO_TABLE) && text(&output).contains("no table");
                assert!(
                    output.status.success() && output.stderr.is_empty() || has_no_table,
                    "{about}: then {command:?}: {}",
                    text(&output)
                );
            });
        }
    });
}

/// The processes of a table are all gone, or about to; two take the dead out at the same time, and it has to be as good as new.
pub fn assert_recovered(scratch: &Scratch, about: &str) {
    let directory = CString::new(scratch.table().as_os_str().as_encoded_bytes()).unwrap();
    let location = TableLocation { directory: &directory, is_chosen: true };
    let Some(attached) = attach_existing(&location).unwrap() else { return };
    let table = attached.table;
    table.free_abandoned_slots();
    let patience = Instant::now() + Duration::from_secs(60);
    // A process that has closed its files is not dead yet.
    let mut was_late = false;
    while is_named(table) && !was_late {
        was_late = Instant::now() > patience;
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| table.free_abandoned_slots());
            }
        });
    }
    assert_unused(table, about);
    // SAFETY: mapped by `attach_existing` for this function; nothing refers to it any more.
    unsafe { libc::munmap(std::ptr::from_ref(table).cast_mut().cast(), size_of::<Table>()) };
}

/// Whether any process is in the table.
fn is_named(table: &Table) -> bool {
    table.processes_used().iter().any(|record| record.id().is_some())
}

/// The invariants of a table that no process uses: no record, no slot, no call under way, no snapshot, no claim, no block, no
/// creation has an owner, writers do not look for snapshots, and nothing that is left in a record counts for its next owner.
fn assert_unused(table: &Table, about: &str) {
    let next = ProcessId::new(1, 0xfeed_5eed);
    for index in 0..PROCESSES as u32 {
        let Some(record) = table.process(index) else { break };
        assert_eq!(record.id(), None, "{about}: process record {index}");
        assert_eq!(record.unannounced(next), 0, "{about}: calls without a slot in record {index}");
        assert_eq!(
            (record.fork_outcome(next), record.agent(next)),
            (ForkOutcome::Settled, Agent::NotYet),
            "{about}: record {index}"
        );
        assert_eq!((record.cookie(next), record.is_start(next, 0)), (None, None), "{about}: record {index}");
        assert!(!record.has_queues(next), "{about}: record {index}");
    }
    for index in 0..WRITERS as u32 {
        let Some(slot) = table.writer(index) else { break };
        assert!(slot.lease().is_vacant(), "{about}: slot {index}");
        assert!(slot.frames().iter().all(|frame| !frame.load().0.is_under_way()), "{about}: slot {index}");
    }
    for index in 0..SNAPSHOTS as u32 {
        let Some(snapshot) = table.snapshot(index) else { break };
        assert_eq!(snapshot.head().state(), State::Free, "{about}: snapshot {index}");
    }
    assert_eq!(table.blocks_in_use(), 0, "{about}: blocks");
    assert!(table.gate().creations.under_way().next().is_none(), "{about}: creation");
    assert!(!table.gate().active.is_raised(), "{about}: active word");
    assert!(!table.is_damaged(), "{about}: damaged");
}
