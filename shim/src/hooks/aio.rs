//! io_submit(2) (libaio): each write of a batch, and each read into a shared mapping, is announced and preserved by itself, then handed to
//! the kernel.
//!
//! glibc's own aio_write(3) needs nothing here: it calls pwrite in a thread of its own.

use core::ffi::{c_int, c_long};

use snapshim::{PAGE, raw};
use syscalls::{Sysno, syscall};

use super::change::{LONGEST_WRITE, Touch, change};
use super::write::each_buffer;
use crate::doors::{interpose, set_errno};
use crate::shared::change::while_open;
use crate::shared::list;

interpose! {
    /// libaio's io_submit(3), which answers with a negative errno
    io_submit, c"io_submit": io_submit => fn(context: usize, count: c_long, batch: *mut *mut Block) -> c_int {
        raw submit_raw,
        hook on_io_submit,
    }
}

/// `struct iocb` (linux/aio_abi.h), little-endian.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Block {
    data: u64,
    key: u32,
    flags: u32,
    operation: u16,
    priority: i16,
    descriptor: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    event_flags: u32,
    event_descriptor: u32,
}

const _: () = assert!(size_of::<Block>() == 64);

const PREAD: u16 = 0;
const PWRITE: u16 = 1;
const PWRITEV: u16 = 8;

/// The system call, answered as libaio does.
fn submit_raw(context: usize, count: c_long, batch: *mut *mut Block) -> c_int {
    // SAFETY: the application's arguments, as they are.
    match unsafe { syscall!(Sysno::io_submit, context, count, batch) } {
        Ok(submitted) => submitted as c_int,
        Err(error) => -error.into_raw(),
    }
}

/// One at a time, because each may go to another file. What was submitted before one that fails counts, as in a batch.
pub fn on_io_submit(real: io_submit::Function, context: usize, count: c_long, batch: *mut *mut Block) -> c_int {
    let mut submitted = 0;
    while c_long::from(submitted) < count {
        let entry = batch.wrapping_add(submitted as usize);
        // SAFETY: the application's arguments; the kernel checks them.
        let one = || unsafe { real(context, 1, entry) };
        let result = match submission_at(entry as u64) {
            None => one(),
            Some(read) if read.operation == PREAD => submit_read(&read, &one),
            Some(write) => change(write.descriptor as c_int, write, || one() as isize) as c_int,
        };
        match result {
            1 => submitted += 1,
            // Refused by the gate: errno says why, as libaio would.
            -1 if submitted == 0 => return -libc::ENOSPC,
            other if submitted == 0 => return other,
            _ => return submitted,
        }
    }
    submitted
}

/// The kernel has the pages by the time the call returns, so they are opened for it.
fn submit_read(read: &Submission, one: &impl Fn() -> c_int) -> c_int {
    let range = read.buffer..read.buffer.saturating_add(read.bytes);
    if !list::may_touch(&range) {
        return one();
    }
    let pages = range.start / PAGE * PAGE..range.end.checked_next_multiple_of(PAGE).unwrap_or(range.end);
    while_open(&pages, one).unwrap_or_else(|error| -error.raw_os_error())
}

/// The same by number: -1 and errno.
pub fn by_number(context: usize, count: c_long, batch: *mut *mut Block) -> c_long {
    match on_io_submit(io_submit::raw, context, count, batch) {
        error if error < 0 => {
            set_errno(-error);
            -1
        }
        submitted => submitted.into(),
    }
}

/// A write or read of a batch, as the kernel will read it; `None` if it is none, or unreadable.
fn submission_at(entry: u64) -> Option<Submission> {
    let word = |address: u64| raw::read_remote_word(raw::own_tid(), address).ok();
    let block = word(entry)?;
    let operation = word(block + 16)?;
    let descriptor = (operation >> 32) as u32;
    let operation = operation as u16;
    let vectored = match operation {
        PREAD | PWRITE => false,
        PWRITEV => true,
        _ => return None,
    };
    Some(Submission {
        operation,
        descriptor,
        buffer: word(block + 24)?,
        bytes: word(block + 32)?,
        offset: word(block + 40)? as i64,
        vectored,
    })
}

/// One write or read of a batch.
struct Submission {
    operation: u16,
    descriptor: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    vectored: bool,
}

impl Touch for Submission {
    fn length(&self) -> u64 {
        if !self.vectored {
            return self.bytes.min(LONGEST_WRITE);
        }
        let mut total = 0u64;
        let vector = core::ptr::with_exposed_provenance(self.buffer as usize);
        let whole = each_buffer(vector, self.bytes as c_int, |_, length| total = total.saturating_add(length));
        if whole { total.min(LONGEST_WRITE) } else { LONGEST_WRITE }
    }

    fn offset(&self) -> Option<i64> {
        Some(self.offset)
    }
}
