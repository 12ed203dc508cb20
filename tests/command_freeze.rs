//! `snapshim freeze`: what programs read in a view is of one instant, whatever reads; what was lost is an error; and nothing is
//! left behind. What the command prints stands in tests/command/freeze.md and tests/command/mount.md.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::stamps::Writer;
use crate::common::{Scratch, are_installed, command, program, run, run_ok, skip, text, wait_until};

/// Of a file that the writer writes: 64 MiB.
const BLOCKS: &str = "16384";

/// A user without rights.
const NOBODY: u32 = 65534;

fn has_fuse(test: &str) -> bool {
    let has = fs::File::options().read(true).write(true).open("/dev/fuse").is_ok();
    if !has {
        skip(test, "/dev/fuse cannot be opened");
    }
    has
}

/// Runs a line of the shell in a view of the directory `live`.
fn freeze(scratch: &Scratch, line: &str) -> Command {
    let mut freeze = scratch.snapshim();
    freeze.args(["freeze", "live", "--", "sh", "-ec", line]);
    freeze
}

fn check(scratch: &Scratch, blocks: &str, files: &[&str]) {
    let last = run_ok(scratch.native(program("command/stamps")).args(["check", blocks]).args(files));
    println!("{}: as after write {}", files[0], last.trim());
}

/// Waits until the program in the view has made a file; ends the test if it ends instead.
fn wait_for(mut child: Child, made: &Path) -> Child {
    while !made.exists() {
        if child.try_wait().unwrap().is_some() {
            panic!("{}", text(&child.wait_with_output().unwrap()));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child
}

fn is_mounted(place: &Path) -> bool {
    let place = format!(" {} ", place.display());
    fs::read_to_string("/proc/self/mountinfo").unwrap().lines().any(|line| line.contains(&place))
}

/// One that reads by read(2), one that maps, one that copies in the kernel, and one without libc's loader.
#[test]
fn what_any_program_reads_is_of_one_instant() {
    if !has_fuse("what_any_program_reads_is_of_one_instant") {
        return;
    }
    let scratch = Scratch::on_tmpfs();
    fs::create_dir(scratch.file("live")).unwrap();
    let writer = Writer::start(&scratch, BLOCKS, &["live/file"]);
    run_ok(&mut freeze(
        &scratch,
        "cp live/file copied; tar cf archive live; dd if=live/file of=piece bs=1M skip=17 status=none",
    ));
    run_ok(scratch.native("tar").args(["xf", "archive", "--one-top-level=unpacked"]));
    // Both are of the same view.
    run_ok(scratch.native("cmp").args(["copied", "unpacked/live/file"]));
    run_ok(scratch.native("cmp").args(["--ignore-initial=17825792:0", "copied", "piece"]));
    check(&scratch, BLOCKS, &["copied"]);
    if are_installed("static busybox", &["busybox"]) {
        run_ok(&mut freeze(
            &scratch,
            "busybox cp live/file static; busybox sha256sum live/file | cut -c-64 >sum; rm copied",
        ));
        check(&scratch, BLOCKS, &["static"]);
        let sum = run_ok(scratch.native("sha256sum").arg("static"));
        assert_eq!(sum.split(' ').next(), fs::read_to_string(scratch.file("sum")).unwrap().lines().next());
    }
    writer.end();
}

#[test]
fn several_files_are_of_one_instant() {
    const FEW: &str = "1024";
    const FILES: [&str; 4] = ["live/a", "live/b", "live/in/c", "live/in/d"];
    if !has_fuse("several_files_are_of_one_instant") {
        return;
    }
    let scratch = Scratch::on_tmpfs();
    fs::create_dir_all(scratch.file("live/in")).unwrap();
    let writer = Writer::start(&scratch, FEW, &FILES);
    for round in 0..4 {
        run_ok(&mut freeze(&scratch, &format!("cp -r live copy{round}")));
        let copies = FILES.map(|name| name.replace("live", &format!("copy{round}")));
        check(&scratch, FEW, &copies.each_ref().map(String::as_str));
    }
    writer.end();
}

#[test]
fn a_database_is_whole_while_it_is_written() {
    if !has_fuse("a_database_is_whole") || !are_installed("a_database_is_whole", &["sqlite3"]) {
        return;
    }
    let scratch = Scratch::on_tmpfs();
    fs::create_dir(scratch.file("live")).unwrap();
    let make = "PRAGMA journal_mode=WAL; CREATE TABLE a(n); CREATE TABLE b(n); INSERT INTO a VALUES(0); INSERT INTO b VALUES(0);";
    run_ok(scratch.native("sqlite3").args(["live/db", make]));
    let mut writer = scratch.shimmed("sqlite3", "auto");
    let mut writer = writer.arg("live/db").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut input = writer.stdin.take().unwrap();
    let feeder = std::thread::spawn(move || {
        use std::io::Write;
        let change = "BEGIN; UPDATE a SET n=n+1; UPDATE b SET n=n+1; COMMIT;\n";
        while input.write_all(change.as_bytes()).is_ok() {}
    });
    wait_until("a database that is written", || {
        fs::metadata(scratch.file("live/db-wal")).is_ok_and(|found| found.len() > 100_000)
    });
    for round in 0..3 {
        let ask = "PRAGMA integrity_check; SELECT (SELECT n FROM a) - (SELECT n FROM b), (SELECT n FROM a) > 0;";
        // A copy of the view, for sqlite3 writes beside a log that it reads; and the view itself.
        let line = format!("cp -r live copy{round}; sqlite3 copy{round}/db '{ask}'; sqlite3 -readonly live/db '{ask}'");
        let told = run_ok(&mut freeze(&scratch, &line));
        assert_eq!(told, "ok\n0|1\nok\n0|1\n");
    }
    writer.kill().unwrap();
    writer.wait().unwrap();
    feeder.join().unwrap();
}

/// The part that a program without the library has cut off cannot be had. It is an error for who reads it, and no other byte.
#[test]
fn what_was_lost_is_an_error() {
    if !has_fuse("what_was_lost_is_an_error") {
        return;
    }
    let scratch = Scratch::on_tmpfs();
    fs::create_dir(scratch.file("live")).unwrap();
    fs::write(scratch.file("live/file"), vec![7; 1 << 20]).unwrap();
    let line = "touch ready; until test -e cut; do sleep 0.02; done; dd if=live/file bs=64k of=front count=1; \
                cat live/file >whole || touch failed; ls live";
    let child = freeze(&scratch, line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let child = wait_for(child, &scratch.file("ready"));
    run_ok(scratch.native("truncate").args(["-s", "65536", "live/file"]));
    fs::write(scratch.file("cut"), "").unwrap();
    let output = child.wait_with_output().unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("Input/output error") && said.contains("error: the snapshot of "), "{said}");
    assert!(said.contains("do not use what the program has made of it"), "{said}");
    assert!(scratch.file("failed").exists());
    assert_eq!(fs::read(scratch.file("front")).unwrap(), vec![7; 65536]);
    let whole = fs::read(scratch.file("whole")).unwrap();
    assert!(whole.len() < 1 << 20 && whole.iter().all(|byte| *byte == 7), "{} bytes", whole.len());
}

/// The names over which a view stands are those of the live file system: a mount goes when the file below it is replaced, and with a
/// directory that is renamed.
#[test]
fn a_name_that_comes_to_lead_to_newer_files_is_told() {
    if !has_fuse("a_name_that_comes_to_lead_to_newer_files_is_told") {
        return;
    }
    const KEPT: [&str; 2] = ["a/other", "a/d"];
    let changes = [
        ("a/d/file", "echo new >a/d/n; mv a/d/n a/d/file", 4),
        ("a/d/file", "rm a/d/file", 4),
        ("a/d", "mv a/d a/e; mkdir a/d; echo new >a/d/file", 4),
        ("a/d", "mv a b; mkdir -p a/d; echo new >a/d/file", 4),
        ("a/d", "mv a/d a/e; mkdir a/d; rmdir a/d; mv a/e a/d", 4),
        ("link", "ln -sfn a/other link", 4),
        ("link", "ln -sfn a/other link; ln -sfn a/d link", 4),
        // What is in a frozen directory may come and go.
        ("a/d", "echo new >a/d/n; mv a/d/n a/d/file; ln -sfn a/other link", 0),
    ];
    for (frozen, change, status) in changes {
        let scratch = Scratch::on_tmpfs();
        KEPT.iter().for_each(|folder| fs::create_dir_all(scratch.file(folder)).unwrap());
        fs::write(scratch.file("a/d/file"), "old").unwrap();
        symlink("a/d", scratch.file("link")).unwrap();
        let line =
            "touch ready; until test -e changed; do sleep 0.02; done; cat a/d/file link/file 2>/dev/null || true";
        let mut freeze = scratch.snapshim();
        freeze.args(["freeze", frozen, "--", "sh", "-ec", line]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = wait_for(freeze.spawn().unwrap(), &scratch.file("ready"));
        run_ok(scratch.shimmed("sh", "auto").args(["-ec", change]));
        fs::write(scratch.file("changed"), "").unwrap();
        let output = child.wait_with_output().unwrap();
        let said = text(&output);
        assert_eq!(output.status.code(), Some(status), "{change}: {said}");
        assert_eq!(said.contains(" was renamed, removed or replaced meanwhile\n"), status == 4, "{change}: {said}");
    }
}

/// Ctrl-C comes to all processes of the terminal, SIGTERM to the command alone.
#[test]
fn a_signal_ends_the_program_and_leaves_nothing() {
    if !has_fuse("a_signal_ends_the_program") {
        return;
    }
    let scratch = Scratch::on_tmpfs();
    fs::create_dir(scratch.file("live")).unwrap();
    fs::write(scratch.file("live/file"), "bytes").unwrap();
    for (signal, is_of_all) in [(libc::SIGINT, true), (libc::SIGTERM, false)] {
        let mut freeze = freeze(&scratch, "echo $$ >pid.new; mv pid.new pid; cat live/file; exec sleep 1000");
        let child = freeze.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let child = wait_for(child, &scratch.file("pid"));
        let program: i32 = fs::read_to_string(scratch.file("pid")).unwrap().trim().parse().unwrap();
        fs::remove_file(scratch.file("pid")).unwrap();
        let own = child.id() as i32;
        // SAFETY: kill(2) of our own children.
        unsafe { libc::kill(if is_of_all { -own } else { own }, signal) };
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.signal(), Some(signal), "{}", text(&output));
        assert!(!Path::new(&format!("/proc/{program}")).exists());
        assert!(!is_mounted(&scratch.file("live")));
    }
}

/// Files that are empty when they are listed have bytes at the instant. `tar --sparse` archives a file as a hole if it has no blocks.
#[test]
fn a_file_that_was_empty_when_it_was_listed_is_read() {
    if !has_fuse("a_file_that_was_empty_when_it_was_listed_is_read") {
        return;
    }
    const FILL: &str = "
import os
files = [os.open(f'live/{number}', os.O_RDWR | os.O_CREAT) for number in range(300)]
while not os.path.exists('done'):
    for file in files: os.ftruncate(file, 0)
    for file in files: os.pwrite(file, b'A' * 20000, 0)
    open('filled', 'w').close()
";
    let scratch = Scratch::on_tmpfs();
    fs::create_dir(scratch.file("live")).unwrap();
    let mut writer = scratch.shimmed("python3", "auto").args(["-c", FILL]).spawn().unwrap();
    wait_until("files that are written", || scratch.file("filled").exists());
    for _ in 0..6 {
        run_ok(&mut freeze(
            &scratch,
            "rm -rf unpacked; tar -Scf archive live; tar xf archive --one-top-level=unpacked",
        ));
        for entry in fs::read_dir(scratch.file("unpacked/live")).unwrap() {
            let bytes = fs::read(entry.unwrap().path()).unwrap();
            assert!(bytes.iter().all(|byte| *byte == b'A'), "{} bytes, zeros among them", bytes.len());
        }
    }
    fs::write(scratch.file("done"), "").unwrap();
    assert!(writer.wait().unwrap().success());
    fs::File::create(scratch.file("live/0")).unwrap().set_len(1 << 20).unwrap();
    let told = run_ok(&mut freeze(&scratch, "stat -c %b live/0; cat live/0 | tr -d '\\0' | wc -c"));
    assert_eq!(told, "8\n0\n");
}

/// The command dies: the program gets errors, no other bytes, and ends.
#[test]
fn nothing_is_left_of_a_command_that_was_killed() {
    if !has_fuse("nothing_is_left_of_a_command_that_was_killed") {
        return;
    }
    let scratch = Scratch::on_tmpfs();
    fs::create_dir(scratch.file("live")).unwrap();
    fs::write(scratch.file("live/file"), "bytes").unwrap();
    let line = "trap '' TERM; touch ready; until test -e killed; do sleep 0.02; done; ! cat live/file || touch wrong; touch over";
    let child = freeze(&scratch, line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut child = wait_for(child, &scratch.file("ready"));
    child.kill().unwrap();
    child.wait().unwrap();
    fs::write(scratch.file("killed"), "").unwrap();
    wait_until("the program's end", || scratch.file("over").exists());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(!scratch.file("wrong").exists() && said.contains("not connected"), "{said}");
    assert!(!is_mounted(&scratch.file("live")));
}

/// A user without rights has a user namespace for it, and is the same user there.
#[test]
fn a_user_without_rights_has_a_view() {
    const TEST: &str = "a_user_without_rights_has_a_view";
    if !has_fuse(TEST) {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        return skip(TEST, "only root can be another user");
    }
    let can = run(Command::new("unshare").args(["-Um", "true"]).uid(NOBODY).gid(NOBODY)).status.success();
    if !can {
        return skip(TEST, "no user namespaces for users without rights");
    }
    let scratch = Scratch::new(&std::env::temp_dir());
    fs::create_dir(scratch.file("live")).unwrap();
    fs::write(scratch.file("live/file"), "old").unwrap();
    for path in [scratch.path.clone(), scratch.table().to_owned(), scratch.file("live"), scratch.file("live/file")] {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    // The build directory may be closed to others.
    for name in ["snapshim", "libsnapshim.so"] {
        fs::copy(command().with_file_name(name), scratch.file(name)).unwrap();
        fs::set_permissions(scratch.file(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    // The device has mode 0666 where udev makes it, and 0600 elsewhere.
    let outside = "mknod fuse c 10 229; chmod 666 fuse; mount --bind fuse /dev/fuse; \
                   exec setpriv --reuid 65534 --regid 65534 --clear-groups ./snapshim freeze live -- sh -ec \"$0\"";
    let line =
        "touch ready; until test -e written; do sleep 0.02; done; id -u; cat live/file; grep CapEff /proc/self/status";
    let mut freeze = Command::new("unshare");
    freeze.args(["-m", "sh", "-ec", outside, line]).current_dir(&scratch.path);
    freeze.env("SNAPSHIM_DIR", scratch.table()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = wait_for(freeze.spawn().unwrap(), &scratch.file("ready"));
    let mut writer = scratch.shimmed("sh", "auto");
    writer.env("LD_PRELOAD", scratch.file("libsnapshim.so")).uid(NOBODY).gid(NOBODY);
    run_ok(writer.args(["-c", "echo new >live/file; touch written"]));
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "65534\noldCapEff:\t0000000000000000\n");
}

/// What was read once comes from the kernel's cache, as of any file.
#[test]
fn reading_through_a_view_costs_little() {
    if !has_fuse("reading_through_a_view_costs_little") {
        return;
    }
    let scratch = Scratch::on_tmpfs();
    fs::create_dir(scratch.file("live")).unwrap();
    fs::write(scratch.file("live/file"), vec![7; 256 << 20]).unwrap();
    fs::hard_link(scratch.file("live/file"), scratch.file("native")).unwrap();
    let read = |path: &Path| {
        let mut file = fs::File::open(path).unwrap();
        let mut buffer = vec![0; 1 << 20];
        let started = Instant::now();
        while file.read(&mut buffer).unwrap() > 0 {}
        started.elapsed()
    };
    let child = scratch
        .snapshim()
        .args([
            "freeze",
            "--at",
            "live/file",
            "live/file",
            "--",
            "sh",
            "-c",
            "touch ready; until test -e done; do sleep 0.02; done",
        ])
        .spawn();
    let mut child = wait_for(child.unwrap(), &scratch.file("ready"));
    // The mount is the program's alone: it is reached by what /proc has of that.
    let inside = children(child.id()).into_iter().next().expect("the program runs");
    let seen = Path::new("/proc")
        .join(inside.to_string())
        .join("root")
        .join(scratch.file("live/file").strip_prefix("/").unwrap());
    let (native, first) = (read(&scratch.file("native")), read(&seen));
    let pairs: Vec<_> = (0..7).map(|_| (read(&scratch.file("native")), read(&seen))).collect();
    let ratio = |(native, seen): &(Duration, Duration)| native.as_secs_f64() / seen.as_secs_f64();
    let mut ratios: Vec<f64> = pairs.iter().map(ratio).collect();
    ratios.sort_by(f64::total_cmp);
    println!("of the speed of the file: first {:.2}, cached {:.2} ({ratios:.2?})", ratio(&(native, first)), ratios[3]);
    fs::write(scratch.file("done"), "").unwrap();
    assert!(child.wait().unwrap().success());
    assert!(ratios[6] > 0.9, "nothing was cached");
}

fn children(pid: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}
