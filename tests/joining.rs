//! No writer is unseen that could have been seen: a process joins before it shuts itself in, tries again when it was refused, and
//! says in the table what stays unseen. What says so is doubtful, and nothing else is.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::{Scratch, WAYS, make_table_directory, program, run, run_ok, skip, text};
use snapshim::table_file_name;

/// What shuts a process in also keeps it from the mapper's pages: only the agent is left to preserve them.
fn shuts_itself_in(how: &str) {
    for way in ["auto", "agent"] {
        let scratch = Scratch::on_tmpfs();
        let output = run(scratch.shimmed(program("reach/joining"), way).arg(how));
        let said = text(&output);
        if said == "SKIPPED\n" {
            return skip(how, "the kernel refuses it here");
        }
        assert!(output.status.success() && said.is_empty(), "{how}, {way}: {said}");
    }
}

fn beside_unseen(what: &str, way: &str) -> String {
    let scratch = Scratch::on_tmpfs();
    let output = run(scratch.shimmed(program("reach/unseen"), way).arg(what));
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

#[test]
fn who_cannot_even_map_a_page_of_the_table_makes_it_doubtful_for_good() {
    for way in WAYS {
        beside_unseen("without-room", way);
    }
}

/// It had joined; the next image finds another table at the path, or none.
#[test]
fn who_executes_a_program_out_of_the_tables_reach_makes_snapshots_doubtful_as_long_as_it_lives() {
    const TEST: &str = "who_executes_a_program_out_of_the_tables_reach_makes_snapshots_doubtful_as_long_as_it_lives";
    for what in ["executed-in-other-mounts", "executed-in-chroot", "executed-as-another-user"] {
        for way in WAYS {
            if what == "executed-as-another-user" && !may_others_run() {
                skip(TEST, "other users cannot reach the build directory");
            } else if beside_unseen(what, way).contains("SKIPPED") {
                skip(TEST, what);
            }
        }
    }
}

fn may_others_run() -> bool {
    let is_open = |path: &Path| fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o001 != 0);
    program("reach/unseen").ancestors().all(is_open)
}

#[test]
fn who_stays_or_comes_back_takes_part() {
    for what in ["not-executed", "executed-and-back"] {
        for way in WAYS {
            if beside_unseen(what, way).contains("SKIPPED") {
                return skip("who_stays_or_comes_back_takes_part", "no mount namespace can be made here");
            }
        }
    }
}

#[test]
fn who_uses_a_table_of_another_version_makes_snapshots_doubtful_as_long_as_it_lives() {
    for way in WAYS {
        let said = beside_unseen("other-version", way);
        assert_eq!(said.matches("uses a table of another version").count(), 1, "{said}");
    }
}

/// It is there already: the maker of the new table tells, and no process after that.
#[test]
fn a_table_of_another_version_in_use_is_said_once() {
    let scratch = Scratch::on_tmpfs();
    fs::write(scratch.file("file"), [0; 32768]).unwrap();
    let mut other = scratch.native(program("reach/unseen"));
    other.args(["other", "1", "0"]).env("SNAPSHIM_DIR", scratch.table());
    let mut other = other.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    other.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let said = || text(&run(scratch.shimmed("sh", "auto").args(["-c", "echo new >new"])));
    let (first, second) = (said(), said());
    other.stdin.take().unwrap().write_all(b"gg").unwrap();
    assert!(other.wait().unwrap().success());
    assert_eq!(
        first.matches(&format!("process {} (unseen) uses a table of another version", other.id())).count(),
        1,
        "{first}"
    );
    assert_eq!(second, "");
    fs::remove_file(scratch.table().join(table_file_name!())).unwrap();
    assert_eq!(said(), "", "nobody uses it any more");
}

/// What the program may make no larger is not the table; no signal ends it for that.
#[test]
fn who_may_not_make_a_file_of_the_tables_size_runs_on() {
    for (most, is_active) in [(libc::RLIM_INFINITY, "active: 1\n"), (8192, "active: 0\n")] {
        let scratch = Scratch::on_tmpfs();
        fs::write(scratch.file("victim"), [1; 8192]).unwrap();
        let mut command = scratch.shimmed(program("common/env_probe"), "auto");
        command.args(["victim", "active", "write"]);
        let limit = libc::rlimit { rlim_cur: 8192, rlim_max: most };
        // SAFETY: setrlimit(2) is async-signal-safe.
        unsafe {
            command.pre_exec(move || {
                assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit), 0);
                Ok(())
            });
        }
        let output = run(&mut command);
        assert!(output.status.success() && output.stdout == is_active.as_bytes(), "{most}: {}", text(&output));
        assert_ne!(fs::read(scratch.file("victim")).unwrap(), [1; 8192]);
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

/// The joining thread looks the path up behind chroot(2), and finds another table, or none. Another table took the place of the one
/// that the process had, and the process announced its changes there; where there was none, the process said that it takes no part.
#[test]
fn a_thread_that_joins_while_another_leaves_the_root_stays_at_the_same_table() {
    for how in ["chroot-while-a-thread-joins", "chroot-while-a-thread-that-stands-still-joins"] {
        for (has_table, way) in
            [true, false].into_iter().flat_map(|has_table| ["auto", "agent"].map(|way| (has_table, way)))
        {
            let scratch = Scratch::on_tmpfs();
            let inside = scratch.file("root").join(scratch.table().strip_prefix("/").unwrap());
            fs::create_dir_all(inside.parent().unwrap()).unwrap();
            make_table_directory(&inside);
            if has_table {
                run_ok(scratch.shimmed("sh", way).env("SNAPSHIM_DIR", &inside).args(["-c", "echo made >made"]));
                assert!(inside.join(table_file_name!()).exists());
            }
            let output = run(scratch.shimmed(program("reach/joining"), way).arg(how));
            let said = text(&output);
            if said == "SKIPPED\n" {
                return skip(how, "the kernel refuses it here");
            }
            assert!(output.status.success(), "{how}, {has_table}, {way}: {said}");
            assert!(!said.contains("takes no part"), "{how}, {has_table}, {way}: {said}");
        }
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
fn who_is_started_within_low_limits_joins_all_the_same() {
    shuts_itself_in("started-within-limits");
}

#[test]
fn who_has_no_descriptor_left_joins_all_the_same() {
    shuts_itself_in("no-descriptor-left");
}
