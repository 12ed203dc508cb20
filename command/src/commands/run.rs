//! `snapshim run`: a program under the library, and what of it the library does not reach.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use snapshim::cooperate::program::Fate;

use crate::cli::Run;
use crate::failure::{Failure, Outcome, shown, warn};
use crate::{library, program};

/// Exit statuses of env(1): it failed itself, the program cannot be run, it is not there.
const FAILED: u8 = 125;
const NOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;

pub fn run(arguments: &Run) -> Outcome<ExitCode> {
    Ok(start(arguments).unwrap_or_else(|(code, failure)| {
        failure.say();
        code.into()
    }))
}

/// Becomes the program; returns only to say why not.
fn start(arguments: &Run) -> Result<ExitCode, (u8, Failure)> {
    let [name, rest @ ..] = arguments.command.as_slice() else { return Ok(FAILED.into()) };
    let path = program::find(name).map_err(|error| {
        let code = if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_RUN };
        (code, Failure::of_file("run", Path::new(name), &error))
    })?;
    let library = library::path().map_err(|failure| (FAILED, failure))?;
    let fate = program::fate(&path);
    if let Some(why) = fate.why() {
        let unreached = format!("the library does not reach {}: {}", shown(&path), why.text());
        if arguments.strict {
            let failure = Failure::failed(unreached, "run it without --strict: what it writes is in no exact snapshot");
            return Err((NOT_RUN, failure));
        }
        warn(format!("{unreached}; what it writes is in no exact snapshot"));
    }
    if env::var("SNAPSHIM_DISABLE").is_ok_and(|value| value == "1") {
        warn("SNAPSHIM_DISABLE=1 switches the library off");
    }
    let mut command = Command::new(&path);
    command.arg0(name).args(rest);
    // The loader of such a program would end it.
    if !matches!(fate, Fate::Refused(_)) {
        command.env("LD_PRELOAD", library::preload(&library));
    }
    set_variables(&mut command, arguments).map_err(|failure| (FAILED, failure))?;
    let error = command.exec();
    Err((NOT_RUN, Failure::of_file("run", &path, &error)))
}

fn set_variables(command: &mut Command, arguments: &Run) -> Outcome {
    if !arguments.keep.is_empty() {
        let before = env::var_os("SNAPSHIM_KEEP").filter(|before| !before.is_empty());
        let patterns: Vec<OsString> = before.into_iter().chain(arguments.keep.iter().cloned()).collect();
        command.env("SNAPSHIM_KEEP", patterns.join(OsStr::new(":")));
    }
    if arguments.strict {
        command.env("SNAPSHIM_STRICT", "1");
    }
    if let Some(directory) = &arguments.dir {
        let absolute = std::path::absolute(directory).map_err(|error| Failure::of_file("use", directory, &error))?;
        if !absolute.parent().is_none_or(Path::is_dir) {
            return Err(Failure::failed(
                format!(
                    "cannot make the directory {} for the table: the one that it would be in is not there",
                    shown(&absolute)
                ),
                "make that one first, or name another (a tmpfs suits best)",
            ));
        }
        command.env("SNAPSHIM_DIR", absolute);
    }
    if let Some(log) = &arguments.log {
        command.env("SNAPSHIM_LOG", log);
    }
    Ok(())
}
