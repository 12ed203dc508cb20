//! Histories at random, lived through by real processes under the library, and judged by a model of the file: no snapshot shows
//! what no cut of the history has.
//!
//! A history says which files there are, which threads in which processes, and what each does over and over: change the files
//! by every call there is, hold snapshots, cut them, store into them, fork. Time is hostile: more threads than processors,
//! processes that are stopped, copies that the kernel has to wait for, handlers on every kind of stack that write in the middle
//! of a write. What each thread did and saw, and when by a common clock, is judged afterwards (oracle/model.rs). A history that
//! fails is made shorter while it still fails, and printed.
//!
//! SNAPSHIM_ORACLE_SECONDS  how long; SNAPSHIM_ORACLE_SEED  the histories of that seed; SNAPSHIM_ORACLE_SCRIPT  lives through the
//! script in that file, as it was printed, instead; SNAPSHIM_ORACLE_SHRINK  how many seconds may be spent on making it shorter.

mod history;
mod model;
mod record;
mod run;
mod shrink;

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use self::run::live;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |value| value.parse().unwrap())
}

/// Each of its histories is one of a seed of its own, so that one that failed is made again by itself.
fn runner(seed: u64) -> TestRunner {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

fn fail(what: &str, script: &str, faults: &[String]) -> ! {
    // The last is what was said meanwhile.
    let last = faults.len().saturating_sub(1).max(12);
    let shown: Vec<&str> = faults.iter().take(12).chain(faults.get(last)).map(String::as_str).collect();
    panic!(
        "FAILED {what}: {} faults\n{}\n--- the history (SNAPSHIM_ORACLE_SCRIPT=FILE lives through it again)\n{script}---",
        faults.len(),
        shown.join("\n")
    );
}

fn live_through_random_histories(seconds: u64) {
    let began = Instant::now();
    let end = began + Duration::from_secs(number("SNAPSHIM_ORACLE_SECONDS", seconds));
    if let Ok(path) = std::env::var("SNAPSHIM_ORACLE_SCRIPT") {
        live_through(&fs::read_to_string(path).unwrap(), end);
        return;
    }
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs() * 1000);
    let first = number("SNAPSHIM_ORACLE_SEED", clock);
    let mut skipped = BTreeSet::new();
    let (mut seed, mut snapshots, mut looks, mut changes) = (first, 0, 0, 0);
    while Instant::now() < end {
        let tree = history::history().new_tree(&mut runner(seed)).unwrap();
        let outcome = live(&tree.current().to_string());
        if !outcome.faults.is_empty() {
            let after = began.elapsed().as_secs();
            eprintln!("seed {seed} fails after {after} s: {}", outcome.faults[0]);
            let limit = Duration::from_secs(number("SNAPSHIM_ORACLE_SHRINK", 120));
            let (script, faults) = shrink::shrink(tree, outcome.faults, limit);
            fail(&format!("seed {seed}, after {after} s and {} histories", seed - first), &script, &faults);
        }
        skipped.extend(outcome.skipped);
        snapshots += outcome.snapshots;
        looks += outcome.looks;
        changes += outcome.changes;
        seed += 1;
    }
    skipped.iter().for_each(|what| crate::common::skip("oracle", what));
    println!(
        "{} histories from seed {first}: {snapshots} snapshots, looked at {looks} times, beside {changes} changes",
        seed - first
    );
}

fn live_through(script: &str, end: Instant) {
    let mut lives = 0;
    while Instant::now() < end {
        let outcome = live(script);
        lives += 1;
        if !outcome.faults.is_empty() {
            fail(&format!("life {lives}"), script, &outcome.faults);
        }
    }
    println!("{lives} lives, none with a fault");
}

#[test]
fn a_snapshot_shows_one_cut_of_whatever_happens_for_a_minute() {
    live_through_random_histories(20);
}

#[test]
#[ignore = "an hour; `make soak`"]
fn a_snapshot_shows_one_cut_of_whatever_happens_for_an_hour() {
    live_through_random_histories(3600);
}
