//! What a call costs with much around it, beside what it costs with little: snapshots, processes, and what came and went before.

use std::path::Path;
use std::process::Command;

use super::{Bench, library};

/// What the program is asked to measure, what is around a call then, and the limits of the costs that count.
struct Scenario {
    arguments: &'static [&'static str],
    around: &'static str,
    limits: &'static [(&'static str, f64)],
}

const CALLS: &[(&str, f64)] = &[("stat", 1.5), ("mmap", 1.5), ("munmap", 1.5), ("front", 1.5), ("mprotect", 1.5)];
const CALLS_AND_FORK: &[(&str, f64)] =
    &[("stat", 1.5), ("mmap", 1.5), ("munmap", 1.5), ("mprotect", 1.5), ("fork", 1.5)];

const SCENARIOS: &[Scenario] = &[
    Scenario { arguments: &["own", "1000"], around: "1000 own snapshots / 1", limits: CALLS },
    Scenario { arguments: &["own", "4000"], around: "4000 own snapshots / 1", limits: CALLS },
    Scenario { arguments: &["other", "1000"], around: "1000 snapshots of another process / 1", limits: CALLS_AND_FORK },
    Scenario { arguments: &["other", "4000"], around: "4000 snapshots of another process / 1", limits: CALLS_AND_FORK },
    Scenario {
        arguments: &["crowd", "4000"],
        around: "of the files' slowest tenth, 4000 snapshots of another file / 1",
        limits: &[("mmap", 1.5), ("munmap", 1.5)],
    },
    Scenario {
        arguments: &["forks", "1000"],
        around: "1000 own snapshots, each / 100, each",
        limits: &[("fork", 1.5)],
    },
    Scenario {
        arguments: &["forks", "4000"],
        around: "4000 own snapshots, each / 400, each",
        limits: &[("fork", 1.5)],
    },
    Scenario {
        arguments: &["each", "newcomers", "500"],
        around: "first write of a process beside 500 others / beside none",
        limits: &[("idle", 1.2), ("dead", 1.2)],
    },
    Scenario {
        arguments: &["each", "gone", "3900"],
        around: "3900 snapshots came and went / fresh",
        limits: &[("write", 1.05)],
    },
    Scenario {
        arguments: &["mappers", "64"],
        around: "write to a page of 64 mappers, each / of one",
        limits: &[("first", 1.3)],
    },
];

/// Nanoseconds that a call may take on a snapshot of 16 TiB without content.
const ON_SPARSE: f64 = 2e6;

/// Measures all of them.
pub fn run(bench: &mut Bench) {
    let program = compile(bench);
    for Scenario { arguments, around, limits } in SCENARIOS {
        for (name, little, much) in measured(bench, &program, arguments) {
            if let Some((_, limit)) = limits.iter().find(|(known, _)| *known == name) {
                let note = format!("{:.2} us / {:.2} us", much / 1e3, little / 1e3);
                bench.report(&format!("{name}, {around}"), much / little, *limit, &note);
            }
        }
    }
    for (name, _, took) in measured(bench, &program, &["sparse"]) {
        if ["stat", "mprotect", "fork"].contains(&name.as_str()) {
            let figure = format!("{name}, a sparse snapshot of 16 TiB / 2 ms");
            bench.report(&figure, took / ON_SPARSE, 1.0, &format!("{:.2} us", took / 1e3));
        }
    }
}

fn compile(bench: &Bench) -> std::path::PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = bench.disk.join("costs");
    let sources = ["storm/costs.c", "common/check.c"].map(|source| root.join("tests/programs").join(source));
    let compiled = Command::new("gcc")
        .args(["-std=gnu11", "-O1", "-pthread", "-I"])
        .arg(root.join("shim/include"))
        .arg("-I")
        .arg(root.join("tests/programs/common"))
        .arg("-o")
        .arg(&program)
        .args(sources)
        .arg("-lrt")
        .status();
    assert!(compiled.is_ok_and(|status| status.success()), "gcc could not build the program");
    program
}

/// The name of each cost, nanoseconds with little and with much, on a table of its own.
fn measured(bench: &Bench, program: &Path, arguments: &[&str]) -> Vec<(String, f64, f64)> {
    let table = bench.table.with_extension("costs");
    let mut command = Command::new(program);
    command.args(arguments).current_dir(&bench.memory).env("LD_PRELOAD", library()).env("SNAPSHIM_DIR", &table);
    let output = command.output().expect("the program runs");
    let _ = std::fs::remove_dir_all(table);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{arguments:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next()?.to_owned();
        Some((name, words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    };
    said.lines().filter_map(line).collect()
}
