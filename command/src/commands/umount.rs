//! `snapshim umount`: ends a view, and says what it was worth.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use nix::mount::{MntFlags, umount2};
use nix::unistd::geteuid;

use crate::cli::Umount;
use crate::failure::{Code, Failure, Outcome, shown, warn, words};
use crate::processes;
use crate::view::attach::{self, Mounted};
use crate::view::server::VERDICT;

/// Room for what three files are worth.
const ROOM: usize = 1 << 16;

pub fn run(arguments: &Umount) -> Outcome<ExitCode> {
    let named = &arguments.place;
    // Where its server is gone, no question about the place is answered.
    let place = named.canonicalize().or_else(|_| std::path::absolute(named));
    let place = place.map_err(|error| Failure::of_file("unmount", named, &error))?;
    let view = attach::mounted(&place).ok_or_else(|| {
        Failure::failed(
            format!("{} is no view that `snapshim mount` has made", shown(named)),
            "see which there are: findmnt -t fuse.snapshim",
        )
    })?;
    let verdict = verdict(&place);
    unmount(&place).map_err(|error| {
        let failure = Failure::new(Code::Failed, format!("cannot unmount {}: {}", shown(named), words(&error)));
        match error.raw_os_error() {
            Some(libc::EBUSY) => busy(failure, &place, &view),
            _ => failure.helped_by("be the user who mounted it, or root"),
        }
    })?;
    match verdict {
        Ok(text) if text.is_empty() => Ok(ExitCode::SUCCESS),
        Ok(text) => {
            let mut lines = text.lines();
            let failure = Failure::new(Code::Inexact, lines.next().unwrap_or_default());
            Err(lines.fold(failure, Failure::noting).noting("do not use what was read there"))
        }
        Err(error) => {
            warn(format!("its server does not say whether it was exact: {}", words(&error)));
            Ok(Code::Partly.into())
        }
    }
}

/// Names the processes that use it.
fn busy(failure: Failure, place: &Path, view: &Mounted) -> Failure {
    let users = processes::users_of_mount(place, view.number, view.device());
    if users.is_empty() {
        return failure.helped_by("end the programs that use it, or have them leave it: root sees all of them");
    }
    let note = |failure: Failure, (pid, how): (u32, &str)| {
        failure.noting(format!("process {pid} ({}) {how}", processes::program(pid)))
    };
    users.into_iter().fold(failure, note).helped_by("end these programs, or have them leave it")
}

/// What the snapshots are worth by now: empty if all of them are exact.
fn verdict(place: &Path) -> io::Result<String> {
    let (path, name) = (CString::new(place.as_os_str().as_bytes())?, CString::new(VERDICT)?);
    let mut text = vec![0; ROOM];
    // SAFETY: path and name end, and the buffer is writable for its length.
    let length = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), text.as_mut_ptr().cast(), text.len()) };
    text.truncate(usize::try_from(length).map_err(|_| io::Error::last_os_error())?);
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn unmount(place: &Path) -> io::Result<()> {
    if geteuid().is_root() {
        return Ok(umount2(place, MntFlags::empty())?);
    }
    let status = Command::new("fusermount3").arg("-u").arg(place).status()?;
    // It has said why.
    if status.success() { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EPERM)) }
}
