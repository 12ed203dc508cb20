//! ioctl(2): the requests that change the content of a file or a block device. [`requests`] lists them.

use core::ffi::{c_int, c_ulong, c_void};

use syscalls::{Sysno, syscall};

use super::requests::{self, Commands, Effect, Names, REQUESTS};
use super::{truncate, utime};
use crate::base::errno::as_libc;
use crate::base::user_memory::{self, read_value};
use crate::interpose::interpose;
use crate::mapper::faults;
use crate::origins::behind::{self, Mapped, Named};
use crate::shared::{calls, list};
use crate::writer::enter::through_gate;
use crate::writer::touch::Touch;

interpose! {
    /// ioctl(2); variadic in C, the argument is passed on as it comes
    ioctl, c"ioctl": ioctl => fn(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
        // SAFETY: the application's arguments, as they are.
        raw |fd, request, argument| as_libc(unsafe { syscall!(Sysno::ioctl, fd, request, argument) }) as c_int,
        hook on_ioctl,
    }
}

/// The types (bits 8 to 15) of the requests that are looked for, one bit each. Every ioctl(2) is looked up, and nearly all are of
/// another type.
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

/// The numbers alone, which take a few cache lines.
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
    // The kernel looks at the low 32 bits alone (fs/ioctl.c takes an unsigned int).
    if may_be_known(request as u32) { find_request(fd, request as u32, argument as u64, &call) } else { call() }
}

#[inline(never)]
fn find_request(fd: c_int, request: u32, argument: u64, call: &dyn Fn() -> c_int) -> c_int {
    match NUMBERS.iter().position(|number| *number == request) {
        None => faults::on_request(request, argument, call),
        Some(at) => make(&REQUESTS[at], fd, argument, call),
    }
}

/// Makes `call`, which is the request `known`.
fn make(known: &requests::Request, fd: c_int, argument: u64, call: &dyn Fn() -> c_int) -> c_int {
    match known.effect {
        Effect::Times => utime::without_bytes(fd, call),
        Effect::Bytes(names) => {
            let made = || changing_others(known.others, argument, call) as isize;
            through_gate(fd, Request::read(names, argument), made) as c_int
        }
        Effect::Truncate => truncate::truncate_file(fd, 0, call),
        Effect::Turns => {
            let changed = || through_gate(fd, Request::EVERYTHING, || call() as isize) as c_int;
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

/// Word `index` of an argument; `None` if it cannot be read, in which case the kernel refuses the call.
fn word(argument: u64, index: u64) -> Option<u64> {
    read_value(argument.wrapping_add(index * 8))
}

/// UFFDIO_COPY. Where the memory shows a hole of a file that is mapped shared, the bytes become the file's.
///
/// The hole cannot be preserved before: a read through a mapping fills it, and the kernel refuses the request then (EEXIST).
fn fill(argument: u64, call: &dyn Fn() -> c_int) -> c_int {
    let (Some(start), Some(length)) = (word(argument, 0), word(argument, 2)) else { return call() };
    let range = start..start.saturating_add(length);
    let origin = if list::may_touch(&range) { calls::origin_in(&range) } else { None };
    match origin {
        Some(origin) => behind::changing("UFFDIO_COPY", &Named::File(origin), call),
        None if user_memory::is_mapped(start) => call(),
        // The memory is another process's, whose userfaultfd this one serves. Which file it shows cannot be known here.
        None => behind::changing("UFFDIO_COPY into another process's memory", &Named::EveryFile, call),
    }
}

/// Whether the flags of a `struct dm_ioctl`, its eighth 32-bit number, have DM_SUSPEND_FLAG: the device is suspended, not resumed.
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

/// Makes `call` while a change of the other files, whose descriptors lie at `offsets` of the argument, is announced as well.
///
/// Each announcement is made inside the one before, as by a handler that interrupts a call. The function is never inlined, so that
/// each has a stack pointer further down than the one around it: a jump gives calls up by their stack pointers
/// ([`leaving`](crate::process::leaving)).
#[inline(never)]
fn changing_others(offsets: &[u64], argument: u64, call: &dyn Fn() -> c_int) -> c_int {
    let Some((offset, others)) = offsets.split_first() else { return call() };
    let address = argument.wrapping_add(*offset);
    // The kernel refuses an argument that cannot be read.
    let Some(word) = read_value::<u64>(address & !7) else { return call() };
    let descriptor = (word >> ((address & 7) * 8)) as c_int;
    through_gate(descriptor, Request::EVERYTHING, || changing_others(others, argument, call) as isize) as c_int
}

/// The kernel's unit for addresses on block devices.
const SECTOR: u64 = 512;

/// The bytes that a request changes.
struct Request {
    offset: u64,
    length: u64,
}

impl Request {
    const EVERYTHING: Self = Self { offset: 0, length: u64::MAX };

    /// An argument that cannot be read counts as everything. The kernel refuses it.
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
