//! mmap(2), munmap(2), mremap(2), mprotect(2), madvise(2), mlock(2), shmat(2) and their kin.
//!
//! None of them is a cancellation point, so redhook declares them. They go on by raw system calls, never by `real!`: an allocator
//! may call them under its own lock, and looking the real function up could allocate.

use core::ffi::{CStr, c_int, c_long, c_uint, c_void};
use core::ops::Range;

use libc::{iovec, off_t, off64_t, size_t, ssize_t};
use redhook::hook;
use rustix::fd::AsRawFd;
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::mm::Advice;
use snapshim::PAGE;
use snapshim::protocol::snapshot::{LOCKED, NEVER_WRITABLE, NOT_INHERITED};
use snapshim::sys::raw;
use syscalls::{Sysno, raw_syscall, syscall};

use crate::address_space::lock;
use crate::agent::start;
use crate::base::config::config;
use crate::base::errno::set_errno;
use crate::base::file_patterns;
use crate::base::mmap_call::{MAP_SNAPSHOT, Mmap};
use crate::base::user_memory::{IOV_MAX, each_buffer};
use crate::interpose::beside::{Way, answer};
use crate::process::identity;
use crate::shared::{calls, list};
use crate::snapshot::create::{ADDRESSES, create};
use crate::writer::enter::LONGEST_WRITE;

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

hook! {
    unsafe fn munmap(address: *mut c_void, length: size_t) -> c_int => on_munmap {
        status(unmap(address, length))
    }
}

hook! {
    unsafe fn mprotect(address: *mut c_void, length: size_t, protection: c_int) -> c_int => on_mprotect {
        status(protect(address, length, protection))
    }
}

hook! {
    unsafe fn pkey_mprotect(address: *mut c_void, length: size_t, protection: c_int, key: c_int) -> c_int => on_pkey_mprotect {
        status(protect_with_key(address, length, protection, key))
    }
}

hook! {
    unsafe fn madvise(address: *mut c_void, length: size_t, advice: c_int) -> c_int => on_madvise {
        status(advise(address, length, advice))
    }
}

hook! {
    unsafe fn posix_madvise(address: *mut c_void, length: size_t, advice: c_int) -> c_int => on_posix_madvise {
        advise_portably(address, length, advice)
    }
}

hook! {
    unsafe fn process_madvise(pidfd: c_int, vector: *const iovec, count: size_t, advice: c_int, flags: c_uint)
    -> ssize_t => on_process_madvise {
        bytes(advise_each(pidfd, vector, count, advice, flags))
    }
}

hook! {
    unsafe fn shmat(segment: c_int, address: *const c_void, flags: c_int) -> *mut c_void => on_shmat {
        pointer(attach(segment, address, flags))
    }
}

hook! {
    unsafe fn mlock(address: *const c_void, length: size_t) -> c_int => on_mlock {
        status(lock(Sysno::mlock, address, length, 0))
    }
}

hook! {
    unsafe fn mlock2(address: *const c_void, length: size_t, flags: c_uint) -> c_int => on_mlock2 {
        status(lock(Sysno::mlock2, address, length, flags))
    }
}

hook! {
    unsafe fn munlock(address: *const c_void, length: size_t) -> c_int => on_munlock {
        status(lock(Sysno::munlock, address, length, 0))
    }
}

hook! {
    unsafe fn mlockall(flags: c_int) -> c_int => on_mlockall {
        status(lock_all(flags))
    }
}

hook! {
    unsafe fn munlockall() -> c_int => on_munlockall {
        status(unlock_all())
    }
}

hook! {
    // Variadic in C; the fifth argument is read only with MREMAP_FIXED or MREMAP_DONTUNMAP, as by libc.
    unsafe fn mremap(address: *mut c_void, old: size_t, new: size_t, flags: c_int, target: *mut c_void)
    -> *mut c_void => on_mremap {
        pointer(remap(address, old, new, flags, target))
    }
}

hook! {
    unsafe fn remap_file_pages(address: *mut c_void, length: size_t, protection: c_int, first: size_t, flags: c_int)
    -> c_int => on_remap_file_pages {
        status(show_other_pages(address, length, protection, first, flags))
    }
}

/// The same by number: syscall(2) answers with a long.
pub fn by_number([address, length, protection, flags, fd, offset]: [usize; 6]) -> c_long {
    let (protection, flags, descriptor) = (protection as c_int, flags as c_int, fd as c_int);
    let address = core::ptr::with_exposed_provenance_mut(address);
    map(Mmap { address, length, protection, flags, descriptor, offset: offset as i64 }) as c_long
}

/// See [`by_number`].
pub fn on_munmap_by_number(address: *mut c_void, length: size_t) -> c_long {
    status(unmap(address, length)).into()
}

/// See [`by_number`].
pub fn on_mprotect_by_number(address: *mut c_void, length: size_t, protection: c_int) -> c_long {
    status(protect(address, length, protection)).into()
}

/// See [`by_number`].
pub fn on_pkey_mprotect_by_number(address: *mut c_void, length: size_t, protection: c_int, key: c_int) -> c_long {
    status(protect_with_key(address, length, protection, key)).into()
}

/// See [`by_number`].
pub fn on_process_madvise_by_number(
    pidfd: c_int,
    vector: *const iovec,
    count: size_t,
    advice: c_int,
    flags: c_uint,
) -> c_long {
    bytes(advise_each(pidfd, vector, count, advice, flags)) as c_long
}

/// See [`by_number`].
pub fn on_shmat_by_number(segment: c_int, address: *const c_void, flags: c_int) -> c_long {
    pointer(attach(segment, address, flags)) as c_long
}

/// mlock(2), mlock2(2) and munlock(2); see [`by_number`].
pub fn on_lock_by_number(call: Sysno, address: *const c_void, length: size_t, flags: c_uint) -> c_long {
    status(lock(call, address, length, flags)).into()
}

/// See [`by_number`].
pub fn on_mlockall_by_number(flags: c_int) -> c_long {
    status(lock_all(flags)).into()
}

/// See [`by_number`].
pub fn on_munlockall_by_number() -> c_long {
    status(unlock_all()).into()
}

/// See [`by_number`].
pub fn on_madvise_by_number(address: *mut c_void, length: size_t, advice: c_int) -> c_long {
    status(advise(address, length, advice)).into()
}

/// See [`by_number`].
pub fn on_mremap_by_number(
    address: *mut c_void,
    old: size_t,
    new: size_t,
    flags: c_int,
    target: *mut c_void,
) -> c_long {
    pointer(remap(address, old, new, flags, target)) as c_long
}

/// See [`by_number`].
pub fn on_remap_file_pages_by_number(
    address: *mut c_void,
    length: size_t,
    protection: c_int,
    first: size_t,
    flags: c_int,
) -> c_long {
    status(show_other_pages(address, length, protection, first, flags)).into()
}

/// For each function of libc, which takes what the system call takes, what its entry is made to jump to: in the program's own libc,
/// where a handle of libc's leads past the exported symbols (dlsym(3)), and in one beside, which has an errno of its own.
macro_rules! ways {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty => $call:expr;)+) => {
        /// The ways in for the program's own libc.
        pub static INSIDE: &[Way] = &[$(Way { name: named(concat!(stringify!($name), "\0")), hook: inside::$name as *const () }),+];
        /// The ways in for a libc beside.
        pub static BESIDE: &[Way] = &[$(Way { name: named(concat!(stringify!($name), "\0")), hook: beside::$name as *const () }),+];

        mod inside {
            use super::*;
            $(pub extern "C" fn $name($($argument: $type),*) -> $result {
                $call
            })+
        }

        mod beside {
            use super::*;
            $(pub extern "C" fn $name($($argument: $type),*) -> $result {
                answer(|| $call)
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

ways! {
    mmap(address: *mut c_void, length: size_t, protection: c_int, flags: c_int, descriptor: c_int, offset: off64_t)
        -> *mut c_void => map_for_libc(Mmap { address, length, protection, flags, descriptor, offset });
    munmap(address: *mut c_void, length: size_t) -> c_int => status(unmap(address, length));
    mprotect(address: *mut c_void, length: size_t, protection: c_int) -> c_int
        => status(protect(address, length, protection));
    pkey_mprotect(address: *mut c_void, length: size_t, protection: c_int, key: c_int) -> c_int
        => status(protect_with_key(address, length, protection, key));
    madvise(address: *mut c_void, length: size_t, advice: c_int) -> c_int => status(advise(address, length, advice));
    posix_madvise(address: *mut c_void, length: size_t, advice: c_int) -> c_int
        => advise_portably(address, length, advice);
    process_madvise(pidfd: c_int, vector: *const iovec, count: size_t, advice: c_int, flags: c_uint) -> ssize_t
        => bytes(advise_each(pidfd, vector, count, advice, flags));
    mremap(address: *mut c_void, old: size_t, new: size_t, flags: c_int, target: *mut c_void) -> *mut c_void
        => pointer(remap(address, old, new, flags, target));
    remap_file_pages(address: *mut c_void, length: size_t, protection: c_int, first: size_t, flags: c_int) -> c_int
        => status(show_other_pages(address, length, protection, first, flags));
    shmat(segment: c_int, address: *const c_void, flags: c_int) -> *mut c_void => pointer(attach(segment, address, flags));
    mlock(address: *const c_void, length: size_t) -> c_int => status(lock(Sysno::mlock, address, length, 0));
    mlock2(address: *const c_void, length: size_t, flags: c_uint) -> c_int
        => status(lock(Sysno::mlock2, address, length, flags));
    munlock(address: *const c_void, length: size_t) -> c_int => status(lock(Sysno::munlock, address, length, 0));
    mlockall(flags: c_int) -> c_int => status(lock_all(flags));
    munlockall() -> c_int => status(unlock_all());
}

fn pointer(result: Result<*mut c_void, Errno>) -> *mut c_void {
    result.unwrap_or_else(|error| {
        set_errno(error.raw_os_error());
        libc::MAP_FAILED
    })
}

fn status(result: Result<(), Errno>) -> c_int {
    match result {
        Ok(()) => 0,
        Err(error) => {
            set_errno(error.raw_os_error());
            -1
        }
    }
}

fn bytes(result: Result<usize, Errno>) -> ssize_t {
    result.map_or_else(
        |error| {
            set_errno(error.raw_os_error());
            -1
        },
        |count| count as ssize_t,
    )
}

/// A raw system call whose result says only whether it worked.
fn plain(result: Result<usize, syscalls::Errno>) -> Result<usize, Errno> {
    result.map_err(|error| Errno::from_raw_os_error(error.into_raw()))
}

/// The addresses of whole pages; empty if there are none (the kernel then refuses the call).
fn addresses(address: *mut c_void, length: size_t) -> Range<u64> {
    let start = address as u64;
    let end = start.checked_add(length as u64).map_or(start, |end| end.checked_next_multiple_of(PAGE).unwrap_or(start));
    if start.is_multiple_of(PAGE) { start..end } else { start..start }
}

fn map(arguments: Mmap) -> *mut c_void {
    let replaces = arguments.flags & (libc::MAP_FIXED | libc::MAP_FIXED_NOREPLACE) == libc::MAP_FIXED;
    let arguments = if replaces { in_whole_units(arguments) } else { arguments };
    pointer(
        if (arguments.flags & MAP_SNAPSHOT != 0 || file_patterns::matches_files(&arguments)) && !config().is_disabled {
            create(&arguments, 0)
        } else if file_patterns::matches_shared_files(&arguments) && !config().is_disabled {
            create(&arguments.as_private(), NEVER_WRITABLE)
        } else if let Some(origin) = calls::origin_shared(&arguments) {
            calls::map(&arguments, origin, &start::start)
        } else if replaces {
            take_away(&addresses(arguments.address, arguments.length), || arguments.call())
        } else {
            arguments.call()
        },
    )
}

/// The same for who calls libc's own function, libc itself included: the tables that it maps shared (iconv(3)) can never be stored to
/// through a descriptor for reading only, so they are no reason to join the table.
fn map_for_libc(arguments: Mmap) -> *mut c_void {
    const WHAT: c_int = libc::MAP_TYPE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | MAP_SNAPSHOT;
    let is_plain = arguments.flags & WHAT == libc::MAP_SHARED && arguments.protection & libc::PROT_WRITE == 0;
    if is_plain
        && file_patterns::is_for_reading_only(arguments.descriptor)
        && !file_patterns::matches_shared_files(&arguments)
    {
        return pointer(arguments.call());
    }
    map(arguments)
}

/// As much as the kernel takes the place of. A length that it cannot round up it refuses.
fn in_whole_units(arguments: Mmap) -> Mmap {
    let length = arguments.length.checked_next_multiple_of(unit(&arguments)).unwrap_or(arguments.length);
    Mmap { length, ..arguments }
}

/// What the kernel rounds the length of a mapping up to: of huge pages, to whole ones (ksys_mmap_pgoff in mm/mmap.c).
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
        // Of the kernel's default size, as a file of them says it.
        0 => rustix::fs::memfd_create(c"huge", MemfdFlags::HUGETLB | MemfdFlags::CLOEXEC)
            .map_or(PAGE as size_t, |file| block_of(file.as_raw_fd())),
        shift => 1 << shift,
    }
}

/// Does `call`, which takes away what is mapped in `range`: snapshots, shared mappings, or neither.
fn take_away<T>(range: &Range<u64>, call: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
    let Some(own) = identity::attached().filter(|_| list::may_touch(range)) else {
        return match lock::touching(range) {
            None => call(),
            Some(mappings) => mappings.replace(range, call),
        };
    };
    lock::hold(own).replace(range, || calls::take_away(&own, range, call))
}

fn unmap(address: *mut c_void, length: size_t) -> Result<(), Errno> {
    // SAFETY: the application's arguments, as they are.
    let call = || plain(unsafe { syscall!(Sysno::munmap, address, length) }).map(drop);
    take_away(&addresses(address, length), call)
}

fn protect(address: *mut c_void, length: size_t, protection: c_int) -> Result<(), Errno> {
    // SAFETY: the application's call, or a part of it with less access.
    let call = |address: u64, length: u64, protection: c_int| unsafe {
        plain(syscall!(Sysno::mprotect, address, length, protection)).map(drop)
    };
    protect_by(address, length, protection, &call)
}

fn protect_with_key(address: *mut c_void, length: size_t, protection: c_int, key: c_int) -> Result<(), Errno> {
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
    let part = |part: &Range<u64>, protection| call(part.start, part.end - part.start, protection);
    let Some(own) = identity::attached().filter(|_| !range.is_empty() && list::may_touch(&range)) else {
        let known = (protection & KNOWN_PROTECTION) as u32;
        return match lock::touching(&range) {
            None => call(address as u64, length as u64, protection),
            Some(mappings) => mappings.protect(&range, known, |allowed| part(allowed, protection)),
        };
    };
    calls::protect(&lock::hold(own), &range, protection, &part, &start::start)
}

fn show_other_pages(
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
    let origin = if range.is_empty() || !list::may_touch(&range) { None } else { calls::origin_in(&range) };
    match identity::attached().zip(origin) {
        None => call(),
        Some((own, origin)) => calls::show_other_pages(&lock::hold(own), &range, first as u64, origin, &call),
    }
}

/// PROT_GROWSDOWN and its kin change how far the call reaches, not what is allowed.
const KNOWN_PROTECTION: c_int = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;

const MADV_DONTNEED_LOCKED: c_int = 24;
const MADV_POPULATE_WRITE: c_int = 23;
const MADV_GUARD_INSTALL: c_int = 102;

fn advise(address: *mut c_void, length: size_t, advice: c_int) -> Result<(), Errno> {
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
        // Advice of rustix has no name for the second: what is locked stays.
        libc::MADV_DONTNEED | MADV_DONTNEED_LOCKED => {
            advise_between(&mappings, &range, advice)?;
            mappings.drop_unpreserved(&range, Advice::LinuxDontNeed)
        }
        // A file mapping refuses these; a part of a snapshot that has become anonymous memory must, too.
        _ => Err(Errno::INVAL),
    }
}

/// posix_madvise(3), which answers with an errno. Its POSIX_MADV_DONTNEED promises to keep the content, so libc does nothing then.
fn advise_portably(address: *mut c_void, length: size_t, advice: c_int) -> c_int {
    let result = if advice == libc::POSIX_MADV_DONTNEED { Ok(()) } else { advise(address, length, advice) };
    result.map_or_else(Errno::raw_os_error, |()| 0)
}

/// process_madvise(2). Advice that is more than a hint the kernel takes for the caller's own memory only (from Linux 6.13 on): then
/// it is madvise(2) of each buffer, until one fails.
fn advise_each(
    pidfd: c_int,
    vector: *const iovec,
    count: size_t,
    advice: c_int,
    flags: c_uint,
) -> Result<usize, Errno> {
    let call = |count: size_t| {
        // SAFETY: the application's arguments, as they are, or with an empty vector.
        plain(unsafe { syscall!(Sysno::process_madvise, pidfd, vector, count, advice, flags) })
    };
    // With no buffer at all the kernel says only whether it would give this advice there.
    if !is_advice_of_interest(advice) || count > IOV_MAX as size_t || call(0).is_err() {
        return call(count);
    }
    let mut is_good = true;
    let is_read = each_buffer(vector, count as c_int, |_, length| is_good &= i64::try_from(length).is_ok());
    if !is_read || !is_good {
        // The kernel refuses it whole.
        return call(count);
    }
    let (mut done, mut outcome) = (0, Ok(()));
    each_buffer(vector, count as c_int, |address, length| {
        // Of more bytes than one call takes it leaves the rest.
        let length = length.min(LONGEST_WRITE - done);
        if outcome.is_ok() {
            outcome = advise(core::ptr::with_exposed_provenance_mut(address as usize), length as size_t, advice);
        }
        if outcome.is_ok() {
            done += length;
        }
    });
    if done > 0 { Ok(done as usize) } else { outcome.map(|()| 0) }
}

/// shmat(2): with SHM_REMAP it takes away what is there, as mmap(2) with MAP_FIXED does.
fn attach(segment: c_int, address: *const c_void, flags: c_int) -> Result<*mut c_void, Errno> {
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
        // The kernel says why there is none.
        None => call(),
        Some(length) => take_away(&addresses(start, length), call),
    }
}

/// shmctl(2), IPC_STAT; who may attach a segment may ask.
fn size_of_segment(segment: c_int) -> Option<size_t> {
    let mut found = core::mem::MaybeUninit::<libc::shmid_ds>::uninit();
    // SAFETY: the structure is writable, and what the kernel fills in on this machine is libc's structure.
    unsafe {
        syscall!(Sysno::shmctl, segment, libc::IPC_STAT, found.as_mut_ptr()).ok()?;
        Some(found.assume_init().shm_segsz)
    }
}

/// mlock(2), mlock2(2) or munlock(2), which take any address and mean its whole page.
fn lock(call: Sysno, address: *const c_void, length: size_t, flags: c_uint) -> Result<(), Errno> {
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

/// mlockall(2).
fn lock_all(flags: c_int) -> Result<(), Errno> {
    // SAFETY: the application's argument, as it is.
    let call = || plain(unsafe { syscall!(Sysno::mlockall, flags) }).map(drop);
    match lock::touching(&lock::EVERYWHERE) {
        Some(mappings) if flags & libc::MCL_CURRENT != 0 => mappings.note(&lock::EVERYWHERE, LOCKED, true, call),
        _ => call(),
    }
}

/// munlockall(2).
fn unlock_all() -> Result<(), Errno> {
    // SAFETY: the call has no argument.
    let call = || plain(unsafe { syscall!(Sysno::munlockall) }).map(drop);
    match lock::touching(&lock::EVERYWHERE) {
        None => call(),
        Some(mappings) => mappings.note(&lock::EVERYWHERE, LOCKED, false, call),
    }
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

/// Gives the advice to what lies in the range but is no snapshot.
fn advise_between(mappings: &lock::Mappings, range: &Range<u64>, advice: c_int) -> Result<(), Errno> {
    let mut at = range.start;
    while at < range.end {
        let next = lock::first_piece(&mappings.own, &(at..range.end));
        let (end, resume) = next.map_or((range.end, range.end), |extent| (extent.address.max(at), extent.end()));
        if end > at {
            // SAFETY: the application's own advice on its own memory.
            plain(unsafe { syscall!(Sysno::madvise, at, end - at, advice) })?;
        }
        at = resume;
    }
    Ok(())
}

fn remap(
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
    let range = addresses(address, old);
    let to = if flags & libc::MREMAP_FIXED != 0 { addresses(target, new) } else { 0..0 };
    // Rounded up, the kernel finds none of what is longer than all addresses, and refuses it (mm/mremap.c).
    let new_length = (new as u64).checked_next_multiple_of(PAGE).unwrap_or(0);
    if let Some(own) = identity::attached().filter(|_| list::may_touch(&(range.start..range.end.max(range.start + 1))))
        && let Some(origin) = calls::origin_in(&range)
    {
        if lock::touching(&range).is_some() {
            // Not in one call with a snapshot, as natively before Linux 6.17.
            return Err(Errno::FAULT);
        }
        let wanted = calls::Move { from: range, length: new_length, flags, target: to };
        return calls::remap(&lock::hold(own), &wanted, origin, &call);
    }
    let Some(mappings) = lock::touching(&range) else { return take_away(&to, call) };
    let is_fixed = flags & libc::MREMAP_FIXED != 0;
    if new_length == 0 || new_length > range.end - range.start || flags & libc::MREMAP_DONTUNMAP != 0 {
        return Err(Errno::INVAL);
    }
    // All that the kernel would refuse is refused before the tail is given up.
    let is_target_good =
        to.start.is_multiple_of(PAGE) && to.end <= ADDRESSES && (to.end <= range.start || range.end <= to.start);
    if is_fixed && (flags & libc::MREMAP_MAYMOVE == 0 || to.is_empty() || !is_target_good) {
        return Err(Errno::INVAL);
    }
    if !mappings.is_all(&range) {
        return Err(Errno::FAULT);
    }
    let tail = range.start + new_length..range.end;
    if !tail.is_empty() {
        mappings.replace(&tail, || {
            // SAFETY: mremap(2) with a smaller size gives the tail up.
            plain(unsafe { syscall!(Sysno::munmap, tail.start, tail.end - tail.start) })
        })?;
    }
    if !is_fixed {
        return Ok(address);
    }
    let shift = || mappings.shift(&(range.start..tail.start), to.start);
    calls::take_away(&mappings.own, &to, shift).map(|()| target)
}
