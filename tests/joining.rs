//! No writer is unseen that could have been seen: a process joins before it shuts itself in, tries again when it was refused, and says
//! in the table what stays unseen. What says so is doubtful, and nothing else is.

mod common;

use std::process::Command;

use common::{Scratch, WAYS, program, run, run_ok, skip, text};

/// What shuts a process in also keeps it from the mapper's pages: only the agent is left to preserve them.
fn shuts_itself_in(how: &str) {
    for way in ["auto", "agent"] {
        let scratch = Scratch::on_tmpfs();
        let output = run(scratch.shimmed(program("joining"), way).arg(how));
        let said = text(&output);
        if said == "SKIPPED\n" {
            return skip(how, "the kernel refuses it here");
        }
        assert!(output.status.success() && said.is_empty(), "{how}, {way}: {said}");
    }
}

fn beside_unseen(what: &str, way: &str) -> String {
    let scratch = Scratch::on_tmpfs();
    let output = run(scratch.shimmed(program("unseen"), way).arg(what));
    let said = text(&output);
    assert!(output.status.success(), "{what}, {way}: {said}");
    said
}

#[test]
fn who_cannot_join_makes_snapshots_doubtful_as_long_as_it_lives_and_says_so() {
    for way in WAYS {
        let said = beside_unseen("limited", way);
        assert_eq!(said.matches("takes no part: ").count(), 1, "{said}");
        assert_eq!(said.matches("doubtful from the start").count(), 1, "{said}");
    }
}

/// One after the other, each gone before the next comes.
#[test]
fn what_each_process_of_a_pipeline_cannot_do_is_said_once() {
    let scratch = Scratch::on_tmpfs();
    run_ok(scratch.shimmed("true", "auto").arg("made"));
    let pipeline = "ulimit -v 40000; echo 1 | cat | cat | cat | cat >/dev/null; wait";
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("echo made >/dev/null; exec sh -c '{pipeline}'")]);
    for (name, value) in scratch.shimmed("sh", "auto").get_envs() {
        shell.env(name, value.unwrap());
    }
    let said = text(&run(&mut shell));
    assert_eq!(said.matches("takes no part: ").count(), 1, "{said}");
}

/// A filter of seccomp(2) that refuses to say which file a descriptor leads to.
#[test]
fn what_a_write_of_unknown_aim_may_reach_is_kept_or_doubtful() {
    for way in WAYS {
        for what in ["unnamed", "named-otherwise"] {
            if beside_unseen(what, way).contains("SKIPPED") {
                return skip("what_a_write_of_unknown_aim_may_reach_is_kept_or_doubtful", "seccomp(2) is refused here");
            }
        }
    }
}

#[test]
fn who_leaves_the_tables_directory_behind_joins_before() {
    for how in ["chroot", "chroot-by-number", "mount", "other-namespace"] {
        shuts_itself_in(how);
    }
}

#[test]
fn who_becomes_another_user_joins_before() {
    for how in ["setuid", "setresuid", "setfsuid"] {
        shuts_itself_in(how);
    }
}

#[test]
fn who_lowers_its_limits_joins_before() {
    for how in ["descriptors", "address-space", "address-space-by-prlimit"] {
        shuts_itself_in(how);
    }
}

#[test]
fn who_forbids_itself_to_open_files_joins_before() {
    for how in ["filter", "filter-by-number"] {
        shuts_itself_in(how);
    }
}

#[test]
fn who_has_no_descriptor_left_joins_all_the_same() {
    shuts_itself_in("no-descriptor-left");
}
