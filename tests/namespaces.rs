//! Mapper and writer in different namespaces (namespaces(7)): the snapshot stays what it is, or the process that cannot take part
//! says so.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::holder::Holder;
use crate::common::{Scratch, WAYS, new_name, program, root, run, run_ok, scratches, skip, text};
use snapshim::table_file_name;

const SIZE: usize = 200_000;

/// What unshare(1) is told, for each kind of namespace in which processes take part.
const SPACES: [(&str, &[&str]); 8] = [
    ("user", &["-U", "-r"]),
    ("mount", &["-m"]),
    ("ipc", &["-i"]),
    ("cgroup", &["-C"]),
    ("network", &["-n"]),
    ("uts", &["-u"]),
    ("time", &["--time", "--boottime", "1000000", "--monotonic", "2000000", "--fork"]),
    ("all but pid", &["-U", "-r", "-m", "-i", "-C", "-n", "-u", "--time", "--boottime", "1000000", "--fork"]),
];

fn can_have(test: &str, name: &str, how: &[&str]) -> bool {
    let made = Command::new("unshare").args(how).arg("true").output();
    let can = made.is_ok_and(|output| output.status.success());
    if !can {
        skip(test, &format!("no {name} namespace can be made here"));
    }
    can
}

/// The same command in namespaces of its own.
fn inside(how: &[&str], command: &Command) -> Command {
    let mut inside = Command::new("unshare");
    inside.args(how).arg("--").arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        inside.env(name, value.unwrap());
    }
    inside.current_dir(command.get_current_dir().unwrap()).stdin(Stdio::null());
    inside
}

fn lay(scratch: &Scratch) {
    fs::write(scratch.file("victim"), vec![b'o'; SIZE]).unwrap();
}

fn hold(scratch: &Scratch, way: &str) -> Command {
    let mut command = scratch.shimmed(program("common/hold"), way);
    command.arg("victim").args(["r", &SIZE.to_string()]);
    command
}

/// Writes a page, then cuts the file.
fn change(scratch: &Scratch, way: &str) -> Command {
    let mut command = scratch.shimmed("sh", way);
    command.args(["-c", "printf new | dd of=victim conv=notrunc status=none && printf shorter >victim"]);
    command
}

fn assert_kept(holder: Holder, about: &str) {
    let found = holder.finish();
    assert!(
        found.contains("same\n") && found.contains("state=0 ") && !found.contains("preserved=0\n"),
        "{about}: {found}"
    );
}

#[test]
fn a_writer_in_another_namespace_spoils_no_snapshot() {
    for (name, how) in SPACES {
        if !can_have("a_writer_in_another_namespace_spoils_no_snapshot", name, how) {
            continue;
        }
        for (scratch, way) in scratches().iter().flat_map(|scratch| ["auto", "agent"].map(|way| (scratch, way))) {
            lay(scratch);
            let holder = Holder::run(&mut hold(scratch, way));
            run_ok(&mut inside(how, &change(scratch, way)));
            assert_kept(holder, &format!("{name}, {way}, {}", scratch.path.display()));
        }
    }
}

#[test]
fn a_mapper_in_another_namespace_keeps_its_snapshot() {
    for (name, how) in SPACES {
        if !can_have("a_mapper_in_another_namespace_keeps_its_snapshot", name, how) {
            continue;
        }
        for (scratch, way) in scratches().iter().flat_map(|scratch| ["auto", "agent"].map(|way| (scratch, way))) {
            lay(scratch);
            let holder = Holder::run(&mut inside(how, &hold(scratch, way)));
            run_ok(&mut change(scratch, way));
            assert_kept(holder, &format!("{name}, {way}, {}", scratch.path.display()));
        }
    }
}

/// They were taken for others with their pids, and the table was declared damaged.
#[test]
fn nobody_is_buried_from_another_time_namespace() {
    let (name, how) = SPACES[6];
    if !can_have("nobody_is_buried_from_another_time_namespace", name, how) {
        return;
    }
    let scratch = Scratch::on_tmpfs();
    lay(&scratch);
    let command = |verb: &str| {
        let mut command = Command::new(root().join("target/release/snapshim"));
        command.arg(verb).env("SNAPSHIM_DIR", scratch.table()).current_dir(&scratch.path);
        command
    };
    let outside = Holder::run(&mut hold(&scratch, "auto"));
    let within = Holder::run(&mut inside(how, &hold(&scratch, "auto")));
    let recovered = run_ok(&mut inside(how, &command("recover")));
    assert!(recovered.starts_with("took 0 "), "{recovered}");
    let recovered = run_ok(&mut command("recover"));
    assert!(recovered.starts_with("took 0 "), "{recovered}");
    let told = [run_ok(&mut command("status")), run_ok(&mut inside(how, &command("status")))];
    assert!(told.iter().all(|told| told.matches("hold              alive ").count() == 2), "{told:?}");
    run_ok(&mut change(&scratch, "auto"));
    assert_kept(outside, "outside");
    assert_kept(within, "inside");
}

#[test]
fn a_program_that_comes_to_another_time_namespace_keeps_its_snapshots() {
    const TEST: &str = "a_program_that_comes_to_another_time_namespace_keeps_its_snapshots";
    for (scratch, way) in scratches().iter().flat_map(|scratch| WAYS.map(|way| (scratch, way))) {
        for how in ["fork", "setns"] {
            let output = run(scratch.shimmed(program("foreign/namespace_time"), way).arg(how));
            if output.status.code() == Some(77) {
                skip(TEST, "no time namespace can be made here");
                continue;
            }
            assert!(output.status.success(), "{how}, {way}: {}", text(&output));
        }
    }
}

/// /proc tells how far ahead the clocks of a process's children are. Its own may be others: it made a namespace and no child.
#[test]
fn a_process_whose_clocks_cannot_be_told_makes_snapshots_doubtful_as_long_as_it_lives() {
    const TEST: &str = "a_process_whose_clocks_cannot_be_told_makes_snapshots_doubtful_as_long_as_it_lives";
    for (way, what) in WAYS.into_iter().flat_map(|way| ["executed", "forked"].map(|what| (way, what))) {
        let scratch = Scratch::on_tmpfs();
        let output = run(scratch.shimmed(program("reach/unseen"), way).arg(format!("{what}-without-clocks")));
        let said = text(&output);
        if said.contains("SKIPPED") {
            skip(TEST, &format!("no time namespace can be made here, or none is come to where a program is {what}"));
            continue;
        }
        assert!(output.status.success(), "{what}, {way}: {said}");
        assert_eq!(
            said.matches("the clocks of this time namespace cannot be translated").count(),
            1,
            "{what}, {way}: {said}"
        );
        assert_eq!(said.matches("doubtful from the start").count(), 1, "{what}, {way}: {said}");
    }
}

/// The same command in namespaces of its own, which unshare(1) makes without the shim.
fn inside_alone(how: &[&str], command: &Command) -> Command {
    let mut inside = Command::new("unshare");
    inside.args(how).args(["--", "env"]);
    for (name, value) in command.get_envs() {
        inside.arg([name, value.unwrap()].join(OsStr::new("=")));
    }
    inside.arg(command.get_program()).args(command.get_args());
    inside.current_dir(command.get_current_dir().unwrap()).stdin(Stdio::null());
    inside
}

/// A change that hides the others' from a process that looks at the file's times.
fn hide(scratch: &Scratch, change: &mut Command) -> String {
    let said = text(&run(change));
    run_ok(
        scratch.shimmed("sh", "auto").args(["-c", "printf x | dd of=victim bs=1 seek=190000 conv=notrunc status=none"]),
    );
    said
}

fn assert_doubtful(holder: Holder, said: &str) {
    assert!(said.contains("takes no part") && said.contains("another pid namespace"), "{said}");
    assert!(said.contains("all snapshots in that table are doubtful"), "{said}");
    let found = holder.finish();
    assert!(found.contains("state=1 "), "{found}");
}

fn is_exact(scratch: &Scratch) -> bool {
    Holder::run(&mut hold(scratch, "auto")).finish().contains("state=0 ")
}

/// From all sides: the child that was forked there, the process that comes second, and the others where the first one came from
/// there.
#[test]
fn who_is_in_another_pid_namespace_makes_snapshots_doubtful_as_long_as_it_lives() {
    const TEST: &str = "who_is_in_another_pid_namespace_makes_snapshots_doubtful_as_long_as_it_lives";
    let how: &[&str] = &["-p", "--fork", "--mount-proc"];
    if !can_have(TEST, "pid", how) {
        return;
    }
    for make in [inside, inside_alone] {
        let scratch = Scratch::on_tmpfs();
        lay(&scratch);
        let holder = Holder::run(&mut hold(&scratch, "auto"));
        let said = hide(&scratch, &mut make(how, &overwrite(&scratch)));
        assert_doubtful(holder, &said);
        assert!(is_exact(&scratch), "it is gone");
    }
    let scratch = Scratch::on_tmpfs();
    lay(&scratch);
    let holder = Holder::run(&mut inside_alone(how, &hold(&scratch, "auto")));
    let said = text(&run(&mut overwrite(&scratch)));
    run_ok(&mut inside_alone(how, &overwrite(&scratch)));
    assert_doubtful(holder, &said);
}

/// In place: a shorter file would be found by its size.
fn overwrite(scratch: &Scratch) -> Command {
    let mut command = scratch.shimmed("sh", "auto");
    command.args(["-c", "printf new | dd of=victim conv=notrunc status=none"]);
    command
}

/// A user that makes itself root in a namespace of its own would meet no process in the directory of root's.
#[test]
fn root_in_a_namespace_of_a_user_stays_with_the_users_table() {
    const TEST: &str = "root_in_a_namespace_of_a_user_stays_with_the_users_table";
    // No other test runs as this user.
    const USER: &str = "61723";
    let become_user: &[&str] = &["--reuid", USER, "--regid", USER, "--clear-groups"];
    let with = |how: &[&str], rest: &[&str]| {
        let mut command = Command::new("setpriv");
        command
            .args(how)
            .args(rest)
            .env("LD_PRELOAD", crate::common::library())
            .env_remove("SNAPSHIM_DIR")
            .current_dir("/");
        command
    };
    let tried = Command::new("setpriv").args(become_user).args(["unshare", "-U", "-r", "true"]).output();
    if !tried.is_ok_and(|output| output.status.success()) {
        return skip(TEST, "no user can make a user namespace here, or be become");
    }
    let directory = Path::new("/dev/shm").join(format!("snapshim-{USER}"));
    let file = Path::new("/dev/shm").join(new_name());
    let script = format!("echo new >{}", file.display());
    let said = text(&run(&mut with(become_user, &["unshare", "-U", "-r", "sh", "-c", &script])));
    let is_made = directory.join(table_file_name!()).exists();
    let _ = fs::remove_dir_all(&directory);
    let _ = fs::remove_file(&file);
    assert!(is_made && said.is_empty(), "{}: {said}", directory.display());
}

/// A memory cgroup, for as long as it is wanted.
struct Group(PathBuf);

impl Group {
    fn with_limit(bytes: u64) -> Option<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let path = groups.lines().find_map(|line| Some(line.split_once(":memory:")?.1.to_string()))?;
        let group = Path::new(&format!("/sys/fs/cgroup/memory{path}")).join(new_name());
        fs::create_dir(&group).ok()?;
        let group = Self(group);
        fs::write(group.0.join("memory.limit_in_bytes"), bytes.to_string()).ok()?;
        Some(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// The writer's own limit was taken for that of a mapper outside of its cgroup namespace.
#[test]
fn a_mapper_outside_of_the_cgroup_namespace_is_not_judged_by_the_writers_limit() {
    const TEST: &str = "a_mapper_outside_of_the_cgroup_namespace_is_not_judged_by_the_writers_limit";
    const LIMIT: u64 = 4 << 20;
    let how: &[&str] = &["-C", "-m"];
    let Some(group) = Group::with_limit(LIMIT) else {
        return skip(TEST, "no memory cgroup of the first version can be made here");
    };
    if !can_have(TEST, "cgroup", how) {
        return;
    }
    let scratch = Scratch::new(&root().join("target/scratch"));
    lay(&scratch);
    let holder = Holder::run(&mut hold(&scratch, "auto"));
    let script = "echo $$ >\"$0/cgroup.procs\" && exec unshare -C -m sh -c '
        mount --bind \"$0\" /sys/fs/cgroup/memory &&
        test \"$(cat /sys/fs/cgroup/memory/memory.limit_in_bytes)\" = \"$1\" &&
        exec env LD_PRELOAD=\"$2\" dd if=/dev/zero of=victim bs=4096 count=1 conv=notrunc status=none' \"$0\" \"$1\" \"$2\"";
    let mut writer = Command::new("sh");
    writer.args(["-c", script]).arg(&group.0).arg(LIMIT.to_string()).arg(crate::common::library());
    writer.env("SNAPSHIM_DIR", scratch.table()).current_dir(&scratch.path);
    let said = text(&run(&mut writer));
    assert_eq!(said, "");
    assert_kept(holder, "a writer at its limit");
}
