//! setuid(2), unshare(2) and their kin: what the kernel changes for one thread, or only for a process of one thread.
//!
//! libc takes its own threads along; of the agent it does not know. Left alone it would keep the rights that the program gives up,
//! and hold up a program that has no other thread. So it leaves before, and is started anew, with what its starter has then.

use core::ffi::{c_int, c_void};

use libc::{gid_t, size_t, uid_t};
use syscalls::{Sysno, syscall};

use super::confine::join_before;
use crate::agent::exclusion::without_agent;
use crate::base::errno::as_libc;
use crate::interpose::interpose;

/// The hooks are all alike; `Sysno` and its arguments are what libc's function comes to.
macro_rules! in_solitude {
    ($($(#[$doc:meta])* $name:ident, $libc:literal($($argument:ident: $type:ty),*): $number:ident($($given:expr),*) $(if $closes:expr)?;)+) => {
        interpose! {
            $(
                $(#[$doc])*
                $name, $libc: $name => fn($($argument: $type),*) -> c_int {
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
                        join_before();
                    }
                    // SAFETY: the application's arguments, as they are.
                    without_agent(|| unsafe { real($($argument),*) })
                }
            )+
        }
    };
}

/// What leaves a user or group as it is.
const SAME: u32 = u32::MAX;

in_solitude! {
    /// setuid(2)
    setuid, c"setuid"(user: uid_t): setuid(user);
    /// setgid(2)
    setgid, c"setgid"(group: gid_t): setgid(group);
    /// seteuid(3)
    seteuid, c"seteuid"(user: uid_t): setresuid(SAME, user, SAME);
    /// setegid(3)
    setegid, c"setegid"(group: gid_t): setresgid(SAME, group, SAME);
    /// setreuid(2)
    setreuid, c"setreuid"(real_user: uid_t, user: uid_t): setreuid(real_user, user);
    /// setregid(2)
    setregid, c"setregid"(real_group: gid_t, group: gid_t): setregid(real_group, group);
    /// setresuid(2)
    setresuid, c"setresuid"(real_user: uid_t, user: uid_t, saved: uid_t): setresuid(real_user, user, saved);
    /// setresgid(2)
    setresgid, c"setresgid"(real_group: gid_t, group: gid_t, saved: gid_t): setresgid(real_group, group, saved);
    /// setgroups(2)
    setgroups, c"setgroups"(count: size_t, groups: *const gid_t): setgroups(count, groups);
    /// capset(2)
    capset, c"capset"(header: *mut c_void, data: *const c_void): capset(header, data);
    /// unshare(2)
    unshare, c"unshare"(what: c_int): unshare(what) if leaves_user(what);
    /// setns(2)
    setns, c"setns"(space: c_int, kind: c_int): setns(space, kind);
}

/// Whether unshare(2) takes rights away. Another namespace keeps nobody from the table by itself: what its mounts hide is hidden by
/// mount(2), and of a pid namespace only children are part, which could not use a table that was made outside of it.
fn leaves_user(what: c_int) -> bool {
    what & libc::CLONE_NEWUSER != 0
}

/// Whether a call by number is one before which the process joins.
pub fn takes_rights_away(number: i64, what: usize) -> bool {
    number != libc::SYS_unshare || leaves_user(what as c_int)
}

/// The numbers of these calls: by number, and in a program of one thread, they are for the whole of it.
pub const NUMBERS: [i64; 10] = [
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    libc::SYS_unshare,
    libc::SYS_setns,
];
