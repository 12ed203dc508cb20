//! Calls that have the kernel store into a shared mapping whose file a process has a snapshot of: they return what they return
//! natively, the bytes get where they belong, and no snapshot changes.

use std::fs;

use crate::common::holder::Holder;
use crate::common::{Scratch, WAYS, compile, program, run, run_ok, scratches, text};

const BYTES: usize = 64 * 4096;

fn fresh_victim(scratch: &Scratch) -> std::path::PathBuf {
    let victim = scratch.file("victim");
    fs::write(&victim, (0..BYTES).map(|at| (1 + at / 4096 * 7 % 255) as u8).collect::<Vec<_>>()).unwrap();
    victim
}

#[test]
fn kernel_stores_are_as_natively_beside_snapshots() {
    let program = compile("sharing/kernel_stores", &["-lutil"]);
    for scratch in scratches() {
        let victim = fresh_victim(&scratch);
        let natively = run_ok(scratch.native(&program).arg(&victim).arg("none"));
        let becomes = fs::read(&victim).unwrap();
        for way in WAYS {
            for how in ["none", "dropped", "r", "rw"] {
                let victim = fresh_victim(&scratch);
                let shimmed = run_ok(scratch.shimmed(&program, way).arg(&victim).arg(how));
                assert_eq!(shimmed, natively, "{how}, {way}, {}", scratch.path.display());
                assert!(
                    fs::read(&victim).unwrap() == becomes,
                    "{how}, {way}: the file is not what it becomes natively"
                );
            }
            for protection in ["r", "rw"] {
                let about = format!("held by another, {protection}, {way}, {}", scratch.path.display());
                let victim = fresh_victim(&scratch);
                let holder = Holder::start(&scratch, way, &victim, protection);
                let shimmed = run_ok(scratch.shimmed(&program, way).arg(&victim).arg("none"));
                assert_eq!(shimmed, natively, "{about}");
                assert!(fs::read(&victim).unwrap() == becomes, "{about}: the file is not what it becomes natively");
                holder.finish_exact(&about);
            }
        }
    }
}

#[test]
fn large_reads_answer_as_natively_and_take_little_memory() {
    for scratch in scratches() {
        let natively = run_ok(&mut scratch.native(program("sharing/large_reads")));
        for way in WAYS {
            let shimmed = run_ok(&mut scratch.shimmed(program("sharing/large_reads"), way));
            assert_eq!(shimmed, natively, "{way}, {}", scratch.path.display());
        }
    }
}

#[test]
fn every_snapshot_is_one_cut_while_the_kernel_stores() {
    for scratch in scratches() {
        let said = run_ok(scratch.shimmed(program("storm/shared_storm"), "auto").args(["storm", "5", "kernel"]));
        print!("{}: {said}", scratch.path.display());
    }
}

#[test]
fn the_storm_finds_plain_mappings_out() {
    let scratch = Scratch::on_tmpfs();
    let output = run(scratch.native(program("storm/shared_storm")).args(["storm", "10", "kernel"]));
    // A number newer than the instant's, or bytes that changed between two looks: whichever is found first.
    let finds = ["newest[storer]", "memcmp(one->at"].iter().any(|found| text(&output).contains(found));
    assert!(!output.status.success() && finds, "{}", text(&output));
}
