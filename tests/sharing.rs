//! Shared mappings of writers: each call that makes, changes or removes one does what it does natively, whichever process holds
//! snapshots of the file, and stores through them reach the file and never a snapshot.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::busy::in_good_time;
use crate::common::suspend::in_each_way;
use crate::common::{DISK, Scratch, fails_natively, program, root, run, run_ok, run_within, scratches, skip, text};

/// The holder of snapshots of the file, with which protection.
const KEEPERS: [[&str; 2]; 5] = [["nobody", "r"], ["own", "r"], ["own", "rw"], ["other", "r"], ["other", "rw"]];

/// One page, so that stores trap again and again; the default, so that one trap opens a lot.
const CHUNKS: [&str; 2] = ["4", "64"];

fn is_as_natively(part: &str, scratch: &Scratch, file: &str) {
    for keeper in KEEPERS {
        let arguments = [keeper[0], keeper[1], file, part];
        let natively = run_ok(scratch.native(program("sharing/calls")).args(arguments));
        for (chunk, way) in CHUNKS.into_iter().zip(["direct", "agent"]) {
            let mut shimmed = scratch.shimmed(program("sharing/calls"), way);
            let output = run(shimmed.args(arguments).env("SNAPSHIM_CHUNK_KB", chunk));
            let about = format!("{arguments:?}, chunks of {chunk} KiB, {way}, {}", scratch.path.display());
            assert!(output.status.success(), "{about}: {}: {}", output.status, text(&output));
            let found = String::from_utf8_lossy(&output.stdout);
            let differs = natively.lines().zip(found.lines()).find(|(native, shimmed)| native != shimmed);
            assert!(found == natively, "{about}: natively and here: {differs:?}");
        }
    }
}

fn is_as_natively_everywhere(part: &str) {
    is_as_natively(part, &Scratch::new(&root().join("target/scratch")), "victim");
    let scratch = Scratch::on_tmpfs();
    for file in ["victim", "memfd", "shm"] {
        is_as_natively(part, &scratch, file);
    }
}

macro_rules! parts {
    ($($part:ident)*) => {
        $(
            #[test]
            fn $part() {
                is_as_natively_everywhere(stringify!($part));
            }
        )*

        #[test]
        fn all_of_them_on_a_block_device() {
            let scratch = Scratch::new(&root().join("target/scratch"));
            let Some(device) = LoopDevice::new(&scratch, 16 * 4096) else {
                return skip("all_of_them_on_a_block_device", "no loop device can be had (root needed)");
            };
            $(is_as_natively(stringify!($part), &scratch, &device.0);)*
        }
    };
}

parts! {
    every_protection
    a_mapping_only_to_store_into_can_be_read
    a_descriptor_that_may_not_write
    mprotect_of_parts
    mprotect_over_mappings_and_gaps
    mprotect_that_is_refused
    protection_keys
    munmap_of_parts
    mapped_over
    a_call_that_fails_over_a_snapshot
    mremap_grows_and_shrinks
    mremap_moves
    pages_in_another_order
    mremap_of_length_zero_doubles
    mremap_moves_and_shrinks
    mremap_that_does_not_unmap
    mremap_of_several_mappings
    advice
    holes_are_punched
    advice_over_many_mappings
    forked_processes_store
    the_same_file_twice
    behind_the_end
    seals
}

/// Natively, where the flag is ignored, a scenario that looks at bytes has to fail.
const EAGER: (&str, &str) = ("SNAPSHIM_SHARED", "eager");

fn lives(scenario: &str) -> Vec<String> {
    lives_with(scenario, &[])
}

fn lives_with(scenario: &str, settings: &[(&str, &str)]) -> Vec<String> {
    let told = |scratch: &Scratch, way: &str| {
        let mut shimmed = scratch.shimmed(program("sharing/life"), way);
        shimmed.arg(scenario).env("SNAPSHIM_CHUNK_KB", "4").envs(settings.iter().copied());
        let output = run_within(&mut shimmed, DISK);
        assert!(output.status.success(), "{scenario}, {way}, {}: {}", scratch.path.display(), text(&output));
        text(&output)
    };
    scratches().iter().zip(["direct", "agent"]).map(|(scratch, way)| told(scratch, way)).collect()
}

#[test]
fn a_suspended_process_is_named() {
    in_each_way("a_suspended_process_is_named", |way| {
        for told in lives_with("a_suspended_process_is_named", &[("SUSPEND", way), ("SNAPSHIM_TIMEOUT_MS", "300")]) {
            let pid = told.lines().find_map(|line| line.strip_prefix("suspended: process ")).unwrap();
            assert!(told.contains(&format!("refused: process {pid} (life) ")), "{told}");
        }
    });
    fails_natively("sharing/life", "a_suspended_process_is_named");
}

#[test]
fn a_refused_store_ends_as_one_that_the_kernel_refuses() {
    in_good_time("a_refused_store_ends_as_one_that_the_kernel_refuses", 200, |timeout| {
        for scratch in scratches() {
            let native = run(&mut scratch.native(program("sharing/refused")));
            let settings =
                [("SNAPSHIM_ON_FAILURE", "fail-write"), ("SNAPSHIM_TIMEOUT_MS", timeout), ("SNAPSHIM_LOG", "off")];
            let mut shimmed = scratch.shimmed(program("sharing/refused"), "agent");
            let shimmed = run(shimmed.arg("refused").envs(settings));
            assert_eq!(text(&shimmed), text(&native));
            assert!(text(&native).contains("way 3: signal 7"), "{}", text(&native));
        }
    });
}

#[test]
fn a_stopped_process_is_killed_meanwhile() {
    lives("a_stopped_process_is_killed_meanwhile");
}

#[test]
fn a_killed_process_leaves_nothing_behind() {
    lives("a_killed_process_leaves_nothing_behind");
    fails_natively("sharing/life", "a_killed_process_leaves_nothing_behind");
}

#[test]
fn fifty_children_store_while_snapshots_are_taken() {
    lives("fifty_children_store_while_snapshots_are_taken");
    fails_natively("sharing/life", "fifty_children_store_while_snapshots_are_taken");
}

#[test]
fn who_arms_too_late_disturbs_nobody() {
    lives_with("who_arms_too_late_disturbs_nobody", &[("SNAPSHIM_TIMEOUT_MS", "20")]);
}

#[test]
fn what_a_failed_mprotect_opened_reaches_no_snapshot() {
    for told in lives("what_a_failed_mprotect_opened_reaches_no_snapshot") {
        if let Some(why) = told.strip_prefix("SKIPPED ") {
            return skip("what_a_failed_mprotect_opened_reaches_no_snapshot", why);
        }
    }
    fails_natively("sharing/life", "what_a_failed_mprotect_opened_reaches_no_snapshot");
}

#[test]
fn snapshots_are_made_while_the_agent_opens() {
    lives_with("snapshots_are_made_while_the_agent_opens", &[EAGER]);
}

#[test]
fn the_agent_breaks_no_snapshot() {
    in_good_time("the_agent_breaks_no_snapshot", 100, |timeout| {
        lives_with("the_agent_breaks_no_snapshot", &[("SNAPSHIM_TIMEOUT_MS", timeout), EAGER]);
    });
}

#[test]
fn who_is_forked_by_number_stores_into_no_snapshot() {
    lives("who_is_forked_by_number_stores_into_no_snapshot");
    fails_natively("sharing/life", "who_is_forked_by_number_stores_into_no_snapshot");
}

#[test]
fn preserving_reads_what_is_preserved() {
    for told in lives("preserving_reads_what_is_preserved") {
        if let Some(why) = told.strip_prefix("SKIPPED ") {
            skip("preserving_reads_what_is_preserved", why);
        }
    }
}

#[test]
fn random_stores_over_64_gibibytes_leave_mappings_and_memory() {
    for (scratch, way) in scratches().iter().zip(["direct", "auto"]) {
        let mut shimmed = scratch.shimmed(program("sharing/sparse"), way);
        println!("{}", run_ok(shimmed.arg("victim").env("SNAPSHIM_CHUNK_KB", "4")));
    }
    let natively = run(Scratch::on_tmpfs().native(program("sharing/sparse")).arg("victim"));
    assert!(!natively.status.success(), "{}", text(&natively));
}

struct LoopDevice(String);

impl LoopDevice {
    fn new(scratch: &Scratch, size: u64) -> Option<Self> {
        let image = scratch.file("image");
        fs::File::create(&image).unwrap().set_len(size).unwrap();
        let output = Command::new("losetup").args(["--find", "--show"]).arg(&image).output().ok()?;
        let name = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        (output.status.success() && Path::new(&name).exists()).then_some(Self(name))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}
