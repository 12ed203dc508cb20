//! `snapshim run`: a program under the library, and what of it the library does not reach.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use snapshim::cooperate::program::Fate;

use crate::cli::Run;
use crate::failure::{Failure, Outcome, shown, warn};
use crate::{library, program, table};

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
    if library::is_off() {
        let failure = library::switched_off();
        if arguments.strict {
            return Err((FAILED, failure));
        }
        warn(failure.what);
    }
    let directory = directory(arguments).map_err(|failure| (FAILED, failure))?;
    if arguments.strict {
        can_join(directory.as_deref()).map_err(|failure| (FAILED, failure))?;
    }
    let mut command = Command::new(&path);
    command.arg0(name).args(rest);
    // The loader of such a program would end it.
    if !matches!(fate, Fate::Refused(_)) {
        command.env("LD_PRELOAD", library::preload(&library));
    }
    set_variables(&mut command, arguments, directory);
    let error = command.exec();
    Err((NOT_RUN, Failure::of_file("run", &path, &error)))
}

/// The directory that the user has named, by a path that means the same wherever a program goes.
fn directory(arguments: &Run) -> Outcome<Option<PathBuf>> {
    let Some(named) = &arguments.dir else { return Ok(table::chosen().map(|_| table::directory().0)) };
    let absolute = std::path::absolute(named).map_err(|error| Failure::of_file("use", named, &error))?;
    if !absolute.parent().is_none_or(Path::is_dir) {
        return Err(Failure::failed(
            format!(
                "cannot make the directory {} for the table: the one that it would be in is not there",
                shown(&absolute)
            ),
            "make that one first, or name another (a tmpfs suits best)",
        ));
    }
    Ok(Some(absolute))
}

/// Whether a program can join the table: it is made if there is none, for only that shows it.
fn can_join(directory: Option<&Path>) -> Outcome {
    let made = match directory {
        Some(directory) => table::made_in(directory, true)?.has_made_directory.then_some(directory),
        None => table::made_in(&table::directory().0, false).map(|_| None)?,
    };
    if let Some(directory) = made {
        warn(format!(
            "there was no directory {}, it was made for the table; programs that name another one do not cooperate with those of \
             this one",
            shown(directory)
        ));
    }
    Ok(())
}

fn set_variables(command: &mut Command, arguments: &Run, directory: Option<PathBuf>) {
    if !arguments.keep.is_empty() {
        let before = env::var_os("SNAPSHIM_KEEP").filter(|before| !before.is_empty());
        let patterns: Vec<OsString> = before.into_iter().chain(arguments.keep.iter().cloned()).collect();
        command.env("SNAPSHIM_KEEP", patterns.join(OsStr::new(":")));
    }
    if arguments.strict {
        command.env("SNAPSHIM_STRICT", "1");
    }
    if let Some(directory) = directory {
        command.env(table::VARIABLE, directory);
    }
    if let Some(log) = &arguments.log {
        command.env("SNAPSHIM_LOG", log);
    }
}
