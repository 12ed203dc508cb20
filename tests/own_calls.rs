//! Each system call that the library makes is one that it judges filters of seccomp(2) by (`shim/src/base/system_call_filter.rs`):
//! a filter that kills for a call which is not listed would kill the program for the library's.
//!
//! The sources are read. What hooks make by `syscall!` are the program's own calls.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const LISTS: &str = "shim/src/base/system_call_filter.rs";

/// Which system calls the functions of rustix make.
const OF_RUSTIX: &[(&str, &[&str])] = &[
    ("fadvise", &["fadvise64"]),
    ("fallocate", &["fallocate"]),
    ("fchmod", &["fchmod"]),
    ("fcntl_dupfd_cloexec", &["fcntl"]),
    ("fcntl_getfd", &["fcntl"]),
    ("fcntl_getfl", &["fcntl"]),
    ("fgetxattr", &["fgetxattr"]),
    ("fstat", &["fstat"]),
    ("fstatfs", &["fstatfs"]),
    ("fstatvfs", &["fstatfs"]),
    ("ftruncate", &["ftruncate"]),
    ("linkat", &["linkat"]),
    ("lstat", &["newfstatat"]),
    ("memfd_create", &["memfd_create"]),
    ("mkdir", &["mkdirat"]),
    ("open", &["open"]),
    ("openat", &["openat"]),
    ("readlinkat_raw", &["readlinkat"]),
    ("seek", &["lseek"]),
    ("stat", &["newfstatat"]),
    ("statat", &["newfstatat"]),
    ("statx", &["statx"]),
    ("tell", &["lseek"]),
    ("pread", &["pread64"]),
    ("pwrite", &["pwrite64"]),
    ("read", &["read"]),
    ("write", &["write"]),
    ("madvise", &["madvise"]),
    ("mlock", &["mlock"]),
    ("mlock_with", &["mlock2"]),
    ("mmap", &["mmap"]),
    ("mmap_anonymous", &["mmap"]),
    ("mprotect", &["mprotect"]),
    ("mremap", &["mremap"]),
    ("mremap_fixed", &["mremap"]),
    ("munmap", &["munmap"]),
    ("send", &["sendto"]),
    ("dumpable_behavior", &["prctl"]),
    ("getegid", &["getegid"]),
    ("geteuid", &["geteuid"]),
    ("getpid", &["getpid"]),
    ("getppid", &["getppid"]),
    ("getrlimit", &["prlimit64"]),
    ("getsid", &["getsid"]),
    ("getuid", &["getuid"]),
    ("kill_process", &["kill"]),
    ("pidfd_getfd", &["pidfd_getfd"]),
    ("pidfd_open", &["pidfd_open"]),
    ("setrlimit", &["prlimit64"]),
    ("test_kill_process", &["kill"]),
    ("getrandom", &["getrandom"]),
    ("capabilities", &["capget"]),
    ("futex", &["futex"]),
    ("gettid", &["gettid"]),
    ("nanosleep", &["nanosleep"]),
    ("no_new_privs", &["prctl"]),
    ("sched_yield", &["sched_yield"]),
    ("secure_computing_mode", &["prctl"]),
    ("set_name", &["prctl"]),
    ("clock_gettime", &["clock_gettime"]),
    // No calls.
    ("as_raw_fd", &[]),
    ("init", &[]),
    ("major", &[]),
    ("makedev", &[]),
    ("minor", &[]),
];

/// Calls that need not be listed, where they are made, and why.
const APART: &[(&str, &str, &str)] = &[
    ("exit_group", "src/sys/probe.rs", "a child makes it, to find out what a filter does"),
    ("exit_group", "shim/src/agent", "made in the place of the program's end"),
    ("stat", "shim/src/interpose/late.rs", "the program's own call"),
    ("chdir", "shim/src/hooks/process/daemon.rs", "a part of the program's daemon(3)"),
    ("setsid", "shim/src/hooks/process/daemon.rs", "a part of the program's daemon(3)"),
];

/// Files that name system calls of others without making them.
const NAMING: &[&str] = &["src/cooperate/summon.rs", "src/cooperate/thread_state.rs", "shim/src/signals/frame.rs"];

fn files_in(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            files_in(&entry, found);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            found.push(entry);
        }
    }
}

/// A source without its comments and unit tests.
fn code_of(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    code.lines().map(|line| line.split("//").next().unwrap().to_owned() + "\n").collect()
}

/// The names that follow `prefix`.
fn names_after<'a>(code: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    let is_part = |character: char| character.is_ascii_alphanumeric() || character == '_';
    code.match_indices(prefix).map(move |(at, _)| {
        let rest = &code[at + prefix.len()..];
        &rest[..rest.find(|character| !is_part(character)).unwrap_or(rest.len())]
    })
}

/// The functions of rustix that are called or imported.
fn rustix_functions(code: &str) -> BTreeSet<String> {
    let is_function = |name: &str| name.starts_with(|first: char| first.is_ascii_lowercase());
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("rustix::") {
        let is_import = code[..at].ends_with("use ");
        let rest = &code[at + "rustix::".len()..];
        let end = rest.find(if is_import { [';', '\0'] } else { ['(', '\n'] }).unwrap_or(rest.len());
        let path = &rest[..end];
        if is_import {
            let list = path.split_once('{').map_or_else(|| path.rsplit("::").next().unwrap(), |(_, list)| list);
            let names = list.split(|part: char| !(part.is_ascii_alphanumeric() || part == '_'));
            // A module is imported to be followed by `::`.
            let names = names.filter(|name| is_function(name) && *name != "self");
            found.extend(names.filter(|name| !code.contains(&format!("{name}::"))).map(str::to_owned));
        } else if rest[end..].starts_with('(')
            && path.chars().all(|part| part.is_ascii_alphanumeric() || "_:".contains(part))
        {
            // An associated function makes no call: its type begins with a capital letter.
            let parts: Vec<_> = path.split("::").collect();
            if parts.iter().all(|part| is_function(part)) {
                found.extend(parts.last().map(|name| (*name).to_owned()));
            }
        }
    }
    // `futex::wait` and its kin.
    if code.contains("futex::wait(") && code.contains("rustix::thread::futex") {
        found.insert("futex".to_owned());
    }
    found
}

#[test]
fn each_call_of_the_librarys_is_one_that_filters_are_judged_by() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let lists = code_of(&root.join(LISTS));
    let listed: BTreeSet<_> = names_after(&lists, "Call(S::").collect();
    assert!(listed.len() > 60 && listed.contains("openat") && listed.contains("pidfd_getfd"), "{listed:?}");
    let of_rustix: BTreeMap<_, _> = OF_RUSTIX.iter().copied().collect();
    let mut files = Vec::new();
    for folder in ["src", "shim/src"] {
        files_in(&root.join(folder), &mut files);
    }
    let mut faults = Vec::new();
    for file in files {
        let name = file.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        // The command is a program of its own.
        if name == LISTS || name.starts_with("src/bin/") {
            continue;
        }
        let code = code_of(&file);
        let mut made = BTreeSet::new();
        if !name.starts_with("shim/src/hooks/") {
            let prefix = if NAMING.contains(&name.as_str()) { "syscall!(Sysno::" } else { "Sysno::" };
            made.extend(names_after(&code, prefix));
        }
        let functions = rustix_functions(&code);
        for function in &functions {
            match of_rustix.get(function.as_str()) {
                Some(calls) => made.extend(*calls),
                None if APART.iter().any(|(call, place, _)| call == function && name.starts_with(place)) => {}
                None => faults
                    .push(format!("{name}: which system calls does rustix's {function} make? Say it in OF_RUSTIX")),
            }
        }
        let is_apart = |call: &str| APART.iter().any(|(apart, place, _)| *apart == call && name.starts_with(place));
        let missing = made.iter().filter(|call| !listed.contains(*call) && !is_apart(call));
        faults.extend(missing.map(|call| format!("{name}: {call} is in neither list of {LISTS}")));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
