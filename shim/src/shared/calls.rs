//! The application's own calls on shared mappings: mmap, munmap, mprotect, mremap and madvise.

use core::ffi::c_void;
use core::ops::Range;
use core::sync::atomic::Ordering;

use rustix::io::Errno;
use rustix::mm::MremapFlags;
use snapshim::PAGE;
use snapshim::cooperate::locate::target_of_descriptor;
use snapshim::preserve::policy::Failure;
use snapshim::protocol::origin::{Origin, Target};
use snapshim::sys::signal_block;

use super::fault;
use super::list::{self, Entry, FaultHistory, List, Writing};
use super::protection::{self, armed, describe, set_protection};
use crate::address_space::lock::{self, Mappings};
use crate::base::config::config;
use crate::base::mmap_call::Mmap;
use crate::base::user_memory;
use crate::process::identity::ThisProcess;
use crate::process::membership;
use crate::writer::announced::{Announced, announced, announced_holding};

/// The origin that a call of mmap(2) would map shared; `None` if it maps none.
#[inline]
pub fn origin_shared(mmap: &Mmap) -> Option<Origin> {
    const ANONYMOUS_OR_TYPE: i32 = libc::MAP_ANONYMOUS | libc::MAP_SHARED_VALIDATE;
    let is_shared = matches!(mmap.flags & ANONYMOUS_OR_TYPE, libc::MAP_SHARED | libc::MAP_SHARED_VALIDATE);
    if !is_shared || mmap.descriptor < 0 || mmap.length == 0 || config().is_disabled {
        return None;
    }
    match target_of_descriptor(mmap.descriptor as u32) {
        Target::Origin(origin) => Some(origin),
        Target::Elsewhere => None,
        // Stores through the mapping would not be seen.
        Target::Unknown => {
            membership::stay_unseen();
            None
        }
    }
}

/// mmap(2) of `origin`, shared. `be_ready` sees to it that the mapping can be armed for later snapshots.
pub fn map(mmap: &Mmap, origin: Origin, be_ready: &dyn Fn(&ThisProcess, Origin)) -> Result<*mut c_void, Errno> {
    let own = match membership::join() {
        Ok(own) => own,
        Err(_) if membership::note_unseen_mapping() => return mmap.call(),
        Err(_) => membership::join()?,
    };
    let start = mmap.address as u64;
    // The kernel refuses an address at which no page begins, and replaces nothing there.
    let replaces = mmap.replaces() && start.is_multiple_of(PAGE);
    let target = if replaces { start..start.saturating_add(mmap.pages().saturating_mul(PAGE)) } else { 0..0 };
    let is_writable = mmap.protection & libc::PROT_WRITE != 0;
    if is_writable {
        be_ready(&own, origin);
    }
    let call = |mappings: &Mappings, announced: Option<&Announced<'_>>| {
        let is_armed = is_writable && announced.is_some_and(Announced::is_in_use);
        mappings.replace(&target, || {
            let mut list = list_with_room(&target)?;
            note_changes(&own, &list, &target);
            let at = if is_armed { map_armed(mmap, &target)? } else { mmap.call()? };
            let range = at as u64..at as u64 + mmap.pages() * PAGE;
            let (first, protection, history) = (mmap.offset as u64 / PAGE, mmap.protection, FaultHistory::default());
            let mut entry = Entry { range, first, origin, protection, is_inherited: true, history };
            // Another thread may have put another file under the number. No thread knows the mapping yet, so it can still be armed
            // before the first store.
            if let Target::Origin(now) = target_of_descriptor(mmap.descriptor as u32)
                && now != origin
            {
                entry.origin = now;
                if is_writable && fault::install() {
                    protection::arm_entry(&entry)?;
                }
            }
            list.add(entry);
            describe(&own, &list);
            Ok(at)
        })
    };
    act_under_lock(own, origin, call)
}

/// Does `act` announced. ENOMEM also says that the table has no slot for it although snapshots exist.
fn act_announced<T>(origin: Origin, act: impl Fn(Option<&Announced<'_>>) -> Result<T, Errno>) -> Result<T, Errno> {
    announced(origin, act).map_err(|_| Errno::NOMEM)?
}

/// The same with the lock over the mappings, which no thread holds while it waits for a creation: the creation may need it.
///
/// Signals are blocked meanwhile as well: a handler that forked would have the call go on in the child, for the parent's record.
fn act_under_lock<T>(
    own: ThisProcess,
    origin: Origin,
    act: impl Fn(&Mappings, Option<&Announced<'_>>) -> Result<T, Errno>,
) -> Result<T, Errno> {
    let _signals = signal_block::SignalsBlocked::new();
    announced_holding(origin, || lock::hold(own), act).map_err(|_| Errno::NOMEM)?
}

/// The list, held alone, with room for what a change of `range` may add.
fn list_with_room(range: &Range<u64>) -> Result<Writing, Errno> {
    let mut list = list::write();
    let more = list.touching(range).count() + 2;
    if list.reserve(more) { Ok(list) } else { Err(Errno::NOMEM) }
}

/// Counts a change for each writable mapping that is about to go. Stores through it may still move the file's time of
/// modification, and the next observation would take that for a foreign change.
fn note_changes(own: &ThisProcess, list: &List, range: &Range<u64>) {
    let going = list.touching(range).filter(|entry| entry.is_writable());
    going.for_each(|entry| own.table.note_change(entry.origin));
}

/// Makes a mapping that no thread can store into before it is armed.
fn map_armed(mmap: &Mmap, target: &Range<u64>) -> Result<*mut c_void, Errno> {
    if !fault::install() {
        return Err(Errno::NOMEM);
    }
    // The mapping is armed at another address first. At the address that the application wants, another thread could store between
    // the two calls.
    let elsewhere = match target.is_empty() {
        true => *mmap,
        false => Mmap { address: core::ptr::null_mut(), flags: mmap.flags & !libc::MAP_FIXED, ..*mmap },
    };
    let at = elsewhere.call()?;
    let length = (mmap.pages() * PAGE) as usize;
    let finish = || {
        let read_only = rustix::mm::MprotectFlags::from_bits_retain(armed(mmap.protection) as u32);
        // SAFETY: the mapping was just made, and no other thread knows of it; the application asked for the target to be replaced.
        unsafe {
            rustix::mm::mprotect(at, length, read_only)?;
            match target.is_empty() {
                true => Ok(at),
                false => rustix::mm::mremap_fixed(at, length, length, MremapFlags::MAYMOVE, mmap.address),
            }
        }
    };
    finish().inspect_err(|_| {
        // SAFETY: the mapping is still known to this thread alone.
        let _ = unsafe { rustix::mm::munmap(at, length) };
    })
}

/// Does `call`, which unmaps `range`, and takes it out of the list.
pub fn take_away<T>(
    own: &ThisProcess,
    range: &Range<u64>,
    call: impl FnOnce() -> Result<T, Errno>,
) -> Result<T, Errno> {
    let first = next_part(range);
    let mut list = list_with_room(range)?;
    note_changes(own, &list, range);
    let result = call();
    // A call may unmap a part before it fails.
    if result.is_ok() || first.is_some_and(|(part, _)| !user_memory::is_mapped(part.start)) {
        list.carve(range);
        describe(own, &list);
    }
    result
}

/// mprotect(2) of a range that shared mappings touch: `call` changes one part of it.
///
/// As in the kernel, the parts come from the lowest address on, and the first that fails ends it. `be_ready` sees to
/// it that the parts can be armed for later snapshots.
pub fn protect(
    own: ThisProcess,
    range: &Range<u64>,
    protection: i32,
    call: &impl Fn(&Range<u64>, i32) -> Result<(), Errno>,
    be_ready: &dyn Fn(&ThisProcess, Origin),
) -> Result<(), Errno> {
    let mut at = range.start;
    while at < range.end {
        let left = at..range.end;
        let Some(origin) = origin_at(at) else {
            at = protect_between(&lock::hold(own), &left, protection, call)?;
            continue;
        };
        if protection & libc::PROT_WRITE != 0 {
            be_ready(&own, origin);
        }
        let act = |mappings: &Mappings, announced: Option<&Announced<'_>>| {
            // Another thread may have mapped something else there before the lock was taken.
            match next_part(&left).filter(|(part, there)| part.start == left.start && *there == origin) {
                Some((part, _)) => protect_part(mappings, announced, &part, protection, call).map(|()| part.end),
                None => Ok(left.start),
            }
        };
        at = act_under_lock(own, origin, act)?;
    }
    Ok(())
}

/// mprotect(2) of what lies in front of the next shared mapping, whose address is the result.
fn protect_between(
    mappings: &Mappings,
    range: &Range<u64>,
    protection: i32,
    call: &impl Fn(&Range<u64>, i32) -> Result<(), Errno>,
) -> Result<u64, Errno> {
    let between = range.start..next_part(range).map_or(range.end, |(part, _)| part.start);
    if !between.is_empty() {
        let known = protection & (libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC);
        mappings.protect(&between, known as u32, |allowed| call(allowed, protection))?;
    }
    Ok(between.end)
}

/// The first part of a range that lies in a shared mapping.
fn next_part(range: &Range<u64>) -> Option<(Range<u64>, Origin)> {
    let list = list::read();
    list.touching(range).next_back().map(|entry| (entry.part(range), entry.origin))
}

/// mprotect(2) of a part of one shared mapping.
fn protect_part(
    mappings: &Mappings,
    announced: Option<&Announced<'_>>,
    part: &Range<u64>,
    protection: i32,
    call: &impl Fn(&Range<u64>, i32) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let in_use = announced.filter(|announced| announced.is_in_use());
    // No store of a process that is about to be confined may trap. It is listed as unseen.
    let watched = in_use.filter(|_| protection & libc::PROT_WRITE != 0 && !list::is_sealed());
    if let Some(watched) = watched {
        make_way_for_first_page(watched, part)?;
    }
    let mut list = list_with_room(part)?;
    if watched.is_some() && !fault::install() {
        return Err(Errno::NOMEM);
    }
    let change = || {
        if watched.is_none() {
            return call(part, protection);
        }
        // The kernel refuses PROT_WRITE if the file may not be mapped so. It says that only if a page becomes writable, so the
        // first one does, for a moment.
        let first_page = part.start..part.start + PAGE;
        call(&first_page, protection)?;
        protection::note_arming();
        call(part, armed(protection))?;
        protection::request_scan();
        Ok(())
    };
    change().inspect_err(|_| take_back(&list, part, in_use.is_none()))?;
    note_changes(&mappings.own, &list, part);
    list.replace(part, |entry| Some(Entry { protection, ..entry }));
    describe(&mappings.own, &list);
    Ok(())
}

/// Gives a part back the protection that the list has for it: mprotect(2) may have changed some of it before it failed.
fn take_back(list: &List, part: &Range<u64>, is_open: bool) {
    for entry in list.touching(part) {
        if !is_open {
            // Relaxed: the list's lock orders it.
            entry.history.is_open.store(false, Ordering::Relaxed);
        }
        // This succeeds as far as the failed call came.
        let _ = set_protection(entry, &entry.part(part), is_open);
    }
}

/// Preserves what snapshots have of the part's first page.
fn make_way_for_first_page(watched: &Announced<'_>, part: &Range<u64>) -> Result<(), Errno> {
    let bytes = list::read().at(part.start).map(|entry| {
        let page = part.start..part.start + PAGE;
        entry.bytes(&page)
    });
    bytes.map_or(Ok(()), |bytes| watched.make_way(bytes)).map_err(|Failure { .. }| Errno::NOMEM)
}

/// The arguments of mremap(2).
pub struct Move {
    pub from: Range<u64>,
    /// The length that the application wants, whole pages.
    pub length: u64,
    pub flags: i32,
    /// The new range with MREMAP_FIXED; empty without.
    pub target: Range<u64>,
}

/// mremap(2) of what lies in a shared mapping of `origin`. `call` is the system call. `None`: there is no such mapping any more.
pub fn remap(
    own: ThisProcess,
    wanted: &Move,
    origin: Origin,
    call: &impl Fn() -> Result<*mut c_void, Errno>,
) -> Result<Option<*mut c_void>, Errno> {
    let act = |mappings: &Mappings, announced: Option<&Announced<'_>>| {
        if origin_in(&wanted.from) != Some(origin) {
            return Ok(None);
        }
        // As in `protect_part`.
        let is_in_use = announced.is_some_and(Announced::is_in_use) && !list::is_sealed();
        mappings.replace(&wanted.target, || {
            let mut list = list_with_room(&wanted.from)?;
            let more = list.touching(&wanted.from).chain(list.touching(&wanted.target)).count() + 4;
            if !list.reserve(more) {
                return Err(Errno::NOMEM);
            }
            note_changes(&mappings.own, &list, &wanted.target);
            make_one(&list, &wanted.from, |entry| is_in_use || entry.origin != origin)?;
            let at = call()?;
            note_move(&mut list, wanted, at as u64);
            describe(&mappings.own, &list);
            Ok(Some(at))
        })
    };
    act_under_lock(own, origin, act)
}

/// Makes a range one mapping of the kernel's, as mremap(2) wants it: all of a mapping is armed, or all of it is open.
fn make_one(list: &List, range: &Range<u64>, is_armed: impl Fn(&Entry) -> bool) -> Result<(), Errno> {
    let probe = range.start..range.end.max(range.start + 1);
    for entry in list.touching(&probe).filter(|entry| entry.is_writable()) {
        if !is_armed(entry) {
            set_protection(entry, &entry.range, true)?;
        } else if fault::install() {
            protection::arm_entry(entry)?;
        } else {
            return Err(Errno::NOMEM);
        }
    }
    Ok(())
}

/// Moves the entries of what was moved. That may be several mappings (since Linux 6.17); then the length stays.
fn note_move(list: &mut List, wanted: &Move, at: u64) {
    let Move { ref from, length, flags, .. } = *wanted;
    let new = at..at + length;
    if from.is_empty() {
        // With an old length of zero the old mapping stays, and a second one of the same pages is made.
        let Some(old) = list.at(from.start) else { return };
        let doubled = old.clip(from.start..from.start);
        return list.add(Entry { range: new, ..doubled });
    }
    if at == from.start {
        list.carve(&(new.end.min(from.end)..from.end));
    } else {
        list.carve(&new);
        // What lies behind a shorter length is unmapped first, and does not move.
        list.copy(&(from.start..from.end.min(from.start + length)), at);
        if flags & libc::MREMAP_DONTUNMAP == 0 {
            list.carve(from);
        }
    }
    list.stretch(at + (from.end - from.start), new.end);
}

/// remap_file_pages(2): `range` shows `origin` from page `first` on; `call` is the system call. `None`: there is no such mapping
/// any more.
pub fn show_other_pages(
    own: ThisProcess,
    range: &Range<u64>,
    first: u64,
    origin: Origin,
    call: &impl Fn() -> Result<(), Errno>,
) -> Result<Option<()>, Errno> {
    let act = |_: &Mappings, announced: Option<&Announced<'_>>| {
        if origin_in(range) != Some(origin) {
            return Ok(None);
        }
        let is_in_use = announced.is_some_and(Announced::is_in_use) && !list::is_sealed();
        let mut list = list_with_room(range)?;
        // The kernel gives the new mapping the protection of the old one.
        make_one(&list, range, |entry| is_in_use || entry.origin != origin)?;
        call()?;
        list.replace(range, |entry| Some(Entry { first: first + (entry.range.start - range.start) / PAGE, ..entry }));
        Ok(Some(()))
    };
    act_under_lock(own, origin, act)
}

/// The origin of the shared mapping at an address.
fn origin_at(address: u64) -> Option<Origin> {
    let _signals = signal_block::SignalsBlocked::new();
    list::read().at(address).map(|entry| entry.origin)
}

/// The origin of the first shared mapping in a range. For an empty range: of the mapping at its start.
pub fn origin_in(range: &Range<u64>) -> Option<Origin> {
    let _signals = signal_block::SignalsBlocked::new();
    next_part(&(range.start..range.end.max(range.start + 1))).map(|(_, origin)| origin)
}

/// madvise(2) by which the kernel changes bytes of the file behind `range` (MADV_REMOVE), or stores into the range
/// (MADV_POPULATE_WRITE): `call` does it to one part, announced.
///
/// As in the kernel, the parts come from the lowest address on. MADV_REMOVE passes over addresses where nothing is mapped, and
/// fails in the end.
pub fn changing(
    range: &Range<u64>,
    passes_over_gaps: bool,
    call: &impl Fn(&Range<u64>) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let _signals = signal_block::SignalsBlocked::new();
    let mut outcome = Ok(());
    let mut at = range.start;
    while at < range.end {
        let next = next_part(&(at..range.end)).filter(|(part, _)| part.start == at);
        let (end, result) = match next {
            Some((part, origin)) => (part.end, change_part(&part, origin, call)),
            None => {
                let end = next_part(&(at..range.end)).map_or(range.end, |(part, _)| part.start);
                (end, call(&(at..end)))
            }
        };
        match result {
            Err(Errno::NOMEM) if passes_over_gaps => outcome = result,
            result => result?,
        }
        at = end;
    }
    outcome
}

/// Does `call`, which changes the bytes behind one part, announced.
fn change_part(
    part: &Range<u64>,
    origin: Origin,
    call: &impl Fn(&Range<u64>) -> Result<(), Errno>,
) -> Result<(), Errno> {
    act_announced(origin, |announced| change_part_announced(announced, part, || call(part)))
}

/// Preserves what snapshots have of a part, opens it, and does `call`.
fn change_part_announced(
    announced: Option<&Announced<'_>>,
    part: &Range<u64>,
    call: impl FnOnce() -> Result<(), Errno>,
) -> Result<(), Errno> {
    if let Some(watched) = announced.filter(|announced| announced.is_in_use()) {
        let bytes = list::read().at(part.start).map_or(0..0, |entry| entry.bytes(part));
        watched.make_way(bytes).map_err(|Failure { .. }| Errno::NOMEM)?;
    }
    // The list is held over the call, so that no thread arms what has been opened.
    let list = list::read();
    list.touching(part)
        .filter(|entry| entry.is_writable())
        .try_for_each(|entry| set_protection(entry, &entry.part(part), true))?;
    call()
}

/// Makes `call`, which has the kernel pin `range` to store into it. The call is announced, and the mappings at the start of the
/// range that show one origin are open.
pub fn while_open<T>(range: &Range<u64>, call: &impl Fn() -> T) -> Result<T, Errno> {
    let _signals = signal_block::SignalsBlocked::new();
    let Some((_, origin)) = next_part(range) else { return Ok(call()) };
    let act = |announced: Option<&Announced<'_>>| {
        let mut at = range.start;
        while let Some((part, _)) = next_part(&(at..range.end)).filter(|(_, other)| *other == origin) {
            at = part.end;
            change_part_announced(announced, &part, || Ok(()))?;
        }
        Ok(call())
    };
    act_announced(origin, act)
}

/// madvise(2) with MADV_DONTFORK or MADV_DOFORK: does `call`, and notes in the list whether a forked child has the range.
pub fn note_inheritance(
    range: &Range<u64>,
    is_inherited: bool,
    call: impl FnOnce() -> Result<(), Errno>,
) -> Result<(), Errno> {
    let mut list = list_with_room(range)?;
    call()?;
    list.replace(range, |entry| Some(Entry { is_inherited, ..entry }));
    Ok(())
}
