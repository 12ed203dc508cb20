//! The recipes of examples/recipes do what they promise: each copies what a program writes, many times, and finds no copy that is
//! wrong.

use std::process::Command;
use std::time::Duration;

use crate::common::{Scratch, command, root, run_within, skip, text};

/// Runs a recipe; its last lines are the figures. Status 77 says that a tool is missing.
fn recipe(name: &str, times: Option<u32>) {
    let scratch = Scratch::on_tmpfs();
    let tools = root().join("target/venv/bin");
    let python = if tools.join("python3").exists() { tools.join("python3") } else { "python3".into() };
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{}:{path}:/usr/sbin", command().parent().unwrap().display(), tools.display());
    let mut recipe = Command::new(python);
    recipe.arg(root().join(format!("examples/recipes/{name}.py"))).args(times.map(|times| times.to_string()));
    recipe.env("PATH", path).env("SNAPSHIM_DIR", scratch.table()).env("SNAPSHIM_TIMEOUT_MS", "60000");
    recipe.env("PYTHONDONTWRITEBYTECODE", "1").current_dir(&scratch.path);
    let output = run_within(&mut recipe, Duration::from_secs(if times > Some(100) { 3000 } else { 300 }));
    let said = text(&output);
    if output.status.code() == Some(77) {
        return skip(name, said.trim().trim_start_matches("SKIPPED: "));
    }
    assert!(output.status.success(), "{said}");
    println!("{name}:\n{said}");
}

#[test]
fn sqlite_in_wal_mode_is_copied_as_a_group() {
    recipe("sqlite_wal", Some(20));
}

#[test]
#[ignore = "minutes: part of `make storms`"]
fn soak_of_sqlite_in_wal_mode() {
    recipe("sqlite_wal", Some(500));
}

#[test]
fn lmdb_is_copied_in_both_modes() {
    recipe("lmdb_environment", Some(10));
}

#[test]
fn duckdb_is_copied_while_it_is_open() {
    recipe("duckdb_database", Some(10));
}

#[test]
fn redis_starts_from_a_copy() {
    recipe("redis_server", None);
}

#[test]
fn a_device_that_fuse2fs_writes_is_clean_after_replay() {
    recipe("block_device", None);
}

#[test]
fn restic_and_borg_back_up_a_frozen_directory() {
    recipe("backup_by_freeze", None);
}

#[test]
fn a_numpy_array_is_copied_under_its_writer() {
    recipe("numpy_memmap", None);
}

#[test]
fn a_log_is_read_whole_while_it_is_truncated() {
    recipe("log_copytruncate", None);
}

#[test]
fn an_image_is_exported_while_qemu_nbd_writes_it() {
    recipe("vm_image", None);
}
