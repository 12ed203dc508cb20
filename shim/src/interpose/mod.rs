//! Interpose: the ways by which a call reaches a hook.
//!
//! A program's own calls arrive through the *exported* symbols, which stand before libc's because the library is preloaded. Calls
//! that libc makes for itself (stdio, for one) look no symbol up. They arrive through a *detour* at the entry of libc's function
//! ([`detours`]). One hook serves both ways. It gets the `real` function to go on to, which differs.
//!
//! Where libc's code cannot be patched, stdio's writes arrive through its *tables* ([`stdio_vtables`]). The few exported functions
//! that change files by other calls inside libc are then treated as one change each (`hooks::coarse_entry_points`).
//!
//! A second libc in a namespace of its own is reached by [`beside`]. How a hook answers is in [`answer`]. What the library needs of
//! libgcc_s and of newer libcs is in [`late`].
//!
//! May import: `base` and the core crate. The hooks are handed in: by `interpose!`, which declares them, and by the constructor.
//!
//! Promises: until the constructor has run, and where a function cannot be found, a call goes on to its raw system call. Functions
//! of libc that the shim calls for itself are called past its own hooks ([`originals`]).
//!
//! Must not: know what a call means.

pub mod answer;
pub mod beside;
pub mod detours;
pub mod elf_symbols;
pub mod late;
pub mod originals;
pub mod stdio_vtables;

use core::ffi::{CStr, c_char};
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

/// Whether the calls that libc makes for itself reach the hooks. Until the constructor has run it is taken to be so.
///
/// Relaxed wherever it is used: the constructor stores it before the program's first thread. So it is for the entry points.
static LIBC_IS_SEEN: AtomicBool = AtomicBool::new(true);

/// See [`LIBC_IS_SEEN`].
#[inline]
pub fn is_libc_seen() -> bool {
    LIBC_IS_SEEN.load(Ordering::Relaxed)
}

/// Notes, in the constructor, that libc's own calls do not reach the hooks.
pub fn note_libc_unseen() {
    LIBC_IS_SEEN.store(false, Ordering::Relaxed);
}

/// The next library's function of that name; `None` if there is none.
///
/// For a call that has no raw system call, as long as the entry point leads nowhere yet: before the constructor has run, or because
/// the function's library was loaded after it.
#[cold]
pub fn next_symbol(name: &CStr) -> Option<*const ()> {
    let next = elf_symbols::find(elf_symbols::Where::Next, name);
    (!next.is_null()).then_some(next)
}

/// The entry point of one interposed operation: where calls come from, and where they go on to.
pub struct EntryPoint {
    /// libc's name for the operation. Its length is not kept: the entry points are written, so each process has its own.
    name: *const c_char,
    /// What the exported symbol goes on to: the next library's function; before the constructor has run, the raw system call.
    next: AtomicPtr<()>,
    /// What the detour goes on to: libc's own function.
    original: AtomicPtr<()>,
    patched: AtomicBool,
    /// What the entry of libc's function is made to jump to.
    pub detoured: *const (),
    /// What the entry of a libc beside is made to jump to ([`beside`]).
    pub beside: *const (),
}

// SAFETY: the name is a constant; `detoured` and `beside` are addresses of functions and never change.
unsafe impl Sync for EntryPoint {}

impl EntryPoint {
    /// An entry point that leads to the raw system call until it is opened.
    pub const fn new(name: &'static CStr, raw: *const (), detoured: *const (), beside: *const ()) -> Self {
        let (next, original) = (AtomicPtr::new(raw.cast_mut()), AtomicPtr::new(raw.cast_mut()));
        Self { name: name.as_ptr(), next, original, patched: AtomicBool::new(false), detoured, beside }
    }

    /// libc's name for the operation.
    pub const fn name(&self) -> &'static CStr {
        // SAFETY: `new` has it from a C string that stays.
        unsafe { CStr::from_ptr(self.name) }
    }

    /// The entry point for a libc beside.
    pub const fn entry_hook(&self) -> beside::EntryHook {
        beside::EntryHook { name: self.name(), hook: self.beside }
    }

    /// Whether libc's own calls arrive here too.
    pub fn is_detoured(&self) -> bool {
        self.patched.load(Ordering::Relaxed)
    }

    /// What the exported symbol goes on to.
    #[inline]
    pub fn next(&self) -> *const () {
        self.next.load(Ordering::Relaxed)
    }

    /// What the detour goes on to.
    #[inline]
    pub fn original(&self) -> *const () {
        self.original.load(Ordering::Relaxed)
    }

    /// Makes the exported symbol go on to `function`.
    pub fn set_next(&self, function: *const ()) {
        self.next.store(function.cast_mut(), Ordering::Relaxed);
    }

    /// Makes the detour, which is in place, go on to `function`.
    pub fn set_trampoline(&self, function: *const ()) {
        self.patched.store(true, Ordering::Relaxed);
        self.set_original(function);
    }

    /// Makes `function` the original.
    pub fn set_original(&self, function: *const ()) {
        self.original.store(function.cast_mut(), Ordering::Relaxed);
    }
}

/// Declares interposed operations that may be cancellation points.
///
/// For each: `module, libc's name: exported names => fn(arguments) -> result { raw closure, hook function }`. The hook takes the
/// real function and the arguments. The frames are `extern "C-unwind"` and hold nothing that needs dropping, so that pthread_cancel
/// and longjmp may unwind through them.
///
/// An operation that is no system call has no `raw`. It says `next_or answer` instead: the next library's function of libc's name
/// is called, or the answer is given where there is none.
macro_rules! interpose {
    ($(
        $(#[$doc:meta])*
        $module:ident, $libc:literal: $($name:ident)* => fn($($argument:ident: $type:ty),*) -> $result:ty {
            $kind:ident $raw:expr, hook $hook:path $(,)?
        }
    )+) => {
        $(
            $(#[$doc])*
            pub mod $module {
                #[allow(unused_imports)]
                use super::*;

                pub type Function = unsafe extern "C-unwind" fn($($type),*) -> $result;

                /// The bare system call, as libc would answer it; where there is none, what stands in for it.
                pub unsafe extern "C-unwind" fn raw($($argument: $type),*) -> $result {
                    $crate::interpose::go_on! { $kind $raw, $libc, ($($argument),*) }
                }

                unsafe extern "C-unwind" fn detoured($($argument: $type),*) -> $result {
                    $hook(original(), $($argument),*)
                }

                unsafe extern "C-unwind" fn beside($($argument: $type),*) -> $result {
                    $crate::interpose::beside::for_libc_beside(|| $hook(raw, $($argument),*))
                }

                /// libc's own function, or `raw`.
                #[inline]
                pub fn original() -> Function {
                    // SAFETY: the pointer is libc's function of this name (its trampoline), or `raw`.
                    unsafe { core::mem::transmute::<*const (), Function>(ENTRY_POINT.original()) }
                }

                pub static ENTRY_POINT: $crate::interpose::EntryPoint =
                    $crate::interpose::EntryPoint::new($libc, raw as *const (), detoured as *const (), beside as *const ());

                $crate::interpose::export! { $hook, ($($argument: $type),*) -> $result, $($name)* }
            }
        )+
        /// The entry points declared here.
        pub static ENTRY_POINTS: &[&$crate::interpose::EntryPoint] = &[$(&$module::ENTRY_POINT),+];
    };
}
pub(crate) use interpose;

/// What an operation does without libc: its own code, or the next library's function of that name.
macro_rules! go_on {
    (raw $raw:expr, $libc:literal, ($($argument:ident),*)) => {
        #[allow(clippy::redundant_closure_call)]
        ($raw)($($argument),*)
    };
    (next_or $answer:expr, $libc:literal, ($($argument:ident),*)) => {
        match $crate::interpose::next_symbol($libc) {
            // SAFETY: the next library's function of that name; the application's arguments, as they are.
            Some(next) => unsafe { core::mem::transmute::<*const (), Function>(next)($($argument),*) },
            None => $answer,
        }
    };
}
pub(crate) use go_on;

/// The exported symbols of one operation.
macro_rules! export {
    ($hook:path, ($($argument:ident: $type:ty),*) -> $result:ty, ) => {};
    ($hook:path, ($($argument:ident: $type:ty),*) -> $result:ty, $name:ident $($rest:ident)*) => {
        #[unsafe(no_mangle)]
        unsafe extern "C-unwind" fn $name($($argument: $type),*) -> $result {
            // SAFETY: the pointer is the next library's function of this name, or `raw`.
            let real: Function = unsafe { core::mem::transmute(ENTRY_POINT.next()) };
            $hook(real, $($argument),*)
        }
        $crate::interpose::export! { $hook, ($($argument: $type),*) -> $result, $($rest)* }
    };
}
pub(crate) use export;
