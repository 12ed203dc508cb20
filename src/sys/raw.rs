//! System calls that must never pass through a hook: rustix's `linux_raw` where it has them, `syscalls` for the few it has not.
//!
//! A call that a filter of the program's forbids ([`permission`]) is not made: it fails with EPERM, or does nothing.
//!
//! Everything here is async-signal-safe, allocates nothing and leaves errno alone.

use core::ffi::{CStr, c_void};
use core::time::Duration;

use rustix::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use syscalls::{Sysno, syscall};

use super::mix::mix;
use super::stack_str::StackStr;
use super::{clock, permission, probe};

/// The error of a call by number ([`syscall!`]), as rustix names it.
#[must_use]
pub fn errno(error: syscalls::Errno) -> Errno {
    Errno::from_raw_os_error(error.into_raw())
}

/// CLOCK_MONOTONIC in nanoseconds; the same clock in every process of the machine, in whatever time namespace.
pub fn now() -> u64 {
    clock::monotonic(nanoseconds(rustix::time::ClockId::Monotonic))
}

/// CLOCK_BOOTTIME in milliseconds, likewise.
pub fn since_boot() -> u64 {
    clock::boot(nanoseconds(rustix::time::ClockId::Boottime)) / 1_000_000
}

fn nanoseconds(id: rustix::time::ClockId) -> u64 {
    // SECCOMP_MODE_STRICT also takes the processor's counter away, which the kernel's code in this process reads for the exact
    // clock (disable_TSC, kernel/seccomp.c). The coarse one is a few milliseconds late, and needs neither that nor a system call.
    let id = match permission::forbids(Sysno::clock_gettime) {
        true => rustix::time::ClockId::MonotonicCoarse,
        false => id,
    };
    let time = rustix::time::clock_gettime(id);
    (time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64)
}

/// sched_yield(2).
pub fn yield_now() {
    if permission::forbids(Sysno::sched_yield) {
        return core::hint::spin_loop();
    }
    rustix::thread::sched_yield();
}

/// nanosleep(2), shorter if a signal comes.
pub fn nap(time: Duration) {
    // rustix makes it by clock_nanosleep(2) or nanosleep(2).
    if permission::forbids_any(&[Sysno::nanosleep, Sysno::clock_nanosleep]) {
        return spin(time);
    }
    let time = rustix::fs::Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) };
    let _ = rustix::thread::nanosleep(&time);
}

/// Passes the time, for a thread that may not sleep.
pub fn spin(time: Duration) {
    let until = now() + time.as_nanos() as u64;
    while now() < until {
        core::hint::spin_loop();
    }
}

/// What is done with files of /proc that are opened: none of it may be forbidden, or they are not opened.
const WITH_FILES: &[Sysno] =
    &[Sysno::openat, Sysno::newfstatat, Sysno::read, Sysno::pread64, Sysno::lseek, Sysno::getdents64, Sysno::close];

/// openat(2), close-on-exec.
pub fn open(path: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    if permission::forbids_any(WITH_FILES) {
        return Err(Errno::PERM);
    }
    rustix::fs::openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty())
}

/// Borrows a descriptor number of the application for one system call.
#[must_use]
pub fn borrow(descriptor: u32) -> BorrowedFd<'static> {
    let number = descriptor as i32;
    // SAFETY: rustix hands the number to the kernel, which answers EBADF if it is none. -1 alone is not representable: another
    // number takes its place that cannot be open.
    unsafe { BorrowedFd::borrow_raw(if number == -1 { i32::MAX } else { number }) }
}

/// Breaks copy-on-write on `pages` pages at `address` in thread `tid`'s address space without changing a byte.
///
/// process_vm_writev(2) pins the remote pages for writing before it reads the local buffer (mm/process_vm_access.c). The local
/// buffer is `unreadable`, so the call always ends in EFAULT. The caller verifies whether it had its effect.
pub fn break_copy_on_write(tid: u32, address: u64, pages: u64, unreadable: *const c_void) -> Errno {
    if probe::forbids(Sysno::process_vm_writev) {
        return Errno::PERM;
    }
    let length = (pages * crate::PAGE) as usize;
    let local = [unreadable as usize, length];
    let remote = [address as usize, length];
    // SAFETY: both point to one struct iovec (base, length), alive for the call; the kernel checks the addresses inside.
    let result = unsafe { syscall!(Sysno::process_vm_writev, tid, local.as_ptr(), 1, remote.as_ptr(), 1, 0) };
    result.map_or_else(errno, |_| Errno::NOTSUP)
}

/// Reads bytes at `address` in `tid`'s address space to `to`: at most `length`. How many; an error where a load would fault
/// (process_vm_readv(2)).
///
/// # Safety
/// `to` is writable for `length` bytes.
pub unsafe fn read_remote(tid: u32, address: u64, to: *mut c_void, length: usize) -> Result<usize, Errno> {
    if probe::forbids(Sysno::process_vm_readv) {
        // SAFETY: the caller's promise.
        return read_by_file(tid, address, unsafe { core::slice::from_raw_parts_mut(to.cast(), length) });
    }
    let local = [to as usize, length];
    let remote = [address as usize, length];
    // SAFETY: the local iovec names what the caller promises to be writable; the kernel checks the remote one.
    unsafe { syscall!(Sysno::process_vm_readv, tid, local.as_ptr(), 1, remote.as_ptr(), 1, 0) }.map_err(errno)
}

/// The same by /proc/PID/mem, which also reads what no load may.
#[cold]
fn read_by_file(tid: u32, address: u64, to: &mut [u8]) -> Result<usize, Errno> {
    let path = match tid {
        0 => StackStr::<32>::whole(format_args!("/proc/thread-self/mem")),
        tid => StackStr::<32>::whole(format_args!("/proc/{tid}/mem")),
    };
    let memory = open(path.as_c_str(), OFlags::RDONLY)?;
    match rustix::io::pread(memory, to, address) {
        Ok(0) | Err(Errno::IO) => Err(Errno::FAULT),
        read => read,
    }
}

/// Reads eight bytes at `address` in `tid`'s address space.
pub fn read_remote_word(tid: u32, address: u64) -> Result<u64, Errno> {
    let mut word = 0u64;
    // SAFETY: `word` is writable for eight bytes.
    match unsafe { read_remote(tid, address, (&raw mut word).cast(), size_of::<u64>()) }? {
        8 => Ok(word),
        _ => Err(Errno::FAULT),
    }
}

/// Writes eight bytes at `address` in the caller's own address space. An error where a store would fault.
pub fn write_own_word(address: u64, word: u64) -> Result<(), Errno> {
    if probe::forbids(Sysno::process_vm_writev) {
        return Err(Errno::PERM);
    }
    let local = [&raw const word as usize, 8];
    let remote = [address as usize, 8];
    // SAFETY: the local iovec names `word`; the kernel checks the remote one, whose bytes the caller may change.
    let result = unsafe { syscall!(Sysno::process_vm_writev, own_tid(), local.as_ptr(), 1, remote.as_ptr(), 1, 0) };
    match result {
        Ok(8) => Ok(()),
        Ok(_) => Err(Errno::FAULT),
        Err(error) => Err(errno(error)),
    }
}

/// Pages that [`read_at_boundaries`] reads of in one call.
pub const PAGES_AT_ONCE: usize = 48;

/// Reads one byte of each of the pages at `address` in `tid`'s address space, at each second page boundary: the last byte of one
/// page and the first of the next. Of a page that is left over it reads the first byte. The result is how many pages were read,
/// from the first on (process_vm_readv(2)).
pub fn read_at_boundaries(tid: u32, address: u64, bytes: &mut [u8]) -> usize {
    if probe::forbids(Sysno::process_vm_readv) {
        return 0;
    }
    let count = bytes.len().min(PAGES_AT_ONCE);
    let local = [bytes.as_mut_ptr() as usize, count];
    let remote: [[usize; 2]; PAGES_AT_ONCE / 2] = core::array::from_fn(|pair| {
        let page = (address + 2 * pair as u64 * crate::PAGE) as usize;
        if 2 * pair + 1 < count { [page + crate::PAGE as usize - 1, 2] } else { [page, 1] }
    });
    let pairs = count.div_ceil(2);
    // SAFETY: the local iovec names `bytes`, writable for `count` bytes; the kernel checks the remote ones.
    let result = unsafe { syscall!(Sysno::process_vm_readv, tid, local.as_ptr(), 1, remote.as_ptr(), pairs, 0) };
    result.unwrap_or(0)
}

/// Reads `length` bytes at each of up to 32 addresses in `tid`'s address space, one piece after the other, until one cannot be read
/// whole. The result is how many bytes were read (process_vm_readv(2)).
pub fn read_remote_pieces(tid: u32, addresses: &[u64], into: &mut [u8], length: usize) -> usize {
    const MOST: usize = 32;
    if probe::forbids(Sysno::process_vm_readv) {
        let pieces = into.chunks_exact_mut(length.max(1)).zip(addresses).take(MOST);
        let reads = pieces.map(|(piece, address)| read_by_file(tid, *address, piece));
        return reads.take_while(|read| *read == Ok(length)).count() * length;
    }
    let count = addresses.len().min(MOST).min(into.len() / length.max(1));
    let local = [into.as_mut_ptr() as usize, count * length];
    let remote: [[usize; 2]; MOST] =
        core::array::from_fn(|index| [addresses.get(index).map_or(0, |address| *address as usize), length]);
    // SAFETY: the local iovec names a part of `into`; the kernel checks the remote ones.
    let result = unsafe { syscall!(Sysno::process_vm_readv, tid, local.as_ptr(), 1, remote.as_ptr(), count, 0) };
    result.unwrap_or(0)
}

/// Random bits for names that must not repeat. The clock stands in where getrandom(2) would block.
#[must_use]
pub fn random() -> u64 {
    let mut bytes = [0u8; 8];
    if permission::forbids(Sysno::getrandom) {
        return mix(now(), u64::from(own_pid()) << 32);
    }
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::NONBLOCK) {
        Ok(8) => u64::from_ne_bytes(bytes),
        _ => mix(now(), u64::from(own_pid()) << 32),
    }
}

/// getpid(2).
#[must_use]
pub fn own_pid() -> u32 {
    permission::known_pid().unwrap_or_else(|| rustix::process::getpid().as_raw_nonzero().get() as u32)
}

/// gettid(2); 0 if the caller may not ask.
#[must_use]
pub fn own_tid() -> u32 {
    if permission::forbids(Sysno::gettid) {
        return 0;
    }
    rustix::thread::gettid().as_raw_nonzero().get() as u32
}

/// Whether a process exists, as far as the caller may ask (kill(2), signal 0): `Err(SRCH)` if it does not.
pub fn test_process(pid: u32) -> Result<(), Errno> {
    if permission::forbids(Sysno::kill) {
        return Err(Errno::PERM);
    }
    let pid = rustix::process::Pid::from_raw(pid as i32).ok_or(Errno::SRCH)?;
    rustix::process::test_kill_process(pid)
}

/// ioctl(2) with a pointer or value argument; the result on success.
///
/// # Safety
/// `argument` is what `request` takes: see the documentation of the request.
pub unsafe fn ioctl(descriptor: impl AsFd, request: u32, argument: usize) -> Result<usize, Errno> {
    use rustix::fd::AsRawFd;
    if permission::forbids(Sysno::ioctl) {
        return Err(Errno::PERM);
    }
    let number = descriptor.as_fd().as_raw_fd();
    // SAFETY: the caller's promise.
    unsafe { syscall!(Sysno::ioctl, number, request, argument) }.map_err(errno)
}

/// The least number that [`move_up`] moves to.
#[must_use]
pub fn least_high_number() -> u32 {
    const MOST: u64 = 1024;
    let limit = || rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let most = if permission::forbids(Sysno::prlimit64) { None } else { limit() }.unwrap_or(MOST).min(MOST) as u32;
    most - (most / 2).min(256)
}

/// Moves `file` to a number higher than programs use, close-on-exec. The original number is closed.
///
/// The number is not so high that the kernel makes a large table for it, which each fork would copy.
pub fn move_up(file: OwnedFd) -> Result<OwnedFd, Errno> {
    rustix::io::fcntl_dupfd_cloexec(&file, least_high_number() as i32)
}

/// Gives the calling thread, which shares its descriptor table with others, an empty table of its own: close_range(2), Linux 5.9.
///
/// What the other threads have open stays open, and as it was. The new table has copies of the first 64 numbers until the call has
/// closed them (dup_fd, fs/file.c).
pub fn take_empty_table() -> bool {
    const UNSHARE: u32 = 1 << 1;
    if probe::forbids(Sysno::close_range) {
        return false;
    }
    // SAFETY: the arguments are values; the calling thread has nothing open that it relies on.
    unsafe { syscall!(Sysno::close_range, 0, u32::MAX, UNSHARE) }.is_ok()
}

/// The open file that `thread` of the calling process has at `number`: pidfd_getfd(2), which needs no right within a process
/// (__ptrace_may_access, kernel/ptrace.c). It reaches another thread than the first from Linux 6.9 on.
pub fn copy_descriptor(thread: u32, number: u32) -> Result<OwnedFd, Errno> {
    use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
    const THREAD: PidfdFlags = PidfdFlags::from_bits_retain(OFlags::EXCL.bits());
    if probe::forbids(Sysno::pidfd_open) || permission::forbids_any(&[Sysno::pidfd_getfd, Sysno::close]) {
        return Err(Errno::PERM);
    }
    let kind = if thread == own_pid() { PidfdFlags::empty() } else { THREAD };
    let holder = pidfd_open(Pid::from_raw(thread as i32).ok_or(Errno::SRCH)?, kind)?;
    pidfd_getfd(holder, number as i32, PidfdGetfdFlags::empty())
}

/// Takes ownership of a descriptor number.
///
/// # Safety
///
/// No other owner closes it.
pub unsafe fn adopt_fd(number: i32) -> OwnedFd {
    // SAFETY: the caller's promise.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Ends the process where nothing else can be done: out of memory before `main`.
pub fn abort() -> ! {
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::ABORT).ok();
    loop {
        nap(Duration::from_millis(1));
    }
}
