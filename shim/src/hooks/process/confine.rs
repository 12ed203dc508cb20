//! chroot(2), setrlimit(2), seccomp(2) and their kin: after them the table may be out of reach.
//!
//! A process joins at its first change. A process that shuts itself in before that would change files unseen. So it joins, and its
//! thread takes a slot, before the call takes effect. The calls of [`credentials`](super::credentials) do the same.

use core::ffi::{c_char, c_int, c_uint, c_ulong, c_void};

use libc::{gid_t, pid_t, rlimit64, uid_t};
use snapshim::sys::{permission, raw};
use syscalls::{Sysno, syscall};

use crate::base::errno::as_libc;
use crate::interpose::interpose;
use crate::lifecycle::confinement::Filter;
use crate::process::thread;

/// Joins the table, if that is possible. A refusal is noted or logged, as at a change.
pub fn join_before() {
    if permission::is_confined() {
        return;
    }
    let _ = thread::current();
}

/// Declares hooks that are all alike: the process joins first, where `if` allows, and `around` makes libc's function's call.
///
/// `Sysno` and its arguments are the system call that libc's function makes.
macro_rules! joined_before {
    ($around:path: $(
        $(#[$doc:meta])*
        $name:ident, $libc:literal: $($export:ident)* ($($argument:ident: $type:ty),*) $(if $closes:expr)?
        => $number:ident($($given:expr),*);
    )+) => {
        interpose! {
            $(
                $(#[$doc])*
                $name, $libc: $($export)* => fn($($argument: $type),*) -> c_int {
                    // SAFETY: the application's arguments, as they are.
                    raw |$($argument: $type),*| as_libc(unsafe { syscall!(Sysno::$number, $($given),*) }) as c_int,
                    hook hooked::$name,
                }
            )+
        }

        mod hooked {
            use super::*;
            $(
                pub fn $name(real: super::$name::Function, $($argument: $type),*) -> c_int {
                    if true $(&& $closes)? {
                        $crate::hooks::process::confine::join_before();
                    }
                    // SAFETY: the application's arguments, as they are.
                    $around(|| unsafe { real($($argument),*) })
                }
            )+
        }
    };
}
pub(super) use joined_before;

/// Makes the call as it is.
fn directly<T>(call: impl FnOnce() -> T) -> T {
    call()
}

joined_before! {
    directly:
    /// chroot(2)
    chroot, c"chroot": chroot(path: *const c_char) => chroot(path);
    /// pivot_root(2)
    pivot_root, c"pivot_root": pivot_root(new: *const c_char, old: *const c_char) => pivot_root(new, old);
    /// mount(2), for instance over the table's directory
    mount, c"mount": mount(
        source: *const c_char, target: *const c_char, kind: *const c_char, flags: c_ulong, data: *const c_void
    ) if hides(flags) => mount(source, target, kind, flags, data);
    /// umount(2)
    umount, c"umount": umount(target: *const c_char) => umount2(target, 0);
    /// umount2(2)
    umount2, c"umount2": umount2(target: *const c_char, flags: c_int) => umount2(target, flags);
    /// move_mount(2)
    move_mount, c"move_mount": move_mount(
        from_directory: c_int, from: *const c_char, to_directory: c_int, to: *const c_char, flags: c_uint
    ) => move_mount(from_directory, from, to_directory, to, flags);
    /// mount_setattr(2)
    mount_setattr, c"mount_setattr": mount_setattr(
        directory: c_int, path: *const c_char, flags: c_uint, attributes: *mut c_void, size: usize
    ) => mount_setattr(directory, path, flags, attributes, size);
    /// setrlimit(2)
    setrlimit, c"setrlimit": setrlimit setrlimit64(resource: c_uint, limits: *const rlimit64) if is_needed(resource)
    => setrlimit(resource, limits);
    /// prlimit(2)
    prlimit, c"prlimit": prlimit prlimit64(
        pid: pid_t, resource: c_uint, limits: *const rlimit64, old: *mut rlimit64
    ) if !limits.is_null() && is_this_process(pid) && is_needed(resource) => prlimit64(pid, resource, limits, old);
    /// setfsuid(2)
    setfsuid, c"setfsuid": setfsuid(user: uid_t) => setfsuid(user);
    /// setfsgid(2)
    setfsgid, c"setfsgid": setfsgid(group: gid_t) => setfsgid(group);
}

/// The filter that prctl(2) is to install.
pub fn filter_of_prctl(option: c_int, mode: c_ulong, program: c_ulong) -> Option<Filter> {
    const STRICT: c_ulong = libc::SECCOMP_MODE_STRICT as c_ulong;
    const FILTER: c_ulong = libc::SECCOMP_MODE_FILTER as c_ulong;
    match (option, mode) {
        (libc::PR_SET_SECCOMP, STRICT) => Some(Filter::Strict),
        (libc::PR_SET_SECCOMP, FILTER) => Some(Filter::Program { address: program, gives_descriptor: false }),
        _ => None,
    }
}

/// The filter that a call by number is to install.
pub fn filter_by_number(number: i64, [a, b, c, ..]: [usize; 6]) -> Option<Filter> {
    match (number, a as c_uint) {
        (libc::SYS_prctl, _) => filter_of_prctl(a as c_int, b as c_ulong, c as c_ulong),
        (libc::SYS_seccomp, libc::SECCOMP_SET_MODE_STRICT) => Some(Filter::Strict),
        (libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER) => {
            let gives_descriptor = b as c_ulong & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER != 0;
            Some(Filter::Program { address: c as u64, gives_descriptor })
        }
        _ => None,
    }
}

/// Whether mount(2) can put something over the table's directory: all forms can, but those that only say where later mounts appear.
fn hides(flags: c_ulong) -> bool {
    const PROPAGATION: c_ulong = libc::MS_SHARED | libc::MS_PRIVATE | libc::MS_SLAVE | libc::MS_UNBINDABLE;
    flags & PROPAGATION == 0
}

/// Whether joining needs what the limit is for.
fn is_needed(resource: c_uint) -> bool {
    [libc::RLIMIT_NOFILE, libc::RLIMIT_AS, libc::RLIMIT_FSIZE, libc::RLIMIT_MEMLOCK].contains(&resource)
}

fn is_this_process(pid: pid_t) -> bool {
    pid == 0 || pid as u32 == raw::own_pid()
}

/// Whether prctl(2) sets a filter of system calls, takes the process's own /proc files away, or leads system calls to a handler.
pub(super) fn shuts_in(option: c_int) -> bool {
    const PR_SET_SYSCALL_USER_DISPATCH: c_int = 59;
    [libc::PR_SET_SECCOMP, libc::PR_SET_DUMPABLE, PR_SET_SYSCALL_USER_DISPATCH].contains(&option)
}

/// Whether a call by number is one of these, or a like call that libc has no function for.
pub fn shuts_in_by_number(number: i64, [a, b, c, d, ..]: [usize; 6]) -> bool {
    const ALWAYS: [i64; 9] = [
        libc::SYS_chroot,
        libc::SYS_pivot_root,
        libc::SYS_umount2,
        libc::SYS_move_mount,
        libc::SYS_mount_setattr,
        libc::SYS_setfsuid,
        libc::SYS_setfsgid,
        libc::SYS_seccomp,
        libc::SYS_landlock_restrict_self,
    ];
    match number {
        libc::SYS_prctl => shuts_in(a as c_int),
        libc::SYS_mount => hides(d as c_ulong),
        libc::SYS_setrlimit => is_needed(a as c_uint),
        libc::SYS_prlimit64 => c != 0 && is_this_process(a as pid_t) && is_needed(b as c_uint),
        _ => ALWAYS.contains(&number),
    }
}
