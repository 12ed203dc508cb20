//! A program: whether the library will be in it.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{Finding, Grade, Report};
use crate::failure::shown;
use crate::program;

/// Whether a file is a program, or a script.
pub fn is_program(path: &Path) -> bool {
    let is_executable = path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0);
    let mut start = [0; 4];
    let mut read = || File::open(path)?.read(&mut start);
    is_executable && read().is_ok() && (start.starts_with(b"#!") || start == *b"\x7fELF")
}

pub fn report(path: &Path) -> Report {
    let name = shown(path);
    let fate = program::fate(path);
    let finding = match fate.why() {
        None => Finding::well("reach", format!("the library reaches {name}: start it by `snapshim run -- {name}`")),
        Some(why) => Finding::new(
            "reach",
            Grade::Partly,
            format!("the library does not reach {name}: {}; what it writes is in no exact snapshot", why.text()),
        )
        .helped_by("use a build of it that is dynamically linked with glibc, or stop it while snapshots are taken"),
    };
    Report { subject: format!("program {name}"), findings: vec![finding] }
}
