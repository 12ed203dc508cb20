//! execve(2) and its kin: the table hears that the image ends, the program inherits the application's signal state and not the
//! shim's, and a program that the shim does not reach is found before it runs.

use core::ffi::{CStr, c_char, c_int, c_long};

use rustix::fs::OFlags;
use snapshim::sys::raw;
use syscalls::{Sysno, syscall};

use crate::base::config::config;
use crate::base::errno::as_libc;
use crate::interpose::answer::fail;
use crate::interpose::interpose;
use crate::lifecycle::exec;
use crate::process::log::{Bytes, Level, say};
use crate::process::{identity, membership};
use crate::signals;

interpose! {
    /// execve(2), which exec(3), posix_spawn(3), system(3) and popen(3) call
    execve, c"execve": execve => fn(
        path: *const c_char, arguments: *const *const c_char, environment: *const *const c_char
    ) -> c_int {
        // SAFETY: the application's arguments, as they are.
        raw |path, arguments, environment| as_libc(unsafe { syscall!(Sysno::execve, path, arguments, environment) }) as c_int,
        hook on_execve,
    }
    /// execveat(2)
    execveat, c"execveat": execveat => fn(
        directory: c_int, path: *const c_char, arguments: *const *const c_char, environment: *const *const c_char, flags: c_int
    ) -> c_int {
        raw |directory, path, arguments, environment, flags| {
            // SAFETY: the application's arguments, as they are.
            as_libc(unsafe { syscall!(Sysno::execveat, directory, path, arguments, environment, flags) }) as c_int
        },
        hook on_execveat,
    }
    /// fexecve(3)
    fexecve, c"fexecve": fexecve => fn(fd: c_int, arguments: *const *const c_char, environment: *const *const c_char) -> c_int {
        raw |fd, arguments, environment| {
            // SAFETY: the application's arguments, as they are; the path is empty, so that the descriptor is what is executed.
            as_libc(unsafe {
                syscall!(Sysno::execveat, fd, c"".as_ptr(), arguments, environment, libc::AT_EMPTY_PATH)
            }) as c_int
        },
        hook on_fexecve,
    }
}

/// Makes `call`, an exec, announced, with the signal state of the application in the kernel: that is what the new program inherits.
fn with_signals_for_exec<R>(call: impl FnOnce() -> R) -> R {
    let exec = membership::Exec::begin();
    let failed = exec::announced(|| {
        let signal_state = signals::for_exec();
        let failed = call();
        signal_state.take_back();
        failed
    });
    exec.end();
    failed
}

/// execve(2) and execveat(2) by number.
pub fn by_number(call: impl FnOnce() -> c_long) -> c_long {
    with_signals_for_exec(call)
}

fn on_execveat(
    real: execveat::Function,
    directory: c_int,
    path: *const c_char,
    arguments: *const *const c_char,
    environment: *const *const c_char,
    flags: c_int,
) -> c_int {
    // SAFETY: the application's arguments, as they are.
    with_signals_for_exec(|| unsafe { real(directory, path, arguments, environment, flags) })
}

fn on_fexecve(
    real: fexecve::Function,
    fd: c_int,
    arguments: *const *const c_char,
    environment: *const *const c_char,
) -> c_int {
    // SAFETY: the application's arguments, as they are.
    with_signals_for_exec(|| unsafe { real(fd, arguments, environment) })
}

fn on_execve(
    real: execve::Function,
    path: *const c_char,
    arguments: *const *const c_char,
    environment: *const *const c_char,
) -> c_int {
    if is_asked() && !path.is_null() {
        // SAFETY: the kernel reads the same bytes. A program whose pointer is bad would get EFAULT, and faults here.
        let found = unsafe { CStr::from_ptr(path) };
        // SAFETY: as above; the environment is an array of C strings that ends with a null pointer.
        if let Some(why) = unreached(found, || unsafe { preloads(environment) }) {
            log_unreached(found, why);
            if config().is_strict {
                return fail(libc::EPERM);
            }
        }
    }
    // SAFETY: the application's arguments, as they are.
    with_signals_for_exec(|| unsafe { real(path, arguments, environment) })
}

/// Whether to look at the program: that costs a few system calls, so it is done only where the answer is of use.
fn is_asked() -> bool {
    let is_active = || identity::attached().is_some_and(|own| own.table.gate().active.is_raised());
    !config().is_disabled && (config().is_strict || config().level >= Level::Info || is_active())
}

fn log_unreached(path: &CStr, why: &str) {
    let answer = if config().is_strict { "refused (EPERM)" } else { "its changes are NOT held back from snapshots" };
    say!(
        Level::Warn,
        "process {} executes {}, which the shim does not reach because {why}: {answer}",
        raw::own_pid(),
        Bytes(path.to_bytes())
    );
}

/// Why the shim will not be in the program at `path`; `None` if it will.
fn unreached(path: &CStr, preloads: impl Fn() -> bool) -> Option<&'static str> {
    let file = raw::open(path, OFlags::RDONLY).ok()?;
    let stat = rustix::fs::fstat(&file).ok()?;
    if !preloads() {
        return Some("LD_PRELOAD does not name it in the new environment");
    }
    const SET_ID: u32 = 0o6000;
    let changes_rights = stat.st_mode & SET_ID != 0
        && (stat.st_uid != rustix::process::geteuid().as_raw() || stat.st_mode & 0o2000 != 0);
    if changes_rights {
        return Some("it is setuid or setgid");
    }
    let mut header = [0u8; 1000];
    let length = rustix::io::pread(&file, &mut header, 0).ok()?;
    is_static(&header[..length]).then_some("it is statically linked")
}

/// Whether these are the first bytes of an ELF64 program without an interpreter (elf(5)).
fn is_static(header: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let half = |at: usize| header.get(at..at + 2).map(|bytes| usize::from(u16::from_le_bytes([bytes[0], bytes[1]])));
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return false;
    }
    let Some(table) = header.get(32..40).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes) else {
        return false;
    };
    let (Some(size), Some(count)) = (half(54), half(56)) else { return false };
    (0..count).all(|index| {
        let at = table as usize + index * size;
        header.get(at..at + 4).is_none_or(|kind| kind != PT_INTERP.to_le_bytes())
    })
}

/// Whether LD_PRELOAD in `environment` names the shim.
///
/// # Safety
/// `environment` is null or an array of C strings that ends with a null pointer.
unsafe fn preloads(environment: *const *const c_char) -> bool {
    let mut at = environment;
    // SAFETY: the caller's promise.
    unsafe {
        while !at.is_null() && !(*at).is_null() {
            let variable = CStr::from_ptr(*at).to_bytes();
            if let Some(value) = variable.strip_prefix(b"LD_PRELOAD=") {
                return value.windows(b"libsnapshim".len()).any(|part| part == b"libsnapshim");
            }
            at = at.add(1);
        }
    }
    false
}
