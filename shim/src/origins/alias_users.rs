//! Who uses the aliases of what this process has snapshots of.
//!
//! The shim keeps the changes of one page cache back; what is written through another one comes in behind it. So a snapshot is
//! doubtful once somebody can write an alias. A snapshot of an alias alone changes nothing, but its owner may expect more of it
//! than it can give: that is told.

use core::fmt;

use snapshim::cooperate::locate::place_of;
use snapshim::protocol::origin::{Origin, Place};
use snapshim::sys::procfs::ProcPath;
use snapshim::sys::raw;

use super::alias::{self, Alias};
use super::device::{self, DeviceUser};
use super::doubt::{self, mapper_of};
use crate::base::sysfs;
use crate::process::identity::Own;
use crate::process::log::{Level, Named, Program, say};

/// Who can write an alias, or holds a snapshot of it.
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

/// Called when a snapshot of `origin` has been taken, the gate open again.
pub fn tell(own: &Own, origin: Origin) {
    if !origin.is_block_device() && !alias::may_be_behind_loop(origin) {
        return;
    }
    match find_user(own, origin) {
        Some((alias, user)) if user.writes() => doubt(own, origin, alias, user),
        Some((alias, user)) => say!(
            Level::Warn,
            "snapshot of {} in {}: {user} {alias}, which has a page cache of its own, so a write to one of the two changes the snapshot \
             of the other unseen; take both of the same one, and let all programs write that one",
            Named(origin),
            Program(raw::own_pid())
        ),
        None => {}
    }
}

/// A round of the agent: whether this process's snapshots of `origin` have become doubtful.
pub fn look_at(own: &Own, origin: Origin) {
    if let Some((alias, user)) = find_user(own, origin).filter(|(_, user)| user.writes()) {
        doubt(own, origin, alias, user);
    }
}

/// The same for all files: those behind loop devices, which are few.
pub fn look_at_files(own: &Own) {
    alias::any_loop(|_, backing| {
        if !backing.is_block_device() && doubt::has_exact_of(own, backing) {
            look_at(own, backing);
        }
        false
    });
}

fn doubt(own: &Own, origin: Origin, alias: Alias, user: User) {
    if doubt::doubt_snapshots_of(own, origin) > 0 {
        say!(
            Level::Warn,
            "snapshot of {} in {} is doubtful: {user} {alias}, which has a page cache of its own, so what is written there changes the \
             snapshot unseen; end that and take the snapshot again, or take it of the one that is written",
            Named(origin),
            Program(raw::own_pid())
        );
    }
}

/// Somebody who uses an alias of `origin`; rather one who can write it.
fn find_user(own: &Own, origin: Origin) -> Option<(Alias, User)> {
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

fn user_of(own: &Own, alias: Origin) -> Option<User> {
    let kernel = || alias.is_block_device().then(|| device::user_of(alias.device())).flatten().map(User::Kernel);
    kernel().or_else(|| writer_of(own, alias).map(User::Writer)).or_else(|| mapper_of(own, alias).map(User::Mapper))
}

/// A cooperating process with a descriptor for writing.
fn writer_of(own: &Own, alias: Origin) -> Option<u32> {
    let pids = own.table.processes_used().iter().filter_map(|record| record.id()).map(|id| id.pid());
    pids.filter(|pid| *pid != 0).find(|pid| has_open_for_writing(*pid, alias))
}

fn has_open_for_writing(pid: u32, alias: Origin) -> bool {
    sysfs::any_entry(format_args!("/proc/{pid}/fd"), |number| {
        number.parse().is_ok_and(|number| {
            let path = ProcPath::of(pid, "fd").slash(number);
            let place = rustix::fs::stat(path.as_c_str()).map(|stat| place_of(&stat));
            place == Ok(Place::Origin(alias)) && is_for_writing(pid, number)
        })
    })
}

/// proc_pid_fdinfo(5): the access mode is the last octal digit of the flags.
fn is_for_writing(pid: u32, number: u32) -> bool {
    let mut buffer = [0u8; 128];
    let text = sysfs::read(format_args!("/proc/{pid}/fdinfo/{number}"), &mut buffer);
    let flags = text.and_then(|text| text.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"flags:")));
    flags.and_then(|flags| flags.last()).is_some_and(|digit| matches!(digit & 3, 1 | 2))
}
