//! A program that confines itself by a filter of system calls (seccomp(2)) lives as it does natively, and what it changes is in no
//! snapshot, or the snapshot says so.

use std::fs;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::Mutex;

use crate::common::holder::Holder;
use crate::common::{
    Scratch, WAYS, are_installed, each_at_once, library, program, root, run, run_ok, scratches, skip, text,
};

/// Calls that change the file, each with a filter that knows no other.
const SCENARIOS: [(&str, Worth); 21] = [
    ("to_pipe", Worth::Exact),
    ("by_write", Worth::Exact),
    ("by_pwrite", Worth::Exact),
    ("by_writev", Worth::Exact),
    ("to_the_end", Worth::Exact),
    ("by_ftruncate", Worth::Exact),
    // Which file a path leads to is not known.
    ("by_truncate", Worth::Said),
    ("by_open", Worth::Said),
    ("by_creat", Worth::Said),
    ("by_punching", Worth::Exact),
    ("by_copying", Worth::Exact),
    ("by_sendfile", Worth::Exact),
    ("after_opening", Worth::Said),
    ("after_reopening", Worth::Said),
    ("after_duplicating", Worth::Said),
    ("by_storing", Worth::Exact),
    ("after_mapping", Worth::Said),
    // Once such a mapping grew unseen.
    ("after_growing", Worth::Said),
    ("in_a_thread", Worth::Said),
    ("in_a_child", Worth::Said),
    ("with_memory", Worth::Exact),
];

/// What a snapshot has to be afterwards.
#[derive(Clone, Copy, PartialEq)]
enum Worth {
    Exact,
    /// Exact, or it says that it is not.
    Said,
}

fn with_files() -> [Scratch; 2] {
    let scratches = scratches();
    scratches.iter().for_each(make_files);
    scratches
}

fn make_files(scratch: &Scratch) {
    fs::write(scratch.file("file"), [1; 16 * 4096]).unwrap();
    fs::write(scratch.file("other"), [2; 4096]).unwrap();
}

fn can_confine(test: &str) -> bool {
    let scratch = Scratch::on_tmpfs();
    make_files(&scratch);
    let can = run(scratch.native(program("reach/confined")).args(["kill", "to_pipe"])).status.success();
    if !can {
        skip(test, "seccomp(2) is refused here");
    }
    can
}

/// Runs a scenario, beside a process that holds a snapshot of the file; the same has to come about as natively.
fn confine(scratch: &Scratch, way: &str, how: &[&str], worth: Worth) {
    let about = format!("{how:?} {way} {}", scratch.path.display());
    let native = run(scratch.native(program("reach/confined")).args(how));
    assert!(native.status.success() && native.stdout == b"done\n", "{about}, natively: {}", text(&native));
    let changed = fs::read(scratch.file("file")).unwrap();
    for protection in ["r", "rw"] {
        make_files(scratch);
        let holder = Holder::start(scratch, way, &scratch.file("file"), protection);
        let shimmed = run(scratch.shimmed(program("reach/confined"), way).args(how));
        assert_eq!((shimmed.status, &shimmed.stdout), (native.status, &native.stdout), "{about}: {}", text(&shimmed));
        assert!(fs::read(scratch.file("file")).unwrap() == changed, "{about}");
        let found = holder.finish();
        let is_exact = found.contains("state=0 ");
        assert!(found.contains("same\n") || !is_exact, "{about}: {found}{}", text(&shimmed));
        assert!(is_exact || worth == Worth::Said, "{about}: {found}{}", text(&shimmed));
        // None broken: its bytes were not to be had any more.
        assert!(!found.contains("state=2 "), "{about}: {found}{}", text(&shimmed));
    }
}

#[test]
fn a_filter_that_kills_finds_no_call_of_the_librarys() {
    if !can_confine("a_filter_that_kills_finds_no_call_of_the_librarys") {
        return;
    }
    each_at_once(SCENARIOS, |(scenario, worth)| {
        for (scratch, way) in with_files().iter().zip(WAYS) {
            for how in [&["kill", scenario][..], &["trap", scenario], &["kill", scenario, "more"]] {
                make_files(scratch);
                confine(scratch, way, how, worth);
            }
        }
    });
}

/// Whatever call of the library's a filter knows, the library does without. Once it opened files by open(2), and looked whether
/// openat(2) was forbidden.
#[test]
fn a_filter_that_kills_for_one_call_finds_none_of_the_librarys() {
    /// More than Linux 6.18 has.
    const NUMBERS: u32 = 480;
    /// Bytes between the writes, as the program has them.
    const DISTANCE: usize = 20 * 4096;
    if !can_confine("a_filter_that_kills_for_one_call_finds_none_of_the_librarys") {
        return;
    }
    let own = [libc::SYS_pwrite64, libc::SYS_splice, libc::SYS_io_uring_setup, libc::SYS_write, libc::SYS_exit_group];
    let own = own.map(|number| number as u32);
    for (scratch, way) in scratches().iter().zip(WAYS) {
        fs::write(scratch.file("file"), vec![1; NUMBERS as usize * DISTANCE]).unwrap();
        let holder = Holder::start(scratch, way, &scratch.file("file"), "r");
        let dead = Mutex::new(Vec::new());
        each_at_once(0..8, |first| {
            for number in (first..NUMBERS).step_by(8).filter(|number| !own.contains(number)) {
                let output = run(scratch.shimmed(program("reach/confined"), way).args(["but", &number.to_string()]));
                if !output.status.success() || output.stdout != b"done\n" {
                    dead.lock().unwrap().push((number, output.status, text(&output)));
                }
            }
        });
        let dead = dead.into_inner().unwrap();
        assert!(dead.is_empty(), "{way}: {dead:?}");
        let found = holder.finish();
        assert!(found.contains("same\n") || !found.contains("state=0 "), "{way}: {found}");
        let written = fs::read(scratch.file("file")).unwrap();
        let is_written = |place: &&[u8]| place.starts_with(b"written");
        assert_eq!(written.chunks(DISTANCE).filter(is_written).count(), NUMBERS as usize - own.len(), "{way}");
    }
}

#[test]
fn strict_mode_finds_no_call_of_the_librarys() {
    if !can_confine("strict_mode_finds_no_call_of_the_librarys") {
        return;
    }
    each_at_once(["to_pipe", "by_write", "to_the_end", "by_storing"], |scenario| {
        for (scratch, way) in with_files().iter().zip(WAYS) {
            make_files(scratch);
            confine(scratch, way, &["strict", scenario], Worth::Exact);
        }
    });
}

/// The program under the library, confined by a filter that kills.
fn start(scratch: &Scratch, way: &str, scenario: &str) -> Holder {
    let mut command = scratch.shimmed(program("reach/confined"), way);
    Holder::run(command.args(["kill", scenario]))
}

/// The kernel answers with the number of a thread that has another filter, which is no error's.
#[test]
fn a_process_that_is_refused_a_filter_is_not_confined() {
    if !can_confine("a_process_that_is_refused_a_filter_is_not_confined") {
        return;
    }
    for (scratch, way) in with_files().iter().zip(WAYS) {
        make_files(scratch);
        assert_eq!(run_ok(scratch.native(program("reach/confined")).arg("refused")), "changed\n");
        make_files(scratch);
        assert_eq!(run_ok(scratch.shimmed(program("reach/confined"), way).arg("refused")), "kept\n", "{way}");
    }
}

/// It can do nothing more for its snapshots, so they are made to want nothing.
#[test]
fn a_snapshot_of_a_process_that_confines_itself_stays_what_it_is() {
    if !can_confine("a_snapshot_of_a_process_that_confines_itself_stays_what_it_is") {
        return;
    }
    for (scratch, way) in with_files().iter().zip(WAYS) {
        for change in ["dd if=/dev/zero of=file bs=4096 count=3 conv=notrunc status=none", ": >file"] {
            make_files(scratch);
            let mapper = start(scratch, way, "as_mapper");
            run_ok(scratch.shimmed("sh", way).args(["-c", change]));
            assert_eq!(mapper.finish(), "kept\ndone\n", "{way}: {change}");
        }
    }
}

/// Has another thread change a shared mapping while the process confines itself, sooner or later. A store there is seen natively,
/// and in no snapshot, or the snapshot says so.
fn is_confined_beside(test: &str, how: &str) {
    const SIZE: usize = 64 << 20;
    if !can_confine(test) {
        return;
    }
    let scratch = Scratch::on_tmpfs();
    let path = scratch.file("file");
    fs::write(&path, vec![1; SIZE]).unwrap();
    let file = fs::File::options().read(true).write(true).open(&path).unwrap();
    for delay in (0..12).map(|step| 2000 * step) {
        let holder = Holder::start(&scratch, "direct", &path, "rw");
        let mut command = scratch.shimmed(program("reach/confined"), "direct");
        let shimmed = run(command.args(["beside", &SIZE.to_string(), &delay.to_string(), how]));
        assert!(shimmed.status.success(), "{delay}: {}: {}", shimmed.status, text(&shimmed));
        let found = holder.finish();
        assert!(found.contains("same\n") || !found.contains("state=0 "), "{delay}: {found}");
        let mut stored = [0];
        file.read_exact_at(&mut stored, SIZE as u64 / 2).unwrap();
        assert_eq!(stored, [0x77], "{delay}");
        file.write_all_at(&[1], SIZE as u64 / 2).unwrap();
    }
}

/// Once what had come between the preserving and the opening was opened, too.
#[test]
fn a_mapping_that_grows_while_its_process_confines_itself_shows_in_no_snapshot() {
    is_confined_beside("a_mapping_that_grows_while_its_process_confines_itself_shows_in_no_snapshot", "grow");
}

/// Once a store there was the end of the program.
#[test]
fn a_mapping_that_is_made_writable_while_its_process_confines_itself_is_stored_into() {
    is_confined_beside("a_mapping_that_is_made_writable_while_its_process_confines_itself_is_stored_into", "open");
}

/// Once the second filter waited for an agent that had ended for the first, and the log said that it does not end.
#[test]
fn a_second_filter_waits_for_no_agent() {
    if !can_confine("a_second_filter_waits_for_no_agent") {
        return;
    }
    for (scratch, way) in with_files().iter().zip(WAYS) {
        let mut command = scratch.shimmed(program("reach/confined"), way);
        let confined = run(command.arg("again").env("SNAPSHIM_TIMEOUT_MS", "300"));
        assert_eq!(confined.stdout, b"done\n");
        assert!(!String::from_utf8_lossy(&confined.stderr).contains("does not end"), "{}", text(&confined));
    }
}

/// Its stores cannot be led through a trap.
#[test]
fn a_snapshot_of_a_file_that_a_confined_process_stores_into_is_refused() {
    if !can_confine("a_snapshot_of_a_file_that_a_confined_process_stores_into_is_refused") {
        return;
    }
    for (scratch, way) in with_files().iter().zip(WAYS) {
        let sharer = start(scratch, way, "as_sharer");
        let pid = sharer.pid();
        let mut command = scratch.shimmed(program("common/env_probe"), way);
        let refused = run(command.args(["file", "snapshot"]).env("SNAPSHIM_TIMEOUT_MS", "300"));
        assert!(String::from_utf8_lossy(&refused.stdout).contains("snapshot: ETIMEDOUT"), "{}", text(&refused));
        assert!(String::from_utf8_lossy(&refused.stderr).contains(&format!("process {pid}")), "{}", text(&refused));
        assert_eq!(sharer.finish(), "done\n");
    }
}

/// The library's own start would be the end of the program, which runs without it then.
#[test]
fn a_program_that_a_confined_process_executes_runs_and_is_unseen() {
    if !can_confine("a_program_that_a_confined_process_executes_runs_and_is_unseen") {
        return;
    }
    let scratch = Scratch::on_tmpfs();
    make_files(&scratch);
    let how = ["kill", "to_execute"];
    assert!(run(scratch.native(program("reach/confined")).args(how)).status.success());
    let holder = Holder::start(&scratch, "auto", &scratch.file("file"), "r");
    let shimmed = run(scratch.shimmed(program("reach/confined"), "auto").args(how));
    assert!(shimmed.status.success(), "{}", text(&shimmed));
    assert!(holder.finish().contains("state=1 "));
}

/// As a service of systemd's with SystemCallFilter= is. Nothing says what such a filter does, so it is tried out.
#[test]
fn a_program_that_is_started_under_a_filter_takes_part() {
    if !can_confine("a_program_that_is_started_under_a_filter_takes_part") {
        return;
    }
    for scratch in &with_files() {
        let under = |command: &str, verbs: &[&str]| {
            let mut launcher = scratch.native(program("reach/confined"));
            launcher.arg("under").arg(program(command)).args(verbs).env("library", library());
            launcher.env("SNAPSHIM_DIR", scratch.table()).env("SNAPSHIM_TIMEOUT_MS", "60000");
            launcher
        };
        // A writer, a truncation, and a mapper whose pages others preserve.
        for protection in ["r", "rw"] {
            make_files(scratch);
            let holder = Holder::start(scratch, "auto", &scratch.file("file"), protection);
            run_ok(&mut under("common/env_probe", &["file", "write", "snapshot", "write", "compare"]));
            holder.finish_exact(protection);
            make_files(scratch);
            let holder = Holder::run(&mut under("common/hold", &["file", protection, "65536"]));
            run_ok(scratch.shimmed(program("common/env_probe"), "auto").args(["file", "write"]));
            run_ok(scratch.shimmed("sh", "auto").args(["-c", ": >file"]));
            holder.finish_exact(protection);
        }
        // It reads the strings of another environment than its own.
        let executed = program("lifecycle/executed");
        let found = run_ok(&mut under("lifecycle/executes", &["own_environment", executed.to_str().unwrap()]));
        assert_eq!(found, "it runs\n");
    }
}

/// What a script prints natively, and under the library beside a process that holds a snapshot of "file", which stays exact.
fn as_natively(scratch: &Scratch, script: &str) {
    make_files(scratch);
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
    let sh = |mut command: Command| run(command.args(["-c", script]).env("PATH", &path).env_remove("MANPAGER"));
    let native = sh(scratch.native("sh"));
    assert!(native.status.success(), "natively: {}", text(&native));
    make_files(scratch);
    let holder = Holder::start(scratch, "auto", &scratch.file("file"), "r");
    let mut command = scratch.native("sh");
    command.env("SNAPSHIM_DIR", scratch.table()).env("library", library());
    let shimmed = sh(command);
    assert!(shimmed.status.success(), "{}", text(&shimmed));
    assert_eq!(String::from_utf8_lossy(&shimmed.stdout), String::from_utf8_lossy(&native.stdout), "{}", text(&shimmed));
    holder.finish_exact(script);
}

#[test]
fn man_and_file_say_what_they_say_natively() {
    const TEST: &str = "man_and_file_say_what_they_say_natively";
    let scratch = Scratch::on_tmpfs();
    if are_installed(TEST, &["man"]) {
        fs::write(scratch.file("page.1"), ".TH page 1\n.SH NAME\npage \\- of a manual\n.SH TEXT\n\\fBbold\\fR\n")
            .unwrap();
        as_natively(&scratch, "LD_PRELOAD=$library man -P cat ./page.1");
    }
    if are_installed(TEST, &["file"]) {
        as_natively(&scratch, "LD_PRELOAD=$library file other /bin/sh");
    }
}

/// It appends to a log that a snapshot shows. Its filter kills for calls that it does not know.
#[test]
fn chronyd_writes_its_logs_under_its_filter() {
    const TEST: &str = "chronyd_writes_its_logs_under_its_filter";
    if !are_installed(TEST, &["chronyd"]) {
        return;
    }
    let scratch = Scratch::new(&root().join("target/scratch"));
    let directory = scratch.path.display();
    // It reads its own clock.
    let port = 20_000 + std::process::id() % 10_000;
    let settings = format!(
        "port {port}\ncmdport 0\nbindcmdaddress /\nserver 127.0.0.1 port {port} iburst minpoll 0 maxpoll 1\nallow 127.0.0.1\n\
         driftfile {directory}/drift\npidfile {directory}/pid\nlocal stratum 10\nuser root\nlogdir {directory}\nlog tracking\n"
    );
    fs::write(scratch.file("settings"), settings).unwrap();
    let for_a_while = |level: &str| {
        format!(
            "ln -f file tracking.log; rm -f pid; \
             LD_PRELOAD=$library timeout -s TERM 4 chronyd -x -d -F {level} -f \"$PWD/settings\" \
             2>said; code=$?; grep -q 'seccomp filter' said || {{ cat said >&2; exit 1; }}; \
             test $(wc -c <file) -gt 65536 && echo $code"
        )
    };
    make_files(&scratch);
    let tried = run(scratch.native("sh").args(["-c", &for_a_while("1")]).env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin"));
    if !tried.status.success() {
        return skip(TEST, &format!("chronyd does not run so natively: {}", text(&tried)));
    }
    for level in ["1", "2"] {
        as_natively(&scratch, &for_a_while(level));
    }
}

/// Before a user is known, its child lives under a filter that kills.
#[test]
fn sshd_lets_a_user_in() {
    const TEST: &str = "sshd_lets_a_user_in";
    if !are_installed(TEST, &["sshd"]) || !are_installed(TEST, &["ssh"]) {
        return;
    }
    let scratch = Scratch::new(&root().join("target/scratch"));
    let directory = scratch.path.display();
    let port = 30_000 + std::process::id() % 10_000;
    let settings = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {directory}/host\nAuthorizedKeysFile {directory}/user.pub\n\
         PidFile none\nStrictModes no\nUsePAM no\n"
    );
    fs::write(scratch.file("settings"), settings).unwrap();
    run_ok(scratch.native("sh").args(["-c", "for key in host user; do ssh-keygen -q -t ed25519 -N '' -f $key; done"]));
    let script = format!(
        "mkdir -p /run/sshd; LD_PRELOAD=$library $(command -v sshd) -D -e -f \"$PWD/settings\" 2>said & server=$!; \
         for try in $(seq 50); do ssh -p {port} -F none -i user -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
         -o BatchMode=yes 127.0.0.1 'echo let in' 2>refused; code=$?; grep -q 'Connection refused' refused || break; sleep 0.1; \
         done; kill $server; wait $server; cat said refused >&2; exit $code"
    );
    let tried = run(scratch.native("sh").args(["-c", &script]).env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin"));
    if !tried.status.success() {
        return skip(TEST, "sshd lets nobody in natively either");
    }
    as_natively(&scratch, &script);
}
