//! execve(2) and its kin: the table hears that the image ends, the program inherits the application's signal state and not the
//! shim's, and a program that the shim does not reach is found before it runs.

use core::ffi::{CStr, c_char, c_int, c_long};

use rustix::fs::OFlags;
use snapshim::sys::raw;
use syscalls::{Sysno, syscall};

use crate::base::config::config;
use crate::base::errno::as_libc;
use crate::base::user_memory::{read_own, read_value};
use crate::interpose::answer::fail;
use crate::interpose::interpose;
use crate::lifecycle::exec;
use crate::process::log::{Bytes, Level, say, say_once};
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
    if is_asked()
        && let Some(why) = unreached(path, || preloads(environment))
    {
        // SAFETY: the kernel has opened a file by this path, so the path can be read to its end.
        log_unreached(unsafe { CStr::from_ptr(path) }, why);
        if config().is_strict {
            return fail(libc::EPERM);
        }
    }
    // SAFETY: the application's arguments, as they are.
    with_signals_for_exec(|| unsafe { real(path, arguments, environment) })
}

/// Whether to look at the program: that costs a few system calls, so it is done only where the answer is of use.
fn is_asked() -> bool {
    let is_active = || identity::attached().is_some_and(|own| own.table.gate().active.is_raised());
    !config().is_disabled && (config().is_strict || config().log.level >= Level::Info || is_active())
}

fn log_unreached(path: &CStr, why: &str) {
    let name = Bytes(path.to_bytes());
    let own = raw::own_pid();
    if config().is_strict {
        let answer = "refused (EPERM)";
        say!(Level::Warn, file = name; "process {own} executes {name}, which the shim does not reach because {why}: {answer}");
    } else {
        let answer = "its changes are NOT held back from snapshots";
        say_once!(Level::Warn, file = name; "process {own} executes {name}, which the shim does not reach because {why}: {answer}");
    }
}

/// Why the shim will not be in the program at `path`; `None` if it will, or if the kernel cannot open the file.
fn unreached(path: *const c_char, preloads: impl Fn() -> bool) -> Option<&'static str> {
    // SAFETY: the kernel checks the application's pointer.
    let opened = unsafe { syscall!(Sysno::openat, libc::AT_FDCWD, path, (OFlags::RDONLY | OFlags::CLOEXEC).bits()) };
    // SAFETY: opened for this function alone.
    let file = unsafe { raw::adopt_fd(opened.ok()? as c_int) };
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

/// Whether LD_PRELOAD in `environment` names the shim. An environment that cannot be read to its end names it: the kernel refuses
/// such an exec.
fn preloads(environment: *const *const c_char) -> bool {
    const NAME: &[u8] = b"LD_PRELOAD=";
    let mut at = environment as u64;
    // For the kernel, no array is an empty one.
    while at != 0 {
        let Some(variable) = read_value::<u64>(at) else { return true };
        if variable == 0 {
            break;
        }
        let mut name = [0u8; NAME.len()];
        match read_own(variable, name.as_mut_ptr() as u64, NAME.len() as u64) {
            _ if name == NAME => return contains(variable + NAME.len() as u64, b"libsnapshim"),
            0 => return true,
            _ => {}
        }
        at += size_of::<u64>() as u64;
    }
    false
}

/// Whether the string at `address` contains `part`; true if it cannot be read to its end.
fn contains(mut address: u64, part: &[u8]) -> bool {
    let mut chunk = [0u8; 256];
    loop {
        let length = read_own(address, chunk.as_mut_ptr() as u64, chunk.len() as u64) as usize;
        let read = &chunk[..length];
        let end = read.iter().position(|byte| *byte == 0);
        if read[..end.unwrap_or(length)].windows(part.len()).any(|found| found == part) {
            return true;
        }
        if end.is_some() {
            return false;
        }
        if length < part.len() {
            return true;
        }
        // The part may begin in this chunk and end in the next.
        address += (length + 1 - part.len()) as u64;
    }
}
