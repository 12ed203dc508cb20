//! ioctl(2): the requests that change a file's or a block device's content. Which they are, [`requests`] says.

use core::ffi::{c_int, c_ulong, c_void};

use snapshim::sys::raw;
use syscalls::{Sysno, syscall};

use super::requests::{self, Commands, Effect, Names, REQUESTS};
use super::{truncate, utime};
use crate::base::errno::as_libc;
use crate::base::user_memory;
use crate::interpose::interpose;
use crate::mapper::faults;
use crate::origins::behind::{self, Mapped, Named};
use crate::shared::{calls, list};
use crate::writer::enter::change;
use crate::writer::touch::Touch;

interpose! {
    /// ioctl(2); variadic in C, the argument is passed on as it comes
    ioctl, c"ioctl": ioctl => fn(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
        // SAFETY: the application's arguments, as they are.
        raw |fd, request, argument| as_libc(unsafe { syscall!(Sysno::ioctl, fd, request, argument) }) as c_int,
        hook on_ioctl,
    }
}

/// The types (bits 8 to 15) that any of the requests looked for has, one bit each: every ioctl(2) is looked up, and nearly all are of
/// none of them.
const TYPES: [u64; 4] = {
    let mut types = [0; 4];
    let mut at = 0;
    while at < REQUESTS.len() + faults::REQUESTS.len() {
        let number = if at < REQUESTS.len() { REQUESTS[at].number } else { faults::REQUESTS[at - REQUESTS.len()] };
        types[number as usize >> 14 & 3] |= 1 << (number >> 8 & 63);
        at += 1;
    }
    types
};

#[inline]
fn may_be_known(request: u32) -> bool {
    TYPES[request as usize >> 14 & 3] >> (request >> 8 & 63) & 1 == 1
}

/// The numbers alone, in a few cache lines.
static NUMBERS: [u32; REQUESTS.len()] = {
    let mut numbers = [0; REQUESTS.len()];
    let mut at = 0;
    while at < numbers.len() {
        numbers[at] = REQUESTS[at].number;
        at += 1;
    }
    numbers
};

pub fn on_ioctl(real: ioctl::Function, fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    // SAFETY: the application's arguments, as they are.
    let call = || unsafe { real(fd, request, argument) };
    // Only the low 32 bits count (fs/ioctl.c takes an unsigned int).
    if may_be_known(request as u32) { look_up(fd, request as u32, argument as u64, &call) } else { call() }
}

#[inline(never)]
fn look_up(fd: c_int, request: u32, argument: u64, call: &dyn Fn() -> c_int) -> c_int {
    match NUMBERS.iter().position(|number| *number == request) {
        None => faults::on_request(request, argument, call),
        Some(at) => make(&REQUESTS[at], fd, argument, call),
    }
}

/// Makes `call`, a request that is known.
fn make(known: &requests::Request, fd: c_int, argument: u64, call: &dyn Fn() -> c_int) -> c_int {
    match known.effect {
        Effect::Times => utime::without_bytes(fd, call),
        Effect::Bytes(names) => {
            let made = || changing_others(known.others, argument, call) as isize;
            change(fd, Request::read(names, argument), made) as c_int
        }
        Effect::Cut => truncate::cut(fd, 0, call),
        Effect::Turns => {
            let changed = || change(fd, Request::EVERYTHING, || call() as isize) as c_int;
            behind::changing(known.name, &Named::above(fd), &changed)
        }
        Effect::Behind(commands) if only_reads(commands, argument) => call(),
        Effect::Behind(_) => behind::changing(known.name, &Named::descriptor(fd), call),
        Effect::Mapper { resumes } if resumes && suspends(argument) => call(),
        Effect::Mapper { .. } => match Mapped::read(argument) {
            Some(mapped) => behind::changing(known.name, &Named::Mapped(&mapped), call),
            None => call(),
        },
        Effect::Fills => fill(argument, call),
    }
}

/// Word `index` of an argument; `None`: it cannot be read, which is the kernel's to refuse.
fn word(argument: u64, index: u64) -> Option<u64> {
    raw::read_remote_word(raw::own_tid(), argument.wrapping_add(index * 8)).ok()
}

/// UFFDIO_COPY: where the memory shows a hole of a file that is mapped shared, its bytes are the file's from then on. The hole cannot
/// be preserved: reading it through a mapping fills it, and then the kernel refuses to (EEXIST).
fn fill(argument: u64, call: &dyn Fn() -> c_int) -> c_int {
    let (Some(start), Some(length)) = (word(argument, 0), word(argument, 2)) else { return call() };
    let range = start..start.saturating_add(length);
    let origin = if list::may_touch(&range) { calls::origin_in(&range) } else { None };
    match origin {
        Some(origin) => behind::changing("UFFDIO_COPY", &Named::File(origin), call),
        None if user_memory::is_mapped(start) => call(),
        // Of another process, whose userfaultfd this one serves. Which file it shows cannot be known here.
        None => behind::changing("UFFDIO_COPY into another process's memory", &Named::EveryFile, call),
    }
}

/// `struct dm_ioctl`: flags is its eighth 32-bit number. DM_SUSPEND_FLAG: the device is only suspended, not resumed.
fn suspends(argument: u64) -> bool {
    const DM_SUSPEND_FLAG: u64 = 1 << 1;
    word(argument, 3).is_some_and(|word| (word >> 32) & DM_SUSPEND_FLAG != 0)
}

/// Whether the command in an argument is known to change nothing.
fn only_reads(commands: Commands, argument: u64) -> bool {
    // Compare, verify, reservations, flush.
    const NVME_IO: [u8; 10] = [0x00, 0x02, 0x05, 0x0C, 0x0D, 0x0E, 0x11, 0x12, 0x15, 0x7A];
    // Log pages, identify, abort, features, events, firmware, self-test, keep alive.
    const NVME_ADMIN: [u8; 10] = [0x02, 0x06, 0x08, 0x09, 0x0A, 0x0C, 0x10, 0x11, 0x14, 0x18];
    let Some(first) = word(argument, 0) else { return true };
    match commands {
        Commands::Every => false,
        Commands::Scsi => scsi_only_reads((first >> 32) as i32, argument),
        Commands::NvmeIo => NVME_IO.contains(&(first as u8)),
        Commands::NvmeAdmin => NVME_ADMIN.contains(&(first as u8)),
        Commands::Mmc => first as u32 == 0,
    }
}

fn scsi_only_reads(direction: i32, argument: u64) -> bool {
    const SG_DXFER_NONE: i32 = -1;
    const SG_DXFER_FROM_DEV: i32 = -3;
    // Test unit ready, start and stop, prevent removal, synchronize cache.
    const WITHOUT_DATA: [u8; 5] = [0x00, 0x1B, 0x1E, 0x35, 0x91];
    // cmdp is word 3.
    let code = || word(argument, 3).and_then(|command| word(command, 0)).map(|bytes| bytes as u8);
    match direction {
        SG_DXFER_FROM_DEV => true,
        SG_DXFER_NONE => code().is_some_and(|code| WITHOUT_DATA.contains(&code)),
        _ => false,
    }
}

/// Makes `call` while the files whose descriptors lie at `offsets` of the argument are announced, too.
///
/// One within the other, as what a handler does within a call that it interrupted: never inlined, because a call that is further up
/// the stack than another would be taken for one that was left.
#[inline(never)]
fn changing_others(offsets: &[u64], argument: u64, call: &dyn Fn() -> c_int) -> c_int {
    let Some((offset, others)) = offsets.split_first() else { return call() };
    let address = argument.wrapping_add(*offset);
    // An unreadable argument is the kernel's to refuse.
    let Ok(word) = raw::read_remote_word(raw::own_tid(), address & !7) else { return call() };
    let descriptor = (word >> ((address & 7) * 8)) as c_int;
    change(descriptor, Request::EVERYTHING, || changing_others(others, argument, call) as isize) as c_int
}

/// Unit of the kernel's own addresses on block devices.
const SECTOR: u64 = 512;

/// The bytes that a request changes.
struct Request {
    offset: u64,
    length: u64,
}

impl Request {
    const EVERYTHING: Self = Self { offset: 0, length: u64::MAX };

    /// An unreadable argument is the kernel's to refuse.
    fn read(names: Names, argument: u64) -> Self {
        let pair = |offset, length| word(argument, offset).zip(word(argument, length));
        let found = match names {
            Names::Range(offset, length) => pair(offset, length),
            Names::Sectors(offset, length) => pair(offset, length)
                .map(|(offset, length)| (offset.saturating_mul(SECTOR), length.saturating_mul(SECTOR))),
            Names::CloneRange => word(argument, 3)
                .zip(word(argument, 2))
                .map(|(offset, length)| (offset, if length == 0 { u64::MAX } else { length })),
            Names::Everything => None,
        };
        found.map_or(Self::EVERYTHING, |(offset, length)| Self { offset, length })
    }
}

impl Touch for Request {
    fn length(&self) -> u64 {
        self.length
    }

    fn offset(&self) -> Option<i64> {
        Some(i64::try_from(self.offset).unwrap_or(i64::MAX))
    }
}
