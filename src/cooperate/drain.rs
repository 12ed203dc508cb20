//! Waiting for others: a creation for the writers under way, a mapper for the pushers.
//!
//! No process waits for the dead, and none waits for ever.

use super::liveness::{self, Liveness};
use super::thread_state::{self, CallingThread, ThreadSyscall};
use crate::protocol::creation::Scope;
use crate::protocol::delay::{Cause, Delay};
use crate::protocol::gate::{Announcement, CallFrame, NO_DESCRIPTOR};
use crate::protocol::origin::{Origin, Target};
use crate::protocol::process::Process;
use crate::protocol::process_id::ProcessId;
use crate::protocol::writer_slot::WriterSlot;
use crate::sys::raw;
use crate::sys::sync::{Ordering, fence};
use crate::sys::wait::{Backoff, Deadline};
use crate::table::Table;

/// The process that did not answer in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Straggler {
    /// Its pid; 0 if that is not known.
    pub pid: u32,
    /// What the creation waited for, and since when creations wait for it; `None` if that is not known.
    pub delay: Option<Delay>,
}

/// What a creation covers, and who makes it.
#[derive(Clone, Copy)]
struct Covered {
    scope: Scope,
    /// Its writer slot.
    creator: u32,
}

impl Covered {
    fn includes(self, table: &Table, origin: Origin) -> bool {
        self.scope.covers(origin, self.creator as u16, table)
    }

    fn origin(self) -> Option<Origin> {
        if let Scope::One(origin) = self.scope { Some(origin) } else { None }
    }
}

impl Table {
    /// Waits until no call is under way that could change what `scope` covers, except the calls of the caller's slot.
    ///
    /// A call that ends soon ends while this looks at other calls: all of them together are given the time of one. What is still
    /// under way then is looked up at once, so that many threads that wait in calls to pipes cost one look each.
    pub fn drain(&self, scope: Scope, own_slot: u32, deadline: u64) -> Result<(), Straggler> {
        let covered = Covered { scope, creator: own_slot };
        let mut patience = Backoff::default();
        loop {
            let continued = self.header.continued();
            for (index, slot) in self.writers_used().iter().enumerate() {
                if index as u32 == own_slot {
                    continue;
                }
                for frame in slot.frames() {
                    self.await_frame(slot, frame, covered, (&mut patience, deadline))?;
                }
            }
            // If the count moved, a fork has copied calls to a child's slot: a call of this walk may be under way in a slot that
            // was passed before.
            if self.header.continued() == continued {
                break;
            }
            if raw::now() > deadline {
                return Err(Straggler { pid: 0, delay: None });
            }
        }
        self.await_unannounced(covered.origin(), deadline)
    }

    /// Waits for the calls that found no free slot to announce themselves in.
    fn await_unannounced(&self, origin: Option<Origin>, deadline: u64) -> Result<(), Straggler> {
        let (mut backoff, mut deadline) = (Backoff::default(), Deadline::at(deadline));
        while let Some((index, id)) = self.first_unannounced() {
            if self.process(index).is_some_and(|record| record.unannounced(id) > MOST_THREADS) {
                self.declare_damaged();
            }
            let is_gone = backoff.is_sleeping() && self.reap_if_dead(id.owner_word(index));
            if !is_gone && deadline.expired_twice(&backoff) {
                let cause = Cause::Write(Announcement::default(), u32::MAX);
                let delay = Delay { cause, thread: 0, origin, since: raw::now() };
                return Err(Straggler { pid: id.pid(), delay: Some(delay) });
            }
            backoff.pause();
        }
        Ok(())
    }

    /// The first process that has calls under way without a slot.
    fn first_unannounced(&self) -> Option<(u32, ProcessId)> {
        self.processes_used().iter().enumerate().find_map(|(index, record)| {
            let id = record.id()?;
            (record.unannounced(id) != 0).then_some((index as u32, id))
        })
    }

    /// A call without a slot, of the calling process, begins. False: snapshots exist or are being made, so it may not. See
    /// [`Process::leave_unannounced`].
    pub fn enter_unannounced(&self, own: &Process, id: ProcessId) -> bool {
        own.enter_unannounced(id);
        let may = !self.header.active.is_raised();
        if !may {
            own.leave_unannounced(id);
        }
        may
    }

    fn await_frame(
        &self,
        slot: &WriterSlot,
        frame: &CallFrame,
        covered: Covered,
        (patience, deadline): (&mut Backoff, u64),
    ) -> Result<(), Straggler> {
        while self.concerning(slot, frame, covered).is_some() && !patience.has_spun() {
            patience.pause();
        }
        let (mut backoff, mut deadline) = (Backoff::default(), Deadline::at(deadline));
        let mut is_noted = false;
        while let Some(announcement) = self.concerning(slot, frame, covered) {
            let is_over = self.is_elsewhere(slot, frame, announcement, covered)
                || backoff.is_sleeping() && self.is_over(slot, frame, announcement);
            if is_over {
                break;
            }
            if backoff.is_sleeping() {
                self.note_delay(slot, frame, announcement, covered.origin());
                is_noted = true;
            }
            if deadline.expired_twice(&backoff) {
                return Err(self.straggler(slot));
            }
            backoff.pause();
        }
        if is_noted && let Some((_, record, _)) = self.owner(slot.lease().process()) {
            record.delay.clear();
        }
        Ok(())
    }

    /// The call in `frame`, if it is under way and may be changing what is covered.
    fn concerning(&self, slot: &WriterSlot, frame: &CallFrame, covered: Covered) -> Option<Announcement> {
        let (phase, announcement) = frame.load();
        let is_concerned = phase.is_under_way()
            && match frame.target_at(announcement) {
                Target::Elsewhere => false,
                Target::Origin(origin) => covered.includes(self, origin),
                Target::Unknown => !self.is_known_elsewhere(slot, frame, announcement),
            };
        is_concerned.then_some(announcement)
    }

    /// Whether an earlier creation has found that the call goes elsewhere, and its descriptor's number means what it meant then.
    ///
    /// The count tells that as far as the process's own hooks see the changes. Of a change that no hook sees the thread takes
    /// notice after the call: the note makes it look where the number leads ([`CallFrame::is_relied_on`]).
    fn is_known_elsewhere(&self, slot: &WriterSlot, frame: &CallFrame, announcement: Announcement) -> bool {
        if !frame.is_noted_elsewhere(announcement) {
            return false;
        }
        let Some((_, process, _)) = self.owner(slot.lease().process()) else { return false };
        let (descriptor, seen) = frame.descriptor();
        let is_same = process.descriptors(descriptor) == seen;
        // Acquire: orders the loads: what was read of the frame is of this announcement.
        fence(Ordering::Acquire);
        is_same && frame.is_at(announcement)
    }

    /// Notes in the record of the slot's process that a creation waits for a call of its.
    fn note_delay(&self, slot: &WriterSlot, frame: &CallFrame, announcement: Announcement, origin: Option<Origin>) {
        let lease = slot.lease();
        if let Some((_, record, id)) = self.owner(lease.process()) {
            let cause = Cause::Write(announcement, frame.descriptor().0);
            record.delay.note(id, cause, slot.thread(lease), origin, raw::now());
        }
    }

    /// Whether no call is under way that may be changing `origin`. It does not wait.
    #[must_use]
    pub fn is_quiet(&self, origin: Origin) -> bool {
        let covered = Covered { scope: Scope::One(origin), creator: u32::MAX };
        let is_clear = |slot: &WriterSlot, frame: &CallFrame| {
            self.concerning(slot, frame, covered).is_none_or(|announcement| {
                self.is_over(slot, frame, announcement) || self.is_elsewhere(slot, frame, announcement, covered)
            })
        };
        let continued = self.header.continued();
        self.writers_used().iter().all(|slot| slot.frames().iter().all(|frame| is_clear(slot, frame)))
            && self.header.continued() == continued
            && self.is_all_announced()
    }

    /// Whether no living process has calls under way without a slot. A dead one is taken out: otherwise it would count as busy for
    /// ever.
    fn is_all_announced(&self) -> bool {
        self.processes_used().iter().enumerate().all(|(index, record)| {
            let busy = record.id().filter(|id| record.unannounced(*id) != 0);
            busy.is_none_or(|id| self.reap_if_dead(id.owner_word(index as u32)))
        })
    }

    pub(super) fn straggler(&self, slot: &WriterSlot) -> Straggler {
        let owner = self.owner(slot.lease().process());
        owner.map_or(Straggler { pid: 0, delay: None }, |(_, record, id)| Straggler {
            pid: id.pid(),
            delay: record.delay.of(id),
        })
    }

    /// Whether the call of `announcement` cannot happen any more because its process or thread is gone.
    fn is_over(&self, slot: &WriterSlot, frame: &CallFrame, announcement: Announcement) -> bool {
        let lease = slot.lease();
        if lease.is_vacant() {
            return frame.load().1 == announcement;
        }
        if self.reap_if_dead(lease.process()) {
            // The record can be gone before its slots are: a process that reaped it was killed in between.
            slot.release(lease);
            return true;
        }
        let Some((_, record, id)) = self.owner(lease.process()) else { return false };
        let gone = liveness::is_thread_gone(record, id, slot.thread(lease));
        if gone {
            slot.release(lease);
        }
        gone
    }

    /// The thread that makes the calls of a slot. `None`: another process may make them, with descriptors of its own: a child that
    /// acts in this memory.
    fn calling_thread(&self, slot: &WriterSlot) -> Option<CallingThread<'_>> {
        let lease = slot.lease();
        let (_, process, id) = self.owner(lease.process())?;
        let thread = slot.thread(lease);
        // The order counts: an image that is alive after the look at its thread was alive at that look.
        let shares_no_mm = || {
            ThreadSyscall::read(id.pid(), thread).shares_no_mm(id.pid(), thread)
                && liveness::of_image(process, id) == Liveness::Alive
        };
        let is_caller = thread != 0 && (process.mm_sharer(id).is_none() || shares_no_mm());
        is_caller.then_some(CallingThread { process, id, thread })
    }

    /// Whether a call that has not noted its target goes to nothing that is covered: by its descriptor, or, for an open(2) by path,
    /// by where its thread waits. A descriptor that is found to lead to no file at all is noted for later creations.
    fn is_elsewhere(&self, slot: &WriterSlot, frame: &CallFrame, announcement: Announcement, covered: Covered) -> bool {
        if frame.target_at(announcement) != Target::Unknown {
            return false;
        }
        let (descriptor, seen) = frame.descriptor();
        let Some(calling_thread) = self.calling_thread(slot) else { return false };
        if descriptor == NO_DESCRIPTOR {
            let CallingThread { id, thread, .. } = calling_thread;
            let opens_none = thread_state::waits_to_open_no_file(id.pid(), thread, frame.stack());
            return opens_none && frame.is_at(announcement) && frame.target_at(announcement) == Target::Unknown;
        }
        let target = calling_thread.target_of(descriptor);
        // Acquire: pairs with the Release in `Process::begin_change`: the look at the descriptor comes before any change that
        // is not counted yet.
        fence(Ordering::Acquire);
        let is_covered = match target {
            Target::Origin(origin) => covered.includes(self, origin),
            Target::Elsewhere => false,
            Target::Unknown => true,
        };
        if is_covered {
            return false;
        }
        // A number that came to mean another file meanwhile tells nothing of a call that is in the kernel with it. If the call is
        // yet to be made, or made again, with a number that comes to mean an origin, the writer itself finds that out afterwards.
        let is_same = calling_thread.process.descriptors(descriptor) == seen;
        if !is_same && !calling_thread.is_waiting_elsewhere() {
            return false;
        }
        // Where the number may mean another file by now, the note makes the thread look after the call, and has a handler that
        // interrupts the call wait for this creation. No later creation believes it: the count does not come back.
        if target == Target::Elsewhere || !is_same {
            frame.note_elsewhere(announcement);
        }
        frame.is_at(announcement) && frame.target_at(announcement) == Target::Unknown
    }

    /// Waits until no thread pushes into snapshot `index`, whose generation is odd. With `only_bytes` it waits only for pushers
    /// that store bytes. False: a thread still pushes when `deadline` has come.
    #[must_use]
    pub fn await_pushers(&self, index: u32, only_bytes: bool, deadline: u64) -> bool {
        self.writers_used()
            .iter()
            .all(|slot| self.await_frames(slot, deadline, |frame| frame.is_pushing(index, only_bytes)))
    }

    /// Waits until no thread of the process that `owner` refers to pushes into any snapshot. False: one still does when `deadline`
    /// has come.
    #[must_use]
    pub fn await_pushers_of(&self, owner: u64, deadline: u64) -> bool {
        let mut own = self.writers_used().iter().filter(|slot| slot.lease().process() == owner);
        own.all(|slot| self.await_frames(slot, deadline, CallFrame::is_pushing_any))
    }

    /// Waits until `is_busy` holds for no frame of a slot whose call is under way.
    fn await_frames(&self, slot: &WriterSlot, deadline: u64, is_busy: impl Fn(&CallFrame) -> bool) -> bool {
        slot.frames().iter().all(|frame| {
            let mut backoff = Backoff::default();
            let mut deadline = Deadline::at(deadline);
            while is_busy(frame) {
                if backoff.is_sleeping() && self.is_over(slot, frame, frame.load().1) {
                    return true;
                }
                if deadline.expired_twice(&backoff) {
                    return false;
                }
                backoff.pause();
            }
            true
        })
    }
}

/// PID_MAX_LIMIT of linux/threads.h.
const MOST_THREADS: u32 = 4 << 20;
