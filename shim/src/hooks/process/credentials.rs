//! setuid(2), unshare(2) and their kin: what the kernel changes for one thread, or only for a process of one thread.
//!
//! libc makes the change in all its own threads. It does not know the agent, which would keep the rights that the program gives up,
//! and whose existence would make the kernel refuse some calls. So the agent ends before the call, and is started anew after it,
//! with the rights that its starter has then.

use core::ffi::{c_int, c_void};

use libc::{gid_t, size_t, uid_t};
use syscalls::{Sysno, syscall};

use super::confine::joined_before;
use crate::agent::exclusion::with_agent_stopped;
use crate::base::errno::as_libc;
use crate::interpose::interpose;

/// The value that leaves a user or group as it is.
const SAME: u32 = u32::MAX;

joined_before! {
    with_agent_stopped:
    /// setuid(2)
    setuid, c"setuid": setuid(user: uid_t) => setuid(user);
    /// setgid(2)
    setgid, c"setgid": setgid(group: gid_t) => setgid(group);
    /// seteuid(3)
    seteuid, c"seteuid": seteuid(user: uid_t) => setresuid(SAME, user, SAME);
    /// setegid(3)
    setegid, c"setegid": setegid(group: gid_t) => setresgid(SAME, group, SAME);
    /// setreuid(2)
    setreuid, c"setreuid": setreuid(real_user: uid_t, user: uid_t) => setreuid(real_user, user);
    /// setregid(2)
    setregid, c"setregid": setregid(real_group: gid_t, group: gid_t) => setregid(real_group, group);
    /// setresuid(2)
    setresuid, c"setresuid": setresuid(real_user: uid_t, user: uid_t, saved: uid_t) => setresuid(real_user, user, saved);
    /// setresgid(2)
    setresgid, c"setresgid": setresgid(real_group: gid_t, group: gid_t, saved: gid_t) => setresgid(real_group, group, saved);
    /// setgroups(2)
    setgroups, c"setgroups": setgroups(count: size_t, groups: *const gid_t) => setgroups(count, groups);
    /// capset(2)
    capset, c"capset": capset(header: *mut c_void, data: *const c_void) => capset(header, data);
    /// unshare(2)
    unshare, c"unshare": unshare(what: c_int) if leaves_user(what) => unshare(what);
    /// setns(2)
    setns, c"setns": setns(space: c_int, kind: c_int) => setns(space, kind);
}

/// Whether unshare(2) takes rights away. Any other namespace does not keep the process from the table by itself: mount(2) hides
/// directories later, and a pid namespace holds only children, which cannot use a table that was made outside of it.
fn leaves_user(what: c_int) -> bool {
    what & libc::CLONE_NEWUSER != 0
}

/// Whether the process joins before this call by number.
pub fn takes_rights_away(number: i64, what: usize) -> bool {
    number != libc::SYS_unshare || leaves_user(what as c_int)
}

/// The numbers of these calls. Made by number in a program of one thread, they change the whole program.
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
