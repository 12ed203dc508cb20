//! The agent: the shim's one helper thread in a process that has snapshots or writable shared mappings.
//!
//! It preserves pages when a writer that may not touch this process asks for it, breaks snapshots that cannot be kept, and arms
//! shared mappings when a snapshot is made. It is a bare kernel thread: no thread-local storage (it shares the register of the
//! thread that started it and must not use it), no libc call, no lock, all signals blocked, and a descriptor table of its own
//! ([`apart`]). The C library does not count it, so a program still ends with its own last thread.

use core::ffi::{c_int, c_void};
use core::time::Duration;

use snapshim::preserve::kept::KeptFiles;
use snapshim::preserve::local::{Means, Served};
use snapshim::protocol::snapshot::State;
use snapshim::sys::sync::Ordering;
use snapshim::sys::{futex, raw, signal_block};

use super::alone::{Company, ROUND};
use crate::address_space::lock;
use crate::base::config::config;
use crate::mapper::preserve_own;
use crate::origins::{foreign_maps, rounds, watch};
use crate::process::identity::{self, Own};
use crate::process::log::{self, Level, say};
use crate::process::presence::HAS_BEGUN;
use crate::process::{fd_table, membership};
use crate::shared::robust_futex::Progress;
use crate::shared::{arm, eager, fork};
/// In how many rounds it looks whether the table is still where others find it.
const TABLE_ROUNDS: u32 = 5;

pub extern "C-unwind" fn run(_: *mut c_void) -> c_int {
    // SIGSEGV too: its handler needs the thread-local storage that the agent has not, and the agent stores nowhere that traps.
    signal_block::set_signal_mask(u64::MAX);
    // Numbers mean something in one table only; these files go with it when the agent ends.
    let kept_apart = KeptFiles::new();
    let kept = if fd_table::begin() { &kept_apart } else { identity::kept() };
    // Release: pairs with the Acquire in `await_beginning`.
    HAS_BEGUN.store(1, Ordering::Release);
    futex::wake(&HAS_BEGUN);
    let _ = rustix::thread::set_name(c"snapshim-agent");
    let mut eager = eager::Eager::default();
    let mut next_look = raw::now() + ROUND.as_nanos() as u64;
    let mut rounds = 0;
    let mut company = Company::default();
    loop {
        let Some(own) = identity::attached() else { return leave() };
        let Some(record) = own.record() else { return 0 };
        // Acquire: pairs with the Release in `Process::ring`; the request is visible to who sees the bell.
        let bell = record.doorbell().load(Ordering::Acquire);
        if own.identity.presence().must_leave() {
            return 0;
        }
        let Some(until_look) = company.look(&own) else { return own.identity.presence().last_status() };
        if arm::answer_creation(&own) {
            eager.begin_anew();
        }
        let mut service = Service { own: &own, kept, bell, is_answered: answer_requests(&own, kept), has_armed: false };
        let pause = match eager.open_piece(&own, kept) {
            Progress::Until(_) => continue,
            Progress::Later => Duration::from_millis(1),
            // Who has no snapshots is rung for, and not kept awake.
            Progress::Over if own.identity.is_mapper() => ROUND,
            Progress::Over => Duration::from_secs(3600),
        };
        if raw::now() >= next_look {
            rounds::look(&own);
            service.attend();
            watch::look_at_all(&own);
            service.attend();
            doubt_if_unseen(&own);
            look_at_table(&own);
            service.attend();
            rounds += 1;
            if rounds % TABLE_ROUNDS == 0 {
                doubt_if_table_is_gone(&own);
            }
            next_look = raw::now() + ROUND.as_nanos() as u64;
        }
        let until_maps = foreign_maps::look_if_due(&own, &mut || service.attend());
        if service.has_armed {
            eager.begin_anew();
        }
        if service.is_answered {
            futex::wait(record.doorbell(), bell, pause.min(until_look).min(until_maps));
        }
    }
}

/// What others wait for, done between what is done for nobody in particular.
struct Service<'a> {
    own: &'a Own,
    kept: &'a KeptFiles,
    /// As it was when requests were looked for last.
    bell: u32,
    /// Whether all of them are answered.
    is_answered: bool,
    /// Whether mappings were armed.
    has_armed: bool,
}

impl Service<'_> {
    /// How much of this thread's time that took, nanoseconds.
    fn attend(&mut self) -> u64 {
        let Some(record) = self.own.record() else { return 0 };
        // Acquire: as in `run`.
        let bell = record.doorbell().load(Ordering::Acquire);
        if bell == self.bell && self.is_answered {
            return 0;
        }
        let begun = foreign_maps::time_used();
        self.bell = bell;
        self.has_armed |= arm::answer_creation(self.own);
        self.is_answered = answer_requests(self.own, self.kept);
        foreign_maps::time_used().saturating_sub(begun)
    }
}

/// Whether the table still is what this process made of it.
fn look_at_table(own: &Own) {
    match lock::try_hold(*own) {
        Some(_mappings) => own.leaves_after_long_inspection(),
        None => own.leaves_damaged(),
    };
}

/// The process has left the table, so no store has to trap any more.
fn leave() -> c_int {
    if membership::has_left() {
        fork::give_up();
    }
    0
}

/// False: there is more to do of what was asked.
fn answer_requests(own: &Own, kept: &KeptFiles) -> bool {
    let mut is_answered = true;
    for slot in own.table.writers_used() {
        let Some((request, number)) = slot.pending() else { continue };
        let is_ours = |view: snapshim::protocol::snapshot::View| view.identity.owner == own.owner();
        if !own.table.view(request.snapshot).is_some_and(is_ours) {
            continue;
        }
        let deadline = raw::now() + config().timeout;
        let means = Means { kept, open: &watch::open_apart, ..preserve_own::means(own, deadline) };
        match means.serve(&request) {
            Served::InPart => is_answered = false,
            served => slot.answer(number, served == Served::Done),
        }
    }
    is_answered
}

/// Of a process that could say in the table that it is unseen, and no more, others draw the conclusion.
fn doubt_if_unseen(own: &Own) {
    let doubted = own.table.doubt_if_unseen();
    if doubted > 0 {
        say!(
            Level::Warn,
            "{doubted} snapshots are doubtful from now on: {} takes no part, and its changes are not seen",
            log::Unseen(own.table)
        );
    }
}

/// Processes that start now would not find our snapshots (somebody deleted the table, systemd's RemoveIPC for one).
fn doubt_if_table_is_gone(own: &Own) {
    if membership::is_table_current() {
        return;
    }
    let mut doubted = 0;
    own.table.over_splits(|walk| {
        for (index, view) in walk.owned_by(own.owner()) {
            if view.head.state() == State::Exact && snapshim::table::doubt(own.table, index, view.head.life()) {
                doubted += 1;
            }
        }
    });
    if doubted > 0 {
        say!(
            Level::Error,
            "process {}: the table in {} was removed or replaced; its {doubted} snapshots are doubtful from now on. Programs that start \
             now do not see them; restart all that cooperate",
            raw::own_pid(),
            crate::process::log::Bytes(config().directory.to_bytes())
        );
    }
}
