//! The beginning of a creation beside others, and waiting for the end of one.

use core::time::Duration;

use super::drain::Straggler;
use crate::protocol::creation::{Rival, Scope, Ticket};
use crate::sys::wait::Backoff;
use crate::sys::{futex, raw};
use crate::table::Table;

/// The longest SNAPSHIM_TIMEOUT_MS, in nanoseconds: no creator gives itself longer.
const LONGEST_CREATION: u64 = 60_000_000_000;

impl Table {
    /// Begins a creation of the thread with slot `slot`: from here on no change of what `scope` covers begins. It may take
    /// `timeout` nanoseconds.
    ///
    /// It waits for creations that it excludes, and where all records are taken. The error: it waited longer than two times
    /// `timeout`, at last for this process.
    pub fn begin_creation(&self, slot: u32, scope: Scope, timeout: u64) -> Result<Ticket, Straggler> {
        let give_up = raw::now() + 2 * timeout;
        loop {
            let other = match self.propose(slot, scope, timeout) {
                Ok(ticket) => return Ok(ticket),
                Err(other) => other,
            };
            if raw::now() > give_up {
                // A claim that was given up has raised it.
                self.lower_active();
                return Err(self.creator(other));
            }
            match other {
                Some(other) => self.await_creation(other),
                None => self.await_room(give_up),
            }
        }
    }

    /// Claims a record, and goes on if no creation is in the way. The error: the one that is to be waited for; `None`: all records
    /// are taken.
    fn propose(&self, slot: u32, scope: Scope, timeout: u64) -> Result<Ticket, Option<Ticket>> {
        let creations = &self.header.creations;
        // Without this look a creator of a file that others make snapshots of would close the gate to its writers for nothing.
        if let Some(other) = creations.in_the_way_of(slot as u16, scope, self) {
            return Err(Some(other));
        }
        if let Some(slot) = self.writer(slot) {
            slot.intent().declare(scope, raw::now() + timeout);
        }
        let mine = creations.claim(slot as u16).ok_or(None)?;
        // SeqCst inside: the claim before the look at the other records, and at the writers.
        self.header.active.raise();
        let mut backoff = Backoff::default();
        loop {
            let other = match creations.rival(mine, scope, self) {
                None => return creations.settle(mine).map_err(|_| Some(mine)),
                Some(Rival::Undecided(_)) if !backoff.is_sleeping() => {
                    backoff.pause();
                    continue;
                }
                // One that stays undecided was stopped.
                Some(Rival::First(other) | Rival::Undecided(other)) => other,
            };
            self.end_creation(mine);
            return Err(Some(other));
        }
    }

    /// The process of a creator; of any, if `None` is given.
    fn creator(&self, creation: Option<Ticket>) -> Straggler {
        let slot =
            creation.or_else(|| self.header.creations.under_way().next()).and_then(|seen| self.creation_owner(seen));
        slot.map_or(Straggler { pid: 0, delay: None }, |slot| self.straggler(slot))
    }

    /// Waits until a record may be free, or `give_up` has come. Ends creations that are to be ended.
    fn await_room(&self, give_up: u64) {
        let creations = &self.header.creations;
        let mut backoff = Backoff::default();
        while !creations.has_room() && raw::now() <= give_up {
            backoff.pause();
            if backoff.is_sleeping() {
                creations.under_way().for_each(|seen| _ = self.end_if_overdue(seen, raw::now()));
            }
        }
    }

    /// Waits until the creation `seen` is over. Ends it if its owner is dead or has taken too long.
    pub fn await_creation(&self, seen: Ticket) {
        let creations = &self.header.creations;
        let first_seen = raw::now();
        let mut backoff = Backoff::default();
        while creations.is(seen) {
            backoff.pause();
            if backoff.is_sleeping() && !self.end_if_overdue(seen, first_seen) {
                futex::wait(creations.futex(seen), seen.low_half(), Duration::from_millis(2));
            }
        }
    }

    /// Ends the creation `seen` if its owner is dead or has taken too long.
    fn end_if_overdue(&self, seen: Ticket, first_seen: u64) -> bool {
        let owner = self.creation_owner(seen).map_or(0, |slot| slot.lease().process());
        let is_dead = owner == 0 || self.reap_if_dead(owner);
        let deadline = self.header.creations.deadline(seen, self).unwrap_or(first_seen);
        if deadline > first_seen + LONGEST_CREATION {
            self.declare_damaged();
        }
        let is_due = is_dead || self.is_damaged() || raw::now() > deadline;
        if is_due {
            self.end_creation(seen);
        }
        is_due
    }
}
