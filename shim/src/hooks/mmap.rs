//! mmap(2), munmap(2), mremap(2), mprotect(2), madvise(2), mlock(2), shmat(2) and their kin.
//!
//! None of them is a cancellation point, so redhook declares them. They go on by raw system calls, never by `real!`: an allocator
//! may call them under its own lock, and the lookup of the real function could allocate.

use core::ffi::{CStr, c_int, c_long, c_uint, c_ulong, c_void};
use core::ops::Range;

use libc::{iovec, off_t, off64_t, size_t, ssize_t};
use redhook::hook;
use rustix::fd::AsRawFd;
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::mm::Advice;
use snapshim::PAGE;
use snapshim::cooperate::locate::target_of_descriptor;
use snapshim::protocol::origin::{Origin, Target};
use snapshim::protocol::snapshot::{LOCKED, NOT_INHERITED};
use snapshim::sys::{permission, procfs, raw};
use syscalls::{Sysno, raw_syscall, syscall};

use crate::address_space::lock::{self, Mappings};
use crate::agent::start;
use crate::base::config::config;
use crate::base::file_patterns::{self, Kind, OtherKind, Wish};
use crate::base::mmap_call::{MAP_SNAPSHOT, Mmap};
use crate::base::user_memory::{IOV_MAX, each_buffer};
use crate::hooks::mlockall::{lock_all, unlock_all};
use crate::interpose::answer::{answer, status};
use crate::interpose::beside::{EntryHook, for_libc_beside};
use crate::mapper::{preserve_own, unmap};
use crate::process::log::{Bytes, Level, say_once};
use crate::process::{identity, membership};
use crate::shared::{calls, list};
use crate::snapshot::create::create;
use crate::snapshot::request::{ADDRESSES, By};
use crate::writer::touch::LONGEST_WRITE;

/// Declares each function three times: as the exported symbol, which redhook declares; for the entry in the program's own libc,
/// which a handle of libc's reaches past the exported symbols (dlsym(3)); and for the entry in a libc beside, which has an errno
/// of its own.
macro_rules! by_all_ways {
    ($($name:ident as $hook:ident($($argument:ident: $type:ty),*) -> $result:ty => $call:expr;)+) => {
        $(hook! {
            unsafe fn $name($($argument: $type),*) -> $result => $hook {
                $call
            }
        })+

        by_entries! {
            mmap(address: *mut c_void, length: size_t, protection: c_int, flags: c_int, descriptor: c_int, offset: off64_t)
                -> *mut c_void => map_for_libc(Mmap { address, length, protection, flags, descriptor, offset });
            $($name($($argument: $type),*) -> $result => $call;)+
        }
    };
}

/// Declares what the entries in libc and in a libc beside are made to jump to.
macro_rules! by_entries {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty => $call:expr;)+) => {
        /// For the program's own libc.
        pub static INSIDE: &[EntryHook] =
            &[$(EntryHook { name: named(concat!(stringify!($name), "\0")), hook: inside::$name as *const () }),+];
        /// For a libc beside.
        pub static BESIDE: &[EntryHook] =
            &[$(EntryHook { name: named(concat!(stringify!($name), "\0")), hook: beside::$name as *const () }),+];

        mod inside {
            use super::*;
            $(pub extern "C" fn $name($($argument: $type),*) -> $result {
                $call
            })+
        }

        mod beside {
            use super::*;
            $(pub extern "C" fn $name($($argument: $type),*) -> $result {
                for_libc_beside(|| $call)
            })+
        }
    };
}

const fn named(text: &'static str) -> &'static CStr {
    match CStr::from_bytes_with_nul(text.as_bytes()) {
        Ok(name) => name,
        Err(_) => panic!("a name has no zero but the last byte"),
    }
}

hook! {
    unsafe fn mmap(address: *mut c_void, length: size_t, protection: c_int, flags: c_int, fd: c_int, offset: off_t)
    -> *mut c_void => on_mmap {
        map(Mmap { address, length, protection, flags, descriptor: fd, offset })
    }
}

hook! {
    unsafe fn mmap64(address: *mut c_void, length: size_t, protection: c_int, flags: c_int, fd: c_int, offset: off64_t)
    -> *mut c_void => on_mmap64 {
        map(Mmap { address, length, protection, flags, descriptor: fd, offset })
    }
}

by_all_ways! {
    munmap as on_munmap(address: *mut c_void, length: size_t) -> c_int => status(unmap(address, length));
    mprotect as on_mprotect(address: *mut c_void, length: size_t, protection: c_int) -> c_int
        => status(protect(address, length, protection));
    pkey_mprotect as on_pkey_mprotect(address: *mut c_void, length: size_t, protection: c_int, key: c_int) -> c_int
        => status(protect_with_key(address, length, protection, key));
    madvise as on_madvise(address: *mut c_void, length: size_t, advice: c_int) -> c_int
        => status(advise(address, length, advice));
    posix_madvise as on_posix_madvise(address: *mut c_void, length: size_t, advice: c_int) -> c_int
        => advise_portably(address, length, advice);
    process_madvise as on_process_madvise(
        pidfd: c_int, vector: *const iovec, count: size_t, advice: c_int, flags: c_uint
    ) -> ssize_t => answer(advise_each(pidfd, vector, count, advice, flags));
    // Variadic in C. Like libc, the kernel reads the fifth argument only with MREMAP_FIXED or MREMAP_DONTUNMAP.
    mremap as on_mremap(address: *mut c_void, old: size_t, new: size_t, flags: c_int, target: *mut c_void) -> *mut c_void
        => answer(remap(address, old, new, flags, target));
    remap_file_pages as on_remap_file_pages(
        address: *mut c_void, length: size_t, protection: c_int, first: size_t, flags: c_int
    ) -> c_int => status(show_other_pages(address, length, protection, first, flags));
    shmat as on_shmat(segment: c_int, address: *const c_void, flags: c_int) -> *mut c_void
        => answer(attach(segment, address, flags));
    mlock as on_mlock(address: *const c_void, length: size_t) -> c_int => status(lock(Sysno::mlock, address, length, 0));
    mlock2 as on_mlock2(address: *const c_void, length: size_t, flags: c_uint) -> c_int
        => status(lock(Sysno::mlock2, address, length, flags));
    munlock as on_munlock(address: *const c_void, length: size_t) -> c_int
        => status(lock(Sysno::munlock, address, length, 0));
    mlockall as on_mlockall(flags: c_int) -> c_int => status(lock_all(flags));
    munlockall as on_munlockall() -> c_int => status(unlock_all());
    // glibc 2.43.
    mseal as on_mseal(address: *mut c_void, length: size_t, flags: c_ulong) -> c_int
        => status(seal(address, length, flags as size_t));
}

/// mmap(2) by number.
pub fn by_number([address, length, protection, flags, fd, offset]: [usize; 6]) -> c_long {
    let (protection, flags, descriptor) = (protection as c_int, flags as c_int, fd as c_int);
    let address = core::ptr::with_exposed_provenance_mut(address);
    map(Mmap { address, length, protection, flags, descriptor, offset: offset as i64 }) as c_long
}

/// A raw system call's result, with the error that the rest of the shim uses.
fn plain(result: Result<usize, syscalls::Errno>) -> Result<usize, Errno> {
    result.map_err(raw::errno)
}

/// The addresses of the pages that a call means; empty if the arguments mean none, in which case the kernel refuses the call.
fn addresses(address: *mut c_void, length: size_t) -> Range<u64> {
    let start = address as u64;
    let end = start.checked_add(length as u64).map_or(start, |end| end.checked_next_multiple_of(PAGE).unwrap_or(start));
    if start.is_multiple_of(PAGE) { start..end } else { start..start }
}

/// What a call of mmap(2) asks for, decided once.
enum Request {
    /// A snapshot.
    Snapshot,
    /// A private mapping that becomes a snapshot, because the environment names the file.
    NamedSnapshot,
    /// The same of a shared mapping. It can never be made writable.
    SharedSnapshot,
    /// A mapping that stays live, and keeps what a truncation takes away.
    Guard(By),
    /// A shared mapping of an origin.
    Shared(Origin),
    /// Any other mapping, in place of what is mapped there.
    Over,
    /// Any other mapping, where nothing is.
    Plain,
}

impl Request {
    fn of(arguments: &Mmap) -> Self {
        if !config().is_disabled {
            if arguments.flags & MAP_SNAPSHOT != 0 {
                return Self::Snapshot;
            }
            match file_patterns::wish(arguments) {
                Wish::Snapshot => return Self::NamedSnapshot,
                Wish::SharedSnapshot => return Self::SharedSnapshot,
                Wish::Guard => return Self::Guard(By::Guard),
                Wish::SharedGuard => return Self::Guard(By::GuardOfShared),
                Wish::OtherKind(other) => log_other_kind(&other, arguments.descriptor),
                Wish::Nothing => {}
            }
        }
        Self::unnamed(arguments)
    }

    /// The same where the environment does not name the file.
    fn unnamed(arguments: &Mmap) -> Self {
        match calls::origin_shared(arguments) {
            Some(origin) => Self::Shared(origin),
            None if arguments.replaces() => Self::Over,
            None => Self::Plain,
        }
    }
}

fn map(arguments: Mmap) -> *mut c_void {
    if permission::is_confined() || list::is_sealed() {
        return answer(map_confined(&arguments));
    }
    let arguments = if arguments.replaces() { in_whole_units(arguments) } else { arguments };
    answer(make(&arguments, Request::of(&arguments)))
}

fn make(arguments: &Mmap, request: Request) -> Result<*mut c_void, Errno> {
    match request {
        Request::Snapshot => create(arguments, By::Flag),
        Request::NamedSnapshot => create(arguments, By::Name),
        Request::SharedSnapshot => create(&arguments.as_private(), By::NameOfShared),
        // A guard adds to a mapping that is good without it, so the mapping is made in any case. The log says why it has no guard.
        Request::Guard(by) => match create(&arguments.as_private(), by) {
            Err(error) if error != Errno::NXIO => make(arguments, Request::unnamed(arguments)),
            made => made,
        },
        Request::Shared(origin) => calls::map(arguments, origin, &start::be_ready),
        Request::Over => take_away(&addresses(arguments.address, arguments.length), || arguments.call()),
        Request::Plain => arguments.call(),
    }
}

/// Says that a variable names the file, and that its mapping is none of those that the variable is for.
#[cold]
fn log_other_kind(other: &OtherKind, descriptor: c_int) {
    let mut buffer = [core::mem::MaybeUninit::uninit(); 400];
    let link = procfs::ProcPath::thread_self("fd").slash(descriptor as u32);
    let path = rustix::fs::readlinkat_raw(rustix::fs::CWD, link.as_c_str(), &mut buffer);
    let path = Bytes(path.as_ref().map_or(b"?", |(path, _)| path));
    let (level, how, what_to_do) = match other.kind {
        Kind::Private | Kind::Unseen => (Level::Warn, "privately", "set SNAPSHIM_FILES or SNAPSHIM_KEEP"),
        Kind::Shared => (Level::Warn, "shared, for reading", "set SNAPSHIM_SHARED_FILES or SNAPSHIM_KEEP"),
        Kind::SharedToWrite => (Level::Info, "shared, through a descriptor that can write", "open it for reading only"),
    };
    say_once!(
        level,
        file = path;
        "process {} maps {path} {how}, so {}={} has no effect on it; {what_to_do}",
        raw::own_pid(),
        other.variable,
        Bytes(other.pattern)
    );
}

/// mmap(2) in a process that is confined: it can make no snapshot, and no mapping that the table knows of.
#[cold]
fn map_confined(arguments: &Mmap) -> Result<*mut c_void, Errno> {
    if !config().is_disabled && arguments.flags & MAP_SNAPSHOT != 0 {
        return Err(Errno::OPNOTSUPP);
    }
    let is_shared = matches!(arguments.flags & libc::MAP_TYPE, libc::MAP_SHARED | libc::MAP_SHARED_VALIDATE);
    if is_shared && arguments.flags & libc::MAP_ANONYMOUS == 0 {
        // One that is read-only may become writable.
        if target_of_descriptor(arguments.descriptor as u32) != Target::Elsewhere {
            membership::stay_unseen_confined("maps a file shared");
        }
    }
    arguments.call()
}

/// mmap(2) for callers of libc's own function, libc itself included.
///
/// libc maps tables shared (iconv(3)), through descriptors that are open for reading only. No store can ever come through such a
/// mapping, so it is no reason to join the table.
fn map_for_libc(arguments: Mmap) -> *mut c_void {
    if permission::is_confined() {
        return map(arguments);
    }
    const WHAT: c_int = libc::MAP_TYPE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | MAP_SNAPSHOT;
    let is_plain = arguments.flags & WHAT == libc::MAP_SHARED && arguments.protection & libc::PROT_WRITE == 0;
    if is_plain
        && file_patterns::is_for_reading_only(arguments.descriptor)
        && (config().is_disabled || !file_patterns::is_named(&arguments))
    {
        return answer(arguments.call());
    }
    map(arguments)
}

/// The call with the length that the kernel rounds it up to, because that much is replaced. The kernel refuses a length that cannot
/// be rounded up.
fn in_whole_units(arguments: Mmap) -> Mmap {
    let length = arguments.length.checked_next_multiple_of(unit(&arguments)).unwrap_or(arguments.length);
    Mmap { length, ..arguments }
}

/// The unit that the kernel rounds the length of a mapping up to: for huge pages, their size (ksys_mmap_pgoff in mm/mmap.c).
fn unit(arguments: &Mmap) -> size_t {
    const HUGETLBFS: i64 = 0x9584_58f6;
    const SIZE_SHIFT: c_int = 26;
    const SIZE_MASK: c_int = 0x3f;
    let block_of = |descriptor| {
        let found = rustix::fs::fstatfs(raw::borrow(descriptor as u32)).ok().filter(|found| found.f_type == HUGETLBFS);
        found.map_or(PAGE as size_t, |found| found.f_bsize as size_t)
    };
    if arguments.flags & libc::MAP_ANONYMOUS == 0 {
        return block_of(arguments.descriptor);
    }
    if arguments.flags & libc::MAP_HUGETLB == 0 {
        return PAGE as size_t;
    }
    match arguments.flags >> SIZE_SHIFT & SIZE_MASK {
        // The kernel's default size, which a file of huge pages tells.
        0 => rustix::fs::memfd_create(c"huge", MemfdFlags::HUGETLB | MemfdFlags::CLOEXEC)
            .map_or(PAGE as size_t, |file| block_of(file.as_raw_fd())),
        shift => 1 << shift,
    }
}

/// Makes `call`, which takes away what is mapped in `range`: snapshots, shared mappings, or neither.
fn take_away<T>(range: &Range<u64>, call: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
    let Some(own) = identity::attached().filter(|_| list::may_touch(range)) else {
        return match lock::touching(range) {
            None => call(),
            Some(mappings) => mappings.replace(range, call),
        };
    };
    lock::hold(own).replace(range, || calls::take_away(&own, range, call))
}

/// munmap(2).
pub fn unmap(address: *mut c_void, length: size_t) -> Result<(), Errno> {
    let range = addresses(address, length);
    if let Some(own) = identity::attached().filter(|_| list::may_touch(&range)) {
        let take = |part: &Range<u64>| calls::take_away(&own, part, || unmap::take_away(part));
        return lock::hold(own).unmap(&range, &take);
    }
    match lock::touching(&range) {
        // SAFETY: the application's arguments, as they are.
        None => plain(unsafe { syscall!(Sysno::munmap, address, length) }).map(drop),
        Some(mappings) => mappings.unmap(&range, &unmap::take_away),
    }
}

/// mprotect(2).
pub fn protect(address: *mut c_void, length: size_t, protection: c_int) -> Result<(), Errno> {
    // SAFETY: the application's call, or a part of it with less access.
    let call = |address: u64, length: u64, protection: c_int| unsafe {
        plain(syscall!(Sysno::mprotect, address, length, protection)).map(drop)
    };
    protect_by(address, length, protection, &call)
}

/// pkey_mprotect(2).
pub fn protect_with_key(address: *mut c_void, length: size_t, protection: c_int, key: c_int) -> Result<(), Errno> {
    // SAFETY: the application's call, or a part of it with less access.
    let call = |address: u64, length: u64, protection: c_int| unsafe {
        plain(syscall!(Sysno::pkey_mprotect, address, length, protection, key)).map(drop)
    };
    protect_by(address, length, protection, &call)
}

fn protect_by(
    address: *mut c_void,
    length: size_t,
    protection: c_int,
    call: &impl Fn(u64, u64, c_int) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let range = addresses(address, length);
    if (permission::is_confined() || list::is_sealed()) && protection & libc::PROT_WRITE != 0 && list::was_any() {
        membership::stay_unseen_confined("changes the protection of memory, and has files mapped shared");
    }
    let part = |part: &Range<u64>, protection| call(part.start, part.end - part.start, protection);
    let Some(own) = identity::attached().filter(|_| !range.is_empty() && list::may_touch(&range)) else {
        let known = (protection & KNOWN_PROTECTION) as u32;
        return match lock::touching(&range) {
            None => call(address as u64, length as u64, protection),
            Some(mappings) => mappings.protect(&range, known, |allowed| part(allowed, protection)),
        };
    };
    calls::protect(own, &range, protection, &part, &start::be_ready)
}

/// In a process that is confined, or about to be: a shared mapping in `range` may show pages afterwards that are not preserved.
fn stay_unseen_if_sealed(range: &Range<u64>) {
    if (permission::is_confined() || list::is_sealed()) && list::may_have_touched(range) {
        membership::stay_unseen_confined("moves memory or makes it longer, and has files mapped shared");
    }
}

/// remap_file_pages(2).
pub fn show_other_pages(
    address: *mut c_void,
    length: size_t,
    protection: c_int,
    first: size_t,
    flags: c_int,
) -> Result<(), Errno> {
    // SAFETY: the application's arguments, as they are.
    let call =
        || plain(unsafe { syscall!(Sysno::remap_file_pages, address, length, protection, first, flags) }).map(drop);
    // The kernel rounds both down (mm/mmap.c).
    let start = address as u64 / PAGE * PAGE;
    let range = start..start.saturating_add(length as u64 / PAGE * PAGE);
    stay_unseen_if_sealed(&range);
    loop {
        let origin = if range.is_empty() || !list::may_touch(&range) { None } else { calls::origin_in(&range) };
        let Some((own, origin)) = identity::attached().zip(origin) else { return call() };
        if let Some(done) = calls::show_other_pages(own, &range, first as u64, origin, &call)? {
            return Ok(done);
        }
    }
}

/// The bits that say which accesses are allowed. PROT_GROWSDOWN and its kin say how far the call reaches.
const KNOWN_PROTECTION: c_int = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;

const MADV_DONTNEED_LOCKED: c_int = 24;
const MADV_POPULATE_WRITE: c_int = 23;
const MADV_GUARD_INSTALL: c_int = 102;

/// madvise(2).
pub fn advise(address: *mut c_void, length: size_t, advice: c_int) -> Result<(), Errno> {
    // SAFETY: the application's arguments, as they are.
    let call = || plain(unsafe { syscall!(Sysno::madvise, address, length, advice) }).map(drop);
    if !is_advice_of_interest(advice) {
        return call();
    }
    let range = addresses(address, length);
    if list::may_touch(&range)
        && let Some(own) = identity::attached()
    {
        match advice {
            libc::MADV_REMOVE | MADV_POPULATE_WRITE if !range.is_empty() => {
                let passes_over_gaps = advice == libc::MADV_REMOVE;
                return calls::changing(&range, passes_over_gaps, &|part| {
                    // SAFETY: a part of the application's call.
                    let result = unsafe { syscall!(Sysno::madvise, part.start, part.end - part.start, advice) };
                    plain(result).map(drop)
                });
            }
            libc::MADV_DONTFORK | libc::MADV_DOFORK => {
                let is_inherited = advice == libc::MADV_DOFORK;
                let note = || calls::note_inheritance(&range, is_inherited, call);
                return lock::hold(own).note(&range, NOT_INHERITED, !is_inherited, note);
            }
            _ => {}
        }
    }
    let Some(mappings) = lock::touching(&range) else { return call() };
    match advice {
        MADV_POPULATE_WRITE => call(),
        libc::MADV_DONTFORK => mappings.note(&range, NOT_INHERITED, true, call),
        libc::MADV_DOFORK => mappings.note(&range, NOT_INHERITED, false, call),
        // rustix has no name for the second. Locked pages of a snapshot stay.
        libc::MADV_DONTNEED | MADV_DONTNEED_LOCKED => {
            advise_between(&mappings, &range, advice)?;
            mappings.drop_unpreserved(&range, Advice::LinuxDontNeed)
        }
        // The kernel refuses these for a file mapping. A part of a snapshot that has become anonymous memory must refuse them as
        // well.
        _ => Err(Errno::INVAL),
    }
}

/// posix_madvise(3), which answers with an errno. POSIX_MADV_DONTNEED promises to keep the content, so libc does nothing for it.
fn advise_portably(address: *mut c_void, length: size_t, advice: c_int) -> c_int {
    let result = if advice == libc::POSIX_MADV_DONTNEED { Ok(()) } else { advise(address, length, advice) };
    result.map_or_else(Errno::raw_os_error, |()| 0)
}

/// process_madvise(2). Advice that is more than a hint is taken for the caller's own memory only (from Linux 6.13 on). So it is
/// madvise(2) of each buffer, until one fails.
pub fn advise_each(
    pidfd: c_int,
    vector: *const iovec,
    count: size_t,
    advice: c_int,
    flags: c_uint,
) -> Result<isize, Errno> {
    let call = |count: size_t| {
        // SAFETY: the application's arguments, as they are, or with an empty vector.
        plain(unsafe { syscall!(Sysno::process_madvise, pidfd, vector, count, advice, flags) }).map(usize::cast_signed)
    };
    // With an empty vector the kernel says only whether it would take this advice for that process.
    if !is_advice_of_interest(advice) || count > IOV_MAX as size_t || call(0).is_err() {
        return call(count);
    }
    let mut is_good = true;
    let is_read = each_buffer(vector, count as c_int, |_, length| is_good &= i64::try_from(length).is_ok());
    if !is_read || !is_good {
        // The kernel refuses the whole call.
        return call(count);
    }
    let (mut done, mut outcome) = (0, Ok(()));
    each_buffer(vector, count as c_int, |address, length| {
        // The kernel leaves out what is beyond the most that one call takes.
        let length = length.min(LONGEST_WRITE - done);
        if outcome.is_ok() {
            outcome = advise(core::ptr::with_exposed_provenance_mut(address as usize), length as size_t, advice);
        }
        if outcome.is_ok() {
            done += length;
        }
    });
    if done > 0 { Ok(done as isize) } else { outcome.map(|()| 0) }
}

/// shmat(2). With SHM_REMAP it takes away what is mapped there, as mmap(2) with MAP_FIXED does.
pub fn attach(segment: c_int, address: *const c_void, flags: c_int) -> Result<*mut c_void, Errno> {
    let call = || {
        // SAFETY: the application's arguments, as they are.
        plain(unsafe { syscall!(Sysno::shmat, segment, address, flags) })
            .map(core::ptr::with_exposed_provenance_mut::<c_void>)
    };
    if flags & libc::SHM_REMAP == 0 || address.is_null() {
        return call();
    }
    let within = if flags & libc::SHM_RND != 0 { address as u64 % PAGE } else { 0 };
    let start = address.wrapping_byte_sub(within as usize).cast_mut();
    match size_of_segment(segment) {
        // The kernel says what is wrong with the segment.
        None => call(),
        Some(length) => take_away(&addresses(start, length), call),
    }
}

/// The size of a segment, by shmctl(2) with IPC_STAT: a process that may attach a segment may ask for it.
fn size_of_segment(segment: c_int) -> Option<size_t> {
    let mut found = core::mem::MaybeUninit::<libc::shmid_ds>::uninit();
    // SAFETY: the structure is writable, and on this machine the kernel's structure is libc's.
    unsafe {
        syscall!(Sysno::shmctl, segment, libc::IPC_STAT, found.as_mut_ptr()).ok()?;
        Some(found.assume_init().shm_segsz)
    }
}

/// mlock(2), mlock2(2) or munlock(2), which take any address and mean the whole page that it is in.
pub fn lock(call: Sysno, address: *const c_void, length: size_t, flags: c_uint) -> Result<(), Errno> {
    let within = address as u64 % PAGE;
    let range =
        addresses(address.wrapping_byte_sub(within as usize).cast_mut(), length.saturating_add(within as usize));
    // SAFETY: the application's arguments, as they are.
    let real = || plain(syscalls::Errno::from_ret(unsafe { raw_syscall!(call, address, length, flags) })).map(drop);
    match lock::touching(&range) {
        None => real(),
        Some(mappings) => mappings.note(&range, LOCKED, call != Sysno::munlock, real),
    }
}

/// mseal(2), after which no mapping can be replaced. So snapshots leave their files first: a truncation moves them no more.
pub fn seal(address: *mut c_void, length: size_t, flags: size_t) -> Result<(), Errno> {
    let range = addresses(address, length);
    if !preserve_own::move_off(&range) {
        return Err(Errno::NOMEM);
    }
    // SAFETY: the application's arguments, as they are.
    plain(unsafe { syscall!(Sysno::mseal, address, length, flags) }).map(drop)
}

fn is_advice_of_interest(advice: c_int) -> bool {
    matches!(
        advice,
        libc::MADV_DONTNEED
            | MADV_DONTNEED_LOCKED
            | libc::MADV_FREE
            | libc::MADV_REMOVE
            | libc::MADV_WIPEONFORK
            | libc::MADV_DONTFORK
            | libc::MADV_DOFORK
            | MADV_POPULATE_WRITE
            | MADV_GUARD_INSTALL
    )
}

/// Gives the advice to the parts of the range that are no snapshot.
fn advise_between(mappings: &Mappings, range: &Range<u64>, advice: c_int) -> Result<(), Errno> {
    let mut at = range.start;
    while at < range.end {
        let next = lock::first_segment(&mappings.own, &(at..range.end)).map(|view| view.extent);
        let (end, resume) = next.map_or((range.end, range.end), |extent| (extent.address.max(at), extent.end()));
        if end > at {
            // SAFETY: the application's own advice on its own memory.
            plain(unsafe { syscall!(Sysno::madvise, at, end - at, advice) })?;
        }
        at = resume;
    }
    Ok(())
}

/// mremap(2).
pub fn remap(
    address: *mut c_void,
    old: size_t,
    new: size_t,
    flags: c_int,
    target: *mut c_void,
) -> Result<*mut c_void, Errno> {
    let call = || {
        // SAFETY: the application's arguments, as they are.
        plain(unsafe { syscall!(Sysno::mremap, address, old, new, flags, target) })
            .map(core::ptr::with_exposed_provenance_mut::<c_void>)
    };
    let is_fixed = flags & libc::MREMAP_FIXED != 0;
    let wanted = calls::Move {
        from: addresses(address, old),
        // A length that cannot be rounded up becomes 0 in the kernel, which refuses it (mm/mremap.c).
        length: (new as u64).checked_next_multiple_of(PAGE).unwrap_or(0),
        flags,
        target: if is_fixed { addresses(target, new) } else { 0..0 },
    };
    let from = &wanted.from;
    // With a length of 0 a shared mapping is mapped once more.
    let probe = from.start..from.end.max(from.start.saturating_add(1));
    stay_unseen_if_sealed(&probe);
    while let Some(own) = identity::attached().filter(|_| list::may_touch(&probe))
        && let Some(origin) = calls::origin_in(from)
    {
        if lock::touching(from).is_some() {
            // A snapshot and a shared mapping do not move in one call, as no two mappings do before Linux 6.17.
            return Err(Errno::FAULT);
        }
        if let Some(at) = calls::remap(own, &wanted, origin, &call)? {
            return Ok(at);
        }
    }
    let Some(mappings) = lock::touching(from) else { return take_away(&wanted.target, call) };
    remap_snapshots(&mappings, &wanted).map(|()| if is_fixed { target } else { address })
}

/// mremap(2) of snapshots. They never grow: they shrink, move, or both.
///
/// Whatever the kernel would refuse is refused here before the tail is given up.
fn remap_snapshots(mappings: &Mappings, wanted: &calls::Move) -> Result<(), Errno> {
    let calls::Move { from, length, flags, target } = wanted;
    let is_fixed = flags & libc::MREMAP_FIXED != 0;
    if *length == 0 || *length > from.end - from.start || flags & libc::MREMAP_DONTUNMAP != 0 {
        return Err(Errno::INVAL);
    }
    if is_fixed && (flags & libc::MREMAP_MAYMOVE == 0 || !is_good_target(from, target)) {
        return Err(Errno::INVAL);
    }
    if !mappings.is_all(from) {
        return Err(Errno::FAULT);
    }
    let tail = from.start + length..from.end;
    if !tail.is_empty() {
        mappings.replace(&tail, || {
            // SAFETY: mremap(2) with a smaller size gives the tail up.
            plain(unsafe { syscall!(Sysno::munmap, tail.start, tail.end - tail.start) })
        })?;
    }
    if !is_fixed {
        return Ok(());
    }
    let shift = || mappings.shift(&(from.start..tail.start), target.start);
    calls::take_away(&mappings.own, target, shift)
}

/// Whether the kernel would move what is mapped in `from` to `target`.
fn is_good_target(from: &Range<u64>, target: &Range<u64>) -> bool {
    !target.is_empty()
        && target.start.is_multiple_of(PAGE)
        && target.end <= ADDRESSES
        && (target.end <= from.start || from.end <= target.start)
}
