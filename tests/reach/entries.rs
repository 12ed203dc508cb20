//! What a handle of libc's leads to (dlsym(3)): its own functions, past the exported symbols. Each has a detour or a jump at its
//! entry, or comes to one inside.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};

use super::words;
use crate::common::{Scratch, library, program, run_ok};

/// They open, write or allocate by functions of libc's that are taken at their entries.
const COME_TO_ANOTHER: &str = "
    fopen fopen64 _IO_fopen freopen freopen64 __open_2 __open64_2 __openat_2 __openat64_2 posix_spawn posix_spawnp pidfd_spawn pidfd_spawnp
    aio_write aio_write64 lio_listio lio_listio64
";

/// It gives a file room and changes no byte.
const CHANGES_NO_BYTE: &str = "posix_fallocate";

/// They make processes or load libraries, and docs/not-covered.md says so in these words.
pub const NOT_COVERED: [(&str, &str); 5] = [
    ("clone", "a handle of libc's own"),
    ("vfork", "a handle of libc's own"),
    ("__vfork", "a handle of libc's own"),
    ("dlopen", "a handle of libc's own"),
    ("dlmopen", "a handle of libc's own"),
];

#[test]
fn every_function_is_taken_where_a_handle_of_libc_leads() {
    let exported = run_ok(Command::new("nm").args(["-D", "--defined-only"]).arg(library()));
    let names: Vec<_> = exported.lines().filter_map(|line| line.split_whitespace().last()?.split('@').next()).collect();
    assert!(names.len() > 150, "the library's symbols were read: {}", names.len());
    let scratch = Scratch::on_tmpfs();
    let list = scratch.file("names");
    fs::write(&list, names.join("\n")).unwrap();
    let input = Stdio::from(fs::File::open(&list).unwrap());
    let found = run_ok(scratch.shimmed(program("reach/entries"), "auto").stdin(input));
    let not_covered = NOT_COVERED.map(|(name, _)| name).join(" ");
    let sorted: BTreeSet<_> = [COME_TO_ANOTHER, CHANGES_NO_BYTE, &not_covered].into_iter().flat_map(words).collect();
    let unsorted: Vec<_> = found.lines().filter(|name| !sorted.contains(name)).collect();
    assert!(unsorted.is_empty(), "libc's own entry lets these pass: {unsorted:?}");
}
