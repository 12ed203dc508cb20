//! Many processes write while others take and drop snapshots: each snapshot is one consistent cut, and stays it.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::common::{Scratch, program, root, run_within, scratches, text};

/// Where it blows, and the ways of preserving that its writers use in turn.
fn rounds() -> [(Scratch, &'static str); 4] {
    let (disk, memory) = (root().join("target/scratch"), Path::new("/dev/shm"));
    [(memory, "direct"), (&disk, "agent"), (&disk, "direct"), (memory, "direct,agent,auto")]
        .map(|(base, ways)| (Scratch::new(base), ways))
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name}={value}")))
}

fn blow(scratch: &Scratch, ways: &str, seconds: u64, seed: u64, change: impl Fn(&mut Command)) -> Output {
    let mut storm = scratch.shimmed(program("storm/storm"), "auto");
    storm.arg(scratch.file("victim")).args([&seconds.to_string(), &seed.to_string(), ways]);
    change(&mut storm);
    run_within(&mut storm, Duration::from_secs(seconds + 60))
}

fn every_snapshot_is_one_cut(seconds: u64, seed: u64) {
    let (seconds, seed) = (number("SNAPSHIM_STORM_SECONDS", seconds), number("SNAPSHIM_STORM_SEED", seed));
    for (scratch, ways) in rounds() {
        let place = format!("{ways} in {}, {seconds} s, seed {seed}", scratch.path.display());
        let output = blow(&scratch, ways, seconds, seed, |_| {});
        assert!(output.status.success(), "{place}: {}", text(&output));
        print!("storm: {place}: {}", text(&output));
    }
}

#[test]
fn every_snapshot_is_one_cut_for_a_minute() {
    every_snapshot_is_one_cut(6, 1);
}

#[test]
#[ignore = "ten minutes: make soak"]
fn every_snapshot_is_one_cut_for_ten_minutes() {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs());
    every_snapshot_is_one_cut(150, clock);
}

/// Stores through shared mappings, of the mapper's own process too, and writes to the same pages.
fn every_snapshot_is_one_cut_across_stores(seconds: u64, shared: &str) {
    for scratch in scratches() {
        let place = format!("stores ({shared}) in {}, {seconds} s", scratch.path.display());
        let output = store(&scratch, seconds, |storm| {
            storm.env("SNAPSHIM_SHARED", shared);
        });
        assert!(output.status.success(), "{place}: {}", text(&output));
        print!("storm: {place}: {}", text(&output));
    }
}

fn store(scratch: &Scratch, seconds: u64, change: impl Fn(&mut Command)) -> Output {
    let mut storm = scratch.shimmed(program("storm/shared_storm"), "auto");
    storm.arg(scratch.file("shared")).arg(seconds.to_string());
    change(&mut storm);
    run_within(&mut storm, Duration::from_secs(seconds + 60))
}

#[test]
fn every_snapshot_is_one_cut_across_stores_for_a_minute() {
    every_snapshot_is_one_cut_across_stores(8, "trap");
    every_snapshot_is_one_cut_across_stores(4, "eager");
}

#[test]
#[ignore = "ten minutes: make soak"]
fn every_snapshot_is_one_cut_across_stores_for_ten_minutes() {
    every_snapshot_is_one_cut_across_stores(200, "trap");
    every_snapshot_is_one_cut_across_stores(100, "eager");
}

#[test]
fn the_storm_of_stores_finds_plain_mappings_out() {
    for scratch in scratches() {
        let output = store(&scratch, 20, |storm| {
            storm.env_remove("LD_PRELOAD");
        });
        let said = text(&output);
        assert!(!output.status.success() && said.contains("shared_storm.c") && !said.contains("MAP_FAILED"), "{said}");
    }
}

/// Without the shim the kernel ignores the flag: ordinary private mappings, and the checks of their bytes have to see it.
#[test]
fn the_storm_finds_plain_mappings_out() {
    for (scratch, ways) in rounds().into_iter().take(2) {
        let output = blow(&scratch, ways, 20, 1, |storm| {
            storm.env_remove("LD_PRELOAD");
        });
        let said = text(&output);
        let is_found = ["memcmp(held->at", "shown[i].", "!overlap("].iter().any(|check| said.contains(check));
        assert!(!output.status.success() && is_found && !said.contains("MAP_FAILED"), "{said}");
        print!("storm: plain mappings in {}: {said}", scratch.path.display());
    }
}
