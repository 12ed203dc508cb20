//! tests/README.md names each test file and each folder of programs, and none that is not there.

mod common;

use std::collections::BTreeSet;
use std::fs;

use common::root;

/// The names in a directory that `is_listed` wants, without their extension.
fn names(directory: &str, is_listed: impl Fn(&fs::DirEntry) -> bool) -> BTreeSet<String> {
    let entries = fs::read_dir(root().join(directory)).unwrap().map(Result::unwrap).filter(is_listed);
    entries.map(|entry| entry.path().file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

/// What stands first in the rows of the tables that begin with `start`.
fn rows(start: &str, end: char) -> BTreeSet<String> {
    let page = fs::read_to_string(root().join("tests/README.md")).unwrap();
    let first = page.lines().filter_map(|line| line.strip_prefix(start)?.split(end).next());
    first.map(|name| name.trim_end_matches(".rs").to_owned()).collect()
}

#[test]
fn each_test_file_has_its_row() {
    let is_test = |entry: &fs::DirEntry| {
        entry.path().extension().is_some_and(|extension| extension == "rs") || entry.path().join("main.rs").exists()
    };
    assert_eq!(rows("| [", ']'), names("tests", is_test));
}

#[test]
fn each_folder_of_programs_has_its_row() {
    let table = rows("| ", ' ');
    let folders = names("tests/programs", |entry| entry.path().is_dir());
    let missing: Vec<_> = folders.difference(&table).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
