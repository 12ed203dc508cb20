//! `snapshim freeze`: a program that finds files as they were at one instant, under their own names.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::cli::Freeze;
use crate::copy::group;
use crate::failure::{Code, Failure, Outcome, shown, warn};
use crate::interrupt;
use crate::library::Library;
use crate::view::attach::Place;
use crate::view::inside::{Inside, Mounts};
use crate::view::nodes::{Serves, View};
use crate::view::paths::Paths;
use crate::view::server;

/// What a program that has read what is not exact has made.
const UNFIT: &str = "do not use what the program has made of it";

pub fn run(arguments: &Freeze) -> Outcome<ExitCode> {
    show(arguments, Serves::All)
}

/// Runs the program in a view.
pub fn show(arguments: &Freeze, serves: Serves) -> Outcome<ExitCode> {
    let paths = paths(&arguments.paths)?;
    let places = places(arguments, &paths)?;
    let inside = Inside::start(&places, &arguments.command)?;
    if !inside.has_mounted() {
        return ended(&wait(inside.pid)?);
    }
    let library = Library::enter()?;
    interrupt::catch();
    let Some(Mounts { devices, checks_modes, namespace }) = inside.mounts(places.len()) else {
        interrupt::check()?;
        return ended(&wait(inside.pid)?);
    };
    let mut view = View::take(library, &paths, arguments.split)?.serving(serves);
    if let (Some(place), [_, _, ..]) = (&arguments.at, paths.as_slice()) {
        view.gather(&paths, place)?;
    }
    group::warn_of_names(view.unstable.as_deref());
    if arguments.at.is_none() {
        warn_of_live_indexes(&paths);
    }
    let signals = hold_signals()?;
    interrupt::check()?;
    let view = Arc::new(view);
    let mut sessions = Vec::new();
    for (root, device) in view.roots.iter().zip(devices) {
        sessions.push(server::start(&view, *root, device, checks_modes)?);
    }
    let places: Vec<PathBuf> = places.into_iter().map(|place| place.path).collect();
    let found_by = Paths::new(namespace, &places, &named(arguments))?;
    inside.go().map_err(|error| Failure::new(Code::Failed, format!("the program cannot be started: {error}")))?;
    let status = attend(inside.pid, &signals)?;
    if let Err(failure) = found_by.check() {
        if let Err(of_bytes) = check(&view) {
            of_bytes.say();
        }
        return Err(failure.noting(UNFIT));
    }
    check(&view)?;
    ended(&status)
}

/// The paths as the user has named them, where the view stands over them.
fn named(arguments: &Freeze) -> Vec<PathBuf> {
    let absolute = |path: &PathBuf| std::path::absolute(path).ok();
    if arguments.at.is_some() { Vec::new() } else { arguments.paths.iter().filter_map(absolute).collect() }
}

/// What is to be seen: paths without links, none of them inside of another.
fn paths(named: &[PathBuf]) -> Outcome<Vec<PathBuf>> {
    let mut paths = BTreeSet::new();
    for path in named {
        source("freeze", path)?;
        paths.insert(path.canonicalize().map_err(|error| Failure::of_file("freeze", path, &error))?);
    }
    let is_inside = |path: &PathBuf| path.ancestors().skip(1).any(|above| paths.contains(above));
    Ok(paths.iter().filter(|path| !is_inside(path)).cloned().collect())
}

/// Says which logs of SQLite's are frozen without their index, which stands beside them as it is by now: a program that finds both
/// takes the one for an index of the other.
fn warn_of_live_indexes(paths: &[PathBuf]) {
    for log in paths {
        let Some(database) = log.to_str().and_then(|name| name.strip_suffix("-wal")) else { continue };
        let index = PathBuf::from(format!("{database}-shm"));
        if index.exists() && !paths.contains(&index) {
            warn(format!(
                "{} stays the live one beside the frozen {}: SQLite reads the log by it, and wrong; name it, too",
                shown(&index),
                shown(log)
            ));
        }
    }
}

/// What can be shown as it was: a directory, a file, a block device.
pub fn source(doing: &str, path: &Path) -> Outcome<Metadata> {
    let found = fs::metadata(path).map_err(|error| Failure::of_file(doing, path, &error))?;
    if found.is_dir() || found.is_file() || found.file_type().is_block_device() {
        return Ok(found);
    }
    Err(Failure::failed(
        format!("cannot {doing} {}: it is neither a directory nor a file nor a block device", shown(path)),
        "name a directory, a regular file or a block device",
    ))
}

fn places(arguments: &Freeze, paths: &[PathBuf]) -> Outcome<Vec<Place>> {
    let Some(place) = &arguments.at else {
        if paths.iter().any(|path| path == Path::new("/")) {
            return Err(Failure::failed(
                "the root directory cannot be frozen in its own place",
                "name directories in it, or show it elsewhere by --at",
            ));
        }
        let place = |path: &PathBuf| Place { path: path.clone(), is_directory: path.is_dir() };
        return Ok(paths.iter().map(place).collect());
    };
    let names: BTreeSet<_> = paths.iter().map(|path| path.file_name()).collect();
    if names.len() < paths.len() {
        return Err(Failure::new(Code::Usage, format!("two files would have one name in {}", shown(place)))
            .helped_by("freeze them over their own paths, without --at"));
    }
    let is_directory = paths.len() > 1 || paths[0].is_dir();
    Ok(vec![destination(place, is_directory)?])
}

/// A place for a directory or for a file.
pub fn destination(place: &Path, is_directory: bool) -> Outcome<Place> {
    let path = place.canonicalize().map_err(|error| Failure::of_file("show a view at", place, &error))?;
    if path.is_dir() != is_directory {
        let (is, wanted) = if is_directory { ("no directory", "a directory") } else { ("no file", "a file") };
        return Err(Failure::failed(
            format!("cannot show a view at {}: it is {is}", shown(place)),
            format!("name {wanted} that is there; what is in it is not seen meanwhile"),
        ));
    }
    Ok(Place { path, is_directory })
}

/// From now on the signals that ask a program to end, and the one of a child's end, wait until they are asked for.
pub fn hold_signals() -> Outcome<SigSet> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCHLD].into_iter().collect();
    signals.thread_block().map_err(|error| Failure::new(Code::Failed, format!("cannot hold signals: {error}")))?;
    Ok(signals)
}

/// Waits for the program. A signal that another process sent to this one is the program's. One of the terminal has come to both.
fn attend(pid: Pid, signals: &SigSet) -> Outcome<WaitStatus> {
    loop {
        match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => {}
            Err(Errno::EINTR) => continue,
            other => return other.map_err(|error| lost(&error.into())),
        }
        // SAFETY: all-zero is a value of the type, and the call writes into it.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: both are valid for the call.
        let number = unsafe { libc::sigwaitinfo(signals.as_ref(), &raw mut info) };
        let is_of_a_process = info.si_code <= 0;
        if let Ok(signal) = Signal::try_from(number)
            && signal != Signal::SIGCHLD
            && is_of_a_process
        {
            _ = kill(pid, signal);
        }
    }
}

fn wait(pid: Pid) -> Outcome<WaitStatus> {
    loop {
        match waitpid(pid, None) {
            Err(Errno::EINTR) => {}
            other => return other.map_err(|error| lost(&error.into())),
        }
    }
}

fn lost(error: &io::Error) -> Failure {
    Failure::new(Code::Failed, format!("the program's end was not seen: {error}"))
}

/// Says what is not exact.
pub fn check(view: &View) -> Outcome {
    let mut verdict = view.verdict();
    let Some(mut last) = verdict.told.pop() else { return Ok(()) };
    verdict.told.iter().for_each(Failure::say);
    if let Some(rest) = verdict.rest() {
        last = last.noting(rest);
    }
    Err(last.noting(UNFIT))
}

/// The program's exit status. By a signal that asks a program to end this command ends as well, as its caller expects.
fn ended(status: &WaitStatus) -> Outcome<ExitCode> {
    match *status {
        WaitStatus::Exited(_, code) => Ok((code as u8).into()),
        WaitStatus::Signaled(_, signal, _) => {
            if matches!(signal, Signal::SIGINT | Signal::SIGTERM | Signal::SIGHUP) {
                interrupt::end_by(signal);
            }
            Ok((128 + signal as u8).into())
        }
        _ => Ok(Code::Failed.into()),
    }
}
