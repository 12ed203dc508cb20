//! No call gets past: every way into the kernel that could change a file is sorted, and a new one fails here.
//!
//! The calls that the library takes by name, where libc's own entries lead, those that it takes by number, the kernel's own table
//! of system calls and of ioctl requests, and every system call instruction of libc, of ld.so and of other libraries that make them
//! are held side by side.

mod code;
mod entries;
mod requests;
mod sites;
mod system_calls;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::common::{root, skip};

/// The words of a list.
fn words(list: &str) -> BTreeSet<&str> {
    list.split_whitespace().collect()
}

/// docs/not-covered.md.
fn named_as_not_covered() -> String {
    fs::read_to_string(root().join("docs/not-covered.md")).unwrap()
}

/// The text of every source file of the library.
fn sources(directory: &Path) -> String {
    let mut entries: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    let text =
        |path: &std::path::PathBuf| if path.is_dir() { sources(path) } else { fs::read_to_string(path).unwrap() };
    entries.iter().map(text).collect()
}

/// The system calls that the library's syscall(2) takes by their numbers.
fn taken_by_number() -> BTreeSet<String> {
    let source = sources(&root().join("shim/src"));
    let name =
        |rest: &str| rest.chars().take_while(|letter| letter.is_ascii_alphanumeric() || *letter == '_').collect();
    source.split("::SYS_").skip(1).filter(|rest| !rest.starts_with("ADMIN")).map(name).collect()
}

/// The kernel's table: names of the installed header, with their numbers.
fn header() -> Vec<(String, u64)> {
    let text = fs::read_to_string("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
        .or_else(|_| fs::read_to_string("/usr/include/asm/unistd_64.h"))
        .expect("the kernel's headers come with gcc's libc6-dev");
    let entry = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        Some((words.next()?.strip_prefix("__NR_")?.to_owned(), words.next()?.parse().ok()?))
    };
    text.lines().filter_map(entry).collect()
}

/// The system calls of the running kernel, as its symbols name them.
fn running() -> BTreeSet<String> {
    let symbols = fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    let name = |line: &str| {
        let name = line.split_whitespace().nth(2)?.strip_prefix("__x64_sys_")?;
        // Split-off parts of functions have a suffix.
        (!name.contains('.')).then(|| name.to_owned())
    };
    symbols.lines().filter_map(name).collect()
}

#[test]
fn every_system_call_is_sorted_once() {
    let not_covered = system_calls::NOT_COVERED.map(|(name, _)| name).join(" ");
    let lists = [
        system_calls::WRITES,
        system_calls::CHANGES,
        system_calls::SEEN,
        &not_covered,
        system_calls::CANNOT_CHANGE,
        system_calls::GONE,
        system_calls::OTHER_TABLES,
    ];
    let mut sorted = BTreeSet::new();
    for name in lists.iter().flat_map(|list| list.split_whitespace()) {
        assert!(sorted.insert(name), "{name} is sorted twice");
    }
    let running = running();
    if running.is_empty() {
        skip(
            "every_system_call_is_sorted_once",
            "the running kernel's symbols cannot be read; only the header's calls are looked at",
        );
    }
    let kernel: BTreeSet<_> = header().into_iter().map(|(name, _)| name).chain(running).collect();
    assert!(kernel.len() > 300, "the kernel's table was read");
    let unsorted: Vec<_> = kernel.iter().filter(|name| !sorted.contains(name.as_str())).collect();
    assert!(unsorted.is_empty(), "can these change what a snapshot shows? {unsorted:?}");
}

#[test]
fn every_call_that_writes_is_waited_for() {
    let source = fs::read_to_string(root().join("src/cooperate/thread_state.rs")).unwrap();
    let (_, list) = source.split_once("const WRITING").expect("the list of the calls that a creation waits for");
    let list = list.split_once("];").unwrap().0;
    let waited_for: BTreeSet<_> =
        list.split("Sysno::").skip(1).filter_map(|rest| rest.split(',').next()).map(str::trim).collect();
    assert_eq!(waited_for, words(system_calls::WRITES).into_iter().collect(), "src/cooperate/thread_state.rs");
}

#[test]
fn every_call_that_changes_is_taken_by_its_number() {
    let taken = taken_by_number();
    let wanted: BTreeSet<_> =
        [system_calls::WRITES, system_calls::CHANGES, system_calls::SEEN].into_iter().flat_map(words).collect();
    let missed: Vec<_> = wanted.iter().filter(|name| !taken.contains(**name)).collect();
    assert!(missed.is_empty(), "syscall(2) lets these pass: {missed:?}");
    let not_covered = system_calls::NOT_COVERED.map(|(name, _)| name);
    let is_sorted = |name: &&String| wanted.contains(name.as_str()) || not_covered.contains(&name.as_str());
    let more: Vec<_> = taken.iter().filter(|name| !is_sorted(name)).collect();
    assert!(more.is_empty(), "taken by number, but sorted as harmless: {more:?}");
}

#[test]
fn what_is_not_covered_is_named() {
    let text = named_as_not_covered();
    let of_sites = sites::NOT_COVERED.map(|(call, _, words)| (call, words));
    for (call, words) in
        system_calls::NOT_COVERED.iter().chain(&requests::NOT_COVERED).chain(&entries::NOT_COVERED).chain(&of_sites)
    {
        assert!(text.contains(words), "docs/not-covered.md does not speak of {call}: {words:?} is not in it");
    }
}
