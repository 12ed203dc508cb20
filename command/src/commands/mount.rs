//! `snapshim mount`: a view that stays until `snapshim umount`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, fork, geteuid, pipe, setsid};

use super::freeze;
use crate::cli::Mount;
use crate::copy::group;
use crate::failure::{Code, Failure, Outcome, shown, words};
use crate::interrupt;
use crate::library::Library;
use crate::view::attach::{self, Place};
use crate::view::nodes::View;
use crate::view::server;

pub fn run(arguments: &Mount) -> Outcome<ExitCode> {
    let found = freeze::source("mount", &arguments.source)?;
    let source =
        arguments.source.canonicalize().map_err(|error| Failure::of_file("mount", &arguments.source, &error))?;
    // Where a view's server is gone, no question about the place is answered.
    let path = arguments.place.canonicalize().or_else(|_| std::path::absolute(&arguments.place));
    if let Ok(path) = path
        && attach::mounted(&path).is_some()
    {
        return Err(Failure::failed(
            format!("cannot mount {} at {}: a view is mounted there already", shown(&source), shown(&path)),
            "end it by `snapshim umount`, or name another place",
        ));
    }
    let place = freeze::destination(&arguments.place, found.is_dir())?;
    if place.path.starts_with(&source) || source.starts_with(&place.path) {
        return Err(Failure::failed(
            format!(
                "cannot mount {} at {}: the programs that write it would lose it",
                shown(&source),
                shown(&place.path)
            ),
            "name another place, or `snapshim freeze` it for one program alone",
        ));
    }
    drop(attach::open()?);
    _ = interrupt::see_children();
    let library = Library::enter()?;
    if arguments.foreground {
        return serve(library, source, &place, arguments.split, || Ok(()));
    }
    let failed = |error: io::Error| Failure::new(Code::Failed, format!("cannot start a process: {}", words(&error)));
    let (told, tell) = pipe().map_err(|error| failed(error.into()))?;
    // SAFETY: this process has one thread.
    match unsafe { fork() }.map_err(|error| failed(error.into()))? {
        ForkResult::Child => {
            drop(told);
            _ = setsid();
            serve(library, source, &place, arguments.split, || part(tell))
        }
        ForkResult::Parent { child } => {
            drop(tell);
            let mut byte = [0];
            if File::from(told).read_exact(&mut byte).is_ok() {
                return Ok(ExitCode::SUCCESS);
            }
            // It has said why.
            match waitpid(child, None) {
                Ok(WaitStatus::Exited(_, code)) => Ok((code as u8).into()),
                _ => Ok(Code::Failed.into()),
            }
        }
    }
}

/// Mounts the view and answers for it until it is unmounted.
fn serve(
    library: Library,
    source: PathBuf,
    place: &Place,
    is_split: bool,
    ready: impl FnOnce() -> io::Result<()>,
) -> Outcome<ExitCode> {
    interrupt::catch();
    let view = View::take(library, &[source], is_split)?;
    group::warn_of_names(view.unstable.as_deref());
    let signals = freeze::hold_signals()?;
    interrupt::check()?;
    let view = Arc::new(view);
    let is_privileged = geteuid().is_root();
    let device = if is_privileged { attach::mount_at(place, true)? } else { attach::mount_by_helper(place)? };
    let started = server::start(&view, view.roots[0], device, is_privileged).and_then(|session| {
        attach::read_ahead(place);
        ready()
            .map_err(|error| Failure::new(Code::Failed, format!("cannot go into the background: {}", words(&error))))?;
        Ok(session)
    });
    // A mount without a server would be left behind.
    let session = started.inspect_err(|_| _ = detach(&place.path))?;
    let path = place.path.clone();
    std::thread::spawn(move || {
        while matches!(signals.wait(), Err(_) | Ok(Signal::SIGCHLD)) {}
        // What still has files open there keeps them until it closes them.
        if detach(&path).is_err() {
            std::process::exit(Code::Failed as i32);
        }
    });
    session.join().map_err(|error| Failure::new(Code::Failed, format!("the view has ended: {}", words(&error))))?;
    freeze::check(&view)?;
    Ok(ExitCode::SUCCESS)
}

fn detach(path: &Path) -> io::Result<()> {
    if geteuid().is_root() {
        return Ok(umount2(path, MntFlags::MNT_DETACH)?);
    }
    let status = Command::new("fusermount3").arg("-uz").arg(path).status()?;
    if status.success() { Ok(()) } else { Err(io::ErrorKind::Other.into()) }
}

/// Lets go of the terminal and of the working directory, and tells the process that waits.
fn part(tell: OwnedFd) -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    std::env::set_current_dir("/")?;
    File::from(tell).write_all(&[1])?;
    dup2_stdin(null.as_fd())?;
    dup2_stdout(null.as_fd())?;
    dup2_stderr(null.as_fd())?;
    Ok(())
}
