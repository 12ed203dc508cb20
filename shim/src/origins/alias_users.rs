//! The users of aliases of the origins that this process has snapshots of.
//!
//! A write to an origin is held back in that origin's page cache; a write to an alias goes through another page cache and is not.
//! So a snapshot is doubtful once an alias can be written. A snapshot of the alias spoils nothing, but each of the two may change
//! by writes to the other, so the log warns of it.

use core::fmt;

use snapshim::cooperate::locate::target_of_stat;
use snapshim::protocol::cause::Cause;
use snapshim::protocol::origin::{Origin, Target};
use snapshim::sys::procfs::{self, ProcPath};
use snapshim::sys::raw;

use super::alias::{self, Alias};
use super::device::{self, DeviceUser};
use super::doubt::{self, mapper_of};
use crate::process::identity::ThisProcess;
use crate::process::log::{Level, Program, say};

/// A user of an alias: a writer, or the holder of a snapshot.
#[derive(Clone, Copy)]
enum User {
    Kernel(DeviceUser),
    Writer(u32),
    Mapper(u32),
}

impl User {
    fn writes(self) -> bool {
        !matches!(self, Self::Mapper(_))
    }
}

impl fmt::Display for User {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel(user) => user.fmt(formatter),
            Self::Writer(pid) => write!(formatter, "{} has a descriptor for writing to", Program(*pid)),
            Self::Mapper(pid) => write!(formatter, "{} holds a snapshot of", Program(*pid)),
        }
    }
}

/// Checks the aliases of `origin` after a snapshot of it was made, when the gate is open again.
pub fn log_users(own: &ThisProcess, origin: Origin) {
    if !origin.is_block_device() && !alias::may_be_behind_loop(origin) {
        return;
    }
    match find_user(own, origin) {
        Some((alias, user)) if user.writes() => doubt(own, origin, alias, user),
        Some((alias, user)) => say!(
            Level::Warn,
            file = origin;
            "snapshot of {} in {}: {user} {alias}, which has a page cache of its own, so a write to one of the two changes the \
             snapshot of the other unseen; take both of the same one, and have all programs write to that one",
            origin,
            Program(raw::own_pid())
        ),
        None => {}
    }
}

/// A round of the agent: makes this process's snapshots of `origin` doubtful if an alias can be written.
pub fn check(own: &ThisProcess, origin: Origin) {
    if let Some((alias, user)) = find_user(own, origin).filter(|(_, user)| user.writes()) {
        doubt(own, origin, alias, user);
    }
}

/// The same for all files. Only files behind loop devices have aliases, and these are few.
pub fn check_files(own: &ThisProcess) {
    alias::any_loop(|_, backing| {
        if !backing.is_block_device() && doubt::has_exact_of(own, backing) {
            check(own, backing);
        }
        false
    });
}

fn doubt(own: &ThisProcess, origin: Origin, alias: Alias, user: User) {
    if doubt::doubt_snapshots_of(own, origin, Cause::Alias) > 0 {
        say!(
            Level::Warn,
            file = origin;
            "snapshot of {} in {} is doubtful: {}",
            origin,
            Program(raw::own_pid()),
            Cause::Alias.of(format_args!("{user} {alias},")).in_full()
        );
    }
}

/// A user of an alias of `origin`; one that can write it, if there is any.
fn find_user(own: &ThisProcess, origin: Origin) -> Option<(Alias, User)> {
    let mut found = None;
    alias::any_alias(origin, &mut |alias| match user_of(own, alias.origin) {
        Some(user) => {
            found = Some((alias, user));
            user.writes()
        }
        None => false,
    });
    found
}

fn user_of(own: &ThisProcess, alias: Origin) -> Option<User> {
    let kernel = || alias.is_block_device().then(|| device::user_of(alias.device())).flatten().map(User::Kernel);
    kernel().or_else(|| writer_of(own, alias).map(User::Writer)).or_else(|| mapper_of(own, alias).map(User::Mapper))
}

/// A cooperating process that has the alias open for writing.
fn writer_of(own: &ThisProcess, alias: Origin) -> Option<u32> {
    let pids = own.table.processes_used().iter().filter_map(|record| record.id()).map(|id| id.pid());
    pids.filter(|pid| *pid != 0).find(|pid| has_open_for_writing(*pid, alias))
}

fn has_open_for_writing(pid: u32, alias: Origin) -> bool {
    let thread = procfs::thread_with_descriptors(pid);
    procfs::any_number(thread.with("/fd").as_c_str(), |number| {
        let target = rustix::fs::stat(thread.with("/fd").slash(number).as_c_str()).map(|stat| target_of_stat(&stat));
        target == Ok(Target::Origin(alias)) && is_for_writing(&thread, number)
    })
}

/// Whether a descriptor is open for writing. The last octal digit of its flags is the access mode (proc_pid_fdinfo(5)).
fn is_for_writing(thread: &ProcPath, number: u32) -> bool {
    let path = thread.with("/fdinfo").slash(number);
    let mode = procfs::find_line(path.as_c_str(), |line| line.strip_prefix(b"flags:")?.last().copied());
    mode.is_ok_and(|digit| digit.is_some_and(|digit| matches!(digit & 3, 1 | 2)))
}
