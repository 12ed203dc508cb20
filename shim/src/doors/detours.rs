//! Detours: jumps at the entries of libc's own functions, so that calls which libc makes for itself reach the hooks too.
//!
//! Set up once in the constructor, before the program's first thread, with signals blocked. Never taken down.

use detour::RawDetour;

use super::Door;
use super::symbols::{Where, find};

/// Leads every exported symbol on to the next library's function, and nothing more: the shim is switched off.
pub fn lead_on(doors: impl Iterator<Item = &'static Door>) {
    for door in doors {
        lead_next(door);
    }
}

fn lead_next(door: &Door) -> *const () {
    let next = find(Where::Next, door.name);
    if !next.is_null() {
        door.lead_next_to(next);
    }
    next
}

/// Opens every door: first the way on behind the exported symbol, then the detour. False: libc's code cannot be patched here (SELinux
/// without execmod, MemoryDenyWriteExecute), so that its own calls do not come in.
#[must_use]
pub fn open(doors: impl Iterator<Item = &'static Door>) -> bool {
    let mut patched = true;
    for door in doors {
        let next = lead_next(door);
        let entry = find(Where::Libc, door.name);
        if entry.is_null() || entry == door.detoured {
            continue;
        }
        door.lead_original_to(entry);
        match patch(entry, door.detoured) {
            Some(trampoline) => {
                door.lead_detour_to(trampoline);
                if next == entry {
                    door.lead_next_to(trampoline);
                }
            }
            None => patched = false,
        }
    }
    patched
}

/// Makes the function at `entry` jump to `hook`; the way to the function as it was.
fn patch(entry: *const (), hook: *const ()) -> Option<*const ()> {
    // SAFETY: `entry` is a libc function with the signature of `hook` (one door); no other thread runs yet.
    unsafe {
        let detour = RawDetour::new(entry, hook).ok()?;
        detour.enable().ok()?;
        let trampoline = detour.trampoline();
        // Dropping it would take the jump away.
        core::mem::forget(detour);
        Some(trampoline)
    }
}
