//! Functions of other libraries that are looked up when they are called, not when the library is loaded.
//!
//! Rust's standard library asks for them by their newest version, or in libgcc_s. An import of such a version would keep the
//! library from being loaded by an older libc, and so every program from starting; libgcc_s would be loaded into each program, and
//! its constructor asks the processor for its features, which takes 0.1 ms in a virtual machine. So the names are defined here,
//! seen by this library alone.
//!
//! Unwinding stays as it is: pthread_cancel(3), pthread_exit(3) and C++ load libgcc_s before they unwind, and a frame of this
//! library that has something to drop asks that very libgcc_s about its own context. Where it is is not remembered: it may be
//! unloaded. Without libgcc_s, a panic ends the process, as it does where nothing catches it.
//!
//! The functions of libc are looked up by the constructor, because a hook may call them, and nothing is looked up there.

use core::arch::global_asm;
use core::ffi::{CStr, c_char, c_int, c_void};
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use syscalls::{Sysno, syscall};

use super::elf_symbols::Libraries;
use super::next_symbol;
use crate::base::errno::as_libc;

/// What is called where no library has the function.
type Instead = *const ();

struct Late {
    name: &'static CStr,
    instead: Instead,
    /// The function, once the constructor has found it.
    known: AtomicPtr<()>,
}

impl Late {
    /// Whether it is libgcc_s's.
    fn unwinds(&self) -> bool {
        self.name.to_bytes().starts_with(b"_Unwind")
    }
}

// SAFETY: `instead` is the address of a function and never changes.
unsafe impl Sync for Late {}

/// Declares the functions: for each a symbol that saves the arguments, has the function looked up, and jumps there, so that the
/// function sees the caller's frame.
macro_rules! late {
    ($($number:literal $name:literal => $instead:expr),+ $(,)?) => {
        static LATE: [Late; [$($number),+].len()] = [$(Late {
            name: match CStr::from_bytes_with_nul(concat!($name, "\0").as_bytes()) { Ok(name) => name, Err(_) => panic!() },
            instead: $instead as Instead,
            known: AtomicPtr::new(ptr::null_mut()),
        }),+];
        $(global_asm!(
            ".pushsection .text",
            concat!(".weak ", $name),
            concat!(".hidden ", $name),
            concat!(".type ", $name, ", @function"),
            concat!($name, ":"),
            concat!("mov eax, ", stringify!($number)),
            "jmp {go_on}",
            concat!(".size ", $name, ", . - ", $name),
            ".popsection",
            go_on = sym go_on,
        );)+
    };
}

late! {
    0 "_Unwind_Backtrace" => cannot_unwind,
    1 "_Unwind_DeleteException" => cannot_unwind,
    2 "_Unwind_GetDataRelBase" => cannot_unwind,
    3 "_Unwind_GetIP" => cannot_unwind,
    4 "_Unwind_GetIPInfo" => cannot_unwind,
    5 "_Unwind_GetLanguageSpecificData" => cannot_unwind,
    6 "_Unwind_GetRegionStart" => cannot_unwind,
    7 "_Unwind_GetTextRelBase" => cannot_unwind,
    8 "_Unwind_RaiseException" => cannot_unwind,
    9 "_Unwind_Resume" => cannot_unwind,
    10 "_Unwind_SetGR" => cannot_unwind,
    11 "_Unwind_SetIP" => cannot_unwind,
    12 "dlinfo" => refuse,
    13 "dlsym" => find_nothing,
    14 "fstat64" => fstat,
    15 "gettid" => gettid,
    16 "pthread_key_create" => refuse,
    17 "pthread_key_delete" => refuse,
    18 "pthread_kill" => refuse,
    19 "pthread_setspecific" => refuse,
    20 "stat64" => stat,
    21 "statx" => statx,
}

/// Saves the registers that hold arguments, asks [`look_up`] for the function of the number in eax, and jumps there.
#[unsafe(naked)]
unsafe extern "C" fn go_on() {
    core::arch::naked_asm!(
        ".cfi_startproc",
        "push rdi",
        ".cfi_adjust_cfa_offset 8",
        "push rsi",
        ".cfi_adjust_cfa_offset 8",
        "push rdx",
        ".cfi_adjust_cfa_offset 8",
        "push rcx",
        ".cfi_adjust_cfa_offset 8",
        "push r8",
        ".cfi_adjust_cfa_offset 8",
        "mov edi, eax",
        "call {look_up}",
        "pop r8",
        ".cfi_adjust_cfa_offset -8",
        "pop rcx",
        ".cfi_adjust_cfa_offset -8",
        "pop rdx",
        ".cfi_adjust_cfa_offset -8",
        "pop rsi",
        ".cfi_adjust_cfa_offset -8",
        "pop rdi",
        ".cfi_adjust_cfa_offset -8",
        "jmp rax",
        ".cfi_endproc",
        look_up = sym look_up,
    )
}

extern "C" fn look_up(number: u32) -> *const () {
    let late = &LATE[number as usize];
    let known = late.known.load(Ordering::Relaxed).cast_const();
    if known.is_null() { next_symbol(late.name).unwrap_or(late.instead) } else { known }
}

/// Looks up the functions of libc, in the constructor.
pub fn find_those_of_libc(libraries: &Libraries) {
    for late in LATE.iter().filter(|late| !late.unwinds()) {
        let next = libraries.find(late.name).next;
        // Relaxed: no other thread runs yet.
        late.known.store(if next.is_null() { late.instead } else { next }.cast_mut(), Ordering::Relaxed);
    }
}

/// Nothing has loaded an unwinder, so nothing but a panic of our own can be unwinding.
extern "C" fn cannot_unwind() -> ! {
    // SAFETY: ends the process.
    unsafe { libc::abort() }
}

extern "C" fn refuse() -> c_int {
    libc::ENOSYS
}

extern "C" fn find_nothing() -> *const c_void {
    ptr::null()
}

extern "C" fn gettid() -> c_int {
    rustix::thread::gettid().as_raw_nonzero().get()
}

unsafe extern "C" fn fstat(descriptor: c_int, result: *mut libc::stat64) -> c_int {
    // SAFETY: the caller's arguments, as they are.
    as_libc(unsafe { syscall!(Sysno::fstat, descriptor, result) }) as c_int
}

unsafe extern "C" fn stat(path: *const c_char, result: *mut libc::stat64) -> c_int {
    // SAFETY: the caller's arguments, as they are.
    as_libc(unsafe { syscall!(Sysno::stat, path, result) }) as c_int
}

unsafe extern "C" fn statx(
    directory: c_int,
    path: *const c_char,
    flags: c_int,
    mask: u32,
    result: *mut libc::statx,
) -> c_int {
    // SAFETY: the caller's arguments, as they are.
    as_libc(unsafe { syscall!(Sysno::statx, directory, path, flags, mask, result) }) as c_int
}
