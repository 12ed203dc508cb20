//! The origins of this process's snapshots, watched for foreign changes ([`snapshim::cooperate::foreign`]): by the agent once a
//! second, and by a thread that asks for a snapshot's state or unmaps it.
//!
//! Each origin has a descriptor here: O_PATH, so that its close drops no lock, close-on-exec, and at a high number. The
//! application may close or replace it, so each observation makes sure that it still leads to the origin. If it does not, foreign
//! changes go unnoticed, and nothing else happens.

use core::ops::Range;
use core::sync::atomic::{AtomicU32, Ordering};

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use rustix::fs::OFlags;
use rustix::io::Errno;
use snapshim::cooperate::locate::{modified_behind, target_of_descriptor};
use snapshim::protocol::cause::Cause;
use snapshim::protocol::changes::Modified;
use snapshim::protocol::origin::{AtomicTarget, Origin, Target};
use snapshim::protocol::snapshot::View;
use snapshim::sys::procfs::ProcPath;
use snapshim::sys::rare::Rare;
use snapshim::sys::raw;
use snapshim::sys::signal_block::SignalsBlocked;
use snapshim::sys::wait::{Backoff, Deadline};

use super::fanotify;
use crate::address_space::lock::{self, Mappings};
use crate::base::config::config;
use crate::process::descriptors;
use crate::process::fd_table::{self, AppFd};
use crate::process::identity::ThisProcess;
use crate::process::log::{self, About, Bytes, Level, Program};

/// One origin and the descriptor that leads to it. Changed only under the lock over the process's mappings.
struct Watched {
    origin: AtomicTarget,
    number: AtomicU32,
    /// The descriptor of fanotify's events, 0 if there is none: that number is standard input's.
    fanotify: AtomicU32,
}

/// The most origins that are watched.
const MOST: usize = 64;

#[unsafe(link_section = ".bss.rare")]
static WATCHED: Rare<[Watched; MOST]> = Rare(
    [const { Watched { origin: AtomicTarget::new(), number: AtomicU32::new(0), fanotify: AtomicU32::new(0) } }; MOST],
);

/// Watches `origin`, which `file` leads to, from now on.
pub fn watch(_held: &Mappings, origin: Origin, file: BorrowedFd<'_>) {
    // A block device is not watched: a write changes the times of the device node by which the device was opened.
    if origin.is_block_device() || WATCHED.iter().any(|watched| watched.leads_to(origin)) {
        return;
    }
    let Some(free) = WATCHED.iter().find(|watched| watched.origin().is_none_or(|there| there == origin)) else {
        return;
    };
    let path = ProcPath::thread_self("fd").slash(file.as_raw_fd() as u32);
    if let Ok(moved_up) = raw::open(path.as_c_str(), OFlags::PATH).and_then(raw::move_up) {
        free.number.store(moved_up.into_raw_fd() as u32, Ordering::Relaxed);
        free.start_fanotify();
        // Release: see `AtomicTarget`; the numbers are visible before the origin is.
        free.origin.store(Target::Origin(origin));
    }
}

/// Stops watching those origins that are concerned, and that this process has no snapshot of any more.
pub fn forget_unneeded(held: &Mappings, is_concerned: impl Fn(Origin) -> bool) {
    let own = &held.own;
    let is_ours = |segment: &(u32, View)| segment.1.meta.owner == own.owner();
    let is_needed = |origin| own.table.find_over_splits(|walk| walk.of(origin).find(is_ours)).is_some();
    for watched in WATCHED.iter() {
        let concerned = watched.origin().filter(|origin| is_concerned(*origin));
        let Some(origin) = concerned.filter(|origin| !is_needed(*origin)) else { continue };
        let is_ours = watched.leads_to(origin) && watched.file().is_some_and(|file| is_path(file.as_fd()));
        watched.origin.store(Target::Unknown);
        watched.stop_fanotify();
        if is_ours {
            let number = watched.number.load(Ordering::Relaxed) as i32;
            // SAFETY: `watch` opened it, and this module alone knows the number.
            descriptors::changing(number, || drop(unsafe { raw::adopt_fd(number) }));
        }
    }
}

/// Opens a watched origin in the agent's own descriptor table, where its close drops no lock of the application's.
pub fn open_in_own_table(origin: Origin) -> Option<OwnedFd> {
    let watched = WATCHED.iter().find(|watched| watched.origin() == Some(origin))?;
    let file = fd_table::open_anew(watched.number.load(Ordering::Relaxed)).ok()?;
    (target_of_descriptor(file.as_raw_fd() as u32) == Target::Origin(origin)).then_some(file)
}

/// Whether a file was opened with O_PATH. The application's own descriptors hardly ever are.
fn is_path(file: BorrowedFd<'_>) -> bool {
    rustix::fs::fcntl_getfl(file).is_ok_and(|flags| flags.contains(OFlags::PATH))
}

/// In a forked child: gives it events of its own. An event can be read once, so parent and child must not read from the same group.
pub fn begin_anew_in_child() {
    for watched in WATCHED.iter().filter(|watched| watched.fanotify.load(Ordering::Relaxed) != 0) {
        watched.stop_fanotify();
        watched.start_fanotify();
    }
}

impl Watched {
    /// Asks for fanotify's events, if `SNAPSHIM_FANOTIFY=1` is set.
    fn start_fanotify(&self) {
        if config().reads_notices
            && let Some(file) = self.file()
            && let Some(group) = fanotify::of(file.as_fd())
        {
            self.fanotify.store(group.into_raw_fd() as u32, Ordering::Relaxed);
        }
    }

    /// The group of fanotify, if the descriptor still leads to one.
    fn fanotify_group(&self) -> Option<AppFd> {
        let number = self.fanotify.load(Ordering::Relaxed);
        let group = if number == 0 { None } else { fd_table::open_file(number).ok() };
        group.filter(|group| fanotify::is_group(group.number()))
    }

    /// Closes the group.
    fn stop_fanotify(&self) {
        let number = self.fanotify.swap(0, Ordering::Relaxed);
        if number != 0 && fanotify::is_group(number) {
            // SAFETY: `start_fanotify` opened it, and this module alone knows the number.
            descriptors::changing(number as i32, || drop(unsafe { raw::adopt_fd(number as i32) }));
        }
    }

    fn origin(&self) -> Option<Origin> {
        match self.origin.load() {
            Target::Origin(origin) => Some(origin),
            Target::Unknown | Target::Elsewhere => None,
        }
    }

    fn file(&self) -> Option<AppFd> {
        fd_table::file(self.number.load(Ordering::Relaxed)).ok()
    }

    fn leads_to(&self, origin: Origin) -> bool {
        self.origin() == Some(origin)
            && self.file().is_some_and(|file| target_of_descriptor(file.number()) == Target::Origin(origin))
    }

    /// When and how the file was changed last, if the descriptor still leads to it.
    fn modified(&self, origin: Origin) -> Option<Modified> {
        let (target, modified) = modified_behind(self.file()?.as_fd())?;
        (target == Target::Origin(origin)).then_some(modified)
    }
}

/// Observes all origins.
pub fn check_all(own: &ThisProcess) {
    check(own, |_| true);
}

/// Observes the origins of the snapshots that a range of addresses touches.
pub fn check_range(own: &ThisProcess, addresses: &Range<u64>) {
    // A range mostly touches one: then the others are not compared with it.
    let Some(first) = lock::first_segment(own, addresses).map(|view| view.meta.origin) else { return };
    let is_other = |view: &View| view.meta.origin != first;
    if lock::find_segment(own, addresses, |_, view| is_other(view)).is_none() {
        return check(own, |origin| origin == first);
    }
    check(own, |origin| lock::find_segment(own, addresses, |_, view| view.meta.origin == origin).is_some());
}

/// Observes origins, and makes snapshots doubtful whose origin has changed without the shim. One thread at a time does so; another
/// waits a little, and leaves it to the first if that takes longer.
fn check(own: &ThisProcess, is_wanted: impl Fn(Origin) -> bool) {
    if WATCHED.iter().all(|watched| watched.origin().is_none()) {
        return;
    }
    let _signals = SignalsBlocked::new();
    let mut backoff = Backoff::default();
    while !own.image.begin_search() {
        if backoff.is_sleeping() {
            return;
        }
        backoff.pause();
    }
    for watched in WATCHED.iter() {
        let Some(origin) = watched.origin().filter(|origin| is_wanted(*origin)) else { continue };
        let offender = watched.fanotify_group().and_then(|group| fanotify::read_offender(group.as_fd(), own.table));
        let changed = own.table.doubt_if_changed(own.owner(), origin, || watched.modified(origin));
        let is_named = || offender.is_some() && own.table.doubt_all_of(own.owner(), origin, Cause::ForeignChange);
        if let Some(cause) = changed.or_else(|| is_named().then_some(Cause::ForeignChange)) {
            log_foreign_change(own, watched.file().as_ref().map(AppFd::number), origin, offender, cause);
        }
    }
    own.image.end_search();
}

/// Observes the origin of the snapshot at `addresses` through `descriptor`, which the program says leads to it: only so many
/// origins are watched by descriptors of the library's own.
///
/// Errors: `EINVAL` (no snapshot there, or the descriptor leads to another file), `EAGAIN` (another thread has observed origins for
/// as long as a writer is waited for).
pub fn check_through(own: &ThisProcess, addresses: &Range<u64>, descriptor: i32) -> Result<(), Errno> {
    let (_, view) = lock::find_segment(own, addresses, |_, _| true).ok_or(Errno::INVAL)?;
    let origin = view.meta.origin;
    if descriptor < 0 || target_of_descriptor(descriptor as u32) != Target::Origin(origin) {
        return Err(Errno::INVAL);
    }
    if origin.is_block_device() {
        return Ok(());
    }
    let _signals = SignalsBlocked::new();
    let (mut backoff, mut deadline) = (Backoff::default(), Deadline::at(raw::now() + config().timeout));
    while !own.image.begin_search() {
        if deadline.expired_twice(&backoff) {
            return Err(Errno::AGAIN);
        }
        backoff.pause();
    }
    let modified = || Some(modified_behind(raw::borrow(descriptor as u32))?.1);
    if let Some(cause) = own.table.doubt_if_changed(own.owner(), origin, modified) {
        log_foreign_change(own, Some(descriptor as u32), origin, None, cause);
    }
    own.image.end_search();
    Ok(())
}

#[cold]
fn log_foreign_change(own: &ThisProcess, file: Option<u32>, origin: Origin, offender: Option<u32>, cause: Cause) {
    let mut buffer = [const { core::mem::MaybeUninit::uninit() }; 500];
    let link = ProcPath::thread_self("fd").slash(file.unwrap_or(u32::MAX));
    let path: Result<_, Errno> = rustix::fs::readlinkat_raw(rustix::fs::CWD, link.as_c_str(), &mut buffer);
    let name = Bytes(path.as_ref().map_or(b"?", |(path, _)| path));
    let doubtful = format_args!("{}'s snapshot of {name} ({origin}) is doubtful from now on", Program(raw::own_pid()));
    let write = |message| log::write_line(Level::Warn, About { file: Some(&name), process: offender }, message);
    match offender {
        Some(pid) => write(format_args!("{doubtful}: {}", cause.of(Program(pid)).in_full())),
        None => write(format_args!("{doubtful}: {}", own.table.why(cause))),
    }
}
