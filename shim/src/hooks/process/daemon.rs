//! daemon(3) and forkpty(3). Where libc's code cannot be patched, the fork inside does not reach its hook, so they are made here,
//! of a fork that does.

use core::ffi::{c_char, c_int};

use libc::pid_t;
use rustix::fd::{AsRawFd, IntoRawFd};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use snapshim::sys::raw;
use syscalls::{Sysno, syscall};

use crate::interpose::answer::{fail, status};
use crate::interpose::{self, interpose};

interpose! {
    /// daemon(3)
    daemon, c"daemon": daemon => fn(keeps_directory: c_int, keeps_streams: c_int) -> c_int {
        raw become_daemon,
        hook on_daemon,
    }
    /// forkpty(3)
    forkpty, c"forkpty": forkpty => fn(
        terminal: *mut c_int, name: *mut c_char, settings: *const libc::termios, size: *const libc::winsize
    ) -> pid_t {
        raw fork_on_terminal,
        hook on_forkpty,
    }
}

fn on_daemon(real: daemon::Function, keeps_directory: c_int, keeps_streams: c_int) -> c_int {
    if interpose::is_libc_seen() {
        // SAFETY: the application's own call, whose fork reaches `on_fork`.
        return unsafe { real(keeps_directory, keeps_streams) };
    }
    become_daemon(keeps_directory, keeps_streams)
}

/// Does what daemon(3) does, with a fork that reaches its hook.
fn become_daemon(keeps_directory: c_int, keeps_streams: c_int) -> c_int {
    // SAFETY: fork(3), which is the shim's own.
    match unsafe { libc::fork() } {
        -1 => return -1,
        0 => {}
        _ => end(0),
    }
    let begun = rustix::process::setsid().and_then(|_| {
        if keeps_directory == 0 {
            let _ = rustix::process::chdir(c"/");
        }
        if keeps_streams == 0 { lead_streams_nowhere() } else { Ok(()) }
    });
    status(begun)
}

/// _exit(2)
fn end(status: c_int) -> ! {
    loop {
        // SAFETY: exit_group(2) does not return.
        let _ = unsafe { syscall!(Sysno::exit_group, status) };
    }
}

fn lead_streams_nowhere() -> Result<(), Errno> {
    let null = rustix::fs::openat(CWD, c"/dev/null", OFlags::RDWR, Mode::empty())?;
    for stream in 0..3 {
        // SAFETY: dup2(2), which is the shim's own.
        if unsafe { libc::dup2(null.as_raw_fd(), stream) } == -1 {
            return Err(Errno::BADF);
        }
    }
    if null.as_raw_fd() < 3 {
        // The file is one of the streams itself.
        let _ = null.into_raw_fd();
    }
    Ok(())
}

fn on_forkpty(
    real: forkpty::Function,
    terminal: *mut c_int,
    name: *mut c_char,
    settings: *const libc::termios,
    size: *const libc::winsize,
) -> pid_t {
    if interpose::is_libc_seen() {
        // SAFETY: the application's own call, whose fork reaches `on_fork`.
        return unsafe { real(terminal, name, settings, size) };
    }
    fork_on_terminal(terminal, name, settings, size)
}

/// Does what forkpty(3) does, with a fork that reaches its hook.
fn fork_on_terminal(
    terminal: *mut c_int,
    name: *mut c_char,
    settings: *const libc::termios,
    size: *const libc::winsize,
) -> pid_t {
    type Open =
        unsafe extern "C" fn(*mut c_int, *mut c_int, *mut c_char, *const libc::termios, *const libc::winsize) -> c_int;
    type LogIn = unsafe extern "C" fn(c_int) -> c_int;
    // Before glibc 2.34 they were in a library of their own, as forkpty was.
    let Some((open, log_in)) = interpose::next_symbol(c"openpty").zip(interpose::next_symbol(c"login_tty")) else {
        return fail(libc::ENOSYS);
    };
    let (mut master, mut slave) = (-1, -1);
    // SAFETY: functions of these names, with the application's arguments and the descriptors that they opened.
    unsafe {
        let (open, log_in) =
            (core::mem::transmute::<*const (), Open>(open), core::mem::transmute::<*const (), LogIn>(log_in));
        if open(&raw mut master, &raw mut slave, name, settings, size) == -1 {
            return -1;
        }
        let pid = libc::fork();
        if pid == -1 {
            drop(raw::adopt_fd(master));
        }
        if pid == 0 {
            drop(raw::adopt_fd(master));
            if log_in(slave) == -1 {
                end(1);
            }
            return 0;
        }
        drop(raw::adopt_fd(slave));
        if pid > 0 {
            *terminal = master;
        }
        pid
    }
}
