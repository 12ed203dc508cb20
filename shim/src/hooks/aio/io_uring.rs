//! io_uring: its writes cannot be seen, so by default it is denied, and programs fall back to calls that can be seen. Where it is
//! allowed, snapshots of what its users have open for writing are doubtful.
//!
//! A program that makes the system call itself is reached only by a filter (seccomp(2)). The filter stays with all children, those
//! without the shim included, and costs a little at every system call. So it is set only where `SNAPSHIM_IO_URING` asks for it.

use core::ffi::{c_int, c_uint, c_void};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, Ordering};

use snapshim::sys::raw;
use syscalls::{Sysno, syscall};

use crate::base::config::config;
use crate::interpose::answer::fail;
use crate::interpose::interpose;
use crate::origins::ring_users;
use crate::process::log::{Level, Program, say_once};

interpose! {
    /// liburing's io_uring_queue_init(3)
    queue_init, c"io_uring_queue_init": io_uring_queue_init
    => fn(entries: c_uint, ring: *mut c_void, flags: c_uint) -> c_int {
        next_or -libc::ENOSYS,
        hook on_queue_init,
    }
    /// liburing's io_uring_queue_init_params(3)
    queue_init_params, c"io_uring_queue_init_params": io_uring_queue_init_params
    => fn(entries: c_uint, ring: *mut c_void, parameters: *mut c_void) -> c_int {
        next_or -libc::ENOSYS,
        hook on_queue_init_params,
    }
    /// liburing's io_uring_queue_init_mem(3)
    queue_init_mem, c"io_uring_queue_init_mem": io_uring_queue_init_mem
    => fn(entries: c_uint, ring: *mut c_void, parameters: *mut c_void, memory: *mut c_void, size: usize) -> c_int {
        next_or -libc::ENOSYS,
        hook on_queue_init_mem,
    }
    /// liburing's io_uring_get_probe(3), which makes a ring to ask which operations there are
    get_probe, c"io_uring_get_probe": io_uring_get_probe => fn() -> *mut c_void {
        next_or null_mut(),
        hook on_get_probe,
    }
    /// liburing's io_uring_setup(2)
    setup, c"io_uring_setup": io_uring_setup => fn(entries: c_uint, parameters: *mut c_void) -> c_int {
        next_or -libc::ENOSYS,
        hook on_setup,
    }
}

/// Whether io_uring is denied: `SNAPSHIM_IO_URING` does not allow it.
pub fn is_denied() -> bool {
    !config().allows_rings && !config().is_disabled
}

/// Notes a ring that is about to be made.
pub fn note() {
    if !config().is_disabled {
        ring_users::note_ring();
    }
}

/// Answers the system call as a kernel without io_uring does.
pub fn deny() -> c_int {
    log_denial();
    fail(libc::ENOSYS)
}

fn log_denial() {
    static IS_LOGGED: AtomicBool = AtomicBool::new(false);
    if !IS_LOGGED.swap(true, Ordering::Relaxed) {
        say_once!(
            // Where it is asked for, the filter is no news.
            if config().filters_rings { Level::Info } else { Level::Warn },
            "{}: io_uring is denied (ENOSYS), because its writes cannot be held back from snapshots. \
             SNAPSHIM_IO_URING=allow permits it, and snapshots of what this program has open for writing are doubtful then",
            Program(raw::own_pid())
        );
    }
}

/// Makes `call`, or gives the answer `denied` in its place.
fn unless_denied<T>(denied: T, call: impl FnOnce() -> T) -> T {
    if is_denied() {
        log_denial();
        return denied;
    }
    note();
    call()
}

fn on_queue_init(real: queue_init::Function, entries: c_uint, ring: *mut c_void, flags: c_uint) -> c_int {
    // SAFETY: the application's arguments, as they are.
    unless_denied(-libc::ENOSYS, || unsafe { real(entries, ring, flags) })
}

fn on_queue_init_params(
    real: queue_init_params::Function,
    entries: c_uint,
    ring: *mut c_void,
    parameters: *mut c_void,
) -> c_int {
    // SAFETY: the application's arguments, as they are.
    unless_denied(-libc::ENOSYS, || unsafe { real(entries, ring, parameters) })
}

fn on_queue_init_mem(
    real: queue_init_mem::Function,
    entries: c_uint,
    ring: *mut c_void,
    parameters: *mut c_void,
    memory: *mut c_void,
    size: usize,
) -> c_int {
    // SAFETY: the application's arguments, as they are.
    unless_denied(-libc::ENOSYS, || unsafe { real(entries, ring, parameters, memory, size) })
}

fn on_get_probe(real: get_probe::Function) -> *mut c_void {
    // SAFETY: the application's own call.
    unless_denied(null_mut(), || unsafe { real() })
}

fn on_setup(real: setup::Function, entries: c_uint, parameters: *mut c_void) -> c_int {
    // SAFETY: the application's arguments, as they are.
    unless_denied(-libc::ENOSYS, || unsafe { real(entries, parameters) })
}

const ARCHITECTURE_X86_64: u32 = 0xc000_003e;
const ARCHITECTURE_I386: u32 = 0x4000_0003;
/// The number of io_uring_setup(2) on every architecture. x32 adds a bit to it.
const SETUP: u32 = 425;
const X32: u32 = 0x4000_0000;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

const fn step(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

/// The filter looks at `struct seccomp_data`: the number is at offset 0, the architecture at 4.
static FILTER: [libc::sock_filter; 8] = [
    step(LOAD, 4, 0, 0),
    step(EQUAL, ARCHITECTURE_X86_64, 1, 0),
    step(EQUAL, ARCHITECTURE_I386, 0, 4),
    step(LOAD, 0, 0, 0),
    step(AND, !X32, 0, 0),
    step(EQUAL, SETUP, 0, 1),
    step(RETURN, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32, 0, 0),
    step(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0),
];

/// Sets the filter if it is asked for. Called by the constructor.
pub fn filter() {
    if !config().filters_rings || is_there_none() {
        return;
    }
    let program = libc::sock_fprog { len: FILTER.len() as u16, filter: FILTER.as_ptr().cast_mut() };
    // SAFETY: the kernel reads the program during the call; no_new_privs is left as it is.
    let set = unsafe { syscall!(Sysno::seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    if let Err(error) = set {
        say_once!(
            Level::Warn,
            "process {}: SNAPSHIM_IO_URING=seccomp had no effect ({}); io_uring is denied as by deny, and a program \
             that makes the system call itself is not kept from it",
            raw::own_pid(),
            if error == syscalls::Errno::EACCES {
                "it needs no_new_privs, which the shim does not set, or CAP_SYS_ADMIN"
            } else {
                "the kernel has no seccomp filters, or the program has too many"
            }
        );
    }
}

/// Whether the call is answered with ENOSYS already: by an inherited filter, or by the kernel.
fn is_there_none() -> bool {
    // SAFETY: the kernel refuses a call with no entries and no parameters.
    let answer = unsafe { syscall!(Sysno::io_uring_setup, 0, 0) };
    answer == Err(syscalls::Errno::ENOSYS)
}
