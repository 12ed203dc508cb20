//! The command: looks into the table that cooperating processes share.

mod recover;
mod status;

use std::ffi::CString;
use std::process::ExitCode;

use snapshim::sys::escaped::Escaped;
use snapshim::table::attach::{self, Attached};

const USAGE: &str = "\
usage: snapshim status     list the processes and snapshots in the table
       snapshim recover    take out what dead processes left in it

The table is the one in SNAPSHIM_DIR, by default /dev/shm/snapshim-<uid>.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let run: fn(&Attached) = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["status"] => status::run,
        ["recover"] => recover::run,
        ["--help" | "-h" | "help"] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        ["--version" | "-V"] => {
            println!("snapshim {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    let (directory, is_chosen) = directory();
    let Ok(path) = CString::new(directory.clone()) else {
        eprintln!("snapshim: SNAPSHIM_DIR contains a NUL byte");
        return ExitCode::from(2);
    };
    match attach::attach_existing(&attach::TableLocation { directory: &path, is_chosen }) {
        Ok(Some(attached)) => run(&attached),
        Ok(None) => println!("no table in {}: no program runs under the shim there", Escaped(directory.as_bytes())),
        Err(refusal) => {
            eprintln!(
                "snapshim: the table in {} cannot be used: {}; {}",
                Escaped(directory.as_bytes()),
                refusal.what(),
                refusal.remedy()
            );
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn directory() -> (String, bool) {
    match std::env::var("SNAPSHIM_DIR") {
        Ok(chosen) if !chosen.is_empty() => (chosen, true),
        _ => (format!("/dev/shm/snapshim-{}", attach::outer_user()), false),
    }
}
