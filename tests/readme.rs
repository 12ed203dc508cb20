//! tests/README.md names each test file and each folder of programs, and none that is not there.

use std::collections::BTreeSet;
use std::fs;

use crate::common::root;

/// What stands first in the rows of the tables that begin with `start`.
fn rows(start: &str, end: char) -> BTreeSet<String> {
    let page = fs::read_to_string(root().join("tests/README.md")).unwrap();
    let first = page.lines().filter_map(|line| line.strip_prefix(start)?.split(end).next());
    first.map(|name| name.trim_end_matches(".rs").to_owned()).collect()
}

#[test]
fn each_test_file_has_its_row() {
    let main = fs::read_to_string(root().join("tests/main.rs")).unwrap();
    let modules = main.lines().filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'));
    let files: BTreeSet<_> = modules.filter(|name| *name != "common").chain(["models"]).map(str::to_owned).collect();
    assert_eq!(rows("| [", ']'), files);
}

#[test]
fn each_folder_of_programs_has_its_row() {
    let table = rows("| ", ' ');
    let entries = fs::read_dir(root().join("tests/programs")).unwrap().map(|entry| entry.unwrap().path());
    let folders = entries.filter(|path| path.is_dir());
    let folders: BTreeSet<_> = folders.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    let missing: Vec<_> = folders.difference(&table).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
