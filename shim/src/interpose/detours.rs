//! Detours: jumps at the entries of libc's own functions, so that calls which libc makes for itself reach the hooks too.
//!
//! The constructor sets them up once, with signals blocked, before the program's first thread. They are never taken down.

use core::ops::Range;

use detour::RawDetour;
use region::{Protection, Survey};
use snapshim::PAGE;

use super::beside::{self, EntryHook};
use super::elf_symbols::{Where, code_of_libc, find};
use crate::interpose::EntryPoint;

/// Makes every exported symbol go on to the next library's function, and nothing more: for a shim that is switched off.
pub fn find_next_of_each(entry_points: impl Iterator<Item = &'static EntryPoint>) {
    for entry_point in entry_points {
        find_next(entry_point);
    }
}

fn find_next(entry_point: &EntryPoint) {
    let next = find(Where::Next, entry_point.name);
    if !next.is_null() {
        entry_point.set_next(next);
    }
}

/// Opens every entry point: first what the exported symbol goes on to, then the detour. False: libc's code cannot be patched here
/// (SELinux without execmod, MemoryDenyWriteExecute), so that its own calls do not reach the hooks.
///
/// The detours are made before libc's code becomes writable: writable memory counts against limits, and so does the memory that
/// the detours allocate.
///
/// The functions of `entry_hooks` have hooks that never call the original.
#[must_use]
pub fn open(entry_points: impl Iterator<Item = &'static EntryPoint>, entry_hooks: &[EntryHook]) -> bool {
    let entries: Vec<_> =
        entry_points.filter_map(|entry_point| Some((entry_point, find_in_libc(entry_point)?))).collect();
    let _survey = Survey::begin();
    let mut is_whole = true;
    let mut detours = Vec::new();
    for (entry_point, entry) in entries {
        // SAFETY: `entry` is the libc function of this entry point, with the signature of `detoured`.
        match unsafe { RawDetour::new(entry, entry_point.detoured) } {
            Ok(detour) => detours.push((entry_point, entry, detour)),
            // No memory may become executable here, so the others would fail as well.
            Err(detour::Error::Memory(_)) => return false,
            Err(_) => is_whole = false,
        }
    }
    let code = OpenedCode::of(code_of_libc());
    if matches!(code, Err(region::Error::SystemCall(libc::EACCES | libc::EPERM))) {
        return false;
    }
    // Where a limit keeps the code from becoming writable as a whole, `detour` opens it page by page.
    for (entry_point, entry, detour) in detours {
        is_whole &= put_in_place(entry_point, entry, detour);
    }
    let libc = code_of_libc();
    entry_hooks.iter().for_each(|entry_hook| redirect_to_hook(entry_hook, &libc, code.is_ok()));
    is_whole
}

/// Makes both ways go on to unpatched functions. Returns libc's function, if it is to be patched.
fn find_in_libc(entry_point: &EntryPoint) -> Option<*const ()> {
    find_next(entry_point);
    let entry = find(Where::Libc, entry_point.name);
    if entry.is_null() || entry == entry_point.detoured {
        return None;
    }
    entry_point.set_original(entry);
    Some(entry)
}

/// Makes the function at `entry` jump to the hook.
fn put_in_place(entry_point: &EntryPoint, entry: *const (), detour: RawDetour) -> bool {
    // SAFETY: no other thread runs yet.
    if unsafe { detour.enable() }.is_err() {
        return false;
    }
    let trampoline = detour.trampoline();
    // Dropping the detour would take the jump away.
    core::mem::forget(detour);
    entry_point.set_trampoline(trampoline);
    if entry_point.next() == entry {
        entry_point.set_next(trampoline);
    }
    true
}

/// Makes libc's function jump to the hook, for callers that come past the exported symbol: through a handle of libc's (dlsym(3)).
fn redirect_to_hook(entry_hook: &EntryHook, libc: &Range<u64>, is_open: bool) {
    let entry = find(Where::Libc, entry_hook.name);
    // An older libc does not have all of the functions.
    if entry.is_null() {
        return;
    }
    let page = entry as u64 / PAGE * PAGE;
    // The entry may reach into the next page.
    let opened = if is_open { None } else { Some(OpenedCode::of(page..(page + 2 * PAGE).min(libc.end))) };
    if !matches!(opened, Some(Err(_))) {
        // SAFETY: no other thread runs yet, and the code is open.
        unsafe { beside::redirect(entry, libc, entry_hook.hook) };
    }
}

/// libc's code, made writable until this is dropped.
struct OpenedCode(Range<u64>);

impl OpenedCode {
    fn of(code: Range<u64>) -> region::Result<Self> {
        protect(&code, Protection::READ_WRITE_EXECUTE)?;
        Ok(Self(code))
    }
}

impl Drop for OpenedCode {
    fn drop(&mut self) {
        let _ = protect(&self.0, Protection::READ_EXECUTE);
    }
}

fn protect(code: &Range<u64>, protection: Protection) -> region::Result<()> {
    // SAFETY: libc's code stays readable and executable.
    unsafe { region::protect(code.start as *const u8, (code.end - code.start) as usize, protection) }
}
