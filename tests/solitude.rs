//! A program that holds a snapshot, and with it the agent, gives up rights and enters namespaces as one thread does; its snapshot
//! stays.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::process::Stdio;

use crate::common::holder::Holder;
use crate::common::{Scratch, WAYS, is_root_for, program, run_ok};

const SIZE: usize = 64 * 4096;

/// A program that made `call` and holds a snapshot; the different things that its threads say of their rights.
fn hold(scratch: &Scratch, way: &str, call: &str) -> (Holder, BTreeSet<String>) {
    fs::write(scratch.file("victim"), vec![b'o'; SIZE]).unwrap();
    let said = File::create(scratch.file("said")).unwrap();
    let mut command = scratch.shimmed(program("transparency/solitude"), way);
    let holder = Holder::run(command.arg("victim").args([&SIZE.to_string(), call]).stderr(Stdio::from(said)));
    let lines = fs::read_to_string(scratch.file("said")).unwrap().lines().map(str::to_owned).collect();
    (holder, lines)
}

#[test]
fn no_thread_keeps_the_rights_that_the_program_gave_up() {
    if !is_root_for("no_thread_keeps_the_rights_that_the_program_gave_up", "only root has rights to give up") {
        return;
    }
    for way in WAYS {
        for call in ["setresuid", "by number"] {
            let scratch = Scratch::on_tmpfs();
            let (holder, rights) = hold(&scratch, way, call);
            let nobody = "Uid:\t65534\t65534\t65534\t65534";
            let has = |start: &str| rights.iter().filter(|line| line.starts_with(start)).collect::<Vec<_>>();
            assert_eq!(has("Uid:"), [nobody], "{call}, {way}");
            assert_eq!(has("CapEff:"), ["CapEff:\t0000000000000000"], "{call}, {way}");
            assert_eq!(has("Groups:"), ["Groups:\t "], "{call}, {way}");
            let write = "printf new | dd of=victim conv=notrunc seek=5000 bs=1; : >victim";
            run_ok(scratch.shimmed("sh", way).args(["-c", write]));
            holder.finish_exact(&format!("{call}, {way}"));
        }
    }
}

#[test]
fn a_program_of_one_thread_enters_a_namespace() {
    for way in WAYS {
        let scratch = Scratch::on_tmpfs();
        let (holder, _) = hold(&scratch, way, "unshare");
        run_ok(scratch.shimmed("sh", way).args(["-c", "printf new | dd of=victim conv=notrunc seek=5000 bs=1"]));
        holder.finish_exact(way);
    }
}

#[test]
fn threads_that_change_rights_at_once_wait_for_each_other() {
    if is_root_for("threads_that_change_rights_at_once_wait_for_each_other", "only root has rights to give up") {
        let scratch = Scratch::on_tmpfs();
        let (holder, rights) = hold(&scratch, "agent", "many");
        assert_eq!(rights.iter().filter(|line| line.starts_with("Uid:")).count(), 1);
        run_ok(scratch.shimmed("sh", "agent").args(["-c", "printf new | dd of=victim conv=notrunc; : >victim"]));
        holder.finish_exact("many");
    }
}
