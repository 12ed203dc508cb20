//! Doors: the ways by which a call reaches a hook.
//!
//! A program's own calls come in through the *exported* symbols, which stand before libc's because the library is preloaded. Calls
//! that libc makes for itself (stdio, for one) never look a symbol up; they come in through a *detour* at the entry of libc's
//! function ([`detours`]). A hook is one function for both; it is handed the `real` function to call on, which differs.
//!
//! Where libc's code cannot be patched, stdio's writes come in through its *tables* ([`streams`]), and the few exported functions
//! that change files inside by other ways are taken as a whole (`hooks::outer_doors`).

pub mod beside;
pub mod detours;
mod elf_symbols;
pub mod originals;
pub mod stdio_vtables;

use core::ffi::CStr;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

/// Whether the calls that libc makes for itself come in. Until the constructor has run nobody can say otherwise.
static LIBC_IS_SEEN: AtomicBool = AtomicBool::new(true);

/// See [`LIBC_IS_SEEN`].
#[inline]
pub fn is_libc_seen() -> bool {
    LIBC_IS_SEEN.load(Ordering::Relaxed)
}

/// Notes, in the constructor, that libc's own calls do not come in.
pub fn note_libc_unseen() {
    LIBC_IS_SEEN.store(false, Ordering::Relaxed);
}

/// The next library's function, for a call that has no raw system call to go to and comes before the constructor, or whose library
/// came after it.
#[cold]
pub fn behind(name: &CStr) -> Option<*const ()> {
    let next = elf_symbols::find(elf_symbols::Where::Next, name);
    (!next.is_null()).then_some(next)
}

/// Where one interposed operation goes on to.
pub struct Door {
    /// libc's name for it.
    pub name: &'static CStr,
    /// Behind the exported symbol: the next library's, or the raw system call before the constructor has run.
    next: AtomicPtr<()>,
    /// Behind the detour: libc's own function.
    original: AtomicPtr<()>,
    patched: AtomicBool,
    /// What libc's entry is made to jump to.
    pub detoured: *const (),
    /// What the entry of a libc beside is made to jump to ([`beside`]).
    pub beside: *const (),
}

// SAFETY: `detoured` and `beside` are addresses of functions and never change.
unsafe impl Sync for Door {}

impl Door {
    /// A door that leads to the raw system call until it is opened.
    pub const fn new(name: &'static CStr, raw: *const (), detoured: *const (), beside: *const ()) -> Self {
        let (next, original) = (AtomicPtr::new(raw.cast_mut()), AtomicPtr::new(raw.cast_mut()));
        Self { name, next, original, patched: AtomicBool::new(false), detoured, beside }
    }

    /// The way in for a libc beside.
    pub const fn way(&self) -> beside::Way {
        beside::Way { name: self.name, hook: self.beside }
    }

    /// Whether libc's own calls come in here too.
    pub fn is_detoured(&self) -> bool {
        self.patched.load(Ordering::Relaxed)
    }

    /// What the exported symbol calls on to.
    #[inline]
    pub fn next(&self) -> *const () {
        self.next.load(Ordering::Relaxed)
    }

    /// What the detour calls on to.
    #[inline]
    pub fn original(&self) -> *const () {
        self.original.load(Ordering::Relaxed)
    }

    /// Leads the exported symbol on to `function`.
    pub fn lead_next_to(&self, function: *const ()) {
        self.next.store(function.cast_mut(), Ordering::Relaxed);
    }

    /// Leads the detour, which is in place, on to `function`.
    pub fn lead_detour_to(&self, function: *const ()) {
        self.patched.store(true, Ordering::Relaxed);
        self.lead_original_to(function);
    }

    /// Leads who calls the original on to `function`.
    pub fn lead_original_to(&self, function: *const ()) {
        self.original.store(function.cast_mut(), Ordering::Relaxed);
    }
}

/// Declares interposed operations that may be cancellation points.
///
/// For each: `module: names => fn(arguments) -> result { raw: closure, hook: closure(real, arguments) }`. The frames are
/// `extern "C-unwind"` and hold nothing that needs dropping, so that pthread_cancel and longjmp may unwind through them.
macro_rules! interpose {
    ($(
        $(#[$doc:meta])*
        $module:ident, $libc:literal: $($name:ident)* => fn($($argument:ident: $type:ty),*) -> $result:ty {
            raw $raw:expr, hook $hook:path $(,)?
        }
    )+) => {
        $(
            $(#[$doc])*
            pub mod $module {
                #[allow(unused_imports)]
                use super::*;

                pub type Function = unsafe extern "C-unwind" fn($($type),*) -> $result;

                /// The bare system call, as libc would answer it.
                pub unsafe extern "C-unwind" fn raw($($argument: $type),*) -> $result {
                    #[allow(clippy::redundant_closure_call)]
                    ($raw)($($argument),*)
                }

                unsafe extern "C-unwind" fn detoured($($argument: $type),*) -> $result {
                    $hook(original(), $($argument),*)
                }

                unsafe extern "C-unwind" fn beside($($argument: $type),*) -> $result {
                    $crate::interpose::beside::answer(|| $hook(raw, $($argument),*))
                }

                /// libc's own function, or `raw`.
                #[inline]
                pub fn original() -> Function {
                    // SAFETY: the pointer is libc's function of this name (its trampoline), or `raw`.
                    unsafe { core::mem::transmute::<*const (), Function>(DOOR.original()) }
                }

                pub static DOOR: $crate::interpose::Door =
                    $crate::interpose::Door::new($libc, raw as *const (), detoured as *const (), beside as *const ());

                $crate::interpose::export! { $hook, ($($argument: $type),*) -> $result, $($name)* }
            }
        )+
        /// The doors declared here.
        pub static DOORS: &[&$crate::interpose::Door] = &[$(&$module::DOOR),+];
    };
}
pub(crate) use interpose;

/// The exported symbols of one operation.
macro_rules! export {
    ($hook:path, ($($argument:ident: $type:ty),*) -> $result:ty, ) => {};
    ($hook:path, ($($argument:ident: $type:ty),*) -> $result:ty, $name:ident $($rest:ident)*) => {
        #[unsafe(no_mangle)]
        unsafe extern "C-unwind" fn $name($($argument: $type),*) -> $result {
            // SAFETY: the pointer is the next library's function of this name, or `raw`.
            let real: Function = unsafe { core::mem::transmute(DOOR.next()) };
            $hook(real, $($argument),*)
        }
        $crate::interpose::export! { $hook, ($($argument: $type),*) -> $result, $($rest)* }
    };
}
pub(crate) use export;
