//! Preserving: giving a snapshot its own copy of a page before a change lands.
//!
//! The writer breaks copy-on-write in the mapper's address space itself ([`unshare`]), and reads from the mapper's pagemap whether
//! it worked ([`verify`]). Where it may not touch the mapper, the mapper's agent does it ([`local`]). If a page cannot be
//! preserved, a policy decides; the snapshot is never silently wrong.
//!
//! [`Pusher`] is the way of a writer, from the origin and the range to the verified page. [`local`], [`relocate`] and [`slices`]
//! are the mapper's own. [`policy`] says what may be tried and what happens when nothing works, [`headroom`] how much a mapper may
//! still hold, [`proc_fd_cache`] which files of /proc stay open.
//!
//! Imports everything else in the core; nothing in the core imports it. It allocates nothing.
//!
//! Promise: a bit is set only for a page that was seen private, in a mapping that did not change meanwhile. A process changes its
//! own memory only where it has itself mapped a snapshot ([`own_ranges`](crate::protocol::own_ranges)), whatever a record says.

pub mod headroom;
pub mod holes;
pub mod local;
pub mod policy;
pub mod proc_fd_cache;
mod record;
pub mod relocate;
pub mod slices;
pub mod unshare;
pub mod verify;

use core::cell::Cell;
use core::ffi::c_void;
use core::ops::Range;
use core::time::Duration;

use crate::PAGE;
use crate::protocol::cause::{Cause, Worth};
use crate::protocol::gate::CallFrame;
use crate::protocol::origin::Origin;
use crate::protocol::own_ranges::OwnRanges;
use crate::protocol::process::{Agent, Process};
use crate::protocol::process_id::{Caller, ProcessId};
use crate::protocol::snapshot::{Extent, SERVED, Snapshot, View};
use crate::protocol::writer_slot::{Answer, Request, Task, WriterSlot};
use crate::sys::wait::{Backoff, TimeBudget};
use crate::sys::{futex, raw};
use crate::table::Table;
use headroom::Headroom;
use local::{Handled, LocalPreserver};
use policy::{Failure, OnFailure, PushMode, Report};
use proc_fd_cache::ProcFdCache;
use record::record;
use relocate::StoreBarrier;

/// At most this many pages are read in before they are pushed. Of more pages the kernel reads ahead what is needed soon.
const FEW: u64 = 16;

/// Pages in one push: as many as process_vm_writev(2) pins at once.
pub const RUN: u64 = 1024;

/// A thread that preserves, and what it may use.
pub struct Pusher<'a, R, S> {
    /// The table.
    pub table: &'a Table,
    /// The calling process.
    pub own: Caller<'a>,
    /// The calling thread's slot.
    pub slot: &'a WriterSlot,
    /// The frame of the call under way.
    pub frame: &'a CallFrame,
    /// Cached descriptors of other processes' files in /proc.
    pub proc_fds: &'a ProcFdCache,
    /// What mappers may still hold.
    pub headroom: &'a Headroom,
    /// Where the calling process's own snapshots lie.
    pub own_ranges: &'a OwnRanges,
    /// A page of the calling process that cannot be read.
    pub unreadable: *const c_void,
    /// By which means.
    pub mode: PushMode,
    /// What happens when no means works.
    pub on_failure: OnFailure,
    /// How long to wait for a mapper, nanoseconds.
    pub timeout: u64,
    /// What hears of the snapshots that were broken.
    pub report: &'a R,
    /// Keeps this process's other threads from storing while its own snapshots are relocated.
    pub store_barrier: &'a S,
    /// Has the kernel read in these bytes of the origin, which are few, and are about to be preserved.
    ///
    /// The fault that preserves a page reads ahead as far as the mapper's descriptor and mapping let it, megabytes perhaps.
    pub read_in: &'a dyn Fn(&Range<u64>),
    /// How many pages behind the bytes of a change are preserved along with them, because the next changes seem to come there.
    pub ahead: &'a dyn Fn() -> u64,
    /// How large the origin is now, in bytes, where that can be told.
    pub size: &'a dyn Fn() -> Option<u64>,
    /// Does work that takes much stack and waits for nothing for long, with signals blocked, on a stack of the library's own: the
    /// caller may be a handler on a small alternate one.
    pub aside: fn(&mut dyn FnMut()),
}

/// What a change does to the bytes of an origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// It replaces these bytes.
    Bytes(Range<u64>),
    /// It takes away, or moves, everything from this byte on. The kernel then takes private copies away as well.
    Truncate(u64),
}

impl<R, S> core::fmt::Debug for Pusher<'_, R, S> {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.debug_struct("Pusher").field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// How often a push that achieved nothing is tried again: for some milliseconds, by `Backoff`.
const RETRIES: u32 = 64;

/// How long pages are pushed at once, with signals blocked, nanoseconds.
const AT_ONCE: u64 = 5_000_000;

/// Why one push of one run preserved nothing.
enum NotPushed {
    /// The mapping changed meanwhile: look again.
    Moved,
    /// The kernel refuses access to the mapper.
    Refused,
    /// Nothing could be preserved.
    Nothing,
}

/// How long the mapper's process may take. The time begins anew with each slice of a segment that it moves off the file: the
/// segment becomes smaller with each.
struct MapperTime {
    timeout: u64,
    budget: TimeBudget,
    pages: Option<u64>,
}

impl MapperTime {
    /// Begins now, for a segment that has `pages` pages; `None`: it is over.
    fn new(timeout: u64, pages: Option<u64>) -> Self {
        Self { timeout, budget: TimeBudget::of(timeout), pages }
    }

    /// The segment has `pages` pages now; `None`: it is over.
    fn note(&mut self, pages: Option<u64>) {
        if self.pages != pages {
            *self = Self::new(self.timeout, pages);
        }
    }

    fn is_exhausted(&mut self) -> bool {
        self.budget.is_exhausted()
    }
}

/// What came of one step: the pages that it was for, and how many of them are preserved.
enum Step {
    /// The mapper has no room for them.
    NoRoom,
    /// These were pushed, the pages ahead included.
    Pushed(Range<u64>, Result<u64, NotPushed>),
}

/// How far one call has come with one snapshot.
struct Progress {
    time: MapperTime,
    backoff: Backoff,
    /// Pushes that achieved nothing.
    failures: u32,
    /// Whether pages behind the bytes of the change may be pushed along.
    goes_ahead: bool,
    /// What lies before this page is preserved, whether or not its bits could be recorded.
    done: u64,
}

impl<R: Report, S: StoreBarrier> Pusher<'_, R, S> {
    /// Gives every snapshot of `origin` its own copy of what `change` would change. After success the change may happen.
    pub fn make_way(&self, origin: Origin, mutation: &Mutation) -> Result<(), Failure> {
        match mutation {
            Mutation::Bytes(range) => self.preserve(origin, range.clone()),
            Mutation::Truncate(from) => {
                // The page that holds the new end of the file changes only behind that end, so it is preserved and need not be
                // moved.
                let whole = from.next_multiple_of(PAGE);
                self.preserve(origin, *from..whole)?;
                self.relocate(origin, whole / PAGE)?;
                self.keep(origin, *from)
            }
        }
    }

    /// Has every guarded mapping of `origin` keep what goes with a truncation to `from` bytes.
    fn keep(&self, origin: Origin, from: u64) -> Result<(), Failure> {
        let size = Cell::new(None);
        self.in_each(origin, |index, incarnation| {
            if self.table.view(index).is_none_or(|view| !view.is_guarded()) {
                return Ok(());
            }
            // Where the size is not known, pages past the end of the file are asked for as well: they cannot be read, and are left
            // out.
            let end = size.get().unwrap_or_else(|| (self.size)().unwrap_or(u64::MAX / 2));
            size.set(Some(end));
            if from < end { self.keep_in(index, incarnation, &(from..end)) } else { Ok(()) }
        })
    }

    fn keep_in(&self, index: u32, incarnation: u32, taken: &Range<u64>) -> Result<(), Failure> {
        let mut done = 0;
        loop {
            self.trust_table()?;
            let view =
                self.table.view(index).filter(|view| view.head.incarnation() == incarnation && view.head.wants_pages());
            let Some(view) = view else { return Ok(()) };
            let Some(missing) = missing(self.table, index, &view, taken, done) else { return Ok(()) };
            if !self.aside(|| self.has_room(&view, missing.end - missing.start)) {
                return self.let_go(index, &view, Cause::NoMemory);
            }
            let count = missing.end - missing.start;
            let task = Request { snapshot: index, incarnation, task: Task::Keep, first: missing.start, count };
            let is_done = if self.own.may_change(view.meta.owner) {
                self.handle_here(&task)
            } else {
                self.ask_agent(&view, task)
            };
            if is_done {
                // What was split off meanwhile is found by walking again.
                if self.table.view(index).is_some_and(|now| is_same_place(&now, &view)) {
                    done = missing.end;
                }
            } else if !self.is_gone(index, &view) && !self.has_moved(index, &view) {
                return self.let_go(index, &view, Cause::NoAgent);
            }
        }
    }

    /// A guarded mapping cannot keep what a truncation takes away. The mapping never held that it would be exact, so by default the
    /// truncation goes on, and the mapping faults there, as it would without the shim.
    fn let_go(&self, index: u32, view: &View, reason: Cause) -> Result<(), Failure> {
        let pid = self.table.owner(view.meta.owner).map_or(0, |(_, _, id)| id.pid());
        let is_over = self.is_over(index, view);
        self.trust_table()?;
        if is_over {
            return Ok(());
        }
        if self.on_failure == OnFailure::FailWrite {
            return Err(Failure { pid, reason });
        }
        if let Some(snapshot) = self.table.snapshot(index) {
            snapshot.mark(view.head.incarnation(), Worth::Doubtful(reason));
        }
        self.aside(|| self.report.unkept(pid, view.meta.origin, reason));
        Ok(())
    }

    /// Has every snapshot of `origin` moved off the file from page `first` on.
    fn relocate(&self, origin: Origin, first: u64) -> Result<(), Failure> {
        self.in_each(origin, |index, incarnation| self.relocate_in(index, incarnation, first))
    }

    fn relocate_in(&self, index: u32, incarnation: u32, first: u64) -> Result<(), Failure> {
        loop {
            self.trust_table()?;
            let view =
                self.table.view(index).filter(|view| view.head.incarnation() == incarnation && view.head.wants_pages());
            let Some(view) = view.filter(|view| {
                !view.is_guarded()
                    && !view.is_relocated()
                    && first < view.covered_pages().end
                    && !view.covered_pages().is_empty()
            }) else {
                return Ok(());
            };
            let task = Request { snapshot: index, incarnation, task: Task::Relocate, first, count: 0 };
            let is_done = if self.own.may_change(view.meta.owner) {
                self.relocate_own(&view, task)
            } else {
                self.ask_agent(&view, task)
            };
            if is_done {
                self.check_relocated(index, &view);
            } else if !self.is_gone(index, &view) {
                let is_truncated = self.is_truncated_before(view.covered_pages().end - 1);
                if self.has_moved(index, &view) {
                    continue;
                }
                // Only its own process knows how much memory it needed.
                let reason = if is_truncated {
                    Cause::PagesGone
                } else if self.aside(|| self.has_room(&view, relocate::Pages::MOST)) {
                    Cause::NoAgent
                } else {
                    Cause::NoMemory
                };
                self.give_up(index, &view, reason)?;
            }
        }
    }

    /// Checks the answer that a segment has been moved off the file: in a good table it is over by now, or its record tells. To ask
    /// again for what was answered already could go on for ever.
    fn check_relocated(&self, index: u32, before: &View) {
        if self.table.view(index).is_some_and(|now| now.head.wants_pages()) && !self.has_moved(index, before) {
            self.table.declare_damaged();
        }
    }

    /// The error: the table is damaged. No process acts by it any more, nor waits for what it says.
    fn trust_table(&self) -> Result<(), Failure> {
        if self.table.is_damaged() { Err(Failure { pid: 0, reason: Cause::TableDamaged }) } else { Ok(()) }
    }

    /// The same in a segment of the calling process. If the segment is long, its agent does it where there is one: the agent can
    /// open the origin in its own table of descriptors, to look for holes. To close it in the application's table would drop the
    /// application's locks.
    fn relocate_own(&self, view: &View, task: Request) -> bool {
        let shown = view.covered_pages();
        let is_long = shown.end - task.first.max(shown.start) >= relocate::Pages::MOST;
        let has_agent = || {
            let owner = self.table.owner(view.meta.owner);
            owner.is_some_and(|(_, process, id)| matches!(process.agent(id), Agent::Thread(_)))
        };
        is_long && has_agent() && self.ask_agent(view, task) || self.handle_here(&task)
    }

    /// What this process may use to preserve in its own snapshots.
    fn local_preserver(&self) -> LocalPreserver<'_, S> {
        let deadline = raw::now() + self.timeout;
        let Self { table, own, proc_fds, own_ranges, store_barrier: stores, headroom, .. } = *self;
        LocalPreserver { table, own, proc_fds, own_ranges, store_barrier: stores, headroom, open: &|_| None, deadline }
    }

    /// The same for `bytes`, as far as it goes without waiting and within some milliseconds. False: it has to be done by
    /// [`Pusher::make_way`].
    ///
    /// The caller is on a stack of the library's own, with signals blocked: see `Pusher::aside`.
    pub fn make_way_at_once(&self, origin: Origin, bytes: &Range<u64>) -> bool {
        let until = raw::now() + AT_ONCE;
        let is_left =
            |(index, view): &(u32, View)| !self.preserve_at_once(*index, view.head.incarnation(), bytes, until);
        self.table.find_over_splits(|walk| walk.of(origin).find(is_left)).is_none()
    }

    /// Preserves what the bytes `range` touch of one segment, as far as it goes at once, in steps of which none begins after
    /// `until`.
    fn preserve_at_once(&self, index: u32, incarnation: u32, range: &Range<u64>, until: u64) -> bool {
        let Some(snapshot) = self.table.snapshot(index) else { return true };
        let (mut done, mut goes_ahead) = (0, self.mode != PushMode::Agent);
        while !self.table.is_damaged() {
            let view = self.table.view(index).filter(|view| is_to_be_kept(view, incarnation));
            let Some(view) = view else { return true };
            let Some(missing) = missing(self.table, index, &view, range, done) else { return true };
            if raw::now() > until {
                return false;
            }
            match self.step(index, snapshot, &view, range, &missing, goes_ahead) {
                Step::Pushed(_, Ok(pages)) => done = missing.end.min(missing.start + pages),
                Step::Pushed(pushed, Err(_)) if pushed != missing => goes_ahead = false,
                // A mapper that has died holds no snapshot any more.
                Step::Pushed(..) if self.table.retire_with_mapper(index, &view) => {}
                Step::NoRoom | Step::Pushed(..) => return false,
            }
        }
        false
    }

    /// Preserves, in every snapshot of `origin`, the pages that the bytes `range` touch. After success the bytes may change.
    pub fn preserve(&self, origin: Origin, range: Range<u64>) -> Result<(), Failure> {
        self.in_each(origin, |index, incarnation| self.preserve_in(index, incarnation, &range))
    }

    /// Does `act` with every snapshot of `origin`, those included that are split from others meanwhile.
    fn in_each(&self, origin: Origin, act: impl Fn(u32, u32) -> Result<(), Failure>) -> Result<(), Failure> {
        let failed = self.table.find_over_splits(|walk| {
            walk.of(origin).find_map(|(index, view)| act(index, view.head.incarnation()).err())
        });
        failed.map_or(Ok(()), Err)
    }

    fn preserve_in(&self, index: u32, incarnation: u32, range: &Range<u64>) -> Result<(), Failure> {
        let Some(snapshot) = self.table.snapshot(index) else { return Ok(()) };
        let mut progress = None;
        loop {
            self.trust_table()?;
            let view = self.table.view(index).filter(|view| is_to_be_kept(view, incarnation));
            let Some(view) = view else { return Ok(()) };
            let progress = progress.get_or_insert_with(|| self.start(&view));
            progress.time.note(Some(view.extent.pages));
            let Some(missing) = missing(self.table, index, &view, range, progress.done) else { return Ok(()) };
            let step = self.aside(|| self.step(index, snapshot, &view, range, &missing, progress.goes_ahead));
            match step {
                Step::NoRoom => self.give_up(index, &view, Cause::NoMemory)?,
                Step::Pushed(_, Ok(pages)) => progress.done = missing.end.min(missing.start + pages),
                // Perhaps only the pages ahead cannot be preserved.
                Step::Pushed(pushed, Err(_)) if pushed != missing => progress.goes_ahead = false,
                Step::Pushed(_, Err(why)) => {
                    if let Some(reason) = self.reason_after_retries(&why, index, &view, progress) {
                        self.preserve_by_agent(index, &view, &missing, reason, progress)?;
                    }
                }
            }
        }
    }

    /// Pushes `missing`, and pages ahead of `range`, if there is room for them.
    fn step(
        &self,
        index: u32,
        snapshot: &Snapshot,
        view: &View,
        range: &Range<u64>,
        missing: &Range<u64>,
        goes_ahead: bool,
    ) -> Step {
        if !self.has_room(view, missing.end - missing.start) {
            return Step::NoRoom;
        }
        let pushed = self.with_ahead(index, view, range, missing, goes_ahead);
        if missing.end - missing.start <= FEW && self.mode != PushMode::Agent {
            (self.read_in)(&(pushed.start * PAGE..pushed.end * PAGE));
        }
        let result = self.push_if_allowed(index, snapshot, view, &pushed);
        Step::Pushed(pushed, result)
    }

    /// See [`Pusher::aside`].
    fn aside<T>(&self, act: impl FnOnce() -> T) -> T {
        let (mut act, mut result) = (Some(act), None);
        (self.aside)(&mut || result = act.take().map(|act| act()));
        // The work is done exactly once.
        result.unwrap_or_else(|| raw::abort())
    }

    /// [`Table::retire_with_mapper`], which reads files of /proc.
    fn is_gone(&self, index: u32, view: &View) -> bool {
        self.aside(|| self.table.retire_with_mapper(index, view))
    }

    /// Does what `request` asks in a snapshot of the calling process, to its end.
    fn handle_here(&self, request: &Request) -> bool {
        loop {
            match self.aside(|| self.local_preserver().handle(request)) {
                Handled::InPart => {}
                handled => return handled == Handled::Done,
            }
        }
    }

    fn start(&self, view: &View) -> Progress {
        let time = MapperTime::new(self.timeout, Some(view.extent.pages));
        // An agent is asked for what is needed alone.
        let goes_ahead = self.mode != PushMode::Agent;
        Progress { time, backoff: Backoff::default(), failures: 0, goes_ahead, done: 0 }
    }

    /// Pushes, where the writer itself may and the mapper is not changing the mapping.
    fn push_if_allowed(
        &self,
        index: u32,
        snapshot: &Snapshot,
        view: &View,
        pages: &Range<u64>,
    ) -> Result<u64, NotPushed> {
        match self.mode {
            _ if view.head.is_changing() => Err(NotPushed::Moved),
            PushMode::Agent => Err(NotPushed::Refused),
            PushMode::Auto | PushMode::Direct | PushMode::Alone => self.push(index, snapshot, view, pages),
        }
    }

    /// Why pushing has failed for good; `None` after a pause: it is to be tried again.
    ///
    /// The kernel can fail for a moment: while a page is migrated, or while the mapper is on its way out, its memory gone before it
    /// is known to be dead. Where an agent can be asked, the wait for its answer finds that out.
    fn reason_after_retries(&self, why: &NotPushed, index: u32, view: &View, progress: &mut Progress) -> Option<Cause> {
        let (is_over, reason) = match why {
            NotPushed::Moved => (progress.time.is_exhausted(), Cause::MapperBusy),
            NotPushed::Nothing => (progress.failures >= RETRIES, Cause::NoCopy),
            NotPushed::Refused => (progress.failures >= RETRIES || self.may_ask(view), Cause::NoAccess),
        };
        if is_over {
            return Some(reason);
        }
        progress.backoff.pause();
        match why {
            NotPushed::Moved if progress.backoff.is_sleeping() => _ = self.is_gone(index, view),
            NotPushed::Moved => {}
            NotPushed::Nothing | NotPushed::Refused => progress.failures += 1,
        }
        None
    }

    /// Has the mapper's agent preserve what this thread could not, for `reason`. Where that fails too, the policy decides.
    fn preserve_by_agent(
        &self,
        index: u32,
        view: &View,
        missing: &Range<u64>,
        reason: Cause,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        if self.is_gone(index, view) {
            return Ok(());
        }
        let may_answer = reason != Cause::MapperBusy;
        if may_answer
            && self.may_ask(view)
            && self.ask_agent(view, preserve_task(index, view.head.incarnation(), missing))
        {
            // The agent answers for the segment as it is by now. What was split off is found by walking again.
            if self.table.view(index).is_some_and(|now| is_same_place(&now, view)) {
                progress.done = missing.end;
            }
            return Ok(());
        }
        let is_truncated = may_answer && self.is_truncated_before(missing.start);
        if self.has_moved(index, view) {
            return Ok(());
        }
        self.give_up(index, view, if is_truncated { Cause::PagesGone } else { reason })
    }

    /// Whether the mapper's agent may be asked.
    fn may_ask(&self, view: &View) -> bool {
        match self.mode {
            PushMode::Auto | PushMode::Agent => true,
            PushMode::Direct => view.flags.contains(SERVED),
            PushMode::Alone => false,
        }
    }

    /// Whether the origin ends before page `page`, which a snapshot shows that still lies on the file. A cooperating process has
    /// snapshots moved off the pages that it takes away, so the caller looks afterwards whether this one still lies there
    /// ([`Self::has_moved`]).
    fn is_truncated_before(&self, page: u64) -> bool {
        (self.size)().is_some_and(|size| size.div_ceil(PAGE) <= page)
    }

    /// Whether the segment has left the file since `view`, in part or wholly, or has been split. Then what failed is tried again.
    fn has_moved(&self, index: u32, view: &View) -> bool {
        let now = self.table.view(index);
        now.is_none_or(|now| now.is_relocated() != view.is_relocated() || !is_same_place(&now, view))
    }

    /// Whether the mapper can hold so many pages more and live.
    fn has_room(&self, view: &View, pages: u64) -> bool {
        self.table.owner(view.meta.owner).is_none_or(|(_, _, id)| self.headroom.allows(id, pages))
    }

    /// `missing`, which has to be preserved, and behind `range` some pages that seem to be next, follow on it, have no copy, and
    /// find room with the mapper. They take no room that another page of the segment may need: the mapper has room for all of it.
    fn with_ahead(
        &self,
        index: u32,
        view: &View,
        range: &Range<u64>,
        missing: &Range<u64>,
        goes_ahead: bool,
    ) -> Range<u64> {
        let covered = view.covered_pages();
        let most = covered.end.min(missing.start + RUN);
        if !goes_ahead || missing.end != Table::touched(view, range).end || missing.end >= most {
            return missing.clone();
        }
        let end = missing.end.saturating_add((self.ahead)()).min(most);
        let has_plenty = |(_, _, id)| self.headroom.had_room(id, covered.end - covered.start);
        if end == missing.end || !self.table.owner(view.meta.owner).is_some_and(has_plenty) {
            return missing.clone();
        }
        let base = view.meta.base;
        let pool = self.table.blocks_for(index);
        let next = self.table.bits(&pool, view).first_missing(missing.end - base..end - base);
        let follows =
            |next: &Range<u64>| next.start + base == missing.end && self.has_room(view, next.end - next.start);
        next.filter(follows).map_or_else(|| missing.clone(), |next| missing.start..next.end + base)
    }

    /// Pushes `pages` into a snapshot. How many are preserved, from the first on.
    fn push(&self, index: u32, snapshot: &Snapshot, view: &View, pages: &Range<u64>) -> Result<u64, NotPushed> {
        let Some((_, process, id)) = self.table.owner(view.meta.owner) else { return Err(NotPushed::Moved) };
        if process.cookie(id).is_none() {
            // A child that was just forked: it can be reached in a moment.
            return Err(NotPushed::Moved);
        }
        let is_local = self.own.is(view.meta.owner);
        if is_local && !self.own_ranges.contains(&(view.extent.address..view.extent.end())) {
            // Another thread gives a snapshot up, or moves it, while its generation is odd. A child that was forked meanwhile has
            // none.
            if !snapshot.is_still(view.head) || !self.own.is_here() {
                return Err(NotPushed::Moved);
            }
            self.table.declare_damaged();
            return Err(NotPushed::Refused);
        }
        if view.flags.contains(SERVED) && process.agent(id) != Agent::Thread(raw::own_tid()) {
            // Its agent may wait in the kernel for the page. This thread may wait for the agent, but not in the kernel, where it
            // might wait for ever.
            return Err(NotPushed::Refused);
        }
        let by_bytes = !unshare::is_writable(view.extent.protection);
        // No handler may come in between (signals are blocked, see `aside`): a mapper that changes the snapshot waits for this
        // frame, and a handler's write, in a frame above this one, would wait for that mapper.
        self.frame.start_pushing(index, by_bytes);
        let pushed = if process.executing.is_under_way(id) {
            // Its agent may preserve as long as the image lasts, and no other process may afterwards.
            if self.may_ask(view) { Err(NotPushed::Refused) } else { Err(NotPushed::Moved) }
        } else if snapshot.is_still(view.head) {
            let mapper = unshare::Mapper { id, process, is_local };
            self.push_announced(index, snapshot, view, pages, &mapper)
        } else {
            Err(NotPushed::Moved)
        };
        self.frame.stop_pushing();
        pushed
    }

    fn push_announced(
        &self,
        index: u32,
        snapshot: &Snapshot,
        view: &View,
        pages: &Range<u64>,
        mapper: &unshare::Mapper<'_>,
    ) -> Result<u64, NotPushed> {
        let address = view.address_of(pages.start);
        let count = pages.end - pages.start;
        let protection = view.extent.protection;
        let (access, private) = if protection == Extent::PROTECTION_UNKNOWN || unshare::is_writable(protection) {
            let access = mapper.unshare(address, count, protection, self.unreadable);
            (access, verify::private_pages(mapper.id, mapper.thread(), address, count, self.proc_fds))
        } else {
            (Ok(()), mapper.store_same_bytes(address, count, self.proc_fds))
        };
        // The second look: what was verified is the snapshot only if the mapper changed nothing meanwhile, and if this process was
        // still the mapper.
        if !snapshot.is_still(view.head) || mapper.is_local && !self.own.is_here() {
            return Err(NotPushed::Moved);
        }
        match private {
            Ok(0) if access.is_err() => Err(NotPushed::Refused),
            Ok(0) => Err(NotPushed::Nothing),
            Ok(private) => {
                record(self.table, index, view, pages.start..pages.start + private);
                Ok(private)
            }
            Err(_) => Err(NotPushed::Refused),
        }
    }

    /// Has the mapper's agent do what `request` asks. True once it is done and verified.
    fn ask_agent(&self, view: &View, request: Request) -> bool {
        let Some((_, process, id)) = self.table.owner(view.meta.owner) else {
            return self.is_gone(request.snapshot, view);
        };
        if self.is_gone_before_its_agent(process, id, || self.is_gone(request.snapshot, view)) {
            return true;
        }
        if !matches!(process.agent(id), Agent::Thread(_)) {
            return false;
        }
        let ask = || {
            let number = self.slot.ask(request);
            process.ring();
            number
        };
        let pages = || self.table.snapshot(request.snapshot).and_then(Snapshot::view).map(|view| view.extent.pages);
        let (mut number, mut time) = (ask(), MapperTime::new(self.timeout, pages()));
        loop {
            time.note(pages());
            match self.slot.look_for_answer(number) {
                Answer::Done => return true,
                Answer::Failed => return false,
                Answer::Lost | Answer::Asked if time.is_exhausted() => {
                    self.slot.withdraw_request(number);
                    return self.slot.look_for_answer(number) == Answer::Done;
                }
                Answer::Lost => number = ask(),
                Answer::Asked => {
                    if let Some(is_done) = self.sleep_unanswered(view, &request, number) {
                        return is_done;
                    }
                }
            }
        }
    }

    /// Waits until a process that was just forked has an agent, or says that it has none. True: it is gone.
    fn is_gone_before_its_agent(&self, process: &Process, id: ProcessId, is_gone: impl Fn() -> bool) -> bool {
        let mut budget = TimeBudget::of(self.timeout);
        let mut backoff = Backoff::default();
        while process.agent(id) == Agent::NotYet && !budget.is_exhausted() {
            backoff.pause();
            // The agent may not have been there when the image was replaced.
            if backoff.is_sleeping() && is_gone() {
                return true;
            }
        }
        false
    }

    /// Sleeps a while for the answer to request `number`. `Some`: no answer will come, and whether that is as good as done.
    fn sleep_unanswered(&self, view: &View, request: &Request, number: u32) -> Option<bool> {
        let (futex, seen) = self.slot.request_futex(number);
        futex::wait(futex, seen, Duration::from_millis(20));
        if self.table.is_damaged() {
            return Some(false);
        }
        let is_over = || {
            let now = self.table.snapshot(request.snapshot).map(Snapshot::head);
            now.is_none_or(|head| head.incarnation() != request.incarnation || !head.wants_pages())
        };
        let is_unanswered = self.slot.look_for_answer(number) == Answer::Asked;
        let is_moot = is_unanswered && (is_over() || self.is_gone(request.snapshot, view));
        if is_moot {
            self.slot.withdraw_request(number);
        }
        is_moot.then_some(true)
    }

    /// The page cannot be preserved: the policy decides between origin and snapshot.
    fn give_up(&self, index: u32, view: &View, reason: Cause) -> Result<(), Failure> {
        let pid = self.table.owner(view.meta.owner).map_or(0, |(_, _, id)| id.pid());
        // Its mapper may have died, or given the snapshot up, only just now.
        let is_over = self.is_over(index, view);
        self.trust_table()?;
        if is_over {
            return Ok(());
        }
        let is_lost = reason == Cause::PagesGone;
        if is_lost && let Some(snapshot) = self.table.snapshot(index) {
            snapshot.mark(view.head.incarnation(), Worth::Doubtful(reason));
        }
        // No policy brings back pages that are gone.
        if (is_lost || self.on_failure == OnFailure::BreakSnapshot) && self.break_mapping(index, view, reason) {
            if !self.is_over(index, view) {
                self.aside(|| self.report.broken(pid, view.meta.origin, reason));
            }
            return Ok(());
        }
        Err(Failure { pid, reason })
    }

    /// Whether the snapshot has ended with its mapper, or before.
    fn is_over(&self, index: u32, view: &View) -> bool {
        self.is_gone(index, view)
            || self.table.view(index).is_none_or(|now| now.head.incarnation() != view.head.incarnation())
    }

    /// Makes the snapshot fault in its mapper, because of `cause`. False: that could not be made to take effect. A guarded mapping
    /// has nothing to break.
    pub fn break_mapping(&self, index: u32, view: &View, cause: Cause) -> bool {
        if view.is_guarded() {
            return true;
        }
        let incarnation = view.head.incarnation();
        let request = Request { snapshot: index, incarnation, task: Task::Break, first: cause.code(), count: 0 };
        if self.own.may_change(view.meta.owner) { self.handle_here(&request) } else { self.ask_agent(view, request) }
    }
}

/// Whether every snapshot of `origin` has its own copy of what `bytes` touches: nothing is left to do for a change of them. It
/// takes little stack.
#[must_use]
pub fn is_preserved(table: &Table, origin: Origin, bytes: &Range<u64>) -> bool {
    let is_left = |index: &u32| {
        table.has_wanting(*index, origin, |view| !view.is_guarded() && missing(table, *index, view, bytes, 0).is_some())
    };
    !table.is_damaged() && table.find_over_splits(|walk| walk.perhaps_of(origin).find(is_left)).is_none()
}

/// Whether a segment is of that incarnation, lies on its file, and is a snapshot. One that has been moved off shows what it showed.
fn is_to_be_kept(view: &View, incarnation: u32) -> bool {
    view.head.incarnation() == incarnation && view.head.wants_pages() && !view.is_relocated() && !view.is_guarded()
}

/// The first pages of the range, from `done` on, that still have to be preserved; at most one push.
fn missing(table: &Table, index: u32, view: &View, range: &Range<u64>, done: u64) -> Option<Range<u64>> {
    let pages = Table::touched(view, range);
    let pages = pages.start.max(done)..pages.end;
    let base = view.meta.base;
    let pool = table.blocks_for(index);
    let bits = table.bits(&pool, view);
    let missing = bits.first_missing(pages.start.saturating_sub(base)..pages.end.saturating_sub(base))?;
    Some(missing.start + base..missing.end.min(missing.start + RUN) + base)
}

/// Whether a segment shows what it showed before.
fn is_same_place(now: &View, before: &View) -> bool {
    let place = |view: &View| (view.head.incarnation(), view.extent.first, view.extent.pages);
    place(now) == place(before)
}

fn preserve_task(index: u32, incarnation: u32, pages: &Range<u64>) -> Request {
    Request { snapshot: index, incarnation, task: Task::Preserve, first: pages.start, count: pages.end - pages.start }
}
