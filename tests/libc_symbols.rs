//! Every function of the installed libc that could change a file, or that has the kernel fill a program's memory, is known: hooked,
//! or harmless for a reason. A new one fails this test.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use crate::common::library;

/// Parts of the names of what could change a file, a mapping, or what a descriptor means.
const SUSPICIOUS: [&str; 19] = [
    "write",
    "trunc",
    "falloc",
    "fallocate",
    "splice",
    "sendfile",
    "copy_file",
    "creat",
    "open",
    "aio",
    "lio_",
    "mmap",
    "mprotect",
    "madvise",
    "mremap",
    "remap_file",
    "munmap",
    "syscall",
    "utime",
];

/// Entry points behind names that only libc itself uses.
const DETOURED: [&str; 4] = ["__open_nocancel", "__write_nocancel", "__read_nocancel", "__close_nocancel"];

/// Names that come to a hooked function inside libc, through its detour.
const COME_TO_A_HOOK: [&str; 45] = [
    "_IO_do_write",
    "_IO_fdopen",
    "_IO_file_fopen",
    "_IO_file_open",
    "_IO_file_write",
    "_IO_fopen",
    "_IO_fwrite",
    "_IO_popen",
    "_IO_proc_open",
    "_IO_wdo_write",
    "__nss_files_data_open",
    "__nss_files_fopen",
    "__open64_2",
    "__open64_nocancel",
    "__open_2",
    "__open_catalog",
    "__openat64_2",
    "__openat_2",
    "aio_write",
    "aio_write64",
    "catopen",
    "fdopen",
    "fopen",
    "fopen64",
    "freopen",
    "freopen64",
    "fts64_open",
    "fts_open",
    "fwrite",
    "fwrite_unlocked",
    "lio_listio",
    "lio_listio64",
    "openlog",
    "popen",
    "posix_spawn_file_actions_addopen",
    "sem_open",
    "shm_open",
    "__gconv_open",
    "iconv_open",
    "opendir",
    "openpty",
    "posix_openpt",
    "fopencookie",
    "__libc_pwrite",
    "eventfd_write",
];

/// Names that change no file's content.
const CHANGE_NO_FILE: [&str; 24] = [
    // They read, wait, or make something that is no file yet.
    "aio_cancel",
    "aio_cancel64",
    "aio_error",
    "aio_error64",
    "aio_fsync",
    "aio_fsync64",
    "aio_init",
    "aio_read",
    "aio_read64",
    "aio_return",
    "aio_return64",
    "aio_suspend",
    "aio_suspend64",
    "epoll_create",
    "epoll_create1",
    "timerfd_create",
    "memfd_create",
    "pidfd_open",
    "fsopen",
    "open_tree",
    "mq_open",
    "__mq_open_2",
    "fdopendir",
    "fmemopen",
];

/// Names without a file, or that only libc's own loader and allocator use.
const NOT_ABOUT_FILES: [&str; 17] = [
    "__madvise",
    "__mmap",
    "__mprotect",
    "__munmap",
    "dlopen",
    "__libc_dlopen_mode",
    "open_memstream",
    "open_wmemstream",
    "hcreate",
    "hcreate_r",
    "pthread_create",
    "__pthread_key_create",
    "__nptl_create_event",
    "__gconv_create_spec",
    "__libc_alloc_buffer_create_failure",
    "argz_create_sep",
    "create_module",
];

/// Changes that are named in docs/not-covered.md.
const NOT_COVERED: [&str; 1] = ["process_vm_writev"];

/// Functions and their addresses.
fn functions(file: &Path) -> BTreeMap<String, String> {
    let output = Command::new("nm").args(["-D", "--defined-only"]).arg(file).output().expect("nm (binutils)");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let (address, kind, name) = (fields.next()?, fields.next()?, fields.next()?);
            matches!(kind, "T" | "W" | "i").then(|| (name.split('@').next().unwrap().to_string(), address.to_string()))
        })
        .collect()
}

fn libc_path() -> String {
    let output = Command::new("ldd").arg("/bin/sh").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find(|line| line.contains("libc.so.6")).unwrap().to_string();
    line.split_ascii_whitespace().find(|word| word.starts_with('/')).unwrap().to_string()
}

/// The addresses of libc's functions that are hooked.
fn hooked(libc: &BTreeMap<String, String>) -> BTreeSet<&String> {
    let ours = functions(&library());
    let is_hooked = |name: &String| ours.contains_key(name) || DETOURED.contains(&name.as_str());
    libc.iter().filter(|(name, _)| is_hooked(name)).map(|(_, at)| at).collect()
}

#[test]
fn every_function_of_libc_that_could_change_a_file_is_known() {
    let libc = functions(Path::new(&libc_path()));
    let hooked = hooked(&libc);
    let known: BTreeSet<&str> =
        [&COME_TO_A_HOOK[..], &CHANGE_NO_FILE, &NOT_ABOUT_FILES, &NOT_COVERED].concat().into_iter().collect();
    let is_suspicious = |name: &str| SUSPICIOUS.iter().any(|part| name.contains(part));
    let is_rpc = |name: &str| ["clnt", "svc", "auth", "xdr", "rpc"].iter().any(|part| name.contains(part));
    let is_creation_of_no_file = |name: &str| {
        name.ends_with("_create")
            && ["pthread_key", "thrd", "timer", "tss", "argz"].iter().any(|part| name.starts_with(part))
    };
    let unknown: Vec<&String> = libc
        .iter()
        .filter(|(name, at)| {
            is_suspicious(name)
                && !hooked.contains(at)
                && !known.contains(name.as_str())
                && !is_rpc(name)
                && !is_creation_of_no_file(name)
        })
        .map(|(name, _)| name)
        .collect();
    assert!(unknown.is_empty(), "not hooked, and no reason known: {unknown:?}");
}

/// Parts of the names of what has the kernel fill a buffer with bytes that come from somewhere.
const FILLING: [&str; 7] = ["read", "recv", "getrandom", "getentropy", "arc4random", "msgrcv", "mq_timedreceive"];

/// They fill buffers by a hooked function inside libc, through its detour.
const FILL_BY_A_HOOK: [&str; 18] = [
    "__libc_readline_unlocked",
    "_IO_file_read",
    "_IO_fread",
    "__fread_chk",
    "__fread_unlocked_chk",
    "fread",
    "fread_unlocked",
    "__pread64_chk",
    "__pread_chk",
    "__recv_chk",
    "__recvfrom_chk",
    "aio_read",
    "aio_read64",
    "eventfd_read",
    "fts64_read",
    "fts_read",
    "__nss_readline",
    "readahead",
];

/// They fill no buffer of the program's with bytes, or only libc uses them.
const FILL_NOTHING: [&str; 6] =
    ["_IO_str_init_readonly", "__freadable", "__freading", "__pread64_nocancel", "arc4random", "arc4random_uniform"];

/// Named in docs/not-covered.md.
const FILLING_NOT_COVERED: [&str; 10] = [
    "arc4random_buf",
    "getentropy",
    "msgrcv",
    "__libc_msgrcv",
    "mq_receive",
    "mq_timedreceive",
    "readlink",
    "readlinkat",
    "__readlink_chk",
    "__readlinkat_chk",
];

#[test]
fn every_function_of_libc_that_fills_a_buffer_is_known() {
    let libc = functions(Path::new(&libc_path()));
    let hooked = hooked(&libc);
    let known: BTreeSet<&str> =
        [&FILL_BY_A_HOOK[..], &FILL_NOTHING, &FILLING_NOT_COVERED].concat().into_iter().collect();
    let is_filling = |name: &str| FILLING.iter().any(|part| name.contains(part));
    let is_other = |name: &str| ["thread", "readdir"].iter().any(|part| name.contains(part));
    let unknown: Vec<&String> = libc
        .iter()
        .filter(|(name, at)| {
            is_filling(name) && !is_other(name) && !hooked.contains(at) && !known.contains(name.as_str())
        })
        .map(|(name, _)| name)
        .collect();
    assert!(unknown.is_empty(), "not hooked, and no reason known: {unknown:?}");
}
