//! The origins of this process's snapshots, watched for foreign changes ([`snapshim::foreign`]): by the agent once a second, and when
//! somebody asks for a snapshot's state or unmaps it.
//!
//! An origin is reached by a descriptor that is kept for it: O_PATH, so that closing it drops no lock, close-on-exec, at a number out
//! of the way. The application may close or replace it, so each look makes sure that it still leads to the origin; where it does
//! not, foreign changes go unnoticed, and nothing else happens.

use core::ops::Range;
use core::sync::atomic::{AtomicU32, Ordering};

use rustix::fd::{AsRawFd, BorrowedFd, IntoRawFd};
use rustix::fs::OFlags;
use rustix::io::Errno;
use snapshim::drain::{Patience, modified_behind};
use snapshim::foreign::Modified;
use snapshim::origin::{Origin, Place, PlaceCell};
use snapshim::raw::{self, ProcPath, SignalsBlocked};

use crate::hooks::change::Named;
use crate::hooks::descriptors;
use crate::log::{Bytes, Level, Program, say};
use crate::mapper::{self, Mappings};
use crate::process::Own;

/// One origin and the descriptor that leads to it. Changed only while the process's mappings are held.
struct Watched {
    origin: PlaceCell,
    number: AtomicU32,
}

/// More origins are not watched.
const MOST: usize = 64;

static WATCHED: [Watched; MOST] = [const { Watched { origin: PlaceCell::new(), number: AtomicU32::new(0) } }; MOST];

/// Keeps a way to `origin`, which `file` leads to. The process's mappings are held.
pub fn watch(_held: &Mappings, origin: Origin, file: BorrowedFd<'_>) {
    // Writes to a block device move the times of the device node that they came by.
    if origin.is_block_device() || WATCHED.iter().any(|watched| watched.leads_to(origin)) {
        return;
    }
    let Some(free) = WATCHED.iter().find(|watched| watched.origin().is_none_or(|there| there == origin)) else {
        return;
    };
    let path = ProcPath::own("fd").slash(file.as_raw_fd() as u32);
    if let Ok(kept) = raw::open(path.as_c_str(), OFlags::PATH).and_then(raw::move_up) {
        free.number.store(kept.into_raw_fd() as u32, Ordering::Relaxed);
        // Release: see `PlaceCell`; the number is there before the origin.
        free.origin.store(Place::Origin(origin));
    }
}

/// Gives up the ways to origins that no snapshot of this process needs any more.
pub fn forget_unneeded(held: &Mappings) {
    let own = &held.own;
    let is_needed = |origin| own.table.snapshots_of(origin).any(|(_, view)| view.identity.owner == own.owner());
    for watched in &WATCHED {
        let Some(origin) = watched.origin().filter(|origin| !is_needed(*origin)) else { continue };
        let is_ours = watched.leads_to(origin) && is_path(watched.file());
        watched.origin.store(Place::Unknown);
        if is_ours {
            let number = watched.number.load(Ordering::Relaxed) as i32;
            descriptors::count_change(number);
            // SAFETY: opened by `watch`, and nobody else has been told of it.
            drop(unsafe { raw::own(number) });
        }
    }
}

/// The application's own descriptors are hardly ever of that kind.
fn is_path(file: BorrowedFd<'_>) -> bool {
    rustix::fs::fcntl_getfl(file).is_ok_and(|flags| flags.contains(OFlags::PATH))
}

impl Watched {
    fn origin(&self) -> Option<Origin> {
        match self.origin.load() {
            Place::Origin(origin) => Some(origin),
            Place::Unknown | Place::Elsewhere => None,
        }
    }

    fn file(&self) -> BorrowedFd<'static> {
        raw::borrow(self.number.load(Ordering::Relaxed))
    }

    fn leads_to(&self, origin: Origin) -> bool {
        self.origin() == Some(origin)
            && snapshim::drain::place_behind(self.number.load(Ordering::Relaxed)) == Place::Origin(origin)
    }

    /// The file, if the descriptor still leads to it.
    fn modified(&self, origin: Origin) -> Option<Modified> {
        modified_behind(self.file()).and_then(|(place, modified)| (place == Place::Origin(origin)).then_some(modified))
    }
}

/// Looks at all origins.
pub fn look_at_all(own: &Own) {
    look(own, |_| true);
}

/// Looks at the origins of the snapshots that a range of addresses touches.
pub fn look_behind(own: &Own, addresses: &Range<u64>) {
    look(own, |origin| mapper::pieces(own, addresses).any(|(_, view)| view.identity.origin == origin));
}

/// One thread at a time; another waits a little, and leaves it to the first if that does not help.
fn look(own: &Own, is_wanted: impl Fn(Origin) -> bool) {
    if WATCHED.iter().all(|watched| watched.origin().is_none()) {
        return;
    }
    let _signals = SignalsBlocked::new();
    let mut patience = Patience::default();
    while !own.identity.begin_look() {
        if patience.is_tried() {
            return;
        }
        patience.pause();
    }
    for watched in &WATCHED {
        let Some(origin) = watched.origin().filter(|origin| is_wanted(*origin)) else { continue };
        if own.table.doubt_if_changed(own.owner(), origin, || watched.modified(origin)) {
            say_foreign(watched, origin);
        }
    }
    own.identity.end_look();
}

#[cold]
fn say_foreign(watched: &Watched, origin: Origin) {
    let mut buffer = [const { core::mem::MaybeUninit::uninit() }; 500];
    let link = ProcPath::own("fd").slash(watched.number.load(Ordering::Relaxed));
    let path: Result<_, Errno> = rustix::fs::readlinkat_raw(rustix::fs::CWD, link.as_c_str(), &mut buffer);
    say!(
        Level::Warn,
        "{}'s snapshot of {} ({}) is doubtful from now on: something changed the file without the shim, so the snapshot may show its \
         bytes; run every program that writes it under the shim, on the same table, and take the snapshot again",
        Program(raw::own_pid()),
        Bytes(path.as_ref().map_or(b"?", |(path, _)| path)),
        Named(origin)
    );
}
