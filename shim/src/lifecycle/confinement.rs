//! seccomp(2): what a process does before a filter of its own forbids calls that the library makes.
//!
//! The filter is judged before it is installed (`base::system_call_filter`). If it ends the program for a call that the library
//! makes, the process is *confined* from then on (`snapshim::sys::permission`): no such call is made any more. What needs one is
//! prepared here:
//!
//! - the process has joined, and its thread has a slot, so that its writes are announced in memory alone;
//! - where its descriptors lead is remembered;
//! - its own snapshots are copied whole, and are ordinary memory from then on;
//! - its shared mappings are opened after what snapshots have of them is preserved. They stay open: a new snapshot of such a file
//!   is refused;
//! - it has no agent any more.
//!
//! A confined process asks the mappers' agents to preserve, and preserves more than it would if it knew where its bytes go.

use core::ptr;

use libc::{sock_filter, sock_fprog};
use rustix::mm::{MapFlags, ProtFlags};
use snapshim::cooperate::locate::target_of_descriptor;
use snapshim::cooperate::remembered;
use snapshim::protocol::cause::Cause;
use snapshim::sys::permission::{self, Before, Calls};
use snapshim::sys::{probe, raw};
use syscalls::Sysno;

use super::environment::Without;
use crate::address_space::lock::Mappings;
use crate::agent::{exclusion, start};
use crate::base::config::config;
use crate::base::own_stacks;
use crate::base::system_call_filter::{self as filter, Call, LONGEST, NEEDED, OPTIONAL, STRICT};
use crate::base::user_memory::read_own;
use crate::mapper::keep::{self, Kept};
use crate::process::log::{Level, say};
use crate::process::{identity, thread};
use crate::shared::{list, stay_open};

/// What the program is about to install.
#[derive(Clone, Copy)]
pub enum Filter {
    /// SECCOMP_MODE_STRICT.
    Strict,
    /// The program at this address, a `struct sock_fprog`. The call that installs it may return a descriptor
    /// (SECCOMP_FILTER_FLAG_NEW_LISTENER).
    Program { address: u64, gives_descriptor: bool },
}

impl Filter {
    /// Whether an installation failed that answered so. It may name a thread that has another filter
    /// (SECCOMP_FILTER_FLAG_TSYNC, seccomp(2)).
    fn is_failure(self, answer: i64) -> bool {
        let gives_descriptor = matches!(self, Self::Program { gives_descriptor: true, .. });
        answer < 0 || answer > 0 && !gives_descriptor
    }
}

/// Makes `call`, which installs `filter` and answers as a system call of libc's does.
pub fn confined(filter: Filter, call: impl FnOnce() -> i64) -> i64 {
    let _ = thread::current();
    // The memory of a vfork child is its parent's, which is not confined.
    if config().is_disabled || identity::is_vfork_child() {
        return call();
    }
    probe::judge();
    let Some((forbidden, confines)) = judged(filter) else { return call() };
    let before = permission::so_far();
    // Behind the installation no call is made: even one that the filter hands to a supervisor may wait for ever, as that may be
    // about to get the filter's descriptor from this very thread.
    let install = || {
        permission::forbid(&forbidden, confines);
        let answer = call();
        if filter.is_failure(answer) {
            take_back(&before);
        }
        answer
    };
    if !confines {
        start::before_filter();
        return install();
    }
    if !permission::is_confined() {
        prepare();
    }
    // No other process may ask for an agent: the answer is made of calls that may be forbidden.
    start::stay_without();
    exclusion::with_agent_stopped(install)
}

/// The calls that `filter` forbids, and whether it confines the process; `None`: the kernel refuses the filter.
fn judged(filter: Filter) -> Option<(Calls, bool)> {
    let copy = Copy::of(filter)?;
    let forbidden = |calls: &'static [Call]| calls.iter().filter(|own| !copy.lets_pass(own)).map(|own| own.0);
    let confines = forbidden(NEEDED).next().is_some();
    Some((Calls::of(forbidden(NEEDED).chain(forbidden(OPTIONAL))), confines))
}

/// The installation has failed.
fn take_back(before: &Before) {
    permission::restore(before);
    if !permission::is_confined() {
        list::seal(false);
    }
}

fn prepare() {
    list::seal(true);
    own_stacks::prepare();
    Without::prepare();
    let Some(own) = identity::attached() else { return };
    let kept = keep::keep_whole(&own);
    let open = stay_open::open_for_good(&own);
    log_kept(&kept);
    if open > 0 {
        say!(
            Level::Info,
            "process {} confines itself by a filter of seccomp: new snapshots of the files in its {open} writable shared mappings \
             are refused while it lives",
            raw::own_pid()
        );
    }
    // A thread that pushes makes calls that may be forbidden to it in a moment.
    let deadline = Mappings::deadline();
    let _ = own.table.await_pushers_of(own.owner(), deadline);
    if let Some(record) = own.record() {
        remembered::remember(record, target_of_descriptor);
    }
}

fn log_kept(kept: &Kept) {
    let (pid, Kept { whole, unquiet, doubted }) = (raw::own_pid(), *kept);
    if whole > 0 {
        say!(
            Level::Warn,
            "process {pid} confines itself by a filter of seccomp: its {whole} snapshots were copied whole, and are ordinary \
             memory from now on"
        );
    }
    if unquiet > 0 {
        say!(
            Level::Warn,
            "process {pid} confines itself by a filter of seccomp: a writer that is stopped may store a byte into the memory of \
             {unquiet} of its snapshots when it goes on, one that was there; continue it before the program changes that memory"
        );
    }
    if doubted > 0 {
        say!(
            Level::Warn,
            "process {pid} confines itself by a filter of seccomp: {doubted} of its snapshots are doubtful from now on: {}",
            Cause::MapperBusy.in_full()
        );
    }
}

/// A copy of a filter, as long as it is judged.
enum Copy {
    Strict,
    /// The kernel's own limit is kept; the memory is given back on drop.
    Program {
        start: *mut sock_filter,
        count: usize,
    },
    /// A filter that cannot be read because of another one: it is taken to forbid everything.
    Unreadable,
}

impl Copy {
    /// `None`: the kernel refuses the filter.
    fn of(filter: Filter) -> Option<Self> {
        let Filter::Program { address, .. } = filter else { return Some(Self::Strict) };
        if permission::forbids_any(&[Sysno::mmap, Sysno::munmap, Sysno::process_vm_readv]) {
            return Some(Self::Unreadable);
        }
        let mut program = sock_fprog { len: 0, filter: ptr::null_mut() };
        let length = size_of::<sock_fprog>() as u64;
        if read_own(address, (&raw mut program) as u64, length) != length {
            return None;
        }
        let count = usize::from(program.len);
        if count == 0 || count > LONGEST {
            return None;
        }
        let length = LONGEST * size_of::<sock_filter>();
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let start = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), length, access, MapFlags::PRIVATE) };
        let Ok(start) = start else { return Some(Self::Unreadable) };
        let copy = Self::Program { start: start.cast(), count };
        let length = (count * size_of::<sock_filter>()) as u64;
        (read_own(program.filter as u64, start as u64, length) == length).then_some(copy)
    }

    fn lets_pass(&self, call: &Call) -> bool {
        match self {
            Self::Strict => STRICT.contains(&call.0),
            Self::Unreadable => false,
            Self::Program { start, count } => {
                // SAFETY: `of` has mapped the memory, and filled in so many instructions.
                let instructions = unsafe { core::slice::from_raw_parts(*start, *count) };
                filter::is_harmless(instructions, call)
            }
        }
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if let Self::Program { start, .. } = *self {
            // SAFETY: mapped by `of`, and known to this value alone.
            let _ = unsafe { rustix::mm::munmap(start.cast(), LONGEST * size_of::<sock_filter>()) };
        }
    }
}
