//! A mapper that ends leaves nothing behind that costs another process time or room: it gives its snapshots back, and those of a
//! killed one are found by the next process that looks, or that needs the place.

use std::ffi::CString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::holder::Holder;
use crate::common::{Scratch, program, root, run, run_ok, text, wait_until};
use snapshim::protocol::limits::SNAPSHOTS;
use snapshim::table::attach::{TableLocation, is_in_use};

const PAGE: usize = 4096;

/// Whether a writer has to look for snapshots.
fn is_active(scratch: &Scratch) -> bool {
    let directory = CString::new(scratch.table().as_os_str().as_encoded_bytes()).unwrap();
    is_in_use(&TableLocation { directory: &directory, is_chosen: true })
}

fn three_pages(scratch: &Scratch) -> PathBuf {
    let file = scratch.file("file");
    fs::write(&file, vec![1; 3 * PAGE]).unwrap();
    file
}

/// Takes `count` snapshots and ends as `how` says; what it said.
fn end(scratch: &Scratch, file: &Path, how: &str, count: usize) -> (bool, String) {
    let mut command = scratch.shimmed(program("lifecycle/ends"), "auto");
    let output = run(command.arg(file).args([how, &count.to_string()]));
    (output.status.success(), text(&output))
}

fn write(scratch: &Scratch) {
    run_ok(scratch.shimmed("sh", "auto").args(["-c", "echo x >> other"]));
}

fn status(scratch: &Scratch) -> String {
    let mut command = Command::new(root().join("target/release/snapshim"));
    run_ok(command.arg("status").env("SNAPSHIM_DIR", scratch.table()))
}

#[test]
fn a_program_that_ends_gives_its_snapshots_back() {
    const WAYS_TO_END: [&str; 12] = [
        "return",
        "exit",
        "_exit",
        "_Exit",
        "quick_exit",
        "number",
        "last_thread",
        "pthread_exit",
        "handler",
        "forked",
        "vforked",
        "split",
    ];
    for how in WAYS_TO_END {
        let scratch = Scratch::on_tmpfs();
        let (succeeded, said) = end(&scratch, &three_pages(&scratch), how, 2);
        assert!(succeeded, "{how}: {said}");
        assert!(!is_active(&scratch), "{how}: {}", status(&scratch));
    }
}

/// Once the agent took what its own process had given back for damage of the table, and every process left it.
#[test]
fn a_mapper_that_is_slow_to_end_harms_no_other() {
    let scratch = Scratch::on_tmpfs();
    run_ok(&mut scratch.shimmed(program("lifecycle/held_at_exit"), "auto"));
}

#[test]
fn the_next_write_after_the_death_of_a_mapper_is_the_last_slow_one() {
    for how in ["killed", "aborted", "threads"] {
        let scratch = Scratch::on_tmpfs();
        let (_, said) = end(&scratch, &three_pages(&scratch), how, 2);
        assert!(is_active(&scratch), "{how}: {said}");
        write(&scratch);
        assert!(!is_active(&scratch), "{how}");
    }
}

#[test]
fn a_writer_that_goes_on_finds_a_death_within_a_second() {
    let scratch = Scratch::on_tmpfs();
    let file = three_pages(&scratch);
    end(&scratch, &file, "killed", 1);
    let mut shell = scratch.shimmed("sh", "auto");
    shell.args(["-c", "while read line; do echo $line >> other; done"]).stdin(Stdio::piped());
    let mut writer = shell.spawn().unwrap();
    let mut lines = writer.stdin.take().unwrap();
    // The search that the first write makes is over when the next mapper dies.
    writeln!(lines, "first").unwrap();
    wait_until("the first search", || !is_active(&scratch));
    end(&scratch, &file, "killed", 1);
    let died = Instant::now();
    while is_active(&scratch) {
        assert!(died.elapsed() < Duration::from_secs(20), "not found");
        writeln!(lines, "further").unwrap();
        std::thread::sleep(Duration::from_millis(10));
    }
    let took = died.elapsed();
    println!("found after {took:?}");
    // The rest is for a machine that has other things to do.
    assert!(took < Duration::from_secs(5), "{took:?}");
    drop(lines);
    assert!(writer.wait().unwrap().success());
}

#[test]
fn any_living_mapper_finds_the_dead() {
    let scratch = Scratch::on_tmpfs();
    let file = three_pages(&scratch);
    let living = Holder::start(&scratch, "auto", &file, "r");
    end(&scratch, &file, "killed", 50);
    // The command itself would take them out.
    std::thread::sleep(Duration::from_secs(3));
    let filled = end(&scratch, &file, "exit", 1);
    assert!(filled.0, "{}", filled.1);
    let attached = snapshots_in_use(&scratch);
    assert_eq!(attached, 1, "only the living one's");
    living.finish_exact("the living one's");
}

/// How many snapshot records are taken.
fn snapshots_in_use(scratch: &Scratch) -> usize {
    use snapshim::protocol::snapshot::State;
    let directory = CString::new(scratch.table().as_os_str().as_encoded_bytes()).unwrap();
    let location = TableLocation { directory: &directory, is_chosen: true };
    let table = snapshim::table::attach::attach_existing(&location).unwrap().unwrap().table;
    let records = (0..SNAPSHOTS as u32).map_while(|index| table.snapshot(index));
    records.filter(|snapshot| snapshot.head().state() != State::Free).count()
}

#[test]
fn the_status_lists_no_dead_process() {
    let scratch = Scratch::on_tmpfs();
    let file = three_pages(&scratch);
    let living = Holder::start(&scratch, "auto", &file, "r");
    for _ in 0..5 {
        end(&scratch, &file, "killed", 1);
    }
    let told = status(&scratch);
    let (processes, snapshots) = told.split_once("\n\n").unwrap();
    assert_eq!(processes.lines().skip(1).count(), 1, "{told}");
    assert!(processes.contains(&format!("{} ", living.pid())), "{told}");
    assert_eq!(snapshots.lines().skip(1).count(), 1, "{told}");
    living.finish_exact("the living one's");
}

#[test]
fn a_table_full_of_the_dead_has_room() {
    let scratch = Scratch::on_tmpfs();
    let file = three_pages(&scratch);
    for turn in 0..3 {
        end(&scratch, &file, "killed", SNAPSHOTS - 250);
        let (succeeded, said) = end(&scratch, &file, "split", 200);
        assert!(succeeded, "turn {turn}: {said}");
    }
    // All are taken but one; the living one needs two more.
    end(&scratch, &file, "killed", SNAPSHOTS - 1);
    let (succeeded, said) = end(&scratch, &file, "split_one", 1);
    assert!(succeeded, "a part: {said}");
}
