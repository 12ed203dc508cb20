//! Unmodified programs that store through shared mappings, while other processes take and hold snapshots of their files: the
//! programs achieve what they achieve natively, and each snapshot is one moment of the file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::holder::Holder;
use crate::common::{
    DISK, Scratch, WAYS, are_installed, made_programs, program, root, run, run_ok, run_ok_within, scratches, skip,
    source, text,
};

/// An interpreter that has the module; says aloud if there is none.
fn python_with(test: &str, module: &str) -> Option<PathBuf> {
    let has = |python: &PathBuf| {
        let import = Command::new(python).args(["-c", &format!("import {module}")]).output();
        import.is_ok_and(|output| output.status.success())
    };
    let system = run(Command::new("python3").args(["-c", "import sys; print(sys.executable)"])).stdout;
    let system = PathBuf::from(String::from_utf8_lossy(&system).trim_end());
    let found = [root().join("target/venv/bin/python3"), system].into_iter().find(has);
    if found.is_none() {
        skip(test, &format!("{module} is not installed: run `make setup`"));
    }
    found
}

fn content(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at / 4096 * 7 + at % 251) as u8).collect()
}

const LMDB: &str = "lmdb_is_a_whole_transaction_in_each_of_50_snapshots";

#[test]
fn lmdb_is_a_whole_transaction_in_each_of_50_snapshots() {
    let Some(python) = python_with(LMDB, "lmdb") else { return };
    for (scratch, way) in scratches().iter().zip(WAYS) {
        let command = || {
            let mut command = scratch.shimmed(&python, way);
            command.arg(source("real/sharing_lmdb.py"));
            command
        };
        let writer = Holder::run(command().args(["write", "database"]));
        let walked = run(command().args(["snap", "database", "copy", "50"]));
        let about = format!("{way}, {}: {}", scratch.path.display(), text(&walked));
        assert!(walked.status.success() && text(&walked).starts_with("walked 50 "), "{about}");
        assert!(writer.finish().starts_with("transactions "), "{about}");
        run_ok(command().args(["walk", "database"]));
    }
}

#[test]
fn lmdb_is_found_torn_without_the_shim() {
    let Some(python) = python_with("lmdb_is_found_torn_without_the_shim", "lmdb") else { return };
    let scratch = Scratch::on_tmpfs();
    let command = || {
        let mut command = scratch.native(&python);
        command.arg(source("real/sharing_lmdb.py"));
        command
    };
    let writer = Holder::run(command().args(["write", "database"]));
    let walked = run(command().args(["snap", "database", "copy", "50"]));
    assert!(!walked.status.success(), "{}", text(&walked));
    writer.finish();
}

#[test]
fn what_numpy_loaded_stays_while_another_process_stores() {
    let Some(python) = python_with("what_numpy_loaded_stays_while_another_process_stores", "numpy") else { return };
    let beside = |storing: &mut Command, holding: &mut Command, file: &Path| {
        fs::write(file, content(800_000)).unwrap();
        let storing = Holder::run(storing.arg(source("real/sharing_memmap.py")).args(["store", "victim"]));
        let holding = Holder::run(holding.arg(source("real/sharing_memmap.py")).args(["hold", "victim"]));
        let begun = fs::read(file).unwrap();
        while fs::read(file).unwrap() == begun {}
        (storing.finish(), holding.finish())
    };
    for (scratch, way) in scratches().iter().zip(WAYS) {
        let mut holding = scratch.shimmed(&python, way);
        let found = beside(
            &mut scratch.shimmed(&python, way),
            holding.env("SNAPSHIM_FILES", "victim"),
            &scratch.file("victim"),
        );
        assert_eq!(found, ("stored\n".into(), "same\n".into()), "{way}, {}", scratch.path.display());
    }
    let scratch = Scratch::on_tmpfs();
    let found = beside(&mut scratch.native(&python), &mut scratch.native(&python), &scratch.file("victim"));
    assert_eq!(found, ("stored\n".into(), "changed\n".into()), "natively");
}

#[test]
fn sqlite_and_its_shared_index_are_unharmed() {
    let Some(python) = python_with("sqlite_and_its_shared_index_are_unharmed", "sqlite3") else { return };
    for (scratch, way) in scratches().iter().zip(WAYS) {
        let insert = |name: &str| {
            let mut command = scratch.shimmed(&python, way);
            command.arg(source("real/sharing_sqlite.py")).args(["database", name]);
            command
        };
        // Keeps the log and its index there.
        let keep = "import sqlite3, sys; d = sqlite3.connect('database'); d.execute('SELECT * FROM entries').fetchone(); \
                    print('ready', flush=True); sys.stdin.read()";
        run_ok_within(&mut insert("first"), DISK);
        let keeper = Holder::run(scratch.shimmed(&python, way).args(["-c", keep]));
        run_ok_within(&mut insert("second"), DISK);
        let files = ["database", "database-wal", "database-shm"].map(|name| scratch.file(name));
        let held = files.map(|file| (file.clone(), Holder::start(scratch, way, &file, "rw")));
        let natively = run_hold_natively(scratch, "database-shm");
        let inserting = ["a", "b", "c"].map(|name| {
            let mut command = insert(name);
            std::thread::spawn(move || run_ok_within(&mut command, DISK))
        });
        for thread in inserting {
            assert_eq!(thread.join().unwrap(), "100\n");
        }
        for (file, holder) in held {
            holder.finish_exact(&format!("{}, {way}", file.display()));
        }
        assert!(natively.finish().contains("DIFFERS"), "nothing was stored into the index");
        keeper.finish();
        let check = "import sqlite3; d = sqlite3.connect('database'); \
                     print(d.execute('PRAGMA integrity_check').fetchone()[0], d.execute('SELECT count(*) FROM entries').fetchone()[0])";
        assert_eq!(run_ok(scratch.native(&python).args(["-c", check])), "ok 500\n");
    }
}

/// A plain mapping of the file, in a process without the shim.
fn run_hold_natively(scratch: &Scratch, file: &str) -> Holder {
    let size = fs::metadata(scratch.file(file)).unwrap().len().to_string();
    Holder::run(scratch.native(program("common/hold_plain")).args([file, &size]))
}

/// `command` changes `victim` through a shared mapping; what it becomes is what it becomes natively, and snapshots stay.
fn stores(size: usize, command: &[&str]) {
    for scratch in scratches() {
        let victim = scratch.file("victim");
        fs::write(&victim, content(size)).unwrap();
        let plain = run_hold_natively(&scratch, "victim");
        run_ok(scratch.native(command[0]).args(&command[1..]));
        assert!(plain.finish().contains("DIFFERS"), "{command:?}: a plain mapping does not change");
        let natively = fs::read(&victim).unwrap();
        for way in WAYS {
            fs::write(&victim, content(size)).unwrap();
            let held = ["r", "rw"].map(|protection| Holder::start(&scratch, way, &victim, protection));
            run_ok(scratch.shimmed(command[0], way).args(&command[1..]));
            let about = format!("{command:?}, {way}, {}", scratch.path.display());
            assert!(fs::read(&victim).unwrap() == natively, "{about}: the file is not what it becomes natively");
            held.into_iter().for_each(|holder| holder.finish_exact(&about));
        }
    }
}

#[test]
fn java_mapped_buffers() {
    if !are_installed("java_mapped_buffers", &["javac"]) {
        return;
    }
    let classes = made_programs().join("real");
    run_ok(Command::new("javac").arg("-d").arg(&classes).arg(source("real/sharing_buffers.java")));
    stores(600_000, &["java", "-cp", classes.to_str().unwrap(), "sharing_buffers", "victim"]);
}

#[test]
fn fio_that_maps_and_verifies() {
    if !are_installed("fio_that_maps_and_verifies", &["fio"]) {
        return;
    }
    for pattern in ["write", "randwrite"] {
        let way = format!("--rw={pattern}");
        let job = ["fio", "--name=job", "--filename=victim", "--ioengine=mmap", "--bs=4k", "--size=2m", &way];
        let verify = ["--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--randseed=7", "--verify_fatal=1"];
        let stable = ["--buffer_pattern=0x5aa5", "--fallocate=none"];
        let written = [&job[..], &stable].concat();
        stores(2 << 20, &written);
        for scratch in scratches() {
            fs::write(scratch.file("victim"), content(2 << 20)).unwrap();
            let holder = Holder::start(&scratch, "auto", &scratch.file("victim"), "rw");
            run_ok(scratch.shimmed("fio", "auto").args([&job[1..], &verify].concat()));
            holder.finish_exact(&format!("{pattern} with verify, {}", scratch.path.display()));
        }
    }
}
