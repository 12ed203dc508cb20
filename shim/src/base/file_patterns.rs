//! `SNAPSHIM_KEEP`, `SNAPSHIM_FILES`, `SNAPSHIM_SHARED_FILES` and `SNAPSHIM_GUARD_FILES`: whether a mapping is of a file that they
//! name, and becomes a snapshot, or is guarded.

use core::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::OFlags;
use snapshim::cooperate::locate::target_of_stat;
use snapshim::protocol::origin::Target;
use snapshim::sys::{procfs, raw};

use super::config::{Config, config};
use super::mmap_call::Mmap;

/// How a file is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Private.
    Private,
    /// Shared, and never to be stored to: the descriptor is open for reading only.
    Shared,
    /// Shared, and stored to, now or later: always left alone.
    SharedToWrite,
    /// Private, by a call that no hook has seen.
    Unseen,
}

/// What the environment asks of a mapping.
pub enum Wish {
    Nothing,
    /// A private mapping becomes a snapshot.
    Snapshot,
    /// A shared one does, that is never stored to.
    SharedSnapshot,
    /// A private mapping is guarded.
    Guard,
    /// A shared one is.
    SharedGuard,
    /// The file is named, but for another kind of mapping than this. Said once for each pattern.
    OtherKind(OtherKind),
}

/// A pattern that names a file, and the kind of mapping that it does not ask for.
pub struct OtherKind {
    pub variable: &'static str,
    pub pattern: &'static [u8],
    pub kind: Kind,
}

/// A list of patterns, and the kinds of mapping that it is for.
struct List {
    variable: &'static str,
    kinds: &'static [Kind],
    guards: bool,
    patterns: fn(&Config) -> &'static [u8],
}

const LISTS: [List; 4] = [
    List {
        variable: "SNAPSHIM_KEEP",
        kinds: &[Kind::Private, Kind::Shared],
        guards: false,
        patterns: |config| config.keep,
    },
    List { variable: "SNAPSHIM_FILES", kinds: &[Kind::Private], guards: false, patterns: |config| config.files },
    List {
        variable: "SNAPSHIM_SHARED_FILES",
        kinds: &[Kind::Shared],
        guards: false,
        patterns: |config| config.shared_files,
    },
    List {
        variable: "SNAPSHIM_GUARD_FILES",
        kinds: &[Kind::Private, Kind::Shared],
        guards: true,
        patterns: |config| config.guard_files,
    },
];

/// What the environment asks of what is mapped.
#[inline]
pub fn wish(mmap: &Mmap) -> Wish {
    if may_be_named(mmap) { wish_for_file(config(), mmap) } else { Wish::Nothing }
}

/// Whether a pattern names the file that is mapped, for whatever kind of mapping.
pub fn is_named(mmap: &Mmap) -> bool {
    let mut buffer = [core::mem::MaybeUninit::uninit(); LONGEST_PATH];
    may_be_named(mmap)
        && path_of_file(mmap.descriptor as u32, &mut buffer)
            .is_some_and(|path| LISTS.iter().any(|list| matching((list.patterns)(config()), path).is_some()))
}

#[inline]
fn may_be_named(mmap: &Mmap) -> bool {
    is_any() && mmap.descriptor >= 0 && mmap.flags & libc::MAP_ANONYMOUS == 0
}

/// Whether there is any pattern.
#[inline]
pub fn is_any() -> bool {
    let config = config();
    let Config { keep, files, shared_files, guard_files, .. } = config;
    [keep, files, shared_files, guard_files].iter().any(|patterns| !patterns.is_empty())
}

/// Whether there is any pattern for private mappings.
#[inline]
pub fn is_any_private() -> bool {
    let of_private = |list: &&List| list.kinds.contains(&Kind::Private);
    LISTS.iter().filter(of_private).any(|list| !(list.patterns)(config()).is_empty())
}

/// PATH_MAX bytes are more than a hook may take of the stack; a longer path matches nothing.
const LONGEST_PATH: usize = 1000;

#[cold]
fn wish_for_file(config: &Config, mmap: &Mmap) -> Wish {
    let Some(is_private) = is_private(mmap.flags) else { return Wish::Nothing };
    let mut buffer = [core::mem::MaybeUninit::uninit(); LONGEST_PATH];
    let Some(path) = path_of_file(mmap.descriptor as u32, &mut buffer) else { return Wish::Nothing };
    let mut other = None;
    let mut known = None;
    for (number, list) in LISTS.iter().enumerate() {
        let Some((place, pattern)) = matching((list.patterns)(config), path) else { continue };
        let kind = *known.get_or_insert_with(|| match is_private {
            true => Kind::Private,
            false if mmap.protection & libc::PROT_WRITE == 0 && is_for_reading_only(mmap.descriptor) => Kind::Shared,
            false => Kind::SharedToWrite,
        });
        if list.kinds.contains(&kind) {
            return match (list.guards, is_private) {
                (false, true) => Wish::Snapshot,
                (false, false) => Wish::SharedSnapshot,
                (true, true) => Wish::Guard,
                (true, false) => Wish::SharedGuard,
            };
        }
        other = other.or(Some((number, place, OtherKind { variable: list.variable, pattern, kind })));
    }
    match other {
        Some((list, place, other)) if is_first(list, place, other.kind) => Wish::OtherKind(other),
        _ => Wish::Nothing,
    }
}

/// The pattern for private mappings that names a path which is mapped and is no snapshot, where that is to be said.
pub fn loaded(path: &[u8]) -> Option<OtherKind> {
    let lists = LISTS.iter().enumerate().filter(|(_, list)| list.kinds.contains(&Kind::Private));
    let mut named = lists.filter_map(|(number, list)| {
        let (place, pattern) = matching((list.patterns)(config()), path)?;
        is_first(number, place, Kind::Unseen).then_some(OtherKind {
            variable: list.variable,
            pattern,
            kind: Kind::Unseen,
        })
    });
    named.next()
}

/// Whether a mapping is private; `None`: it is neither that nor an ordinary shared one.
///
/// MAP_SHARED_VALIDATE has the kernel refuse flags that it does not know. A mapping with flags that are not ordinary is left to it.
fn is_private(flags: i32) -> Option<bool> {
    const ORDINARY: i32 = libc::MAP_FIXED
        | libc::MAP_POPULATE
        | libc::MAP_LOCKED
        | libc::MAP_NORESERVE
        | libc::MAP_NONBLOCK
        | libc::MAP_STACK
        | libc::MAP_32BIT
        | libc::MAP_DENYWRITE
        | libc::MAP_EXECUTABLE;
    match flags & libc::MAP_TYPE {
        libc::MAP_PRIVATE => Some(true),
        libc::MAP_SHARED => Some(false),
        libc::MAP_SHARED_VALIDATE if flags & !(libc::MAP_TYPE | ORDINARY) == 0 => Some(false),
        _ => None,
    }
}

/// Whether no mapping of the descriptor can ever be stored to: the descriptor is open for reading only.
pub fn is_for_reading_only(descriptor: i32) -> bool {
    descriptor >= 0
        && rustix::fs::fcntl_getfl(raw::borrow(descriptor as u32))
            .is_ok_and(|flags| flags & OFlags::ACCMODE == OFlags::RDONLY)
}

/// The path of what a descriptor leads to, if that is a file that can have snapshots by name.
fn path_of_file(descriptor: u32, buffer: &mut [core::mem::MaybeUninit<u8>]) -> Option<&[u8]> {
    let stat = rustix::fs::fstat(raw::borrow(descriptor)).ok()?;
    if !matches!(target_of_stat(&stat), Target::Origin(origin) if !origin.is_block_device()) {
        return None;
    }
    let link = procfs::ProcPath::thread_self("fd").slash(descriptor);
    rustix::fs::readlinkat_raw(rustix::fs::CWD, link.as_c_str(), buffer).ok().map(|(path, _)| &*path)
}

/// The first pattern of a list that names a path, and its place in the list.
fn matching(patterns: &'static [u8], path: &[u8]) -> Option<(usize, &'static [u8])> {
    patterns.split(|byte| *byte == b':').enumerate().find(|(_, pattern)| matches_pattern(pattern, path))
}

/// A pattern without a slash is matched against the file's name, one with a slash against its whole path.
fn matches_pattern(pattern: &[u8], path: &[u8]) -> bool {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
    let subject = if pattern.contains(&b'/') { path } else { name };
    !pattern.is_empty() && fast_glob::glob_match(pattern, subject)
}

/// Whether the pattern at a place of a list meets a kind that it is not for the first time in this process.
fn is_first(list: usize, place: usize, kind: Kind) -> bool {
    static MET: [[AtomicU64; 4]; LISTS.len()] = [const { [const { AtomicU64::new(0) }; 4] }; LISTS.len()];
    // Relaxed: the bit is all there is.
    let bit = 1 << (place % 64);
    MET[list][kind as usize].fetch_or(bit, Ordering::Relaxed) & bit == 0
}
