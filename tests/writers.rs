//! Every call that writes, and real programs that use them, while a snapshot is held: it never changes, the file does as natively.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::holder::Holder;
use crate::common::{
    DISK, Scratch, WAYS, is_installed, program, root, run, run_ok, run_ok_within, scratches, skip, text,
};

/// The interpreter itself, not a script that looks for it.
fn python() -> PathBuf {
    PathBuf::from(run_ok(Command::new("python3").args(["-c", "import sys; print(sys.executable)"])).trim_end())
}

/// `program` with `arguments` changes the file `victim` while snapshots of it are held, read-only and writable.
fn survives(size: usize, writer: impl AsRef<Path>, arguments: &[&str]) {
    let writer = writer.as_ref();
    for scratch in scratches() {
        for way in WAYS {
            for protection in ["r", "rw"] {
                let about = format!("{}, {way}, {protection}, {}", writer.display(), scratch.path.display());
                let victim = scratch.file("victim");
                let content: Vec<u8> = (0..size).map(|at| (at / 4096 * 7 + at % 251) as u8).collect();
                let natively = {
                    fs::write(&victim, &content).unwrap();
                    run_ok(scratch.native(writer).args(arguments));
                    fs::read(&victim).unwrap()
                };
                assert_ne!(natively, content, "{about}: the file did not change");
                fs::write(&victim, &content).unwrap();
                let holder = Holder::start(&scratch, way, &victim, protection);
                run_ok(scratch.shimmed(writer, way).args(arguments));
                assert!(fs::read(&victim).unwrap() == natively, "{about}: the file is not what it becomes natively");
                holder.finish_exact(&about);
            }
        }
    }
}

#[test]
fn every_writing_call_in_every_way_it_can_be_aimed() {
    for scratch in scratches() {
        let natively = run(scratch.native(program("writing/calls")).arg("victim"));
        assert!(natively.status.success(), "{}", text(&natively));
        for way in WAYS {
            let output = run(scratch.shimmed(program("writing/calls"), way).arg("victim"));
            assert!(output.status.success(), "{way}, {}: {}", scratch.path.display(), text(&output));
            assert_eq!(text(&output), text(&natively), "{way}, {}", scratch.path.display());
        }
        for line in text(&natively).lines().filter(|line| line.starts_with("SKIPPED")) {
            eprintln!("{line}");
        }
    }
}

#[test]
fn a_call_of_more_than_a_gibibyte() {
    for scratch in scratches() {
        for way in WAYS {
            run_ok_within(scratch.shimmed(program("writing/huge"), way).arg("huge"), DISK);
        }
    }
}

#[test]
fn nothing_is_lost_at_a_position_shared_with_programs_without_the_shim() {
    for scratch in scratches() {
        for way in WAYS {
            for how in ["plain", "vector", "append"] {
                let victim = scratch.file("victim");
                fs::write(&victim, vec![0; 300_000]).unwrap();
                let holder = Holder::start(&scratch, way, &victim, "r");
                run_ok(scratch.shimmed(program("writing/shared_position"), way).arg(&victim).arg(how));
                holder.finish();
            }
        }
    }
}

/// Once an append that came to be a write at the position was seen by a snapshot that said to be exact.
#[test]
fn no_snapshot_is_wrong_unsaid_where_another_clears_o_append() {
    for scratch in scratches() {
        for way in WAYS {
            run_ok(scratch.shimmed(program("writing/append_cleared"), way).arg("victim").env("SNAPSHIM_LOG", "off"));
        }
    }
}

#[test]
fn dd_over_a_file() {
    let arguments = ["if=/bin/bash", "of=victim", "bs=7777", "count=30", "seek=2", "conv=notrunc", "status=none"];
    survives(300_000, "dd", &arguments);
}

#[test]
fn dd_past_the_end() {
    let arguments = ["if=/bin/bash", "of=victim", "bs=4k", "count=30", "seek=40", "conv=notrunc,fsync", "status=none"];
    survives(200_001, "dd", &arguments);
}

#[test]
fn bash_echo_through_stdio() {
    survives(50_000, "bash", &["-c", "exec 1<>victim; for i in 1 2 3 4 5 6 7 8 9; do echo line $i; done"]);
}

#[test]
fn bash_appending() {
    survives(50_001, "bash", &["-c", "for i in $(seq 500); do echo appended line $i >>victim; done"]);
}

#[test]
fn python_os_pwrite() {
    let script = "import os
fd = os.open('victim', os.O_WRONLY)
for at in range(0, 200000, 3001):
    os.pwrite(fd, b'python' * 200, at)
os.pwritev(fd, [b'one', b'two' * 3000], 4090)
os.lseek(fd, 77777, os.SEEK_SET)
os.write(fd, b'at the position' * 1000)
";
    survives(210_000, python(), &["-c", script]);
}

#[test]
fn python_buffered_file() {
    let script = "with open('victim', 'r+b') as file:
    for line in range(4000):
        file.write(b'buffered line %d\\n' % line)
        if line % 1000 == 999:
            file.seek(line * 50)
with open('victim', 'a') as file:
    print('the end', file=file)
";
    survives(210_000, python(), &["-c", script]);
}

#[test]
fn perl_print_and_syswrite() {
    if !is_installed("perl") {
        return skip("perl_print_and_syswrite", "perl is not installed");
    }
    let script = "open(my $f, '+<', 'victim') or die; print $f \"perl line $_\\n\" x 7 for 1..2000; close($f) or die;
open(my $g, '+<', 'victim') or die; sysseek($g, 150001, 0); syswrite($g, 'sys' x 5000) == 15000 or die; close($g);
open(my $h, '>>', 'victim') or die; print $h 'appended'; close($h) or die;";
    survives(210_000, "perl", &["-e", script]);
}

const JOURNALS: [&str; 2] = ["delete", "wal"];

const FILL: &str = "create table t(id integer primary key, body blob);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 2000) insert into t select i, randomblob(300) from n;";

const WRITE: &str = "update t set body = randomblob(300) where id % 3 = 0; delete from t where id % 7 = 0;
with recursive n(i) as (select 1 union all select i + 1 from n where i < 500) insert into t select null, randomblob(900) from n;";

/// `write` runs a writer of the database `victim` under the shim, while snapshots of it are held.
fn database_survives(write: impl Fn(&Scratch, &str, &str)) {
    for scratch in scratches() {
        for way in WAYS {
            for journal in JOURNALS {
                let about = format!("{journal}, {way}, {}", scratch.path.display());
                let (victim, copy) = (scratch.file("victim"), scratch.file("copy"));
                let _ = fs::remove_file(&victim);
                let sqlite =
                    |statements: &str| run_ok_within(scratch.native("sqlite3").arg(&victim).arg(statements), DISK);
                sqlite(&format!("pragma journal_mode = {journal}; {FILL}"));
                fs::copy(&victim, &copy).unwrap();
                let holders = ["r", "rw"].map(|protection| Holder::start(&scratch, way, &victim, protection));
                write(&scratch, way, WRITE);
                assert!(fs::read(&victim).unwrap() != fs::read(&copy).unwrap(), "{about}: the database did not change");
                assert_eq!(sqlite("pragma integrity_check; select count(*) from t;"), "ok\n2215\n", "{about}");
                for holder in holders {
                    holder.finish_exact(&about);
                }
            }
        }
    }
}

#[test]
fn sqlite_in_rollback_and_wal_mode() {
    if !is_installed("sqlite3") {
        return skip("sqlite_in_rollback_and_wal_mode", "sqlite3 is not installed");
    }
    database_survives(|scratch, way, statements| {
        run_ok_within(scratch.shimmed("sqlite3", way).arg("victim").arg(statements), DISK);
    });
}

#[test]
fn python_sqlite_in_rollback_and_wal_mode() {
    if !is_installed("sqlite3") {
        return skip("python_sqlite_in_rollback_and_wal_mode", "sqlite3 is not installed");
    }
    let python = python();
    database_survives(|scratch, way, statements| {
        let script = "import sqlite3, sys
database = sqlite3.connect('victim')
for statement in sys.argv[1].split(';'):
    database.execute(statement)
    database.commit()
database.close()";
        let statements = statements.trim_end().trim_end_matches(';');
        run_ok_within(scratch.shimmed(&python, way).args(["-c", script, statements]), DISK);
    });
}

/// What `script` prints of a mapping of `victim` and one of `other`, whose files it and another process then overwrite.
fn mapped_by(scratch: &Scratch, python: &Path, script: &str, files: Option<&str>) -> String {
    for name in ["victim", "other"] {
        fs::write(scratch.file(name), vec![b'o'; 50_000]).unwrap();
    }
    let common = "
import os, subprocess, sys
def overwrite():
    for name in ('victim', 'other'):
        fd = os.open(name, os.O_WRONLY)
        os.pwrite(fd, b'n' * 20000, 0)
        os.close(fd)
        subprocess.run(['dd', 'if=/dev/zero', 'of=' + name, 'bs=1000', 'seek=25', 'count=20', 'conv=notrunc', 'status=none'], check=True)
def say(victim, other):
    for content in (victim, other):
        print('kept' if content == b'o' * 50000 else 'changed')
";
    let mut command = scratch.shimmed(python, "auto");
    command.args(["-c", &format!("{common}{script}")]).env("PYTHONDONTWRITEBYTECODE", "1");
    if let Some(files) = files {
        command.env("SNAPSHIM_FILES", files);
    }
    run_ok(&mut command)
}

fn only_what_files_names_is_kept(python: &Path, script: &str) {
    for scratch in scratches() {
        let path = scratch.path.to_str().unwrap();
        let mapped = |files: Option<&str>| mapped_by(&scratch, python, script, files);
        assert_eq!(mapped(None), "changed\nchanged\n", "without SNAPSHIM_FILES");
        for files in ["victim", "vic*", "nothing:vict?m", &format!("{path}/victim"), &format!("{path}/v*")] {
            assert_eq!(mapped(Some(files)), "kept\nchanged\n", "{files}");
        }
        // With a slash it is the whole path that has to match.
        for files in ["tmp/victim", "/victim", "ictim", ""] {
            assert_eq!(mapped(Some(files)), "changed\nchanged\n", "{files}");
        }
        assert_eq!(mapped(Some("victim:other")), "kept\nkept\n");
    }
}

#[test]
fn python_mmap_of_a_named_file_is_a_snapshot() {
    let script = "
import mmap
files = [open(name, 'rb') for name in ('victim', 'other')]
maps = [mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) for file in files]
overwrite()
say(*(m[:] for m in maps))
maps[0][:5] = b'store'
assert maps[0][:5] == b'store'
assert open('victim', 'rb').read(5) == b'nnnnn'
";
    only_what_files_names_is_kept(&python(), script);
}

#[test]
fn numpy_memmap_of_a_named_file_is_a_snapshot() {
    let installed = root().join("target/venv/bin/python3");
    let candidates = [installed, python()];
    let has_numpy = |python: &&PathBuf| {
        Command::new(python).args(["-c", "import numpy"]).output().is_ok_and(|output| output.status.success())
    };
    let Some(python) = candidates.iter().find(has_numpy) else {
        return skip("numpy_memmap_of_a_named_file_is_a_snapshot", "numpy is not installed: run `make setup`");
    };
    let script = "
import numpy
maps = [numpy.memmap(name, dtype='uint8', mode='c') for name in ('victim', 'other')]
overwrite()
say(*(m.tobytes() for m in maps))
";
    only_what_files_names_is_kept(python, script);
}
