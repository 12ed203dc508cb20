//! Unmodified programs change a file in their usual ways while another process holds snapshots of it, read-only and writable: the
//! snapshots stay as they were to the byte, and the programs achieve what they achieve natively.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::common::holder::Holder;
use crate::common::{
    DISK, Scratch, WAYS, are_installed, run, run_ok, run_ok_within, run_within, scratches, skip, source, text,
};

const SIZE: usize = 200_001;

fn content() -> Vec<u8> {
    (0..SIZE).map(|at| (at / 4096 * 7 + at % 251) as u8).collect()
}

fn other_content() -> Vec<u8> {
    (0..150_000).map(|at| (at / 4096 * 11 + at % 239) as u8).collect()
}

/// The file `victim` and another, `new`, in an empty directory.
fn lay(scratch: &Scratch) {
    empty(scratch);
    fs::write(scratch.file("victim"), content()).unwrap();
    fs::write(scratch.file("new"), other_content()).unwrap();
}

fn empty(scratch: &Scratch) {
    fs::remove_dir_all(&scratch.path).unwrap();
    fs::create_dir(&scratch.path).unwrap();
}

/// The interpreter itself, not a script that looks for it.
fn python() -> String {
    run_ok(Command::new("python3").args(["-c", "import sys; print(sys.executable)"])).trim_end().to_string()
}

/// Snapshots of all of `files`, read-only and writable, held by other processes.
struct Held(Vec<(String, Holder)>);

impl Held {
    fn of(scratch: &Scratch, way: &str, files: &[PathBuf]) -> Self {
        let mut holders = vec![];
        for file in files {
            for protection in ["r", "rw"] {
                let about = format!("{}, {protection}, {way}", file.display());
                holders.push((about, Holder::start(scratch, way, file, protection)));
            }
        }
        Self(holders)
    }

    fn are_as_they_were(self, writer: &str) {
        for (about, holder) in self.0 {
            let found = holder.finish();
            assert!(found.contains("same\n") && found.contains("state=0 "), "{writer}: snapshot of {about}: {found}");
        }
    }
}

/// What a case starts from, whose snapshots are held meanwhile, and which files have to end as they do natively.
struct Case<'a> {
    lay: &'a dyn Fn(&Scratch),
    held: &'a [&'a str],
    results: &'a [&'a str],
}

const PLAIN: Case = Case { lay: &lay, held: &["victim"], results: &["victim"] };

impl Case<'_> {
    fn read(&self, scratch: &Scratch) -> Vec<Option<Vec<u8>>> {
        self.results.iter().map(|name| fs::read(scratch.file(name)).ok()).collect()
    }

    /// Runs the program natively and then, with snapshots held, under the shim.
    fn survives(&self, program: &str, arguments: &[&str]) {
        for scratch in scratches() {
            self.survives_on(&scratch, program, arguments);
        }
    }

    fn survives_on(&self, scratch: &Scratch, program: &str, arguments: &[&str]) {
        (self.lay)(scratch);
        let before = self.read(scratch);
        run_ok_within(scratch.native(program).args(arguments), DISK);
        let natively = self.read(scratch);
        let told = format!("{program} {arguments:?}");
        assert!(self.results.is_empty() || natively != before, "{told} changes nothing");
        for way in WAYS {
            (self.lay)(scratch);
            let files: Vec<PathBuf> = self.held.iter().map(|name| scratch.file(name)).collect();
            let held = Held::of(scratch, way, &files);
            let writer = run_within(scratch.shimmed(program, way).args(arguments), DISK);
            assert!(writer.status.success(), "{told}, {way}: {}: {}", writer.status, text(&writer));
            assert!(self.read(scratch) == natively, "{told}, {way}: not what it does natively");
            held.are_as_they_were(&told);
        }
    }
}

/// `command` is split at blanks.
fn survives(command: &str) {
    let words: Vec<&str> = command.split(' ').collect();
    PLAIN.survives(words[0], &words[1..]);
}

/// As `survives`, where the file system can do it; elsewhere says so.
fn survives_if_supported(test: &str, command: &str) {
    let words: Vec<&str> = command.split(' ').collect();
    for scratch in scratches() {
        lay(&scratch);
        let natively = run(scratch.native(words[0]).args(&words[1..]));
        if natively.status.success() {
            PLAIN.survives_on(&scratch, words[0], &words[1..]);
        } else {
            skip(test, &format!("{command} in {}: {}", scratch.path.display(), text(&natively).trim()));
        }
    }
}

#[test]
fn shells_redirecting_over_a_file() {
    for shell in ["sh", "bash"] {
        PLAIN.survives(shell, &["-c", "> victim"]);
        PLAIN.survives(shell, &["-c", "echo anew > victim; seq 9000 >> victim"]);
        PLAIN.survives(shell, &["-c", "exec 3<>victim; cat new >&3; seq 2000 >&3"]);
    }
}

#[test]
fn cp_over_a_file() {
    survives("cp new victim");
    survives("cp --reflink=auto --sparse=always new victim");
    survives("cp --remove-destination new victim");
    survives("install -m 644 new victim");
    PLAIN.survives("sh", &["-c", "cat new > victim && tee -a victim < new > copy"]);
}

#[test]
fn mv_over_a_file_and_writing_the_old_one() {
    survives("mv -f new victim");
    PLAIN.survives("sh", &["-c", "exec 3<>victim; mv -f new victim; seq 9000 >&3"]);
    // The file's last name goes while it is held open for writing.
    let script = "ln victim old; mv -f new victim; truncate -s 5000 old; seq 3000 >> old; rm old; ls > victim";
    PLAIN.survives("sh", &["-c", script]);
}

#[test]
fn dd_in_every_manner() {
    survives("dd if=new of=victim bs=7777 status=none");
    survives("dd if=new of=victim bs=5000 seek=3 count=9 conv=notrunc status=none");
    survives("dd if=new of=victim bs=5000 seek=3 count=9 status=none");
    survives("dd if=new of=victim bs=4096 oflag=append conv=notrunc,fsync status=none");
    survives("dd if=/dev/zero of=victim bs=4096 seek=70 count=3 conv=sparse,notrunc status=none");
}

#[test]
fn dd_with_o_direct() {
    for options in ["count=20 seek=5 conv=notrunc", "count=20", "count=30 seek=40 conv=notrunc"] {
        let command = format!("dd if=new of=victim bs=4096 oflag=direct status=none {options}");
        survives_if_supported("dd_with_o_direct", &command);
    }
}

#[test]
fn truncate_shrinking_and_growing() {
    for size in ["0", "1", "4096", "77777", "-1", "199999", "+100000", "204800"] {
        survives(&format!("truncate -s {size} victim"));
    }
    PLAIN.survives("sh", &["-c", "truncate -s 100 victim; truncate -s 300000 victim; seq 5000 >> victim"]);
}

#[test]
fn fallocate_moving_and_clearing_ranges() {
    let test = "fallocate_moving_and_clearing_ranges";
    for range in ["-o 8192 -l 40960", "-o 5000 -l 50001", "-o 0 -l 204800"] {
        survives_if_supported(test, &format!("fallocate --punch-hole {range} victim"));
        survives_if_supported(test, &format!("fallocate --zero-range {range} victim"));
    }
    survives_if_supported(test, "fallocate --zero-range -o 190000 -l 50000 victim");
    survives_if_supported(test, "fallocate --collapse-range -o 8192 -l 40960 victim");
    survives_if_supported(test, "fallocate --collapse-range -o 0 -l 4096 victim");
    survives_if_supported(test, "fallocate --insert-range -o 8192 -l 40960 victim");
    survives_if_supported(test, "fallocate -l 300000 victim");
}

#[test]
fn tar_extracting_over_a_file() {
    let lay = |scratch: &Scratch| {
        empty(scratch);
        fs::write(scratch.file("victim"), other_content()).unwrap();
        run_ok(scratch.native("tar").args(["cf", "archive.tar", "--mtime=@0", "victim"]));
        fs::write(scratch.file("victim"), content()).unwrap();
    };
    for option in ["--unlink-first", "--overwrite", "--recursive-unlink"] {
        Case { lay: &lay, ..PLAIN }.survives("tar", &["xf", "archive.tar", option]);
    }
    Case { lay: &lay, ..PLAIN }.survives("tar", &["xf", "archive.tar"]);
    // The archive itself grows in place.
    let archive = Case { lay: &lay, held: &["archive.tar"], results: &["archive.tar"] };
    archive.survives("tar", &["rf", "archive.tar", "--mtime=@0", "victim"]);
}

#[test]
fn sed_and_sort_and_patch_in_place() {
    let lay = |scratch: &Scratch| {
        empty(scratch);
        let lines: Vec<String> = (0..30_000).map(|line| format!("{}", line * 7919 % 30_011)).collect();
        fs::write(scratch.file("victim"), lines.join("\n")).unwrap();
    };
    Case { lay: &lay, ..PLAIN }.survives("sed", &["-i", "s/1/one/", "victim"]);
    Case { lay: &lay, ..PLAIN }.survives("sort", &["-n", "-o", "victim", "victim"]);
    Case { lay: &lay, ..PLAIN }.survives("shred", &["--random-source=/dev/zero", "-n", "2", "-z", "victim"]);
}

#[test]
fn rsync_in_place_and_by_renaming() {
    if !are_installed("rsync_in_place_and_by_renaming", &["rsync"]) {
        return;
    }
    let lay = |scratch: &Scratch| {
        lay(scratch);
        // Moved and changed parts, so that rsync both keeps and copies within the file.
        let mut new = content();
        new.drain(10_000..30_000);
        new.splice(90_000..90_000, other_content());
        fs::write(scratch.file("new"), new).unwrap();
    };
    let case = Case { lay: &lay, ..PLAIN };
    case.survives("rsync", &["--inplace", "--no-whole-file", "--ignore-times", "new", "victim"]);
    case.survives("rsync", &["--inplace", "--whole-file", "--ignore-times", "new", "victim"]);
    case.survives("rsync", &["--no-whole-file", "--ignore-times", "new", "victim"]);
    case.survives("rsync", &["--append", "new", "victim"]);
}

/// Every file of a repository that a snapshot could be held of, its packs among them.
fn repository_files(scratch: &Scratch) -> Vec<PathBuf> {
    let git = scratch.file("repository/.git");
    let packs = fs::read_dir(git.join("objects/pack")).unwrap().map(|entry| entry.unwrap().path());
    packs.chain([git.join("index"), git.join("logs/HEAD"), git.join("config"), git.join("packed-refs")]).collect()
}

#[test]
fn git_gc_and_repack_while_packs_and_index_are_held() {
    if !are_installed("git_gc_and_repack_while_packs_and_index_are_held", &["git"]) {
        return;
    }
    let settled = |command: &mut Command, script: &str| -> String {
        for (name, value) in [("HOME", "/nonexistent"), ("GIT_CONFIG_NOSYSTEM", "1"), ("TZ", "UTC")] {
            command.env(name, value);
        }
        for who in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{who}_NAME"), "A").env(format!("GIT_{who}_EMAIL"), "a@example.org");
            command.env(format!("GIT_{who}_DATE"), "2020-02-02T02:02:02Z");
        }
        run_ok(command.args(["-e", "-c", script]))
    };
    let make = "git init -q -b main repository && cd repository
for i in $(seq 12); do seq $i 40000 | head -c 60000 >file$i; git add -A; git commit -q -m commit$i; done
git pack-refs --all; git repack -q -ad; git config gc.autoDetach false
for i in $(seq 3); do seq $i 30 >more$i; git add -A; git commit -q -m more$i; done";
    let change = "cd repository; seq 100 5000 >file1; git rm -q file2; git add -A; git commit -q -m change
git tag one; git pack-refs --all; git config some.key value; git gc -q --prune=now; git checkout -q -f one~4; git checkout -q main
seq 7 >last; git add -A; git commit -q -m last; git repack -q -ad; git reflog expire --expire=now --all; git gc -q --prune=now";
    let found = "cd repository; git fsck --strict; git status --porcelain; git rev-list --objects --all | sort; git ls-files -s";
    for scratch in scratches() {
        let [natively, direct, agent] = [None, Some(WAYS[0]), Some(WAYS[1])].map(|way| {
            empty(&scratch);
            settled(&mut scratch.native("sh"), make);
            if let Some(way) = way {
                let held = Held::of(&scratch, way, &repository_files(&scratch));
                settled(&mut scratch.shimmed("sh", way), change);
                held.are_as_they_were("git");
            } else {
                settled(&mut scratch.native("sh"), change);
            }
            settled(&mut scratch.native("sh"), found)
        });
        assert!(natively.lines().count() > 20, "{natively}");
        assert_eq!(direct, natively);
        assert_eq!(agent, natively);
    }
}

const SQLITE_START: &str = "import os, sqlite3, sys
database = sqlite3.connect('victim', isolation_level=None)
database.execute('pragma journal_mode = ' + sys.argv[1])
database.execute('create table t(id integer primary key, body text)')
database.execute('begin')
database.executemany('insert into t values(?, ?)', ((i, '%0300d' % (i * 7919)) for i in range(600)))
database.execute('commit')
os._exit(0)";

const SQLITE_CHANGE: &str = "import sqlite3, sys
database = sqlite3.connect('victim', isolation_level=None)
database.execute('pragma journal_mode = ' + sys.argv[1])
database.execute(\"update t set body = printf('%0300d', id) where id % 3 = 0\")
database.execute('begin')
database.execute(\"insert into t select id + 1000, printf('%0900d', id) from t where id < 200\")
if sys.argv[1] != 'off':
    database.execute('savepoint s')
    database.execute('delete from t where id > 300')
    database.execute('rollback to s')
database.execute('commit')
database.execute('delete from t where id % 5 < 2')
database.execute('vacuum')
database.execute('create index i on t(body)')
assert database.execute('pragma integrity_check').fetchall() == [('ok',)]
assert database.execute('pragma journal_mode').fetchall() == [(sys.argv[1],)]
if sys.argv[1] == 'wal':
    database.execute('pragma wal_checkpoint(truncate)')
database.close()";

#[test]
fn sqlite_with_every_journal_and_vacuum() {
    let python = python();
    for (journal, held) in [
        ("delete", &["victim"] as &[&str]),
        ("truncate", &["victim"]),
        ("persist", &["victim", "victim-journal"]),
        ("memory", &["victim"]),
        ("wal", &["victim", "victim-wal"]),
        ("off", &["victim"]),
    ] {
        let lay = |scratch: &Scratch| {
            empty(scratch);
            run_ok_within(scratch.native(&python).args(["-c", SQLITE_START, journal]), DISK);
        };
        let case = Case { lay: &lay, held, results: &["victim"] };
        case.survives(&python, &["-c", SQLITE_CHANGE, journal]);
    }
}

#[test]
fn copytruncate_of_a_log() {
    let case = Case { results: &["victim", "victim.1"], ..PLAIN };
    case.survives("sh", &["-c", "cp victim victim.1; truncate -s0 victim; seq 900 >> victim"]);
    // A writer that has it open for appending meanwhile, as a daemon has.
    case.survives("sh", &["-c", "exec 3>>victim; seq 9 >&3; cp victim victim.1; truncate -s0 victim; seq 900 >&3"]);
}

#[test]
fn logrotate_with_copytruncate_and_with_create() {
    if !are_installed("logrotate_with_copytruncate_and_with_create", &["logrotate"]) {
        return;
    }
    for how in ["copytruncate", "create", "copytruncate\ncompress"] {
        let lay = |scratch: &Scratch| {
            lay(scratch);
            let victim = scratch.file("victim");
            let configuration = format!("{} {{\nrotate 3\nsize 1\n{how}\n}}\n", victim.display());
            fs::write(scratch.file("configuration"), configuration).unwrap();
        };
        let case = Case { lay: &lay, held: &["victim"], results: &["victim", "victim.1"] };
        case.survives("logrotate", &["-f", "-s", "state", "configuration"]);
    }
}

#[test]
fn perl_opening_truncating_printing() {
    if !are_installed("perl_opening_truncating_printing", &["perl"]) {
        return;
    }
    let in_place = "open(my $f, '+<', 'victim') or die; seek($f, 5000, 0); print $f \"perl $_\\n\" for 1..4000;
truncate($f, 90001) or die; seek($f, 0, 2); printf $f '%05d', $_ for 1..2000; close($f) or die;
truncate('victim', 70000) or die; open(my $g, '+<', 'victim') or die; sysseek($g, 60000, 0); syswrite($g, 'sys' x 9000) == 27000 or die;";
    PLAIN.survives("perl", &["-e", in_place]);
    PLAIN.survives("perl", &["-e", "open(my $f, '>', 'victim') or die; print $f \"anew $_\\n\" for 1..4000;"]);
    PLAIN.survives(
        "perl",
        &["-e", "open(my $f, '+>', 'victim') or die; print $f 'anew'; seek($f, 9999, 0); print $f 'far';"],
    );
    PLAIN.survives("perl", &["-MFile::Copy", "-e", "copy('new', 'victim') or die"]);
    PLAIN.survives("perl", &["-i", "-pe", "s/a/b/g", "victim"]);
}

#[test]
fn python_truncating_copying_writing() {
    let python = python();
    for script in [
        "os.truncate('victim', 100001)",
        "os.truncate('victim', 300001)",
        "shutil.copyfile('new', 'victim')",
        "shutil.copy2('new', 'victim'); os.utime('victim', (0, 0))",
        "open('victim', 'w').write('anew' * 20000)",
        "pathlib.Path('victim').write_bytes(b'path' * 9000)",
        "os.sendfile(os.open('victim', os.O_WRONLY), os.open('new', os.O_RDONLY), 1000, 60000)",
        "os.copy_file_range(os.open('new', os.O_RDONLY), os.open('victim', os.O_WRONLY), 70000, 5000, 9000)",
        "os.posix_fallocate(os.open('victim', os.O_WRONLY), 0, 250000)",
        "f = open('victim', 'r+b'); f.seek(50001); f.truncate(); f.write(b'tail' * 9000); f.seek(9); f.writelines([b'a', b'b' * 5000])",
        "f = open('victim', 'r+b', buffering=0); f.readinto(bytearray(4096)); f.write(b'raw' * 5000); f.truncate(10)",
    ] {
        PLAIN.survives(&python, &["-c", &format!("import os, pathlib, shutil\n{script}")]);
    }
}

#[test]
fn cpp_streams() {
    if !are_installed("cpp_streams", &["g++"]) {
        return;
    }
    let scratch = Scratch::on_tmpfs();
    let made = scratch.file("real_streams");
    let options = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-o"];
    run_ok(Command::new("g++").args(options).arg(&made).arg(source("real/streams.cpp")));
    PLAIN.survives(made.to_str().unwrap(), &["victim"]);
}

#[test]
fn java_files_and_channels() {
    if !are_installed("java_files_and_channels", &["java", "javac"]) {
        return;
    }
    let program = source("real/channels.java");
    let quick = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx256m"];
    let arguments = [&quick as &[&str], &[program.to_str().unwrap(), "victim", "new"]].concat();
    PLAIN.survives("java", &arguments);
}

/// fio writes the file with this engine and verifies it; what it writes holds the time, so only fio can tell that it is right.
fn fio_verifies(test: &str, engine: &str) {
    if !are_installed(test, &["fio"]) {
        return;
    }
    let engine = format!("--ioengine={engine}");
    for pattern in ["write", "randwrite"] {
        let pattern = format!("--rw={pattern}");
        let common = ["--name=w", "--filename=victim", "--size=160k", "--bs=4k", "--iodepth=4", "--verify=crc32c"];
        let quiet = ["--verify_state_save=0", "--minimal", "--verify_fatal=1", "--fallocate=none", "--thread"];
        let arguments = [&common as &[&str], &quiet, &[&engine, &pattern]].concat();
        Case { results: &[], ..PLAIN }.survives("fio", &arguments);
    }
}

#[test]
fn fio_with_psync() {
    fio_verifies("fio_with_psync", "psync");
}

#[test]
fn fio_with_pvsync2() {
    fio_verifies("fio_with_pvsync2", "pvsync2");
}

#[test]
fn fio_with_posixaio() {
    fio_verifies("fio_with_posixaio", "posixaio");
}

#[test]
fn fio_with_libaio() {
    fio_verifies("fio_with_libaio", "libaio");
}

#[test]
fn fio_with_splice() {
    fio_verifies("fio_with_splice", "splice");
}
