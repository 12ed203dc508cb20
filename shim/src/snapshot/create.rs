//! The creation of a snapshot, mmap(MAP_PRIVATE|MAP_SNAPSHOT), and of several at one instant.
//!
//! Nothing of a snapshot stays where a step fails: not its record, not its mapping, and the gate is open again.

use core::ffi::c_void;
use core::fmt::{self, Display};

use rustix::fd::AsFd;
use rustix::io::Errno;
use snapshim::cooperate::arming::Origins;
use snapshim::protocol::cause::Cause;
use snapshim::protocol::creation::{Scope, Ticket};
use snapshim::protocol::process::Process;
use snapshim::sys::signal_block::SignalsBlocked;

use super::finish::{finish, log_if_short, note_name};
use super::instant::{
    armed, begin, commit, doubt_if_unseen, drained, landed, let_forks_go_first, observe_unseen, too_late,
};
use super::maps;
use super::part::{Made, Part};
use super::request::{By, Wanted};
use crate::address_space::lock::{self, Mappings};
use crate::agent::start;
use crate::base::config::config;
use crate::base::mmap_call::Mmap;
use crate::mapper::edit::Retired;
use crate::origins::{alias_users, claim, foreign_maps, ring_users};
use crate::process::log::{Bytes, Level, say};
use crate::process::thread::{self, Thread};
use crate::process::{membership, ptracer};

/// mmap(2) of a snapshot.
///
/// Errors: those of mmap(2), and `EINVAL` (shared or anonymous), `ENODEV` (neither file nor block device),
/// `EOPNOTSUPP` (a file system whose files can change without any system call here), `EBUSY` (a block device in use by the kernel,
/// or claimed by another process where `SNAPSHIM_CLAIM` asks for a claim), `ETIMEDOUT` (a writer did not finish in time), `EDEADLK`
/// (inside a write that a signal interrupted), `ENFILE` (the table is full), `ESTALE` (the table was replaced), `EUCLEAN` (it is
/// damaged), `ENXIO` (`SNAPSHIM_SHORT=refuse`, and the file is shorter), and the error that kept the process from joining the
/// table.
pub fn create(mmap: &Mmap, by: By) -> Result<*mut c_void, Errno> {
    let mut parts = [Part::new(Wanted::of(mmap, by)?)];
    let taken = take(&mut parts);
    let [part] = &parts;
    let made = taken.map_err(|failure| failure.error).and_then(|()| part.made.as_ref().ok_or(Errno::NFILE));
    if by != By::Flag {
        log_if_short(&part.wanted, made);
    }
    made.map(|made| made.address)
}

/// Why no snapshot has come about.
#[derive(Clone, Copy)]
pub struct Failure {
    pub error: Errno,
    /// The part that failed, if it was one.
    pub part: Option<usize>,
}

impl Failure {
    fn of(part: usize) -> impl Fn(Errno) -> Self {
        move |error| Self { error, part: Some(part) }
    }
}

impl From<Errno> for Failure {
    fn from(error: Errno) -> Self {
        Self { error, part: None }
    }
}

/// Takes all of `parts` at one instant, or none.
pub fn take(parts: &mut [Part]) -> Result<(), Failure> {
    membership::join_at_once()?;
    let thread = thread::current()?;
    if thread.is_inside() {
        return Err(Errno::DEADLK.into());
    }
    if !membership::is_table_current() {
        return Err(table_is_gone(&What(parts)).into());
    }
    // Writers are let in under the lock over the mappings (`make`).
    start::start(&thread.own);
    make(&thread, parts)?;
    finish_all(&thread, parts)?;
    parts.iter().for_each(|part| note_name(&thread, &part.wanted));
    for (_, part) in frozen(parts) {
        ring_users::doubt_if_written(&thread.own, part.origin(), "from the start");
        alias_users::log_users(&thread.own, part.origin());
    }
    if frozen(parts).next().is_some() {
        foreign_maps::request_search(&thread.own);
    }
    Ok(())
}

#[cold]
fn table_is_gone(what: &dyn Display) -> Errno {
    say!(
        Level::Error,
        file = what;
        "snapshot of {what} refused: the table in {} was removed or replaced while this process used it; restart the programs that \
         cooperate",
        Bytes(config().directory.to_bytes())
    );
    Errno::STALE
}

/// What a creation makes snapshots of, in words.
struct What<'a>(&'a [Part]);

impl Display for What<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => formatter.write_str("nothing"),
            [one] => one.origin().fmt(formatter),
            [first, others @ ..] => write!(formatter, "{} and {} more", first.origin(), others.len()),
        }
    }
}

/// A creation under way. Dropped before [`Undo::keep`], it undoes what has been done, the last first.
struct Undo<'a> {
    thread: &'a Thread,
    parts: &'a mut [Part],
    /// The lock over the mappings, held from the end of the drain on.
    mappings: Option<Mappings>,
    is_kept: bool,
    /// The gate is closed.
    ticket: Option<Ticket>,
}

impl Undo<'_> {
    /// The creation has succeeded.
    fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        let (thread, table) = (self.thread, self.thread.own.table);
        let mappings = self.mappings.take().unwrap_or_else(|| lock::hold(thread.own));
        self.parts.iter_mut().for_each(|part| part.undo(thread, &mappings));
        if let Some(ticket) = self.ticket.take() {
            table.end_creation(ticket);
            table.lower_active();
        }
        mappings.forget_unneeded(Retired::ALL);
    }
}

/// Everything from the closing of the gate to its opening.
///
/// The lock over the mappings is not held while this waits: calls on memory that has nothing to do with the snapshots go on.
fn make(thread: &Thread, parts: &mut [Part]) -> Result<(), Failure> {
    let _signals = SignalsBlocked::new();
    let_forks_go_first();
    prepare(thread, parts)?;
    let mut undo = Undo { thread, parts, mappings: None, is_kept: false, ticket: None };
    // Before the gate closes: by these records writers find what a group covers.
    for (at, part) in undo.parts.iter_mut().enumerate() {
        part.claim_record(thread).map_err(Failure::of(at))?;
    }
    let scope = scope_of(undo.parts);
    let ticket = undo.ticket.insert(begin(thread, scope, &What(undo.parts))?);
    drained(thread, scope, &What(undo.parts))?;
    land(thread, undo.parts)?;
    arm(thread, undo.parts, ticket)?;
    // Held so that no other thread forks between a mapping and its record.
    let mappings = &*undo.mappings.insert(lock::hold(thread.own));
    // The last snapshot may have ended since, and what only snapshots need has gone with it.
    ptracer::allow(&thread.own);
    let before = observe_unseen(thread.own.table);
    for (at, part) in undo.parts.iter_mut().enumerate() {
        claim_device(mappings, part).and_then(|()| part.fill(thread, mappings)).map_err(Failure::of(at))?;
    }
    let parts = &*undo.parts;
    doubt_if_unseen(thread.own.table, before, &What(parts), || {
        parts.iter().filter(|part| part.doubt(thread, Cause::Unseen)).count() > 0
    });
    if thread.own.image.note_snapshot()
        && let Some(record) = thread.own.record()
    {
        record.ring();
    }
    if undo.ticket.take().is_some_and(|ticket| commit(thread, ticket)) {
        undo.keep();
        return Ok(());
    }
    Err(too_late(&What(undo.parts)).into())
}

/// What a creation asks for before it closes the gate, so that writers do not wait where it is refused.
fn prepare(thread: &Thread, parts: &[Part]) -> Result<(), Failure> {
    let mappings = lock::hold(thread.own);
    // The snapshots that it has are looked at once a second.
    if thread.own.leaves_after_inspection_of(&(0..0)) {
        return Err(Errno::UCLEAN.into());
    }
    let mut all = parts.iter().enumerate();
    // The claims on devices in front of the one that is refused.
    all.try_for_each(|(at, part)| claim_device(&mappings, part).map_err(Failure::of(at)))
        .inspect_err(|_| mappings.forget_unneeded(Retired::ALL))
}

fn claim_device(mappings: &Mappings, part: &Part) -> Result<(), Errno> {
    if !part.origin().is_block_device() {
        return Ok(());
    }
    claim::take(mappings, part.wanted.source.file()?.as_fd(), part.origin())
}

fn scope_of(parts: &[Part]) -> Scope {
    match parts {
        [first, others @ ..] if others.iter().all(|other| other.origin() == first.origin()) => {
            Scope::One(first.origin())
        }
        _ => Scope::Group,
    }
}

/// The parts that are to show the file as it is at the instant. No direct write and no store truncates a file, so a guarded mapping
/// waits for neither.
fn frozen(parts: &[Part]) -> impl Iterator<Item = (usize, &Part)> + Clone {
    parts.iter().enumerate().filter(|(_, part)| !part.wanted.by.is_live())
}

/// Waits for the asynchronous writes under way.
fn land(thread: &Thread, parts: &[Part]) -> Result<(), Failure> {
    frozen(parts).try_for_each(|(at, part)| landed(thread, part.origin()).map_err(Failure::of(at)))
}

/// Has all shared mappings of the origins armed.
fn arm(thread: &Thread, parts: &[Part], ticket: &mut Ticket) -> Result<(), Failure> {
    if frozen(parts).next().is_none() {
        return Ok(());
    }
    let origins = Origins::of(frozen(parts).map(|(_, part)| part.origin()));
    let maps_none = |record: &Process, pid| {
        let mut perhaps = frozen(parts).filter(|(_, part)| record.sharing.includes(part.origin()));
        perhaps.all(|(_, part)| {
            let source = &part.wanted.source;
            source.file().is_ok_and(|file| maps::has_none(pid, source.origin, file.as_fd()))
        })
    };
    Ok(armed(thread, &origins, &What(parts), &maps_none, ticket)?)
}

/// What may take long, with the gate open. Where it fails for one part, all are taken away again.
fn finish_all(thread: &Thread, parts: &mut [Part]) -> Result<(), Failure> {
    let finish_one = |part: &mut Part| {
        let Part { wanted, made: Some(made), .. } = part else { return Ok(()) };
        finish(thread, &wanted.mmap, made)
    };
    let finished = parts.iter_mut().enumerate().try_for_each(|(at, part)| finish_one(part).map_err(Failure::of(at)));
    if finished.is_err() {
        let mappings = lock::hold(thread.own);
        parts.iter().filter_map(|part| part.made.as_ref()).for_each(|made: &Made| made.unmake(&mappings));
    }
    finished
}
