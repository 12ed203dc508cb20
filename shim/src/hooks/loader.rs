//! What ld.so maps, at the start of a program and in dlopen(3): its own calls pass through no hook.
//!
//! Such a mapping becomes no snapshot, although the environment names its file. It could be made one afterwards, but dlclose(3)
//! takes it away by a call that is not seen either: the record of the snapshot would then name memory that is something else. So
//! the log says that there is none.

use core::arch::naked_asm;
use core::ffi::{c_char, c_int, c_void};

use snapshim::sys::{procfs, raw};

use super::namespace::return_near;
use crate::address_space::lock;
use crate::base::config::config;
use crate::base::errno;
use crate::base::file_patterns::{self, OtherKind};
use crate::interpose::{self, EntryPoint};
use crate::process::identity;
use crate::process::log::{Bytes, Level, say_once};

static ENTRY_POINT: EntryPoint = EntryPoint::new(c"dlopen", none as *const (), none as *const (), none as *const ());
/// The entry points declared here.
pub static ENTRY_POINTS: &[&EntryPoint] = &[&ENTRY_POINT];

type Function = unsafe extern "C" fn(*const c_char, c_int) -> *mut c_void;

/// The call before the constructor has run.
unsafe extern "C" fn none(file: *const c_char, mode: c_int) -> *mut c_void {
    match interpose::next_symbol(c"dlopen") {
        None => core::ptr::null_mut(),
        // SAFETY: libc's function of that name, called with the application's arguments.
        Some(function) => unsafe { core::mem::transmute::<*const (), Function>(function)(file, mode) },
    }
}

/// libc looks at the return address to find the library that it loads for (whose RUNPATH, which $ORIGIN). So no frame of the shim
/// comes between where no file is named, and one that looks like the caller's where one is.
#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn dlopen() {
    naked_asm!(
        "push rdi",
        "push rsi",
        "sub rsp, 8",
        "call {target}",
        "add rsp, 8",
        "pop rsi",
        "pop rdi",
        "mov rdx, [rsp]",
        "jmp rax",
        target = sym target,
    )
}

/// What a call goes on to. The hook gets the return address as its third argument.
extern "C" fn target() -> *const () {
    if is_any_named() { on_dlopen as *const () } else { ENTRY_POINT.next() }
}

fn is_any_named() -> bool {
    !config().is_disabled && file_patterns::is_any_private()
}

extern "C" fn on_dlopen(file: *const c_char, mode: c_int, caller: u64) -> *mut c_void {
    let real = ENTRY_POINT.next();
    let handle = match return_near(caller) {
        // SAFETY: the application's arguments, as they are; the bytes at `place` are a return instruction.
        Some(place) => unsafe { call_from(real, file, mode, place) },
        // SAFETY: the application's arguments, as they are.
        None => unsafe { core::mem::transmute::<*const (), Function>(real)(file, mode) },
    };
    if !handle.is_null() {
        let before = errno::errno();
        log_loaded();
        errno::set_errno(before);
    }
    handle
}

/// Calls libc's function so that its return address is `place`, a return instruction that leads back here.
#[unsafe(naked)]
unsafe extern "C" fn call_from(real: *const (), file: *const c_char, mode: c_int, place: u64) -> *mut c_void {
    naked_asm!(
        "lea rax, [rip + 2f]",
        "push rax",
        "push rcx",
        "mov rax, rdi",
        "mov rdi, rsi",
        "mov esi, edx",
        "jmp rax",
        "2:",
        "ret",
    )
}

/// Says, once for each pattern, that a file which the environment names is mapped privately and is no snapshot.
#[inline(never)]
pub fn log_loaded() {
    if !is_any_named() {
        return;
    }
    // A snapshot that another thread makes is mapped before it is noted; it holds the lock meanwhile.
    let _mappings = identity::attached().map(lock::hold);
    procfs::each_line(c"/proc/self/maps", |line| {
        let Some((range, path)) = private_file(line) else { return };
        let is_snapshot = identity::own_ranges().ranges().any(|own| own.start < range.end && range.start < own.end);
        if is_snapshot {
            return;
        }
        if let Some(named) = file_patterns::loaded(path) {
            log_unkept(&named, path);
        }
    });
}

/// The addresses and the path of a private mapping of a file; `line` is one of proc_pid_maps(5).
fn private_file(line: &[u8]) -> Option<(core::ops::Range<u64>, &[u8])> {
    let path = &line[line.iter().position(|byte| *byte == b'/')?..];
    let rights = line.split(|byte| *byte == b' ').nth(1)?;
    let range = procfs::mapped_range(line)?;
    (rights.get(3) == Some(&b'p')).then(|| (range, path.strip_suffix(b" (deleted)").unwrap_or(path)))
}

#[cold]
fn log_unkept(named: &OtherKind, path: &[u8]) {
    let path = Bytes(path);
    say_once!(
        Level::Warn,
        file = path;
        "process {} has {path} mapped by ld.so, or by another call that is not seen, so {}={} has no effect on it; replace \
         such a file by another of its name (mv, install) rather than write into it",
        raw::own_pid(),
        named.variable,
        Bytes(named.pattern)
    );
}
