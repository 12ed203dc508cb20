//! Whether a process takes part: what it does to files is seen by the mappers of the same table.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use snapshim::cooperate::program::Fate;

use super::tables;
use crate::failure::shown;
use crate::maps::{self, Mapping};
use crate::{program, table};

/// What a process is to the table of this command.
#[derive(Debug, PartialEq, Eq)]
pub enum Standing {
    /// The library is in it, and it uses our table, or none yet.
    TakesPart { has_joined: bool },
    /// The library is in it, and it uses another table.
    Elsewhere { directory: PathBuf, is_removed: bool },
    /// Without the library, for a reason where that is known.
    Without(Option<String>),
    /// The library is in it, and switched off.
    Disabled,
    /// /proc does not let this user look.
    Hidden,
    /// A thread of the kernel.
    Kernel,
}

impl Standing {
    /// Whether its changes are seen.
    pub const fn is_seen(&self) -> bool {
        matches!(self, Self::TakesPart { .. })
    }

    /// For a message: "it ...".
    pub fn words(&self) -> String {
        match self {
            Self::TakesPart { has_joined: true } => "it takes part in this table".to_owned(),
            Self::TakesPart { has_joined: false } => "it takes part: it joins when it changes a file".to_owned(),
            Self::Elsewhere { directory, is_removed: true } => {
                format!("it uses a table that was removed, in {}", shown(directory))
            }
            Self::Elsewhere { directory, .. } => format!("it uses another table, in {}", shown(directory)),
            Self::Without(Some(why)) => format!("it runs without the library: {why}"),
            Self::Without(None) => "it runs without the library".to_owned(),
            Self::Disabled => "SNAPSHIM_DISABLE=1 switches the library off in it".to_owned(),
            Self::Hidden => "this user may not look at it".to_owned(),
            Self::Kernel => "it is a thread of the kernel".to_owned(),
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::TakesPart { .. } => "nothing",
            Self::Elsewhere { .. } => "start it again, with the same SNAPSHIM_DIR as the others",
            Self::Without(_) => "start it by `snapshim run -- PROGRAM`, or end it while snapshots are taken",
            Self::Disabled => "start it without SNAPSHIM_DISABLE",
            Self::Hidden => who_may_look(),
            Self::Kernel => {
                "end what changes files by the kernel (nfsd, a loop device) while snapshots of these are taken"
            }
        }
    }
}

/// Who to ask as, where this user may not look.
pub fn who_may_look() -> &'static str {
    if nix::unistd::geteuid().is_root() {
        "ask with CAP_SYS_PTRACE, from outside of this container"
    } else {
        "ask as that user, or as root"
    }
}

/// The library's file in a process.
pub fn library_in(maps: &[Mapping]) -> Option<&Mapping> {
    maps.iter().find(|mapping| mapping.path().file_name().is_some_and(|name| name == "libsnapshim.so"))
}

/// What a process is, and what it has mapped.
pub fn of(pid: u32) -> (Standing, Vec<Mapping>) {
    match maps::of(pid) {
        Err(_) => (Standing::Hidden, Vec::new()),
        Ok(maps) if maps.is_empty() && is_of_kernel(pid) => (Standing::Kernel, maps),
        Ok(maps) => (of_maps(pid, &maps), maps),
    }
}

/// By the seventh field behind the name in /proc/PID/stat: the flags.
fn is_of_kernel(pid: u32) -> bool {
    /// PF_KTHREAD (linux/sched.h).
    const KTHREAD: u32 = 0x0020_0000;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let flags = stat.rsplit(')').next().and_then(|fields| fields.split_whitespace().nth(6)?.parse::<u32>().ok());
    flags.is_some_and(|flags| flags & KTHREAD != 0)
}

fn of_maps(pid: u32, maps: &[Mapping]) -> Standing {
    if library_in(maps).is_none() {
        return Standing::Without(why_without(pid));
    }
    match tables::used_by(maps) {
        _ if variable(pid, b"SNAPSHIM_DISABLE").is_ok_and(|value| value.as_deref() == Some(b"1")) => Standing::Disabled,
        Some(used) if used.is_ours => Standing::TakesPart { has_joined: true },
        Some(used) => Standing::Elsewhere { directory: used.directory, is_removed: used.is_removed },
        None => match will_use(pid) {
            Some(directory) => Standing::Elsewhere { directory, is_removed: false },
            None => Standing::TakesPart { has_joined: false },
        },
    }
}

/// The directory of the table that a process will join, if it is another one than ours. The library takes no relative path.
fn will_use(pid: u32) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let chosen = variable(pid, table::VARIABLE.as_bytes()).ok()?.filter(|chosen| chosen.starts_with(b"/"));
    let theirs = match chosen {
        Some(chosen) => PathBuf::from(std::ffi::OsString::from_vec(chosen)),
        None => table::default_of(effective_user(pid)?),
    };
    let ours = table::directory().0;
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    (real(&theirs) != real(&ours)).then_some(theirs)
}

fn effective_user(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().nth(1)?.parse().ok()
}

/// A variable of the environment that a process was started with.
fn variable(pid: u32, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let environment = fs::read(format!("/proc/{pid}/environ"))?;
    let value = |entry: &[u8]| entry.strip_prefix(name)?.strip_prefix(b"=").map(<[u8]>::to_vec);
    Ok(environment.split(|byte| *byte == 0).find_map(value))
}

fn why_without(pid: u32) -> Option<String> {
    if let Fate::Absent(why) | Fate::Refused(why) = program::fate(Path::new(&format!("/proc/{pid}/exe"))) {
        return Some(why.text().to_owned());
    }
    let preload = variable(pid, b"LD_PRELOAD").ok()?.unwrap_or_default();
    let is_named = preload.windows(14).any(|part| part == b"libsnapshim.so");
    Some(if is_named { "LD_PRELOAD names it, but it was not loaded" } else { "it was started without it" }.to_owned())
}
