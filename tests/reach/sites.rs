//! Every `syscall` instruction of the installed libc, of ld.so and of libraries of asynchronous writes: what it makes, and where.
//!
//! A function that the library takes by name (its exported symbol, or a detour at its entry) may hold any. For the others each call
//! that changes something, and each whose number does not stand in the code, has a reason below.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::code::{Code, Site};
use super::{header, system_calls, words};
use crate::common::{glibc_minor, library, run_ok, skip};

/// Names that only libc itself uses, with detours at their entries.
const DETOURED: [&str; 4] = ["__open_nocancel", "__write_nocancel", "__read_nocancel", "__close_nocancel"];

/// A call that stands where nothing takes it, the function (or one that leads there), and why that changes no file.
const HARMLESS: &[(&str, &str, &str)] = &[
    ("?", "pthread_create", "a thread carries out another thread's change of credentials, which is taken at its name"),
    ("?", "setegid", "the same, in the thread that asks"),
    (
        "?",
        "clock_nanosleep",
        "what all cancellation points share from 2.41 on; each that changes something is taken at its name",
    ),
    ("clone3", "pidfd_spawn", "as posix_spawn; its child makes calls that are taken"),
    ("clone3", "pthread_create", "a thread shares its memory and its descriptors"),
    ("exit", "pidfd_spawn", "its child, whose exec has failed"),
    ("exit", "pthread_create", "a thread without a first function ends"),
    ("exit", "_exit", "the process is ending already"),
    ("exit", "__libc_start_main", "the first thread ends while others go on, as pthread_exit(3) in it"),
    ("close", "getifaddrs", "the socket that it opened"),
    ("close", "if_nameindex", "the socket that it opened"),
    ("close", "mq_close", "a message queue"),
    ("close_range", "posix_spawn", "its child has a table of descriptors of its own"),
    ("close_range", "pidfd_spawn", "as posix_spawn"),
    ("setresuid", "posix_spawn", "its child, just before exec"),
    ("setresuid", "pidfd_spawn", "as posix_spawn"),
    ("setresgid", "posix_spawn", "its child, just before exec"),
    ("setresgid", "pidfd_spawn", "as posix_spawn"),
    ("getrandom", "calloc", "into memory of its own"),
    ("getrandom", "getrandom", "the part that makes the call, behind the entry, which is taken"),
    ("prctl", "__assert_fail", "names the memory of its message"),
    ("getrandom", "arc4random", "into memory of its own, or refused where it is write-protected"),
    ("getrandom", "getentropy", "refused where the buffer is write-protected"),
    ("pread64", "__pread64_nocancel", "into memory of libc's own"),
    ("ioctl", "tcdrain", "a terminal"),
    ("ioctl", "tcgetattr", "a terminal"),
    ("ioctl", "tcsetattr", "a terminal"),
    ("openat", "fchmodat", "with O_PATH"),
    ("ppoll", "arc4random", "leaves the mask as it is"),
    ("pselect6", "select", "leaves the mask as it is"),
    ("rt_sigaction", "sigaction", "the part that makes the call, behind the entry, which is taken"),
    ("rt_sigaction", "__libc_sigaction", "its callers are taken, or set no action for SIGSEGV"),
    ("rt_sigprocmask", "_Fork", "blocks everything around the fork, which is taken"),
    ("rt_sigprocmask", "getrandom", "blocks everything while it stores nothing of the program's"),
    ("rt_sigprocmask", "sigaction", "blocks everything while it changes the action of SIGABRT"),
    ("rt_sigprocmask", "abort", "unblocks SIGABRT"),
    ("rt_sigprocmask", "aio_cancel", "starts a thread with everything blocked"),
    ("rt_sigprocmask", "aio_fsync", "starts a thread with everything blocked"),
    ("rt_sigprocmask", "getcontext", "reads the mask; what sets it again is taken"),
    ("rt_sigprocmask", "posix_spawn", "blocks everything around the child's birth, which is taken"),
    ("rt_sigprocmask", "pidfd_spawn", "as posix_spawn"),
    ("rt_sigprocmask", "pthread_create", "blocks everything while it stores nothing of the program's"),
    ("rt_sigprocmask", "raise", "blocks everything while it stores nothing of the program's"),
    ("rt_sigprocmask", "pthread_kill", "blocks everything while it stores nothing of the program's"),
    ("rt_sigprocmask", "timer_create", "starts a thread with everything blocked"),
    ("prlimit64", "getrlimit", "reads a limit"),
    ("sigaltstack", "__longjmp_chk", "asks where the stack is"),
    ("utimensat", "futimens", "the part that the functions of times share, each of which is taken"),
];

/// A call that stands where nothing takes it, and the words of docs/not-covered.md that say so.
pub const NOT_COVERED: [(&str, &str, &str); 2] =
    [("writev", "__fortify_fail", "abort messages"), ("writev", "_mcleanup", "gmon.out")];

/// The same for ld.so, whose functions are hardly ever exported.
const LOADER: &[(&str, &str)] = &[
    ("?", "a futex, of a library that is being unloaded"),
    ("exit", "a fatal error"),
    ("prctl", "names memory of its own"),
    ("exit_group", "a fatal error, before the program has a snapshot"),
    ("execve", "ld.so was run as a command, before any library"),
    ("rt_sigaction", "for profiling a library (LD_PROFILE), SIGPROF"),
    ("read", "into memory of its own"),
    ("pread64", "into memory of its own"),
    ("openat", "a library or a cache, for reading; a new file for LD_DEBUG_OUTPUT"),
    ("close", "the file that it opened"),
    ("write", "LD_DEBUG's messages"),
    ("writev", "LD_DEBUG's messages, or a fatal error"),
    ("mmap", "a library, privately, over a reservation of its own"),
    ("munmap", "a library that it unloads"),
    ("mprotect", "a library's pages, and stacks"),
];

/// Where ldd finds a library of /bin/sh, or its loader.
fn found_by_ldd(name: &str) -> PathBuf {
    let text = run_ok(Command::new("ldd").arg("/bin/sh"));
    let line = text.lines().find(|line| line.contains(name)).unwrap();
    line.split_whitespace().find(|word| word.starts_with('/')).unwrap().into()
}

/// The names of what a site makes, as far as they have to be taken; "?" for a number that does not stand in the code.
fn suspicious(site: &Site, names: &BTreeMap<u64, String>) -> Vec<String> {
    if site.numbers.is_empty() {
        return vec!["?".to_owned()];
    }
    let watched: BTreeSet<_> =
        [system_calls::WRITES, system_calls::CHANGES, system_calls::SEEN].into_iter().flat_map(words).collect();
    let name = |number: &u64| names.get(number).cloned().unwrap_or_else(|| number.to_string());
    let is_known = |name: &String| names.values().any(|known| known == name);
    site.numbers.iter().map(name).filter(|name| watched.contains(name.as_str()) || !is_known(name)).collect()
}

fn code_of(test: &str, file: &Path) -> Option<Code> {
    let code = Code::read(file);
    if code.is_none() {
        skip(test, "objdump or readelf (binutils) is missing");
    }
    code
}

#[test]
fn every_system_call_instruction_of_libc_is_sorted() {
    let test = "every_system_call_instruction_of_libc_is_sorted";
    let Some(libc) = code_of(test, &found_by_ldd("libc.so.6")) else { return };
    let names: BTreeMap<_, _> = header().into_iter().map(|(name, number)| (number, name)).collect();
    let exported = run_ok(Command::new("nm").args(["-D", "--defined-only"]).arg(library()));
    let exported: BTreeSet<_> =
        exported.lines().filter_map(|line| line.split_whitespace().last()?.split('@').next()).collect();
    let is_taken = |name: &String| exported.contains(name.as_str()) || DETOURED.contains(&name.as_str());
    let sites = libc.sites();
    assert!(sites.len() > 300, "libc's instructions were found: {}", sites.len());
    let mut unsorted = BTreeSet::new();
    // In older code the callers of a local function do not always show.
    let is_older = glibc_minor() < 36;
    let is_lost = |site: &&Site| is_older && site.is_local && site.functions.is_empty();
    let lost = sites.iter().filter(is_lost).count();
    if lost > 0 {
        skip(
            test,
            &format!("{lost} of {} instructions are in local functions whose callers are not found", sites.len()),
        );
    }
    for site in sites.iter().filter(|site| !is_lost(site)) {
        for call in suspicious(site, &names) {
            let has_reason = |(known, function, _): &(&str, &str, &str)| {
                *known == call && site.functions.iter().any(|name| name == function)
            };
            let is_taken = !site.is_local && site.functions.iter().any(is_taken);
            if !is_taken && !HARMLESS.iter().chain(&NOT_COVERED).any(has_reason) {
                unsorted.insert(format!(
                    "{call} in {:?}{}",
                    site.functions,
                    if site.is_local { " (local)" } else { "" }
                ));
            }
        }
    }
    assert!(unsorted.is_empty(), "nothing takes these, and no reason is known: {unsorted:#?}");
}

#[test]
fn every_system_call_instruction_of_the_loader_is_sorted() {
    let test = "every_system_call_instruction_of_the_loader_is_sorted";
    let Some(loader) = code_of(test, &found_by_ldd("ld-linux")) else { return };
    let names: BTreeMap<_, _> = header().into_iter().map(|(name, number)| (number, name)).collect();
    let sites = loader.sites();
    assert!(sites.len() > 20, "the loader's instructions were found: {}", sites.len());
    let calls: BTreeSet<_> = sites.iter().flat_map(|site| suspicious(site, &names)).collect();
    let known: BTreeSet<_> = LOADER.iter().map(|(call, _)| (*call).to_owned()).collect();
    let unsorted: Vec<_> = calls.difference(&known).collect();
    assert!(unsorted.is_empty(), "the loader makes these, and no reason is known: {unsorted:?}");
}

/// Libraries that hand writes to the kernel, and what their instructions make.
const LIBRARIES: &[(&str, &[&str])] = &[
    // Its exported functions are taken; it makes them by syscall(2).
    ("libaio.so.1", &[]),
    // It raises a limit for itself. Its setup is denied at syscall(2) or by the filter, and without that the others have no ring;
    // see `io_uring` in docs/not-covered.md.
    (
        "liburing.so.2",
        &[
            "?",
            "io_uring_setup",
            "io_uring_enter",
            "io_uring_register",
            "close",
            "mmap",
            "munmap",
            "madvise",
            "setrlimit",
        ],
    ),
];

#[test]
fn every_system_call_instruction_of_other_libraries_is_sorted() {
    let test = "every_system_call_instruction_of_other_libraries_is_sorted";
    let names: BTreeMap<_, _> = header().into_iter().map(|(name, number)| (number, name)).collect();
    let libc = found_by_ldd("libc.so.6");
    for (library, known) in LIBRARIES {
        let file = libc.with_file_name(library);
        if !file.exists() {
            skip(test, &format!("no {library}"));
            continue;
        }
        let Some(code) = code_of(test, &file) else { return };
        let mut calls: BTreeSet<_> = code.sites().iter().flat_map(|site| suspicious(site, &names)).collect();
        calls.retain(|call| !known.contains(&call.as_str()));
        assert!(calls.is_empty(), "{library} makes these by itself, and no reason is known: {calls:?}");
    }
}
