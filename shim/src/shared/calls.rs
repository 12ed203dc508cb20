//! The application's own calls on shared mappings: mmap, munmap, mprotect, mremap and madvise.

use core::ffi::c_void;
use core::ops::Range;
use core::sync::atomic::Ordering;

use rustix::io::Errno;
use rustix::mm::MremapFlags;
use snapshim::PAGE;
use snapshim::cooperate::locate::place_behind;
use snapshim::preserve::policy::Failure;
use snapshim::protocol::origin::{Origin, Place};
use snapshim::sys::signal_block;

use super::fault;
use super::list::{self, Course, Entry, List, Writing};
use super::protection::{self, armed, describe, set_protection};
use crate::address_space::lock::{self, Mappings};
use crate::base::config::config;
use crate::base::mmap_call::Mmap;
use crate::base::user_memory;
use crate::process::identity::Own;
use crate::process::membership;
use crate::writer::announced::{Announced, announced};

/// The origin that a call of mmap(2) would map shared; `None` if it maps none.
#[inline]
pub fn origin_shared(mmap: &Mmap) -> Option<Origin> {
    const ANONYMOUS_OR_TYPE: i32 = libc::MAP_ANONYMOUS | libc::MAP_SHARED_VALIDATE;
    let is_shared = matches!(mmap.flags & ANONYMOUS_OR_TYPE, libc::MAP_SHARED | libc::MAP_SHARED_VALIDATE);
    if !is_shared || mmap.descriptor < 0 || mmap.length == 0 || config().is_disabled {
        return None;
    }
    match place_behind(mmap.descriptor as u32) {
        Place::Origin(origin) => Some(origin),
        Place::Elsewhere => None,
        // What is stored there would not be seen.
        Place::Unknown => {
            membership::stay_unseen();
            None
        }
    }
}

/// mmap(2) of `origin`, shared. `start_agent` starts the agent, which arms.
pub fn map(mmap: &Mmap, origin: Origin, start_agent: &dyn Fn(&Own)) -> Result<*mut c_void, Errno> {
    let own = match membership::join() {
        Ok(own) => own,
        Err(_) if membership::note_unseen_mapping() => return mmap.call(),
        Err(_) => membership::join()?,
    };
    let mappings = lock::hold(own);
    let is_fixed = mmap.flags & (libc::MAP_FIXED | libc::MAP_FIXED_NOREPLACE) == libc::MAP_FIXED;
    let start = mmap.address as u64;
    // At an address that no page begins at the kernel replaces nothing.
    let replaces = is_fixed && start.is_multiple_of(PAGE);
    let target = if replaces { start..start.saturating_add(mmap.pages().saturating_mul(PAGE)) } else { 0..0 };
    let is_writable = mmap.protection & libc::PROT_WRITE != 0;
    if is_writable {
        start_agent(&own);
    }
    let call = |announced: Option<&Announced<'_>>| {
        let is_armed = is_writable && announced.is_some_and(Announced::is_in_use);
        mappings.replace(&target, || {
            let mut list = list_with_room(&target)?;
            note_changes(&own, &list, &target);
            let at = if is_armed { map_armed(mmap, &target)? } else { mmap.call()? };
            let range = at as u64..at as u64 + mmap.pages() * PAGE;
            list.carve(&range);
            let (first, protection, course) = (mmap.offset as u64 / PAGE, mmap.protection, Course::default());
            let mut entry = Entry { range, first, origin, protection, is_inherited: true, course };
            // Another thread may have put another file under the number. Nobody has stored yet, so it is not too late to arm.
            if let Place::Origin(now) = place_behind(mmap.descriptor as u32)
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
    announced(origin, call).map_err(|_| Errno::NOMEM)?
}

/// The list, held alone, with room for what a change of `range` may add.
fn list_with_room(range: &Range<u64>) -> Result<Writing, Errno> {
    let mut list = list::write();
    let more = list.touching(range).count() + 2;
    if list.reserve(more) { Ok(list) } else { Err(Errno::NOMEM) }
}

/// What was stored through a mapping that is about to go may have moved the file's time of modification: counted, or the next look
/// at it would suspect a foreign change.
fn note_changes(own: &Own, list: &List, range: &Range<u64>) {
    let going = list.touching(range).filter(|entry| entry.is_writable());
    going.for_each(|entry| own.table.note_change(entry.origin));
}

/// A new mapping that nobody can store into before it is armed.
fn map_armed(mmap: &Mmap, target: &Range<u64>) -> Result<*mut c_void, Errno> {
    if !fault::install() {
        return Err(Errno::NOMEM);
    }
    // Aside first: where the application wants it, another thread could store between the two calls.
    let aside = match target.is_empty() {
        true => *mmap,
        false => Mmap { address: core::ptr::null_mut(), flags: mmap.flags & !libc::MAP_FIXED, ..*mmap },
    };
    let at = aside.call()?;
    let length = (mmap.pages() * PAGE) as usize;
    let finish = || {
        let read_only = rustix::mm::MprotectFlags::from_bits_retain(armed(mmap.protection) as u32);
        // SAFETY: the mapping was just made and nobody has been told of it; the target is the application's to replace.
        unsafe {
            rustix::mm::mprotect(at, length, read_only)?;
            match target.is_empty() {
                true => Ok(at),
                false => rustix::mm::mremap_fixed(at, length, length, MremapFlags::MAYMOVE, mmap.address),
            }
        }
    };
    finish().inspect_err(|_| {
        // SAFETY: as above.
        let _ = unsafe { rustix::mm::munmap(at, length) };
    })
}

/// Does `call`, which takes away what is mapped in `range`.
pub fn take_away<T>(own: &Own, range: &Range<u64>, call: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
    let first = next_part(range);
    let mut list = list_with_room(range)?;
    note_changes(own, &list, range);
    let result = call();
    // A call that fails late leaves a gap behind.
    if result.is_ok() || first.is_some_and(|(part, _)| !user_memory::is_mapped(part.start)) {
        list.carve(range);
        describe(own, &list);
    }
    result
}

/// mprotect(2) of a range that shared mappings touch: `call` changes one part of it.
///
/// Like the kernel it goes from the lowest address on and stops at the first part that fails. `start_agent` starts the agent.
pub fn protect(
    mappings: &Mappings,
    range: &Range<u64>,
    protection: i32,
    call: &impl Fn(&Range<u64>, i32) -> Result<(), Errno>,
    start_agent: &dyn Fn(&Own),
) -> Result<(), Errno> {
    let mut at = range.start;
    while at < range.end {
        let next = next_part(&(at..range.end));
        let start = next.as_ref().map_or(range.end, |(part, _)| part.start);
        if at < start {
            let between = at..start;
            let known = protection & (libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC);
            mappings.protect(&between, known as u32, |allowed| call(allowed, protection))?;
        }
        let Some((part, origin)) = next else { return Ok(()) };
        protect_part(mappings, &part, origin, protection, call, start_agent)?;
        at = part.end;
    }
    Ok(())
}

/// The first part of a range that lies in a shared mapping.
fn next_part(range: &Range<u64>) -> Option<(Range<u64>, Origin)> {
    let list = list::read();
    let parts = list.touching(range).map(|entry| (entry.part(range), entry.origin));
    parts.min_by_key(|(part, _)| part.start)
}

fn protect_part(
    mappings: &Mappings,
    part: &Range<u64>,
    origin: Origin,
    protection: i32,
    call: &impl Fn(&Range<u64>, i32) -> Result<(), Errno>,
    start_agent: &dyn Fn(&Own),
) -> Result<(), Errno> {
    let is_writable = protection & libc::PROT_WRITE != 0;
    if is_writable {
        start_agent(&mappings.own);
    }
    let act = |announced: Option<&Announced<'_>>| {
        let in_use = announced.filter(|announced| announced.is_in_use());
        let watched = in_use.filter(|_| is_writable);
        if let Some(watched) = watched {
            make_way_for_first_page(watched, part, origin)?;
        }
        let mut list = list_with_room(part)?;
        if watched.is_some() && !fault::install() {
            return Err(Errno::NOMEM);
        }
        let change = || {
            if watched.is_none() {
                return call(part, protection);
            }
            // Whether the file may be mapped writable at all the kernel says only of a page that becomes it.
            let first_page = part.start..part.start + PAGE;
            call(&first_page, protection)?;
            call(part, armed(protection))?;
            protection::want();
            Ok(())
        };
        change().inspect_err(|_| take_back(&list, part, in_use.is_none()))?;
        note_changes(&mappings.own, &list, part);
        list.replace(part, |entry| Some(Entry { protection, ..entry }));
        describe(&mappings.own, &list);
        Ok(())
    };
    announced(origin, act).map_err(|_| Errno::NOMEM)?
}

/// mprotect(2) may have changed a part before it failed. What the list does not know of must not be open.
fn take_back(list: &List, part: &Range<u64>, is_open: bool) {
    for entry in list.touching(part) {
        if !is_open {
            // The list's lock orders it.
            entry.course.is_open.store(false, Ordering::Relaxed);
        }
        // It comes as far as the call came.
        let _ = set_protection(entry, &entry.part(part), is_open);
    }
}

fn make_way_for_first_page(watched: &Announced<'_>, part: &Range<u64>, origin: Origin) -> Result<(), Errno> {
    let bytes = list::read().at(part.start).filter(|entry| entry.origin == origin).map(|entry| {
        let page = part.start..part.start + PAGE;
        entry.bytes(&page)
    });
    bytes.map_or(Ok(()), |bytes| watched.make_way(bytes)).map_err(|Failure { .. }| Errno::NOMEM)
}

/// A call of mremap(2).
pub struct Move {
    pub from: Range<u64>,
    /// Bytes that the application wants afterwards, whole pages.
    pub length: u64,
    pub flags: i32,
    /// Where with MREMAP_FIXED; empty without.
    pub target: Range<u64>,
}

/// mremap(2) of what lies in a shared mapping. `call` is the system call.
pub fn remap(
    mappings: &Mappings,
    wanted: &Move,
    origin: Origin,
    call: &impl Fn() -> Result<*mut c_void, Errno>,
) -> Result<*mut c_void, Errno> {
    let act = |announced: Option<&Announced<'_>>| {
        let is_in_use = announced.is_some_and(Announced::is_in_use);
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
            Ok(at)
        })
    };
    announced(origin, act).map_err(|_| Errno::NOMEM)?
}

/// mremap(2) takes only what is one mapping of the kernel's: no part of it may be open and another not.
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

/// What was moved may be several mappings (since Linux 6.17); then the length stays.
fn note_move(list: &mut List, wanted: &Move, at: u64) {
    let Move { ref from, length, flags, .. } = *wanted;
    let new = at..at + length;
    if from.is_empty() {
        // Of a length of zero the old mapping stays.
        let Some(old) = list.at(from.start) else { return };
        let doubled = old.cut(from.start..from.start);
        list.carve(&new);
        return list.add(Entry { range: new, ..doubled });
    }
    if at == from.start {
        list.carve(&(new.end.min(from.end)..from.end));
    } else {
        list.carve(&new);
        list.copy(from, at);
        list.carve(&(new.end..new.end.max(at + (from.end - from.start))));
        if flags & libc::MREMAP_DONTUNMAP == 0 {
            list.carve(from);
        }
    }
    list.stretch(at + (from.end - from.start), new.end);
}

/// remap_file_pages(2): `range` shows the file from page `first` on; `call` is the system call.
pub fn show_other_pages(
    mappings: &Mappings,
    range: &Range<u64>,
    first: u64,
    origin: Origin,
    call: &impl Fn() -> Result<(), Errno>,
) -> Result<(), Errno> {
    let act = |announced: Option<&Announced<'_>>| {
        let is_in_use = announced.is_some_and(Announced::is_in_use);
        let mut list = list_with_room(range)?;
        // The new mapping is as open as the old one was.
        make_one(&list, range, |entry| is_in_use || entry.origin != origin)?;
        call()?;
        list.replace(range, |entry| Some(Entry { first: first + (entry.range.start - range.start) / PAGE, ..entry }));
        describe(&mappings.own, &list);
        Ok(())
    };
    announced(origin, act).map_err(|_| Errno::NOMEM)?
}

/// The origin of the first shared mapping in a range; in an empty one, of what is mapped where it begins.
pub fn origin_in(range: &Range<u64>) -> Option<Origin> {
    let _signals = signal_block::SignalsBlocked::new();
    next_part(&(range.start..range.end.max(range.start + 1))).map(|(_, origin)| origin)
}

/// madvise(2) by which the kernel changes bytes of the file that `range` shows (MADV_REMOVE), or stores into it
/// (MADV_POPULATE_WRITE): `call` does it to one part, announced.
///
/// Like the kernel it goes from the lowest address on; MADV_REMOVE passes over what is not mapped, and fails in the end.
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

fn change_part(
    part: &Range<u64>,
    origin: Origin,
    call: &impl Fn(&Range<u64>) -> Result<(), Errno>,
) -> Result<(), Errno> {
    announced(origin, |announced| change_part_announced(announced, part, || call(part))).map_err(|_| Errno::NOMEM)?
}

fn change_part_announced(
    announced: Option<&Announced<'_>>,
    part: &Range<u64>,
    call: impl FnOnce() -> Result<(), Errno>,
) -> Result<(), Errno> {
    if let Some(watched) = announced.filter(|announced| announced.is_in_use()) {
        let bytes = list::read().at(part.start).map_or(0..0, |entry| entry.bytes(part));
        watched.make_way(bytes).map_err(|Failure { .. }| Errno::NOMEM)?;
    }
    // Held over the call: nobody arms what has been opened.
    let list = list::read();
    list.touching(part)
        .filter(|entry| entry.is_writable())
        .try_for_each(|entry| set_protection(entry, &entry.part(part), true))?;
    call()
}

/// Makes `call`, which has the kernel take hold of `range` to store into it, announced and with what it shows of one origin open.
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
    announced(origin, act).map_err(|_| Errno::NOMEM)?
}

/// madvise(2) with MADV_DONTFORK or MADV_DOFORK: does `call` and notes it.
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
