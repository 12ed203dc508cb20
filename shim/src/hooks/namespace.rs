//! dlmopen(3): a library in a namespace of its own brings a libc of its own, without the preloaded library before it.

use core::arch::naked_asm;
use core::ffi::{c_char, c_int, c_long, c_void};

use snapshim::protocol::cause::Cause;
use snapshim::sys::raw;
use snapshim::table;

use super::beside::hooks_beside;
use crate::base::config::config;
use crate::base::errno;
use crate::base::user_memory::read_own;
use crate::interpose::beside::{self, EntryHook, Found};
use crate::interpose::{self, EntryPoint};
use crate::process::log::{Level, Program, say};
use crate::process::membership;

static ENTRY_POINT: EntryPoint = EntryPoint::new(c"dlmopen", none as *const (), none as *const (), none as *const ());
/// The entry points declared here.
pub static ENTRY_POINTS: &[&EntryPoint] = &[&ENTRY_POINT];

/// The entry point for a library in such a namespace that makes another one.
pub const BESIDE: EntryHook = EntryHook { name: c"dlmopen", hook: entered as *const () };

type Function = unsafe extern "C" fn(c_long, *const c_char, c_int) -> *mut c_void;

/// The call before the constructor has run.
unsafe extern "C" fn none(namespace: c_long, file: *const c_char, mode: c_int) -> *mut c_void {
    match interpose::next_symbol(c"dlmopen") {
        None => core::ptr::null_mut(),
        // SAFETY: libc's function of that name, called with the application's arguments.
        Some(function) => unsafe { core::mem::transmute::<*const (), Function>(function)(namespace, file, mode) },
    }
}

/// libc looks at the return address to find the library that it loads for (whose RUNPATH, which $ORIGIN). So no frame of the shim
/// may come between.
#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn dlmopen() {
    naked_asm!("jmp {entered}", entered = sym entered)
}

/// The same, where it is reached without a lookup of the symbol. The hook gets the return address as its fourth argument.
#[unsafe(naked)]
unsafe extern "C" fn entered() {
    naked_asm!("mov rcx, [rsp]", "jmp {on_dlmopen}", on_dlmopen = sym on_dlmopen)
}

extern "C" fn on_dlmopen(namespace: c_long, file: *const c_char, mode: c_int, caller: u64) -> *mut c_void {
    let real = ENTRY_POINT.next();
    let handle = match return_near(caller) {
        // SAFETY: the application's arguments, as they are; the bytes at `place` are a return instruction.
        Some(place) => unsafe { call_from(real, namespace, file, mode, place) },
        // SAFETY: the application's arguments, as they are.
        None => unsafe { core::mem::transmute::<*const (), Function>(real)(namespace, file, mode) },
    };
    if !handle.is_null() && !config().is_disabled {
        see_libc_of(handle);
    }
    handle
}

/// Calls libc's function so that its return address is `place`, a return instruction that leads back here.
#[unsafe(naked)]
unsafe extern "C" fn call_from(
    real: *const (),
    namespace: c_long,
    file: *const c_char,
    mode: c_int,
    place: u64,
) -> *mut c_void {
    naked_asm!(
        "lea rax, [rip + 2f]",
        "push rax",
        "push r8",
        "mov rax, rdi",
        "mov rdi, rsi",
        "mov rsi, rdx",
        "mov edx, ecx",
        "jmp rax",
        "2:",
        "ret",
    )
}

/// The address of a return instruction after the return address `caller`, in the same code. `None` if there is none near, or if the
/// processor keeps a second copy of return addresses (a shadow stack).
pub fn return_near(caller: u64) -> Option<u64> {
    const RETURN: u8 = 0xc3;
    let mut shadow: u64 = 0;
    // SAFETY: the instruction reads a register; without a shadow stack it does nothing.
    unsafe { core::arch::asm!("rdsspq {0}", inout(reg) shadow, options(nomem, nostack, preserves_flags)) };
    if shadow != 0 {
        return None;
    }
    // The search ends with the page: the next page may not be code of the same library.
    let mut code = [0u8; 512];
    let mut at = caller;
    let end = caller / snapshim::PAGE * snapshim::PAGE + snapshim::PAGE;
    while at < end {
        let length = (end - at).min(code.len() as u64);
        if read_own(at, (&raw mut code) as u64, length) != length {
            return None;
        }
        if let Some(found) = code[..length as usize].iter().position(|byte| *byte == RETURN) {
            return Some(at + found as u64);
        }
        at += length;
    }
    None
}

#[inline(never)]
fn see_libc_of(handle: *mut c_void) {
    let before = errno::errno();
    match beside::patch(handle, || hooks_beside().chain([BESIDE])) {
        Found::Nothing | Found::Led => {}
        Found::Closed => {
            say!(
                Level::Warn,
                "all snapshots are doubtful from now on: {}",
                Cause::SecondLibc.of(Program(raw::own_pid())).in_full()
            );
            doubt_all();
        }
    }
    errno::set_errno(before);
}

fn doubt_all() {
    let Ok(own) = membership::join() else { return };
    own.table.over_splits(|walk| {
        for (index, view) in walk.live() {
            table::doubt(own.table, index, view.head.incarnation(), Cause::SecondLibc);
        }
    });
}
