//! Processes that execute, fork and end threads while they hold snapshots: what they leave is taken away, what they
//! inherit is exact, and what comes after them is left alone.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::busy::in_good_time;
use crate::common::holder::Holder;
use crate::common::{
    Scratch, WAYS, compile, copy_program, each_at_once, fails_natively, program, root, run, run_ok, scratches, skip,
    text,
};

/// A user without rights.
const NOBODY: u32 = 65534;

/// A scratch directory that belongs to `NOBODY`; says so where that cannot be had.
fn of_nobody(test: &str, base: &Path) -> Option<Scratch> {
    // SAFETY: geteuid(2) cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        skip(test, "becoming another user needs root");
        return None;
    }
    let scratch = Scratch::new(base);
    for directory in [&scratch.path, scratch.table()] {
        chown(directory, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    Some(scratch)
}

/// What the table has, as its user is told.
fn status(scratch: &Scratch, user: u32) -> String {
    let mut command = Command::new(root().join("target/release/snapshim"));
    run_ok(command.arg("status").env("SNAPSHIM_DIR", scratch.table()).uid(user).gid(user))
}

/// A copy of `original` with these rights, of `owner`.
fn copy(scratch: &Scratch, original: &Path, name: &str, owner: u32, mode: u32) -> PathBuf {
    let copy = scratch.file(name);
    copy_program(original, &copy);
    chown(&copy, Some(owner), Some(owner)).unwrap();
    fs::set_permissions(&copy, Permissions::from_mode(mode)).unwrap();
    copy
}

/// A mapper executes `target`. Afterwards a write does not wait, the table has nothing of the mapper's, and the new image was left
/// alone.
fn becomes(scratch: &Scratch, way: &str, how: &str, target: &Path, environment: &str) {
    let about = format!("{way}, {how}, {}, {environment}, {}", target.display(), scratch.path.display());
    let mut command = scratch.shimmed(program("lifecycle/exec"), way);
    command.args(["target", how]).arg(target).arg(environment);
    let holder = Holder::run(command.uid(NOBODY).gid(NOBODY).stderr(Stdio::inherit()));
    let told = status(scratch, NOBODY);
    let mut parts = told.split("\n\n");
    let (processes, snapshots) = (parts.next().unwrap(), parts.next().unwrap());
    assert_eq!(snapshots.lines().count(), 1, "{about}: {told}");
    // A thread that has ended altogether ("?") may be there until another one needs the place.
    assert!(processes.lines().all(|line| !line.contains(" dead ") || line.contains(" ? ")), "{about}: {told}");
    assert_eq!(holder.finish(), "status 0\n", "{about}");
}

#[test]
fn what_a_mapper_held_before_exec_is_nobodys_afterwards() {
    let target = program("lifecycle/target");
    for base in [&root().join("target/scratch"), Path::new("/dev/shm")] {
        let Some(scratch) = of_nobody("what_a_mapper_held_before_exec_is_nobodys_afterwards", base) else { return };
        for way in WAYS {
            for how in ["execve", "execveat", "fexecve", "syscall", "thread"] {
                becomes(&scratch, way, how, &target, "shim");
            }
            becomes(&scratch, way, "execve", &target, "none");
            becomes(&scratch, way, "thread", &target, "none");
        }
    }
}

#[test]
fn a_static_program_is_not_taken_for_the_mapper_that_executed_it() {
    const TEST: &str = "a_static_program_is_not_taken_for_the_mapper_that_executed_it";
    let target = compile("lifecycle/target", &["-static"]);
    let Some(scratch) = of_nobody(TEST, &root().join("target/scratch")) else { return };
    WAYS.iter().for_each(|way| becomes(&scratch, way, "execve", &target, "shim"));
}

#[test]
fn a_program_that_nobody_may_look_into_is_not_taken_for_the_mapper_that_executed_it() {
    const TEST: &str = "a_program_that_nobody_may_look_into_is_not_taken_for_the_mapper_that_executed_it";
    let Some(scratch) = of_nobody(TEST, &root().join("target/scratch")) else { return };
    let original = program("lifecycle/target");
    let unreadable = copy(&scratch, &original, "unreadable", 0, 0o711);
    let setuid = copy(&scratch, &original, "setuid", 1, 0o4755);
    for way in WAYS {
        for how in ["execve", "execveat", "syscall", "thread"] {
            becomes(&scratch, way, how, &unreadable, "shim");
            becomes(&scratch, way, how, &setuid, "shim");
        }
        becomes(&scratch, way, "fexecve", &setuid, "shim");
    }
}

#[test]
fn an_exec_that_fails_leaves_snapshots_as_they_were() {
    for (scratch, way) in scratches().iter().zip(WAYS) {
        run_ok(scratch.shimmed(program("lifecycle/exec"), way).arg("failure"));
    }
}

#[test]
fn the_agent_is_started_beside_an_exec_that_fails() {
    let scratch = Scratch::on_tmpfs();
    let output = run(scratch.shimmed(program("lifecycle/exec"), "direct").arg("beside"));
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output));
}

#[test]
fn no_page_of_a_new_image_is_copied_by_who_wrote_for_the_old_one() {
    for (scratch, way) in scratches().iter().zip(["direct", "auto"]) {
        run_ok(scratch.shimmed(program("lifecycle/exec"), way).arg("storm"));
    }
}

/// Runs a scenario on both file systems, in both ways. Natively, where the flag is ignored, it has to fail.
fn holds(name: &str, scenario: &str) {
    // In these a snapshot is refused, and that is waited for.
    let is_refused = match name {
        "lifecycle/nested" | "lifecycle/by_path" => true,
        "lifecycle/lent" | "lifecycle/stacks" => scenario.starts_with("a_call_"),
        _ => false,
    };
    let in_time = |timeout: &str| {
        let runs = WAYS.into_iter().flat_map(|way| scratches().map(|scratch| (scratch, way)));
        each_at_once(runs, |(scratch, way)| {
            let mut command = scratch.shimmed(program(name), way);
            run_ok(command.arg(scenario).env("SNAPSHIM_TIMEOUT_MS", timeout));
        });
    };
    if is_refused {
        in_good_time(scenario, 1500, in_time)
    } else {
        in_time("60000")
    }
    fails_natively(name, scenario);
}

macro_rules! scenarios {
    ($($program:ident { $($scenario:ident)* })*) => {
        $(
            mod $program {
                $(
                    #[test]
                    fn $scenario() {
                        super::holds(concat!("lifecycle/", stringify!($program)), stringify!($scenario));
                    }
                )*
            }
        )*
    };
}

scenarios! {
    by_path {
        a_call_by_a_path_that_leads_nowhere_known_is_waited_for
    }
    fork {
        children_by_any_way_keep_what_they_inherit
        a_child_of_a_handler_keeps_what_it_inherits
        what_a_handler_in_a_write_hands_down_faults
        children_by_any_way_are_seen_to_store
        a_process_of_many_threads_forks
        two_hundred_children_keep_what_they_inherit
        what_cannot_be_inherited_faults
        vfork_spawn_system_and_popen_leave_snapshots_alone
        wipeonfork_is_refused
    }
    nested {
        a_call_that_a_handler_forked_in_is_waited_for
        a_child_that_dies_in_an_inherited_call_is_not_waited_for
        an_announcement_is_each_process_its_own
        a_call_below_a_handler_that_opens_signals_is_waited_for
    }
    stacks {
        a_call_below_an_autodisarmed_stack_is_waited_for
        a_call_below_a_swapped_context_is_waited_for
        a_call_below_a_switch_of_stacks_is_waited_for
        a_call_on_the_alternate_stack_is_waited_for
        a_call_of_a_preempted_thread_is_waited_for
        a_call_below_a_stack_within_the_stack_is_waited_for
        calls_that_are_left_by_jumps_hold_nobody_up
        a_call_that_is_left_without_proof_counts_until_its_thread_ends
    }
    lent {
        a_call_of_a_vfork_child_is_waited_for
        a_call_beside_a_child_is_waited_for
        a_call_of_a_vfork_child_is_waited_for_when_its_parent_is_gone
        a_spawned_child_that_cuts_keeps_the_stores_of_threads
        a_thread_that_spawned_before_it_wrote_holds_nobody_up
        what_a_borrower_forks_is_exact_or_faults
        the_memory_of_strangers_is_left_alone
    }
    threads {
        a_process_without_threads_ends
        a_hook_that_was_left_by_a_jump_holds_nobody_up
        a_hook_that_was_left_by_a_jump_lets_nobody_through
    }
}

/// Runs a scenario with a table that has room for hardly more slots than those it has memory for from the start: it lies on a file
/// system that is full then.
fn holds_in_a_small_table(scenario: &str, timeout: &str) {
    const MOUNTS: &str = "mkdir -m 700 \"$DIRECTORY\" && mount -t tmpfs -o mode=700,size=4816k none \"$DIRECTORY\"";
    let runs = format!("{MOUNTS} && exec env LD_PRELOAD=\"$LIBRARY\" SNAPSHIM_DIR=\"$DIRECTORY\" \"$0\" {scenario}");
    for scratch in scratches() {
        for way in WAYS {
            let directory = scratch.file(&format!("table-{way}"));
            let mut command = scratch.native("unshare");
            command
                .args(["-m", "sh", "-c", &runs])
                .arg(program("lifecycle/threads"))
                .env("DIRECTORY", directory)
                .env("LIBRARY", crate::common::library())
                .env("SNAPSHIM_PUSH", way)
                .env("SNAPSHIM_TIMEOUT_MS", timeout);
            run_ok(&mut command);
        }
    }
}

#[test]
fn thousands_of_short_threads_leave_no_slot_behind() {
    const TEST: &str = "thousands_of_short_threads_leave_no_slot_behind";
    if can_mount(TEST) {
        holds_in_a_small_table(TEST, "60000");
    }
}

#[test]
fn a_death_without_a_slot_is_noticed() {
    const TEST: &str = "a_death_without_a_slot_is_noticed";
    if can_mount(TEST) {
        // In it a snapshot is refused, and that is waited for.
        holds_in_a_small_table(TEST, "4000");
    }
}

/// Whether this user can mount file systems; says so if not.
fn can_mount(test: &str) -> bool {
    // SAFETY: geteuid(2) cannot fail.
    let is_root = unsafe { libc::geteuid() } == 0;
    if !is_root {
        skip(test, "only root can mount a small file system for the table");
    }
    is_root
}

/// A library that switches stacks by instructions of its own.
#[test]
fn a_call_below_a_boost_context_is_waited_for() {
    const TEST: &str = "a_call_below_a_boost_context_is_waited_for";
    const LIBRARY: &str = "-lboost_context";
    let scratch = Scratch::on_tmpfs();
    let output = scratch.file("linked");
    let linked =
        Command::new("gcc").args(["-shared", "-o"]).arg(&output).args(["-Wl,--no-as-needed", LIBRARY]).output();
    if !linked.is_ok_and(|linked| linked.status.success()) {
        return skip(TEST, "Boost.Context is not installed");
    }
    let program = compile("lifecycle/stacks", &["-DBOOST", LIBRARY]);
    in_good_time(TEST, 1500, |timeout| {
        for way in WAYS {
            run_ok(scratch.shimmed(&program, way).arg(TEST).env("SNAPSHIM_TIMEOUT_MS", timeout));
        }
    });
}

/// A process that may not look into the child, or into what its parent left, waits for it all the same.
#[test]
fn a_call_of_a_vfork_child_is_waited_for_by_who_may_not_look_into_it() {
    const TEST: &str = "a_call_of_a_vfork_child_is_waited_for_by_who_may_not_look_into_it";
    let Some(scratch) = of_nobody(TEST, Path::new("/dev/shm")) else { return };
    in_good_time(TEST, 1500, |timeout| {
        for way in WAYS {
            let mut command = scratch.shimmed(program("lifecycle/lent"), way);
            command.arg("a_call_of_a_vfork_child_is_waited_for_when_its_parent_is_gone");
            run_ok(command.env("SNAPSHIM_TIMEOUT_MS", timeout).uid(NOBODY).gid(NOBODY));
        }
    });
}

#[test]
fn none_of_this_goes_without_the_shim() {
    let scratch = Scratch::on_tmpfs();
    for arguments in [&["failure"][..], &["storm"]] {
        let output = run(scratch.native(program("lifecycle/exec")).args(arguments));
        assert!(!output.status.success(), "{arguments:?} needs no shim: {}", text(&output));
    }
}
