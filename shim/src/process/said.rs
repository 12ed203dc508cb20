//! What a family of processes has said: a shell and the programs of its pipelines say a thing once between them.
//!
//! A family is a process and its children; those of one parent in one session are siblings. What was said stands in a file beside
//! the table. Each process appends a note, and then looks for the first one by its parent or a sibling about the same: appending is
//! atomic, so exactly one finds its own. Where the file cannot be had, a line is written twice rather than not at all. After a
//! minute a thing may be said again: a service that starts then has a log of its own.

use rustix::fd::OwnedFd;
use rustix::time::{ClockId, clock_gettime};
use snapshim::sys::mix::mix;
use snapshim::sys::permission;
use snapshim::sys::procfs;
use snapshim::sys::raw;
use snapshim::table::attach;
use syscalls::Sysno;

use super::identity::table_location;
use super::log_target::SignalsHeld;

/// A note: what was said by the children of a process, and by a process itself, each with the message in it; and when.
type Note = [u64; 3];
const NOTE: usize = size_of::<Note>();
/// Notes that are looked through. A file that is longer begins anew, and a line may come a second time.
const MOST: u64 = 600;
/// For how long a note counts, seconds.
const RECENT: u64 = 60;

/// The calls by which the file is asked. A process that a filter keeps from one of them says what it has to say without asking.
const ASKING: &[Sysno] = &[
    Sysno::openat,
    Sysno::fstat,
    Sysno::geteuid,
    Sysno::getegid,
    Sysno::getgroups,
    Sysno::getsid,
    Sysno::getppid,
    Sysno::write,
    Sysno::pread64,
    Sysno::ftruncate,
    Sysno::close,
    Sysno::clock_gettime,
    Sysno::rt_sigprocmask,
    Sysno::rt_sigpending,
    Sysno::rt_sigtimedwait,
];

/// Whether no other process of the family has said this of late. From then on one has.
#[inline(never)]
pub fn is_news(gist: u64) -> bool {
    if permission::forbids_any(ASKING) {
        return true;
    }
    let Some(file) = attach::open_notes(&table_location()) else { return true };
    let signals = SignalsHeld::new();
    let note = [person(parent(), gist), person(raw::own_pid(), gist), stamp(raw::random())];
    if rustix::fs::fstat(&file).is_ok_and(|stat| stat.st_size as u64 >= MOST * NOTE as u64) {
        let _ = rustix::fs::ftruncate(&file, 0);
    }
    match rustix::io::write(&file, note.map(u64::to_ne_bytes).as_flattened()) {
        Ok(NOTE) => first_about(&file, &note).is_none_or(|first| first == note),
        Ok(_) => true,
        Err(error) => {
            signals.take_signal_of(error);
            true
        }
    }
}

/// The first recent note that says the same as `own`, by a child of the same parent, or by the parent.
fn first_about(file: &OwnedFd, own: &Note) -> Option<Note> {
    const AT_ONCE: usize = 32;
    let mut notes = [[0u8; NOTE]; AT_ONCE];
    let mut at = 0;
    loop {
        let read = rustix::io::pread(file, notes.as_flattened_mut(), at).ok().filter(|read| *read >= NOTE)?;
        let is_same = |note: &Note| note[..2].contains(&own[0]) && (own[2] >> 32).abs_diff(note[2] >> 32) <= RECENT;
        let found = notes[..read / NOTE].iter().map(words).find(is_same);
        if found.is_some() || at > MOST * NOTE as u64 {
            return found;
        }
        at += (read / NOTE * NOTE) as u64;
    }
}

fn words(note: &[u8; NOTE]) -> Note {
    core::array::from_fn(|index| {
        let mut word = [0u8; 8];
        word.copy_from_slice(&note[index * 8..index * 8 + 8]);
        u64::from_ne_bytes(word)
    })
}

/// A process that says a thing. Its start tells it from a later one of the same pid.
fn person(pid: u32, gist: u64) -> u64 {
    let session = rustix::process::getsid(None).map_or(0, |session| session.as_raw_nonzero().get() as u64);
    [u64::from(pid), procfs::start_of(pid), session].into_iter().fold(gist, mix)
}

fn parent() -> u32 {
    rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get() as u32)
}

/// The time in seconds, and below it random bits by which a process knows its own note again.
fn stamp(random: u64) -> u64 {
    (clock_gettime(ClockId::Realtime).tv_sec as u64) << 32 | random >> 32
}
