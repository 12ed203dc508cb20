//! The path of a call that changes a file through a descriptor: announce, preserve, make the real call, clear.

use core::cell::OnceCell;
use core::ops::Range;

use rustix::fs::{AtFlags, FileType, StatxFlags, statx};
use snapshim::cooperate::locate::target_of_descriptor;
use snapshim::preserve::policy::{Failure, OnFailure};
use snapshim::preserve::{self, Mutation, Pusher};
use snapshim::protocol::cause::Cause;
use snapshim::protocol::gate::{Call, CallFrame, Entry};
use snapshim::protocol::origin::{Origin, Target};
use snapshim::protocol::snapshot::View;
use snapshim::sys::{permission, raw};
use snapshim::table::{self, Table};
use syscalls::Sysno;

use super::reach::reach_of;
use super::report::{LogReporter, refuse};
use super::sequence;
use super::slot::{clear, enter, pusher, seat_for};
use super::touch::Touch;
use crate::address_space::freeze::Freezer;
use crate::base::{own_stacks, stack_pointer};
use crate::interpose::answer::fail;
use crate::process::log::{Level, Program, say};
use crate::process::thread::{self, Thread};
use crate::process::{descriptors, membership};

/// Makes `call`, which changes `touch` of the file behind `descriptor`, after what snapshots need of that has been preserved.
///
/// `call` returns how many bytes it wrote, 0 if it does not say, and a negative number if it failed.
///
/// Holds nothing that needs dropping while the real call runs.
#[inline]
pub fn through_gate(descriptor: i32, touch: impl Touch, call: impl Fn() -> isize) -> isize {
    let stack = stack_pointer::stack_pointer();
    match thread::take_first(stack).or_else(|| thread::claim_first(stack)) {
        Some(thread) => through_gate_in(&thread, (&[], thread.first_frame()), descriptor, &touch, &call),
        None => through_gate_nested(descriptor, &touch, &call),
    }
}

/// The same for a call that interrupts another, or whose thread can have no slot.
#[cold]
fn through_gate_nested(descriptor: i32, touch: &impl Touch, call: &impl Fn() -> isize) -> isize {
    match seat_for(call) {
        Ok(seat) => through_gate_in(&seat.thread, seat.frames(), descriptor, touch, call),
        Err(Some(result)) => result,
        Err(None) => fail(libc::ENOSPC),
    }
}

/// Makes `call`, which finds the file that it changes by a path, as the program made it, if no snapshot exists or is being made
/// anywhere. A creation that begins meanwhile waits for the call. `None`: the call has not been made.
///
/// Holds nothing that needs dropping while the call runs.
#[inline]
pub fn while_unused(call: impl Fn() -> isize) -> Option<isize> {
    match thread::take_first(stack_pointer::stack_pointer()) {
        Some(thread) => while_unused_in(&thread, (&[], thread.first_frame()), &call),
        None => match seat_for(&call) {
            Ok(seat) => while_unused_in(&seat.thread, seat.frames(), &call),
            Err(made) => made,
        },
    }
}

#[inline(always)]
fn while_unused_in(
    thread: &Thread,
    (outer, frame): (&[CallFrame], &CallFrame),
    call: &impl Fn() -> isize,
) -> Option<isize> {
    membership::check_table_now_and_then(&thread.own);
    let announcement = thread.own.table.gate().enter_unused(frame, outer)?;
    let result = call();
    clear(thread, frame, announcement);
    Some(result)
}

/// Does what [`through_gate`] does in a frame that is taken, behind those of calls that this one may have interrupted.
#[inline(always)]
fn through_gate_in(
    thread: &Thread,
    (outer, frame): (&[CallFrame], &CallFrame),
    descriptor: i32,
    touch: &impl Touch,
    call: &impl Fn() -> isize,
) -> isize {
    membership::check_table_now_and_then(&thread.own);
    let descriptors_seen = thread.record.map_or(0, |record| record.descriptors_for_call(descriptor as u32));
    let mut about = Call { descriptor: descriptor as u32, descriptors_seen, target: touch.known_target() };
    if descriptors::are_obscure() {
        about = looked_up(about, touch);
    }
    enter(thread, (outer, frame), about, touch, |entry| match entry {
        Entry::Free | Entry::Elsewhere => watch_descriptor(thread, frame, &about, None, call()),
        Entry::Origin(origin) => {
            let result = change_origin(thread, frame, descriptor, origin, touch, call);
            watch_descriptor(thread, frame, &about, Some(origin), result)
        }
        Entry::Anywhere => change_anywhere(thread, frame, touch, call),
    })
}

/// The same call where no other process can tell where its descriptor leads. It says so itself, for creations that come while it is
/// under way. The descriptor is looked up after its count was read, so a change in between is found after the call.
#[cold]
fn looked_up(about: Call, touch: &impl Touch) -> Call {
    let target = match about.target {
        Target::Unknown => touch.target(about.descriptor),
        known => known,
    };
    Call { target, descriptors_seen: descriptors::generation_for_call(about.descriptors_seen), ..about }
}

/// Checks, after the call, that the descriptor's number led to the same file all the time: another thread may have put another file
/// under it. `seen`: the origin that was preserved for.
#[inline]
fn watch_descriptor(thread: &Thread, frame: &CallFrame, about: &Call, seen: Option<Origin>, result: isize) -> isize {
    let is_same = thread.record.is_none_or(|record| record.descriptors(about.descriptor) == about.descriptors_seen);
    if (!is_same || frame.is_relied_on()) && result >= 0 {
        doubt_if_replaced(thread, frame, about, seen);
    }
    result
}

/// Breaks the snapshots of the file that the number leads to now, if that is another origin than was preserved for.
///
/// Where a creation relied on where the number led, and the number has come to mean another file more than once since, a file that
/// it meant in between may have been written: every snapshot is doubtful then.
#[cold]
fn doubt_if_replaced(thread: &Thread, frame: &CallFrame, about: &Call, seen: Option<Origin>) {
    let descriptor = about.descriptor;
    let replacements = thread.record.and_then(|record| record.replacements_of(descriptor, about.descriptors_seen));
    if frame.is_relied_on() && replacements.is_some_and(|count| (2..1 << 31).contains(&count)) {
        return log_doubted_by_unknown_target(thread.own.table.doubt_every_snapshot(Cause::UnknownTarget));
    }
    let now = match target_of_descriptor(descriptor) {
        Target::Origin(now) => now,
        Target::Elsewhere => return,
        Target::Unknown => {
            return log_doubted_by_unknown_target(thread.own.table.doubt_every_snapshot(Cause::UnknownTarget));
        }
    };
    if seen != Some(now) && thread.own.table.is_origin_in_use(now) {
        break_after_the_fact(thread, frame, now);
    }
}

/// Makes a call that changes `origin`, after the gate has let it pass.
#[cold]
fn change_origin(
    thread: &Thread,
    frame: &CallFrame,
    descriptor: i32,
    origin: Origin,
    touch: &impl Touch,
    call: &impl Fn() -> isize,
) -> isize {
    if thread.own.leaves_damaged() || !thread.own.table.is_origin_in_use(origin) {
        return call();
    }
    thread.own.table.note_change(origin);
    if let Some(from) = touch.truncates_from() {
        return make_way_or_refuse(thread, frame, descriptor, origin, &Mutation::Truncate(from)).unwrap_or_else(call);
    }
    if permission::forbids_any(FINDING_REACH) {
        return change_without_reach(thread, frame, descriptor, origin, touch, call);
    }
    let reach = reach_of(thread, frame, descriptor, origin, touch);
    let ahead = sequence::pages_ahead(origin, &reach.bytes);
    let is_open = preserve::is_preserved(thread.own.table, origin, &reach.bytes)
        || make_way_aside(thread, frame, descriptor, origin, &reach.bytes, ahead);
    if !is_open && let Some(refused) = make_way_for_bytes(thread, frame, descriptor, origin, &reach.bytes) {
        return refused;
    }
    let result = call();
    if result > 0 && !reach.stayed_within(thread, descriptor, result as u64) {
        break_after_the_fact(thread, frame, origin);
    }
    result
}

/// [`make_way_or_refuse`] for a change of `bytes`, where [`make_way_aside`] did not go to the end.
#[cold]
#[inline(never)]
fn make_way_for_bytes(
    thread: &Thread,
    frame: &CallFrame,
    descriptor: i32,
    origin: Origin,
    bytes: &Range<u64>,
) -> Option<isize> {
    make_way_or_refuse(thread, frame, descriptor, origin, &Mutation::Bytes(bytes.clone()))
}

/// [`make_way`]; what the call returns if it is refused.
fn make_way_or_refuse(
    thread: &Thread,
    frame: &CallFrame,
    descriptor: i32,
    origin: Origin,
    mutation: &Mutation,
) -> Option<isize> {
    match make_way(thread, frame, descriptor, origin, mutation) {
        Err(failure) if !thread.own.leaves_damaged() => Some(refuse(origin, &failure)),
        _ => None,
    }
}

/// Preserves `bytes`, as far as it goes at once, and `ahead` pages behind them. False: it has to be done by [`make_way`].
///
/// What takes much stack is done on one of the shim's own: the caller may be a handler on a small alternate stack.
#[inline(never)]
fn make_way_aside(
    thread: &Thread,
    frame: &CallFrame,
    descriptor: i32,
    origin: Origin,
    bytes: &Range<u64>,
    ahead: u64,
) -> bool {
    let mut is_made = false;
    own_stacks::aside(&mut || {
        // Each snapshot asks.
        let may_go = OnceCell::new();
        let ahead = || {
            let goes = || ahead > 0 && (origin.is_block_device() || has_no_holes(descriptor));
            if *may_go.get_or_init(goes) { ahead } else { 0 }
        };
        let (size, read_in) = (|| size_behind(descriptor), |bytes: &Range<u64>| read_in(descriptor, bytes));
        let pusher = Pusher { size: &size, read_in: &read_in, ahead: &ahead, ..pusher(thread, frame) };
        is_made = pusher.make_way_at_once(origin, bytes);
    });
    is_made
}

/// Preserves for `mutation`, and waits for mappers and their agents where that is needed.
#[inline(never)]
fn make_way(
    thread: &Thread,
    frame: &CallFrame,
    descriptor: i32,
    origin: Origin,
    mutation: &Mutation,
) -> Result<(), Failure> {
    let (size, read_in) = (|| size_behind(descriptor), |bytes: &Range<u64>| read_in(descriptor, bytes));
    Pusher { size: &size, read_in: &read_in, ..pusher(thread, frame) }.make_way(origin, mutation)
}

/// The calls that find out where the bytes of a write can land, and have landed.
const FINDING_REACH: &[Sysno] = &[Sysno::lseek, Sysno::fcntl, Sysno::statx, Sysno::fadvise64];

/// Makes a call of a process that may not ask where its bytes go: all that they can change is preserved.
#[cold]
fn change_without_reach(
    thread: &Thread,
    frame: &CallFrame,
    descriptor: i32,
    origin: Origin,
    touch: &impl Touch,
    call: &impl Fn() -> isize,
) -> isize {
    // An append touches no page that is not preserved (`reach_of`).
    let bytes = match touch.offset().map(u64::try_from) {
        Some(Ok(start)) => start..start.saturating_add(touch.length()),
        // The kernel refuses a negative offset.
        Some(Err(_)) => 0..0,
        None => 0..u64::MAX,
    };
    make_way_or_refuse(thread, frame, descriptor, origin, &Mutation::Bytes(bytes)).unwrap_or_else(call)
}

/// Makes a call of which the kernel does not say which file it changes. What the call may change is preserved in every snapshot. A
/// snapshot in which that fails becomes doubtful, and is not broken: the call may change another file.
#[cold]
fn change_anywhere(thread: &Thread, frame: &CallFrame, touch: &impl Touch, call: &impl Fn() -> isize) -> isize {
    let table = thread.own.table;
    let mutation = match (touch.truncates_from(), touch.offset().map(u64::try_from)) {
        (Some(from), _) => Some(Mutation::Truncate(from)),
        (None, Some(Ok(start))) => Some(Mutation::Bytes(start..start.saturating_add(touch.length()))),
        // The kernel refuses a negative offset.
        (None, Some(Err(_))) => Some(Mutation::Bytes(0..0)),
        // The bytes go to a file position, which is not known either.
        (None, None) => None,
    };
    let pusher = Pusher { on_failure: OnFailure::FailWrite, ..pusher(thread, frame) };
    let mut doubted = 0;
    table.over_splits(|walk| {
        for (index, view) in walk.live().filter(|(_, view)| view.head.wants_pages()) {
            table.note_change(view.meta.origin);
            let is_kept = mutation.as_ref().is_some_and(|mutation| pusher.make_way(view.meta.origin, mutation).is_ok());
            let incarnation = view.head.incarnation();
            doubted += usize::from(!is_kept && table::doubt(table, index, incarnation, Cause::UnknownTarget));
        }
    });
    log_doubted_by_unknown_target(doubted);
    call()
}

#[cold]
fn log_doubted_by_unknown_target(doubted: usize) {
    if doubted > 0 {
        say!(
            Level::Warn,
            "{doubted} snapshots are doubtful from now on: {}",
            Cause::UnknownTarget.of(Program(raw::own_pid())).in_full()
        );
    }
}

/// The size of a regular file. It asks for no times: see [`snapshim::cooperate::locate::target_of_descriptor`].
pub fn size_behind(descriptor: i32) -> Option<u64> {
    if permission::forbids(Sysno::statx) {
        return None;
    }
    let file = raw::borrow(descriptor as u32);
    let found = statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::TYPE | StatxFlags::SIZE).ok()?;
    let is_file = FileType::from_raw_mode(found.stx_mode.into()) == FileType::RegularFile;
    is_file.then_some(found.stx_size)
}

/// Whether all of the file is allocated. Where it is not, pages ahead could be holes: their copies would take memory, and on tmpfs
/// the fault that makes one allocates a page of the file (shmem_get_folio_gfp, mm/shmem.c).
fn has_no_holes(descriptor: i32) -> bool {
    /// Bytes in the unit of `stx_blocks` (statx(2)).
    const UNIT: u64 = 512;
    let wanted = StatxFlags::SIZE | StatxFlags::BLOCKS;
    let found = statx(raw::borrow(descriptor as u32), c"", AtFlags::EMPTY_PATH, wanted);
    found.is_ok_and(|found| found.stx_blocks.saturating_mul(UNIT) >= found.stx_size)
}

/// Has the kernel read `bytes` from the disk, by posix_fadvise(2): a descriptor that is open for writing only is enough.
pub fn read_in(descriptor: i32, bytes: &Range<u64>) {
    let length = core::num::NonZeroU64::new(bytes.end - bytes.start);
    let _ = rustix::fs::fadvise(raw::borrow(descriptor as u32), bytes.start, length, rustix::fs::Advice::WillNeed);
}

/// Breaks the snapshots of an origin after a write that may have landed outside the preserved bytes.
#[cold]
#[inline(never)]
fn break_after_the_fact(thread: &Thread, frame: &CallFrame, origin: Origin) {
    let (table, pusher) = (thread.own.table, pusher(thread, frame));
    table.over_splits(|walk| {
        let snapshots = walk.of(origin).filter(|(_, view)| !view.is_guarded());
        snapshots.for_each(|(index, view)| break_one(table, &pusher, index, &view));
    });
}

fn break_one(table: &Table, pusher: &Pusher<'_, LogReporter, Freezer>, index: u32, view: &View) {
    if !pusher.break_mapping(index, view, Cause::WentElsewhere) {
        table::doubt(table, index, view.head.incarnation(), Cause::WentElsewhere);
    }
    let pid = table.owner(view.meta.owner).map_or(0, |(_, _, id)| id.pid());
    say!(
        Level::Warn,
        "{}'s snapshot of {} is no longer exact: {}",
        Program(pid),
        view.meta.origin,
        Cause::WentElsewhere.of(format_args!("while process {} wrote,", raw::own_pid())).in_full()
    );
}
