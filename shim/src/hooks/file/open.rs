//! open(2) and its kin with O_TRUNC.
//!
//! The file is opened without the flag first, which changes nothing and may block (a FIFO). A regular file is then truncated as by
//! ftruncate(2), through the gate. The outcome is the same: open(2) truncates only regular files, and only those it did not create.

use core::cell::Cell;
use core::ffi::{c_char, c_int, c_uint};

use rustix::fs::FileType;
use snapshim::cooperate::locate::target_of_descriptor;
use snapshim::protocol::origin::Target;
use snapshim::sys::procfs::ProcPath;
use snapshim::sys::raw;
use syscalls::{Sysno, syscall};

use super::truncate::{doubt, is_without_proc, truncate_file};
use crate::base::errno::as_libc;
use crate::base::user_memory::read_value;
use crate::interpose::answer::fail;
use crate::interpose::interpose;

interpose! {
    /// open(2); variadic in C, the mode is passed on as it comes
    open64, c"open64": open open64 __open __open64 => fn(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
        // SAFETY: the application's arguments, as they are.
        raw |path, flags, mode| as_libc(unsafe { syscall!(Sysno::openat, libc::AT_FDCWD, path, flags, mode) }) as c_int,
        hook on_open,
    }
    /// openat(2)
    openat64, c"openat64": openat openat64 __openat __openat64
    => fn(directory: c_int, path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
        // SAFETY: the application's arguments, as they are.
        raw |directory, path, flags, mode| as_libc(unsafe { syscall!(Sysno::openat, directory, path, flags, mode) }) as c_int,
        hook on_openat,
    }
    /// creat(2)
    creat64, c"creat64": creat creat64 => fn(path: *const c_char, mode: c_uint) -> c_int {
        // SAFETY: the application's arguments, as they are.
        raw |path, mode| as_libc(unsafe { syscall!(Sysno::creat, path, mode) }) as c_int,
        hook on_creat,
    }
    /// open(2) that is no cancellation point, which posix_spawn(3) and stdio's mode "c" call
    open_nocancel, c"__open_nocancel": => fn(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
        // SAFETY: the caller's arguments, as they are.
        raw |path, flags, mode| as_libc(unsafe { syscall!(Sysno::openat, libc::AT_FDCWD, path, flags, mode) }) as c_int,
        hook on_open,
    }
    /// open_by_handle_at(2)
    open_by_handle, c"open_by_handle_at": open_by_handle_at => fn(mount: c_int, handle: *mut u8, flags: c_int) -> c_int {
        // SAFETY: the application's arguments, as they are.
        raw |mount, handle, flags| as_libc(unsafe { syscall!(Sysno::open_by_handle_at, mount, handle, flags) }) as c_int,
        hook on_open_by_handle,
    }
}

// The fortified forms (_FORTIFY_SOURCE) end the program when O_CREAT comes without a mode. libc's own do that, and call open.

pub fn on_open(real: open64::Function, path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY: the application's arguments, as they are but for O_TRUNC.
    opened(flags, |flags| unsafe { real(path, flags, mode) })
}

pub fn on_openat(real: openat64::Function, directory: c_int, path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY: the application's arguments, as they are but for O_TRUNC.
    opened(flags, |flags| unsafe { real(directory, path, flags, mode) })
}

pub fn on_creat(_real: creat64::Function, path: *const c_char, mode: c_uint) -> c_int {
    // SAFETY: the pointer is libc's open(2), or its raw system call.
    let open: open64::Function = unsafe { core::mem::transmute(open64::ENTRY_POINT.original()) };
    on_open(open, path, libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC, mode)
}

pub fn on_open_by_handle(real: open_by_handle::Function, mount: c_int, handle: *mut u8, flags: c_int) -> c_int {
    // SAFETY: the application's arguments, as they are but for O_TRUNC.
    opened(flags, |flags| unsafe { real(mount, handle, flags) })
}

/// openat2(2), which has no function in libc. `how` is a `struct open_how`: flags, mode, resolve.
pub fn on_openat2(directory: c_int, path: *const c_char, how: *mut u64, size: usize) -> c_int {
    let word = |index: usize| read_value(how.wrapping_add(index) as u64).unwrap_or(0);
    let mut ours = [word(0), word(1), word(2)];
    let call = |how: *const u64| {
        // SAFETY: the application's arguments, as they are, or a copy of the structure.
        as_libc(unsafe { syscall!(Sysno::openat2, directory, path, how, size) }) as c_int
    };
    let flags = ours[0] as c_int;
    if flags & libc::O_TRUNC == 0 {
        return call(how);
    }
    if size != size_of_val(&ours) {
        // The structure of a later kernel: the rest of what it asks for is not known.
        return fail(libc::E2BIG);
    }
    ours[0] &= !(libc::O_TRUNC as u64);
    opened(flags, |without| if without & libc::O_TRUNC == 0 { call(ours.as_ptr()) } else { call(how) })
}

#[inline]
pub fn opened(flags: c_int, open: impl Fn(c_int) -> c_int) -> c_int {
    if flags & libc::O_TRUNC == 0 || flags & libc::O_PATH != 0 || flags & libc::O_TMPFILE == libc::O_TMPFILE {
        return open(flags);
    }
    match open(flags & !libc::O_TRUNC) {
        fd if fd < 0 || flags & (libc::O_CREAT | libc::O_EXCL) == libc::O_CREAT | libc::O_EXCL => fd,
        fd => truncate_opened(fd, flags, &open),
    }
}

fn truncate_opened(fd: c_int, flags: c_int, open: &impl Fn(c_int) -> c_int) -> c_int {
    let Ok(stat) = rustix::fs::fstat(raw::borrow(fd as u32)) else { return fd };
    let is_read_only = flags & libc::O_ACCMODE == libc::O_RDONLY;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile if is_read_only && stat.st_size == 0 => return fd,
        FileType::RegularFile => {}
        FileType::Directory => {
            close(fd);
            return fail(libc::EISDIR);
        }
        _ => return fd,
    }
    let result = if is_read_only { truncate_read_only(fd, flags, open) } else { truncate_writable(fd) };
    if result < 0 {
        close(fd);
        return -1;
    }
    fd
}

fn truncate_writable(fd: c_int) -> c_int {
    // SAFETY: the arguments are values, and the descriptor is the shim's own.
    truncate_file(fd, 0, || as_libc(unsafe { syscall!(Sysno::ftruncate, fd, 0) }) as c_int)
}

/// Truncates by path, because ftruncate(2) wants a descriptor that is open for writing.
fn truncate_read_only(fd: c_int, flags: c_int, open: &impl Fn(c_int) -> c_int) -> c_int {
    let path = ProcPath::thread_self("fd").slash(fd as u32);
    let emptied = Cell::new(Target::Elsewhere);
    let result = truncate_file(fd, 0, || {
        // SAFETY: the path is a C string.
        match unsafe { syscall!(Sysno::truncate, path.as_c_str().as_ptr(), 0) } {
            Err(error) if is_without_proc(error.into_raw()) => {}
            result => return as_libc(result) as c_int,
        }
        // The path exists. If it has become a FIFO, the open must not wait for it, as the call is announced.
        let again = open(flags & !libc::O_CREAT | libc::O_NONBLOCK);
        if again < 0 {
            return -1;
        }
        emptied.set(target_of_descriptor(again as u32));
        close(again);
        0
    });
    if let Target::Origin(other) = emptied.get()
        && target_of_descriptor(fd as u32) != emptied.get()
    {
        doubt(other);
    }
    result
}

fn close(fd: c_int) {
    // SAFETY: opened here, and not handed to the program.
    drop(unsafe { raw::adopt_fd(fd) });
}
