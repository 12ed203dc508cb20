//! open(2) and its kin with O_TRUNC.
//!
//! While no snapshot exists anywhere, the call is made as the program made it, announced: a creation that begins meanwhile waits
//! for it.
//!
//! While one exists, the path is looked up first. A file that is not there is created, and nothing is truncated: so it keeps the
//! mode that it is created with. A file of a file system that holds no origins is opened as asked: to some of them, as tracefs, the
//! flag means more than a truncation. Any other file is opened without the flag, which changes nothing and may block (a FIFO). A
//! regular file is then truncated as by ftruncate(2), through the gate. The outcome is the same: open(2) truncates only regular
//! files, and only those it did not create.

use core::cell::Cell;
use core::ffi::{c_char, c_int, c_uint};

use rustix::fs::FileType;
use snapshim::cooperate::locate::{target_of_descriptor, target_of_stat};
use snapshim::protocol::origin::{Origin, Target};
use snapshim::sys::filesystem::{ALLOWED, kind_of_file_system};
use snapshim::sys::procfs::ProcPath;
use snapshim::sys::{permission, raw};
use syscalls::{Sysno, syscall};

use super::truncate::{doubt, is_without_proc, truncate_file, truncate_known, truncate_somewhere};
use crate::base::errno::{as_libc, errno, set_errno};
use crate::base::own_file::is_own_file;
use crate::base::user_memory::read_value;
use crate::interpose::answer::fail;
use crate::interpose::interpose;
use crate::writer::enter::while_unused;

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
    /// openat2(2), a function of libc's from glibc 2.43 on. `how` is a `struct open_how`: flags, mode, resolve
    openat2, c"openat2": openat2 => fn(directory: c_int, path: *const c_char, how: *const u64, size: usize) -> c_int {
        // SAFETY: the application's arguments, as they are.
        raw |directory, path, how, size| as_libc(unsafe { syscall!(Sysno::openat2, directory, path, how, size) }) as c_int,
        hook on_openat2,
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

pub fn on_creat(real: creat64::Function, path: *const c_char, mode: c_uint) -> c_int {
    // SAFETY: the pointer is libc's open(2), or its raw system call.
    let open: open64::Function = unsafe { core::mem::transmute(open64::ENTRY_POINT.original()) };
    // SAFETY: the application's arguments, as they are.
    let as_made = || unsafe { real(path, mode) };
    // SAFETY: creat(2) is open(2) with these flags.
    opened_as(libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC, as_made, |flags| unsafe { open(path, flags, mode) })
}

pub fn on_open_by_handle(real: open_by_handle::Function, mount: c_int, handle: *mut u8, flags: c_int) -> c_int {
    // SAFETY: the application's arguments, as they are but for O_TRUNC.
    opened(flags, |flags| unsafe { real(mount, handle, flags) })
}

pub fn on_openat2(
    real: openat2::Function,
    directory: c_int,
    path: *const c_char,
    how: *const u64,
    size: usize,
) -> c_int {
    let word = |index: usize| read_value(how.wrapping_add(index) as u64).unwrap_or(0);
    let asked: [u64; 3] = [word(0), word(1), word(2)];
    // SAFETY: the application's arguments, as they are, or a copy of the structure.
    let call = |how: *const u64| unsafe { real(directory, path, how, size) };
    let otherwise = |flags: c_int| {
        if size != size_of_val(&asked) {
            // The structure of a later kernel: the rest of what it asks for is not known.
            return fail(libc::E2BIG);
        }
        // The kernel refuses a mode where no file can come into being.
        let mode = if flags & (libc::O_CREAT | libc::O_TMPFILE) != 0 { asked[1] } else { 0 };
        call([asked[0] & !u64::from(u32::MAX) | u64::from(flags as u32), mode, asked[2]].as_ptr())
    };
    opened_as(asked[0] as c_int, || call(how), otherwise)
}

/// Makes an open(2) with `flags`: `open` makes it with those that it is given.
#[inline]
pub fn opened(flags: c_int, open: impl Fn(c_int) -> c_int) -> c_int {
    opened_as(flags, || open(flags), &open)
}

/// The same where the program's own call, `as_made`, is not that of `open`.
#[inline]
fn opened_as(flags: c_int, as_made: impl Fn() -> c_int, open: impl Fn(c_int) -> c_int) -> c_int {
    if !truncates(flags) {
        return as_made();
    }
    match while_unused(|| as_made() as isize) {
        Some(result) => result as c_int,
        None if permission::forbids_any(TRUNCATING) => truncate_somewhere(|| as_made() as isize) as c_int,
        None => open_beside_snapshots(flags, &open),
    }
}

/// The calls that truncate what has been opened, and look which file it is.
const TRUNCATING: &[Sysno] = &[
    Sysno::openat,
    Sysno::fstat,
    Sysno::statx,
    Sysno::fstatfs,
    Sysno::ftruncate,
    Sysno::truncate,
    Sysno::dup3,
    Sysno::close,
];

/// Whether a file that exists is truncated.
pub fn truncates(flags: c_int) -> bool {
    const CREATES_ONLY: c_int = libc::O_CREAT | libc::O_EXCL;
    flags & libc::O_TRUNC != 0
        && flags & libc::O_PATH == 0
        && flags & libc::O_TMPFILE != libc::O_TMPFILE
        && flags & CREATES_ONLY != CREATES_ONLY
}

/// What a path leads to, for an open(2) that truncates.
enum Found {
    /// No file, or a symbolic link to none.
    Nothing,
    /// A regular file, by an O_PATH descriptor of the shim's own, on a file system that holds no origins.
    Apart(c_int, Origin),
    /// The file that the library was loaded from.
    Library,
    /// Anything else, or not to be told.
    Other,
}

#[cold]
fn open_beside_snapshots(flags: c_int, open: &impl Fn(c_int) -> c_int) -> c_int {
    /// A file may come or go under the name at any time.
    const TRIES: usize = 3;
    let before = errno();
    let mut found = Found::Nothing;
    for _ in 0..TRIES {
        found = look_up(flags, open);
        set_errno(before);
        match found {
            Found::Nothing if flags & libc::O_CREAT != 0 => {
                let fd = open(flags | libc::O_EXCL);
                if fd >= 0 || errno() != libc::EEXIST {
                    return fd;
                }
                set_errno(before);
            }
            Found::Apart(file, origin) => {
                if let Some(result) = open_as_asked(file, origin, flags) {
                    return result;
                }
                set_errno(before);
                break;
            }
            // As for a program that is executed (open(2)): what runs here would be gone.
            Found::Library => return fail(libc::ETXTBSY),
            _ => break,
        }
    }
    // A name under which there is no file, and none can be created, is a symbolic link that leads nowhere.
    let may_be_new = matches!(found, Found::Nothing);
    match open(flags & !libc::O_TRUNC) {
        fd if fd < 0 => fd,
        fd => truncate_opened(fd, flags, may_be_new, open),
    }
}

/// Looks up what will be opened. That is no event for any watcher, opens no device and waits for none.
fn look_up(flags: c_int, open: &impl Fn(c_int) -> c_int) -> Found {
    let file = open(libc::O_PATH | libc::O_CLOEXEC | flags & (libc::O_NOFOLLOW | libc::O_DIRECTORY));
    if file < 0 {
        return if errno() == libc::ENOENT { Found::Nothing } else { Found::Other };
    }
    let stat = rustix::fs::fstat(raw::borrow(file as u32));
    let origin = stat.ok().and_then(|stat| match target_of_stat(&stat) {
        Target::Origin(origin) if !origin.is_block_device() => Some(origin),
        _ => None,
    });
    if !permission::is_confined() && stat.is_ok_and(|stat| is_own_file(stat.st_dev, stat.st_ino)) {
        close(file);
        return Found::Library;
    }
    let is_apart = kind_of_file_system(raw::borrow(file as u32)).is_ok_and(|kind| !ALLOWED.contains(&kind));
    match origin {
        Some(origin) if is_apart => Found::Apart(file, origin),
        _ => {
            close(file);
            Found::Other
        }
    }
}

/// Opens the file behind an O_PATH descriptor with the flags that the program gave, under the descriptor's number: the lowest that
/// was free, as open(2) gives it. Snapshots of the file, if there are any after all, are preserved. `None`: /proc is not there.
fn open_as_asked(file: c_int, origin: Origin, flags: c_int) -> Option<c_int> {
    let path = ProcPath::thread_self("fd").slash(file as u32);
    // The last part of this path is a link, and the file exists.
    let flags = flags & !(libc::O_NOFOLLOW | libc::O_CREAT);
    let opened = truncate_known(origin, || {
        // SAFETY: the path is a C string.
        as_libc(unsafe { syscall!(Sysno::openat, libc::AT_FDCWD, path.as_c_str().as_ptr(), flags, 0) }) as c_int
    });
    if opened < 0 {
        close(file);
        return if is_without_proc(errno()) { None } else { Some(opened) };
    }
    // SAFETY: both numbers are the shim's own.
    let moved = as_libc(unsafe { syscall!(Sysno::dup3, opened, file, flags & libc::O_CLOEXEC) }) as c_int;
    if moved < 0 {
        close(file);
        return Some(opened);
    }
    close(opened);
    Some(moved)
}

/// `may_be_new`: the call may have created the file. One that is empty is left alone then.
fn truncate_opened(fd: c_int, flags: c_int, may_be_new: bool, open: &impl Fn(c_int) -> c_int) -> c_int {
    let Ok(stat) = rustix::fs::fstat(raw::borrow(fd as u32)) else { return fd };
    let is_read_only = flags & libc::O_ACCMODE == libc::O_RDONLY;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile if (is_read_only || may_be_new) && stat.st_size == 0 => return fd,
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
