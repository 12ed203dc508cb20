//! Real libraries, unmodified, that save over the very file they mapped: natively what they loaded becomes zeros, newer bytes or a
//! SIGBUS; with the file named in SNAPSHIM_FILES, or SNAPSHIM_SHARED_FILES, it stays, and the file becomes what was saved.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use crate::common::{Scratch, WAYS, root, run, run_ok, scratches, skip, source, text};

const SAVES: [&str; 3] = ["same", "shorter", "longer"];

fn python() -> PathBuf {
    root().join("target/venv/bin/python3")
}

/// Whether `library` can be used; says aloud if not.
fn has(test: &str, library: &str) -> bool {
    let import = match library {
        // From version 2 on it reads IPC files into memory of its own.
        "polars" => "import inspect, numpy, polars; inspect.signature(polars.read_ipc).parameters['memory_map']",
        _ => &format!("import numpy, {library}"),
    };
    let found = Command::new(python()).args(["-c", import]).output().is_ok_and(|output| output.status.success());
    if !found {
        skip(test, &format!("{library} is not installed: run `make setup`"));
    }
    found
}

fn script(command: &mut Command, library: &str, load: &str, save: &str) -> Output {
    let file = source(&format!("real/saving_{library}.py"));
    run(command.arg(file).args([load, save]).env("PYTHONDONTWRITEBYTECODE", "1"))
}

fn natively(scratch: &Scratch, library: &str, load: &str, save: &str) -> Output {
    script(&mut scratch.native(python()), library, load, save)
}

/// Every file of the scratch directory is named, and nothing else.
fn shimmed(scratch: &Scratch, way: &str, library: &str, load: &str, save: &str) -> Output {
    let variable = if load == "shared" { "SNAPSHIM_SHARED_FILES" } else { "SNAPSHIM_FILES" };
    script(scratch.shimmed(python(), way).env(variable, scratch.file("*")), library, load, save)
}

/// What the line of a script's output that begins with `word` says.
fn said(output: &Output, word: &str) -> Option<String> {
    let lines = String::from_utf8_lossy(&output.stdout);
    lines.lines().find_map(|line| line.strip_prefix(word).map(|rest| rest.trim().to_owned()))
}

/// What saving did, in a few words; "kept" if nothing bad.
fn fate(output: &Output) -> String {
    let before = said(output, "before").unwrap_or_else(|| panic!("nothing was loaded: {}", text(output)));
    let data = match (output.status.signal(), said(output, "after")) {
        (Some(libc::SIGBUS), _) => "SIGBUS".to_owned(),
        (Some(signal), _) => format!("signal {signal}"),
        (None, Some(after)) if after == before => "kept".to_owned(),
        (None, _) => "changed".to_owned(),
    };
    said(output, "error").map_or_else(|| data.clone(), |error| format!("{error}, then {data}"))
}

/// What becomes natively of what `load` gave when the same process saves over it.
fn fate_natively(library: &str, load: &str, save: &str) -> String {
    let native = fate(&natively(&Scratch::on_tmpfs(), library, load, save));
    eprintln!("{library} {load}, {save}: natively {native}");
    native
}

/// What `load` gave is harmed natively when the same process saves over it, and not under the shim.
fn loaded_data_outlives_saving(library: &str, load: &str) {
    for save in SAVES {
        assert_ne!(fate_natively(library, load, save), "kept", "{library} {load}, {save}: there is nothing to protect");
    }
    all_is_right_under_the_shim(library, load);
}

fn all_is_right_under_the_shim(library: &str, load: &str) {
    for scratch in scratches() {
        for way in WAYS {
            for save in SAVES {
                let about = format!("{library} {load}, {save}, {way}, {}", scratch.path.display());
                let output = shimmed(&scratch, way, library, load, save);
                assert_eq!(fate(&output), "kept", "{about}: {}", text(&output));
                assert!(output.status.success(), "{about}: {}", text(&output));
                let saving = said(&output, "saving");
                let file = said(&natively(&scratch, library, "read", save), "file");
                assert!(saving.is_some() && file == saving, "{about}: the file is not what was saved");
                assert_eq!(said(&output, "again"), saving, "{about}: a second load is not what was saved");
            }
        }
    }
}

#[test]
fn numpy_load_with_mmap_mode_c_outlives_save() {
    if has("numpy_load_with_mmap_mode_c_outlives_save", "numpy") {
        loaded_data_outlives_saving("numpy", "private");
    }
}

#[test]
fn numpy_memmap_in_mode_c_outlives_tofile() {
    if has("numpy_memmap_in_mode_c_outlives_tofile", "numpy") {
        loaded_data_outlives_saving("memmap", "private");
    }
}

#[test]
fn pyarrow_memory_map_outlives_an_ipc_file_written_over_it() {
    if has("pyarrow_memory_map_outlives_an_ipc_file_written_over_it", "pyarrow") {
        loaded_data_outlives_saving("pyarrow", "private");
        loaded_data_outlives_saving("pyarrow", "feather");
    }
}

#[test]
fn safetensors_opened_lazily_outlive_a_file_written_over_them() {
    if has("safetensors_opened_lazily_outlive_a_file_written_over_them", "safetensors") {
        loaded_data_outlives_saving("safetensors", "private");
    }
}

#[test]
fn safetensors_replaced_by_save_file_are_as_natively() {
    if has("safetensors_replaced_by_save_file_are_as_natively", "safetensors") {
        SAVES.iter().for_each(|save| drop(fate_natively("safetensors", "renamed", save)));
        all_is_right_under_the_shim("safetensors", "renamed");
    }
}

#[test]
fn read_only_shared_mappings_of_numpy_outlive_save_and_tofile() {
    if has("read_only_shared_mappings_of_numpy_outlive_save_and_tofile", "numpy") {
        loaded_data_outlives_saving("numpy", "shared");
        loaded_data_outlives_saving("memmap", "shared");
    }
}

#[test]
fn read_only_shared_mappings_of_polars_outlive_write_ipc() {
    if has("read_only_shared_mappings_of_polars_outlive_write_ipc", "polars") {
        loaded_data_outlives_saving("polars", "shared");
    }
}

/// What a reader that maps `log` says of it after `rotation` has run.
fn reader_beside(rotation: &str, mut reader: Command, mut rotator: Command) -> Output {
    let mut child = reader
        .arg(source("real/saving_log.py"))
        .arg("log")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    run_ok(rotator.args(["-c", rotation]));
    drop(child.stdin.take());
    let mut stdout = Vec::new();
    output.read_to_end(&mut stdout).unwrap();
    Output { stdout, ..child.wait_with_output().unwrap() }
}

#[test]
fn a_mapped_log_outlives_copytruncate_by_another_process() {
    let rotations = [
        "cp log log.1 && : > log && echo new line >> log",
        "cp log log.1 && truncate -s 0 log && yes a new line | head -c 300000 >> log",
        "cat log > log.1 && truncate -s 5000 log",
    ];
    let content: Vec<u8> =
        (0..).flat_map(|line| format!("{line} something happened\n").into_bytes()).take(200_001).collect();
    let python =
        PathBuf::from(run_ok(Command::new("python3").args(["-c", "import sys; print(sys.executable)"])).trim_end());
    for scratch in scratches() {
        for rotation in rotations {
            let begin = || fs::write(scratch.file("log"), &content).unwrap();
            begin();
            let native = reader_beside(rotation, scratch.native(&python), scratch.native("sh"));
            assert_eq!(
                native.status.signal(),
                (!rotation.contains("yes")).then_some(libc::SIGBUS),
                "{}",
                text(&native)
            );
            let natively = fs::read(scratch.file("log")).unwrap();
            for way in WAYS {
                begin();
                let mut reader = scratch.shimmed(&python, way);
                reader.env("SNAPSHIM_FILES", "log");
                let found = reader_beside(rotation, reader, scratch.shimmed("sh", way));
                let about = format!("{rotation}, {way}, {}: {}", scratch.path.display(), text(&found));
                assert_eq!(String::from_utf8_lossy(&found.stdout), "same\n", "{about}");
                assert!(fs::read(scratch.file("log.1")).unwrap() == content, "the rotated log: {about}");
                assert!(fs::read(scratch.file("log")).unwrap() == natively, "the log: {about}");
            }
        }
    }
}
