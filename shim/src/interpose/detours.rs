//! Detours: jumps at the entries of libc's own functions, so that calls which libc makes for itself reach the hooks too.
//!
//! The constructor sets them up once, with signals blocked, before the program's first thread. They are never taken down.

use core::ops::Range;

use detour::RawDetour;
use region::{Protection, Survey};
use snapshim::PAGE;

use super::beside::{self, EntryHook};
use super::elf_symbols::{FoundBoth, Libraries, code_of_libc};
use crate::interpose::EntryPoint;

/// Makes every exported symbol go on to the next library's function, and nothing more: for a shim that is switched off.
pub fn find_next_of_each(libraries: &Libraries, entry_points: impl Iterator<Item = &'static EntryPoint>) {
    entry_points.for_each(|entry_point| _ = find_both(libraries, entry_point));
}

fn find_both(libraries: &Libraries, entry_point: &EntryPoint) -> FoundBoth {
    let found = libraries.find(entry_point.name());
    if !found.next.is_null() {
        entry_point.set_next(found.next);
    }
    found
}

/// Opens every entry point: first what the exported symbol goes on to, then the detour. False: libc's code cannot be patched here
/// (SELinux without execmod, MemoryDenyWriteExecute), so that its own calls do not reach the hooks.
///
/// The detours are made before libc's code becomes writable: writable memory counts against limits, and so does the memory that
/// the detours allocate.
///
/// The functions of `entry_hooks` have hooks that never call the original.
#[must_use]
pub fn open(
    libraries: &Libraries,
    entry_points: impl Iterator<Item = &'static EntryPoint>,
    entry_hooks: &[EntryHook],
) -> bool {
    let entries: Vec<_> =
        entry_points.filter_map(|entry_point| Some((entry_point, find_in_libc(libraries, entry_point)?))).collect();
    let _survey = Survey::begin();
    let mut is_whole = true;
    let mut detours = Vec::with_capacity(entries.len());
    for (entry_point, entry) in entries {
        // SAFETY: `entry` is the libc function of this entry point, with the signature of `detoured`.
        match unsafe { RawDetour::new(entry, entry_point.detoured) } {
            Ok(detour) => detours.push((entry_point, entry, detour)),
            // No memory may become executable here, so the others would fail as well.
            Err(detour::Error::Memory(_)) => return false,
            Err(_) => is_whole = false,
        }
    }
    let libc = code_of_libc();
    let code = OpenedCode::of(libc.clone());
    if matches!(code, Err(region::Error::SystemCall(libc::EACCES | libc::EPERM))) {
        return false;
    }
    let mut made = MadeCode(Vec::with_capacity(8));
    // Where a limit keeps the code from becoming writable as a whole, `detour` opens it page by page.
    for (entry_point, entry, detour) in detours {
        is_whole &= put_in_place(entry_point, entry, detour, &mut made);
    }
    made.close();
    entry_hooks.iter().for_each(|entry_hook| redirect_to_hook(libraries, entry_hook, &libc, code.is_ok()));
    is_whole
}

/// Makes both ways go on to unpatched functions. Returns libc's function, if it is to be patched.
fn find_in_libc(libraries: &Libraries, entry_point: &EntryPoint) -> Option<*const ()> {
    let entry = find_both(libraries, entry_point).libc;
    if entry.is_null() || entry == entry_point.detoured {
        return None;
    }
    entry_point.set_original(entry);
    Some(entry)
}

/// Makes the function at `entry` jump to the hook.
fn put_in_place(entry_point: &EntryPoint, entry: *const (), detour: RawDetour, made: &mut MadeCode) -> bool {
    // SAFETY: no other thread runs yet.
    if unsafe { detour.enable() }.is_err() {
        return false;
    }
    let trampoline = detour.trampoline();
    made.note(trampoline.addr());
    // SAFETY: the entry was just written.
    made.note_relay(unsafe { jump_target(entry.cast()) }, entry_point);
    // Dropping the detour would take the jump away.
    core::mem::forget(detour);
    entry_point.set_trampoline(trampoline);
    if entry_point.next() == entry {
        entry_point.set_next(trampoline);
    }
    true
}

/// Where the jump at a patched entry leads: it is long, or a short one to a long one before the entry.
///
/// # Safety
/// `detour` has patched `entry`.
unsafe fn jump_target(entry: *const u8) -> Option<usize> {
    // SAFETY: the caller's promise: the bytes read are those that were written.
    unsafe {
        let entry = match *entry {
            0xeb => entry.offset(2 + isize::from(*entry.add(1).cast::<i8>())),
            _ => entry,
        };
        (*entry == 0xe9)
            .then(|| entry.addr().wrapping_add_signed(5 + entry.add(1).cast::<i32>().read_unaligned() as isize))
    }
}

/// The pages that `detour` has made code in, each once.
struct MadeCode(Vec<usize>);

impl MadeCode {
    fn note(&mut self, address: usize) {
        let page = address / PAGE as usize * PAGE as usize;
        if !self.0.contains(&page) {
            self.0.push(page);
        }
    }

    /// Where the hook is too far away for a jump, there is a second one, to be noted.
    fn note_relay(&mut self, target: Option<usize>, entry_point: &EntryPoint) {
        target.filter(|target| *target != entry_point.detoured.addr()).into_iter().for_each(|target| self.note(target));
    }

    /// Closes all of the memory that `detour` mapped there, not only what it used.
    fn close(&self) {
        for page in &self.0 {
            let around = region::query(core::ptr::without_provenance::<u8>(*page)).map(|region| region.as_range());
            let range = around.unwrap_or(*page..*page + PAGE as usize);
            let _ = protect(&(range.start as u64..range.end as u64), Protection::READ_EXECUTE);
        }
    }
}

/// Makes libc's function jump to the hook, for callers that come past the exported symbol: through a handle of libc's (dlsym(3)).
fn redirect_to_hook(libraries: &Libraries, entry_hook: &EntryHook, libc: &Range<u64>, is_open: bool) {
    let entry = libraries.find(entry_hook.name).libc;
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

/// Code, made writable until this is dropped.
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
    // SAFETY: the code stays readable and executable.
    unsafe { region::protect(code.start as *const u8, (code.end - code.start) as usize, protection) }
}
