//! The environment is the one that the program was handed. It is obeyed where /proc does not show it; a program with more rights
//! than its caller obeys none of it but SNAPSHIM_DISABLE.
//!
//! Each command runs as another user, in a mount namespace of its own with an empty /dev/shm.

use std::ffi::OsStr;
use std::fs;
use std::process::{Command, Output};

use crate::common::{Scratch, library, program, root, run, skip, text};

/// What is prepared in the namespace before the program runs there. `$box` holds the program, and belongs to the user.
struct Place {
    name: &'static str,
    /// The mode of the program's file.
    mode: &'static str,
    prepare: &'static str,
}

/// A set-user-ID root program, and the library in `/etc/ld.so.preload`: ld.so takes no path from the caller there.
const SET_USER_ID: Place = Place {
    name: "a set-user-ID program",
    mode: "4755",
    prepare: "mkdir $box/etc && mount -t tmpfs tmpfs $box/etc && mkdir $box/etc/up $box/etc/work && \
              mount -t overlay -o lowerdir=/etc,upperdir=$box/etc/up,workdir=$box/etc/work overlay /etc && \
              echo $box/libsnapshim.so > /etc/ld.so.preload",
};

/// Where /proc/self/environ cannot be read, and where it can.
const PLACES: [Place; 4] = [
    Place { name: "a program that may be read", mode: "755", prepare: ":" },
    Place { name: "a program that may be executed only", mode: "711", prepare: ":" },
    Place { name: "a place without /proc", mode: "755", prepare: "umount -l /proc" },
    Place {
        name: "a place where /proc hides others",
        mode: "711",
        prepare: "umount -l /proc && mount -t proc -o hidepid=2 proc /proc",
    },
];

const USER: &str = "65534";

/// Runs the probe, with `variables`, as another user in `place`. It is chroot(1) that changes the user: older versions of
/// setpriv(1) want /proc.
fn probe(place: &Place, variables: &[(&str, &str)], verbs: &[&str]) -> Output {
    let scratch = Scratch::new(&root().join("target/scratch"));
    let script = format!(
        "mount -t tmpfs -o mode=1777 tmpfs /dev/shm && box=/dev/shm/box && mkdir -m 755 $box && chown {USER}:{USER} $box && \
         mkdir -m 700 $box/table && chown {USER}:{USER} $box/table && \
         cp $library $box/libsnapshim.so && cp $program $box/probe && chmod {} $box/probe && cd $box && \
         head -c 8192 /dev/zero | tr '\\0' '\\1' > victim && chmod 666 victim && {{ {}; }} && \
         chroot --skip-chdir --userspec={USER}:{USER} --groups= / env \"$@\" || exit 1; ls -A $box/table /dev/shm > $listing",
        place.mode, place.prepare
    );
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &script, "sh", "LD_PRELOAD=/dev/shm/box/libsnapshim.so"]);
    let is_named = variables.iter().any(|(name, _)| *name == "SNAPSHIM_DIR");
    command.args((!is_named).then_some("SNAPSHIM_DIR=/dev/shm/box/table"));
    command.args(variables.iter().map(|(name, value)| format!("{name}={value}")));
    command.args(["./probe", "victim"]).args(verbs);
    command.env("library", library()).env("program", program("common/env_probe"));
    command.env("listing", scratch.file("listing")).env_remove("LD_PRELOAD");
    let mut output = run(command.current_dir("/"));
    output.stdout.extend(fs::read(scratch.file("listing")).unwrap_or_default());
    output
}

fn can_make_places(test: &str) -> bool {
    let tried = Command::new("unshare").args(["-m", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"]).output();
    let can = tried.is_ok_and(|output| output.status.success());
    if !can {
        skip(test, "mount namespaces and other users need root");
    }
    can
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The variables that README lists.
fn variables() -> Vec<String> {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let rows = readme.lines().filter_map(|line| line.strip_prefix("| `SNAPSHIM_"));
    let names: Vec<String> = rows.filter_map(|row| Some(format!("SNAPSHIM_{}", row.split_once('`')?.0))).collect();
    assert!(names.len() >= 15, "{names:?}");
    names
}

#[test]
fn each_variable_is_obeyed_wherever_the_program_runs() {
    const TEST: &str = "each_variable_is_obeyed_wherever_the_program_runs";
    /// No path, no number, no choice of any variable, and a pattern that matches nothing.
    const UNUSABLE: &str = "[";
    if !can_make_places(TEST) {
        return;
    }
    for place in &PLACES {
        // That one is the command's.
        for name in variables().into_iter().filter(|name| name != "SNAPSHIM_LIBRARY") {
            let output = probe(place, &[(&name, UNUSABLE)], &["active"]);
            let complaint = format!("{name}={UNUSABLE} cannot be used");
            assert_eq!(err(&output).matches(&complaint).count(), 1, "{}: {name}: {}", place.name, text(&output));
        }
    }
}

#[test]
fn the_table_that_is_named_is_used_wherever_the_program_runs() {
    const TEST: &str = "the_table_that_is_named_is_used_wherever_the_program_runs";
    if !can_make_places(TEST) {
        return;
    }
    for place in PLACES.iter().filter(|place| !place.prepare.starts_with("umount -l /proc") || place.mode == "711") {
        let output = probe(place, &[], &["active", "snapshot", "write", "compare"]);
        let found = out(&output);
        assert!(found.starts_with("active: 1\nsnapshot: taken\ncompare: same\n"), "{}: {}", place.name, text(&output));
        assert!(found.contains("table-") && !found.contains("snapshim-"), "{}: {found}", place.name);
    }
}

#[test]
fn disabled_is_disabled_wherever_the_program_runs() {
    const TEST: &str = "disabled_is_disabled_wherever_the_program_runs";
    if !can_make_places(TEST) {
        return;
    }
    for place in PLACES.iter().chain([&SET_USER_ID]) {
        let output = probe(place, &[("SNAPSHIM_DISABLE", "1")], &["active", "snapshot", "write", "compare"]);
        let found = out(&output);
        assert!(
            found.starts_with("active: 0\nsnapshot: taken\ncompare: differs\n"),
            "{}: {}",
            place.name,
            text(&output)
        );
        assert!(!found.contains("table-") && err(&output).is_empty(), "{}: {}", place.name, text(&output));
    }
}

#[test]
fn without_proc_that_is_the_reason() {
    const TEST: &str = "without_proc_that_is_the_reason";
    if !can_make_places(TEST) {
        return;
    }
    let place = &PLACES[2];
    // With and without a table that is there already.
    let joined = Place {
        prepare: "setpriv --reuid=65534 --regid=65534 --clear-groups env LD_PRELOAD=$box/libsnapshim.so \
                  SNAPSHIM_DIR=$box/table ./probe victim active && umount -l /proc",
        ..*place
    };
    for place in [place, &joined] {
        let output = probe(place, &[], &["active", "snapshot", "write"]);
        let found = out(&output);
        assert!(found.contains("active: 0\nsnapshot: EOPNOTSUPP\n"), "{}", text(&output));
        assert_eq!(err(&output).matches("/proc is not mounted").count(), 1, "{}", text(&output));
        assert!(err(&output).contains("mount it"), "{}", text(&output));
    }
}

#[test]
fn a_program_with_more_rights_than_its_caller_obeys_no_variable() {
    const TEST: &str = "a_program_with_more_rights_than_its_caller_obeys_no_variable";
    if !can_make_places(TEST) {
        return;
    }
    let values = |name: &str| if name == "SNAPSHIM_DIR" { "/dev/shm/box/table" } else { "[" }.to_owned();
    let all: Vec<(String, String)> = variables().into_iter().map(|name| (name.clone(), values(&name))).collect();
    let all: Vec<(&str, &str)> = all
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .filter(|(name, _)| !["SNAPSHIM_DISABLE", "SNAPSHIM_LOG"].contains(name))
        .chain([("SNAPSHIM_LOG", "debug:/dev/shm/box/log")])
        .collect();
    let output = probe(&SET_USER_ID, &all, &["active", "snapshot", "write", "compare"]);
    let found = out(&output);
    assert!(found.starts_with("active: 1\nsnapshot: taken\ncompare: same\n"), "{}", text(&output));
    assert!(found.contains("snapshim-0") && !found.contains("table-") && !found.contains("log"), "{}", text(&output));
    // That it takes part with others than its caller expects is said.
    assert_eq!(err(&output).matches("cannot be used").count(), 1, "{}", text(&output));
    assert!(err(&output).contains("SNAPSHIM_DIR=/dev/shm/box/table"), "{}", text(&output));
}

#[test]
fn a_variable_of_any_length_is_read_as_a_whole() {
    let scratch = Scratch::on_tmpfs();
    fs::write(scratch.file("victim"), [1; 8192]).unwrap();
    let long = format!("{}:[", "/no/such/file".repeat(8000));
    let mut command = scratch.shimmed(program("common/env_probe"), "auto");
    let output = run(command.args(["victim", "active"]).env("SNAPSHIM_FILES", OsStr::new(&long)));
    assert!(err(&output).contains("SNAPSHIM_FILES="), "{}", text(&output));
}
