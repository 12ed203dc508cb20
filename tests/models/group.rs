//! A group: snapshots of two files at one instant, while a writer changes one after the other.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;
use snapshim::protocol::cause::Worth;
use snapshim::protocol::creation::{Creations, Intent, Intents, Rival, Scope, Ticket};
use snapshim::protocol::gate::{ActiveWord, Call, CallFrame, Entry, Gate, Writer};
use snapshim::protocol::origin::{Origin, Target};
use snapshim::protocol::snapshot::{Extent, SegmentFlags, Snapshot, SnapshotMeta, State};
use snapshim::sys::sync::{Fault, planted};

use super::world::{NEW, OLD, model};

const ORIGINS: [Origin; 2] = [Origin::file(1, 2), Origin::file(1, 3)];
/// The creator's process, as a claim of a record names it.
const CREATOR: u64 = 1;

/// A file, the record of its snapshot, and the copy of its one page.
struct File {
    content: AtomicU64,
    fingerprint: AtomicU64,
    snapshot: Snapshot,
    copy: AtomicU64,
    preserved: AtomicU64,
}

impl File {
    fn new() -> Self {
        Self {
            content: AtomicU64::new(OLD),
            fingerprint: AtomicU64::new(0),
            snapshot: Snapshot::default(),
            copy: AtomicU64::new(0),
            preserved: AtomicU64::new(0),
        }
    }

    fn preserve(&self) {
        if self.snapshot.view().is_some() && self.preserved.load(Ordering::Acquire) == 0 {
            self.copy.store(self.content.load(Ordering::Relaxed), Ordering::Relaxed);
            self.preserved.store(1, Ordering::Release);
        }
    }

    fn shown(&self) -> u64 {
        let is_preserved = self.preserved.load(Ordering::Acquire) == 1;
        if is_preserved { &self.copy } else { &self.content }.load(Ordering::Relaxed)
    }
}

struct Pair {
    active: ActiveWord,
    creations: Creations,
    intents: [Intent; 2],
    frame: CallFrame,
    files: [File; 2],
}

impl Intents for Pair {
    fn intent(&self, owner: u16) -> Option<&Intent> {
        self.intents.get(usize::from(owner))
    }

    fn is_held(&self, _owner: u16, _origin: Origin) -> bool {
        false
    }

    fn is_in_group(&self, _owner: u16, origin: Origin) -> bool {
        self.files.iter().any(|file| {
            file.fingerprint.load(Ordering::Acquire) == origin.fingerprint()
                && file.snapshot.head().state() != State::Free
        })
    }
}

struct Waiting<'a>(&'a Pair, usize);

impl Writer for Waiting<'_> {
    fn target(&self, _descriptor: u32) -> Target {
        Target::Origin(ORIGINS[self.1])
    }

    fn target_since(&self, descriptor: u32, _seen: u32) -> Target {
        self.target(descriptor)
    }

    fn unplaced(&self) -> u64 {
        0
    }

    fn wait_for(&self, seen: Ticket) {
        while self.0.creations.is(seen) {
            thread::yield_now();
        }
    }
}

impl Pair {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            active: ActiveWord::default(),
            creations: Creations::default(),
            intents: [Intent::default(), Intent::default()],
            frame: CallFrame::default(),
            files: [File::new(), File::new()],
        })
    }

    fn write(&self, which: usize) {
        let gate = Gate { active: &self.active, creations: &self.creations, intents: self };
        let call = Call { descriptor: 3, ..Call::default() };
        let (entry, announcement) = gate.enter(&self.frame, &[], call, &Waiting(self, which));
        if entry != Entry::Free {
            self.files[which].preserve();
        }
        self.files[which].content.store(NEW, Ordering::Relaxed);
        self.frame.clear(announcement);
    }

    fn name(&self) {
        for (file, origin) in self.files.iter().zip(ORIGINS) {
            file.snapshot.claim(1, CREATOR).expect("free");
            file.fingerprint.store(origin.fingerprint(), Ordering::Release);
        }
    }

    fn propose(&self, owner: u16, scope: Scope) -> Ticket {
        self.intents[usize::from(owner)].declare(scope, 0);
        let ticket = self.creations.claim(owner).expect("a free record");
        self.active.raise();
        ticket
    }

    /// The creation of the group, from the naming of its files to its commit. The contents of the files at its instant.
    fn create(&self) -> [u64; 2] {
        let names_first = !planted(Fault::GroupNames);
        if names_first {
            self.name();
        }
        let ticket = self.propose(0, Scope::Group);
        while self.frame.load().0.is_under_way() && !planted(Fault::Drain) {
            thread::yield_now();
        }
        if !names_first {
            self.name();
        }
        let instant = [0, 1].map(|which| self.files[which].content.load(Ordering::Relaxed));
        for (file, origin) in self.files.iter().zip(ORIGINS) {
            let meta = SnapshotMeta { origin, owner: CREATOR, size: 4096, base: 0, mapping: 1 };
            let extent = Extent { address: 4096, first: 0, pages: 1, protection: 3 };
            let head = file.snapshot.head();
            file.snapshot.describe(head, &meta, &extent, SegmentFlags::NONE);
            file.snapshot.publish(head, Worth::Exact);
        }
        let ticket = self.creations.settle(ticket).expect("no other process aborts");
        assert!(self.creations.commit(ticket));
        self.creations.release(ticket);
        instant
    }
}

#[test]
fn no_change_of_one_file_is_seen_without_an_earlier_change_of_another() {
    model(|| {
        let pair = Pair::new();
        let other = Arc::clone(&pair);
        let writer = thread::spawn(move || {
            other.write(0);
            other.write(1);
        });
        let instant = pair.create();
        writer.join().unwrap();
        let shown = [pair.files[0].shown(), pair.files[1].shown()];
        assert_eq!(shown, instant);
        assert_ne!(shown, [OLD, NEW], "the second change without the first");
    });
}

/// Whether a creation goes on: no other is in its way.
fn goes_on(pair: &Pair, owner: u16, scope: Scope) -> bool {
    let ticket = pair.propose(owner, scope);
    loop {
        match pair.creations.rival(ticket, scope, pair) {
            None => return true,
            Some(Rival::Undecided(_)) => thread::yield_now(),
            Some(Rival::First(_)) => {
                assert!(pair.creations.abort(ticket));
                return false;
            }
        }
    }
}

#[test]
fn of_a_group_and_a_creation_of_one_of_its_files_one_goes_on() {
    model(|| {
        let pair = Pair::new();
        let other = Arc::clone(&pair);
        let group = thread::spawn(move || {
            other.name();
            goes_on(&other, 1, Scope::Group)
        });
        let single = goes_on(&pair, 0, Scope::One(ORIGINS[1]));
        assert_ne!(single, group.join().unwrap());
    });
}
