//! truncate(2), ftruncate(2), fallocate(2): content goes away, moves, or becomes zeros.
//!
//! A truncation destroys private copies as well: the kernel unmaps them. So pages of a snapshot are moved off the file first
//! (`truncates_from` tells the core).

use core::cell::Cell;
use core::ffi::{c_char, c_int};

use libc::off64_t;
use rustix::fs::OFlags;
use snapshim::cooperate::locate::{target_at_path, target_of_descriptor};
use snapshim::protocol::cause::Cause;
use snapshim::protocol::gate::NO_DESCRIPTOR;
use snapshim::protocol::origin::{Origin, Target};
use snapshim::protocol::snapshot::View;
use snapshim::sys::procfs::ProcPath;
use snapshim::sys::{permission, raw};
use snapshim::table;
use syscalls::{Sysno, syscall};

use super::utime::without_bytes;
use crate::base::errno::{as_libc, errno, set_errno};
use crate::interpose::interpose;
use crate::process::identity;
use crate::process::log::{Level, say};
use crate::writer::enter::{through_gate, while_unused};
use crate::writer::touch::Touch;

interpose! {
    /// ftruncate(2)
    ftruncate64, c"ftruncate64": ftruncate ftruncate64 => fn(fd: c_int, length: off64_t) -> c_int {
        // SAFETY: the application's arguments, as they are.
        raw |fd, length| as_libc(unsafe { syscall!(Sysno::ftruncate, fd, length) }) as c_int,
        hook on_ftruncate,
    }
    /// truncate(2)
    truncate64, c"truncate64": truncate truncate64 => fn(path: *const c_char, length: off64_t) -> c_int {
        // SAFETY: the application's arguments, as they are.
        raw |path, length| as_libc(unsafe { syscall!(Sysno::truncate, path, length) }) as c_int,
        hook on_truncate,
    }
    /// fallocate(2)
    fallocate64, c"fallocate64": fallocate fallocate64
    => fn(fd: c_int, mode: c_int, offset: off64_t, length: off64_t) -> c_int {
        // SAFETY: the application's arguments, as they are.
        raw |fd, mode, offset, length| as_libc(unsafe { syscall!(Sysno::fallocate, fd, mode, offset, length) }) as c_int,
        hook on_fallocate,
    }
    /// posix_fallocate(3), which makes the system call itself and answers with an errno
    posix_fallocate64, c"posix_fallocate64": posix_fallocate posix_fallocate64
    => fn(fd: c_int, offset: off64_t, length: off64_t) -> c_int {
        raw |fd, offset, length| {
            // SAFETY: the application's arguments, as they are.
            unsafe { syscall!(Sysno::fallocate, fd, 0, offset, length) }.map_or_else(syscalls::Errno::into_raw, |_| 0)
        },
        hook on_posix_fallocate,
    }
}

/// The change of a truncation: everything from a byte on goes away.
struct Truncation {
    from: off64_t,
    /// The file; `None` for the one behind the descriptor.
    target: Option<Target>,
}

impl Touch for Truncation {
    fn length(&self) -> u64 {
        0
    }

    fn offset(&self) -> Option<i64> {
        Some(self.from)
    }

    fn truncates_from(&self) -> Option<u64> {
        // The kernel refuses a negative length.
        Some(u64::try_from(self.from).unwrap_or(u64::MAX >> 1))
    }

    fn known_target(&self) -> Target {
        self.target.unwrap_or_default()
    }

    fn target(&self, descriptor: u32) -> Target {
        self.target.unwrap_or_else(|| target_of_descriptor(descriptor))
    }
}

/// Makes `call`, which truncates the file behind `descriptor` to `length` bytes.
pub fn truncate_file(descriptor: c_int, length: off64_t, call: impl Fn() -> c_int) -> c_int {
    through_gate(descriptor, Truncation { from: length, target: None }, || call() as isize) as c_int
}

/// The same for a call that truncates the file behind `descriptor` to nothing by opening it once more.
pub fn truncate_in(descriptor: c_int, call: impl Fn() -> isize) -> isize {
    through_gate(descriptor, Truncation { from: 0, target: None }, call)
}

/// The same for a call that truncates a file which is not known.
pub fn truncate_somewhere(call: impl Fn() -> isize) -> isize {
    through_gate(NO_DESCRIPTOR as c_int, Truncation { from: 0, target: Some(Target::Unknown) }, call)
}

/// Makes `call`, which looks `path` up itself and truncates the file to nothing.
pub fn truncate_by_name(directory: c_int, path: *const c_char, call: impl Fn() -> isize) -> isize {
    truncate_named(directory, path, 0, call)
}

/// Makes `call`, which opens a file of `origin` so that it is truncated to nothing.
pub fn truncate_known(origin: Origin, call: impl Fn() -> c_int) -> c_int {
    let target = Some(Target::Origin(origin));
    through_gate(NO_DESCRIPTOR as c_int, Truncation { from: 0, target }, || call() as isize) as c_int
}

/// The same for a call that leaves `length` bytes.
fn truncate_named(directory: c_int, path: *const c_char, length: off64_t, call: impl Fn() -> isize) -> isize {
    if let Some(result) = while_unused(&call) {
        return result;
    }
    if permission::forbids_any(LOOKING_UP) {
        return truncate_somewhere(call);
    }
    let seen = target_named(directory, path);
    let result = match seen {
        Target::Elsewhere => call(),
        target => through_gate(NO_DESCRIPTOR as c_int, Truncation { from: length, target: Some(target) }, call),
    };
    doubt_if_other(directory, path, seen);
    result
}

/// The regular file that a path leads to. It is opened only where there is no other way: a process that has no descriptor left may
/// still truncate a file.
fn target_named(directory: c_int, path: *const c_char) -> Target {
    let target = match target_at_path(directory as u32, path, 0) {
        // A filter of seccomp(2) that forbids the lookup may allow this one.
        Target::Unknown => open_path(directory, path).map_or(Target::Unknown, |descriptor| {
            let found = target_of_descriptor(descriptor as u32);
            close(descriptor);
            found
        }),
        target => target,
    };
    only_regular(target)
}

/// A truncation does nothing to a block device.
fn only_regular(target: Target) -> Target {
    match target {
        Target::Origin(origin) if origin.is_block_device() => Target::Elsewhere,
        target => target,
    }
}

fn open_path(directory: c_int, path: *const c_char) -> Option<c_int> {
    let flags = (OFlags::PATH | OFlags::CLOEXEC).bits();
    // SAFETY: the kernel checks the application's pointer.
    unsafe { syscall!(Sysno::openat, directory, path, flags, 0) }.ok().map(|number| number as c_int)
}

fn close(descriptor: c_int) {
    // SAFETY: opened by `open_path`, and used nowhere else.
    drop(unsafe { raw::adopt_fd(descriptor) });
}

/// Marks snapshots doubtful if the path leads to another file now: another process may have replaced the file between the lookup
/// here and the call's own lookup.
fn doubt_if_other(directory: c_int, path: *const c_char, seen: Target) {
    if identity::attached().is_some_and(|own| own.table.gate().active.is_raised())
        && let now = target_named(directory, path)
        && let Target::Origin(origin) = now
        && now != seen
    {
        doubt(origin);
    }
}

/// Marks the snapshots of `origin` doubtful: it was emptied without an announcement, because it took a name that had led to another
/// file.
pub fn doubt(origin: Origin) {
    let Some(own) = identity::attached() else { return };
    let doubt = |(index, view): (u32, View)| {
        if table::doubt(own.table, index, view.head.incarnation(), Cause::NameTaken) {
            say!(
                Level::Warn,
                file = origin;
                "a snapshot of {} is doubtful from now on: {}, by process {}",
                origin,
                Cause::NameTaken,
                raw::own_pid()
            );
        }
    };
    own.table.over_splits(|walk| walk.of(origin).for_each(doubt));
}

/// Whether a failure means that a path in /proc does not exist although the descriptor does: above all in a chroot(2) without
/// /proc.
pub fn is_without_proc(failure: c_int) -> bool {
    matches!(failure, libc::ENOENT | libc::ENOTDIR | libc::ELOOP)
}

pub fn on_ftruncate(real: ftruncate64::Function, fd: c_int, length: off64_t) -> c_int {
    // SAFETY: the application's arguments, as they are.
    truncate_file(fd, length, || unsafe { real(fd, length) })
}

/// The calls by which a path is looked up.
const LOOKING_UP: &[Sysno] = &[Sysno::openat, Sysno::statx, Sysno::close];

/// The path is looked up once, where that is possible, so that the preserved file is the truncated one.
pub fn on_truncate(real: truncate64::Function, path: *const c_char, length: off64_t) -> c_int {
    // SAFETY: the application's arguments, as they are.
    let by_name = || unsafe { real(path, length) };
    if let Some(result) = while_unused(|| by_name() as isize) {
        return result as c_int;
    }
    if permission::forbids_any(LOOKING_UP) {
        return truncate_somewhere(|| by_name() as isize) as c_int;
    }
    let Some(descriptor) = open_path(libc::AT_FDCWD, path) else {
        // No descriptor is left; or the path leads nowhere, and the call fails as the lookup did.
        return truncate_named(libc::AT_FDCWD, path, length, || by_name() as isize) as c_int;
    };
    let found = ProcPath::thread_self("fd").slash(descriptor as u32);
    let before = errno();
    let was_by_name = Cell::new(false);
    let result = truncate_file(descriptor, length, || {
        // SAFETY: the path is a C string.
        let result = unsafe { real(found.as_c_str().as_ptr(), length) };
        if result == 0 || !is_without_proc(errno()) {
            return result;
        }
        set_errno(before);
        was_by_name.set(true);
        by_name()
    });
    if was_by_name.get() {
        doubt_if_other(libc::AT_FDCWD, path, only_regular(target_of_descriptor(descriptor as u32)));
    }
    close(descriptor);
    result
}

const KEEP_SIZE: c_int = 0x01;
const COLLAPSE_RANGE: c_int = 0x08;
const INSERT_RANGE: c_int = 0x20;
const UNSHARE_RANGE: c_int = 0x40;

/// The change of a fallocate(2): a range becomes zeros, or everything after it moves.
struct Allocation {
    mode: c_int,
    offset: off64_t,
    length: off64_t,
}

impl Touch for Allocation {
    fn length(&self) -> u64 {
        u64::try_from(self.length).unwrap_or(0)
    }

    fn offset(&self) -> Option<i64> {
        Some(self.offset)
    }

    fn truncates_from(&self) -> Option<u64> {
        (self.mode & (COLLAPSE_RANGE | INSERT_RANGE) != 0).then(|| u64::try_from(self.offset).unwrap_or(u64::MAX >> 1))
    }
}

fn on_posix_fallocate(real: posix_fallocate64::Function, fd: c_int, offset: off64_t, length: off64_t) -> c_int {
    let failure = Cell::new(None);
    without_bytes(fd, || {
        // SAFETY: the application's arguments, as they are.
        let answer = unsafe { real(fd, offset, length) };
        failure.set(Some(answer));
        // The result of a change is a count of bytes, and an errno is none.
        -answer
    });
    // No answer: the gate refused the call.
    failure.get().unwrap_or_else(errno)
}

pub fn on_fallocate(real: fallocate64::Function, fd: c_int, mode: c_int, offset: off64_t, length: off64_t) -> c_int {
    // SAFETY: the application's arguments, as they are.
    let call = || unsafe { real(fd, mode, offset, length) };
    if mode & !(KEEP_SIZE | UNSHARE_RANGE) == 0 {
        // The call allocates only. Every byte keeps its value.
        return without_bytes(fd, call);
    }
    through_gate(fd, Allocation { mode, offset, length }, || call() as isize) as c_int
}
