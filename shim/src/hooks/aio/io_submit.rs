//! io_submit(2) (libaio): each write of a batch, and each read into a shared mapping, is announced and preserved alone, then
//! handed to the kernel.
//!
//! A write that bypasses the page cache lands later. It is counted, so that a creation can wait for it
//! ([`snapshim::protocol::aio_queues`]).
//!
//! The hooks make the system calls themselves: libaio would make them by syscall(2), which is hooked as well, and each would be
//! counted twice.
//!
//! glibc's own aio_write(3) needs nothing here: it calls pwrite in a thread of its own.

use core::cell::Cell;
use core::ffi::{c_int, c_long};

use rustix::fs::OFlags;
use snapshim::PAGE;
use snapshim::cooperate::locate::target_of_descriptor;
use snapshim::protocol::aio_queues::Queue;
use snapshim::protocol::creation::{Scope, Ticket};
use snapshim::protocol::origin::Target;
use snapshim::sys::raw;
use syscalls::{Sysno, syscall};

use crate::base::user_memory::{each_buffer, read_value};
use crate::interpose::answer::fail;
use crate::interpose::interpose;
use crate::process::identity::{self, ThisProcess};
use crate::process::{membership, thread};
use crate::shared::calls::while_open;
use crate::shared::list;
use crate::writer::enter::through_gate;
use crate::writer::touch::{LONGEST_WRITE, Touch};

interpose! {
    /// libaio's io_submit(3), which answers with a negative errno
    io_submit, c"io_submit": io_submit => fn(context: usize, count: c_long, batch: *mut *mut Block) -> c_int {
        raw submit_call,
        hook on_io_submit,
    }
    /// libaio's io_setup(3)
    io_setup, c"io_setup": io_setup => fn(room: c_int, context: *mut usize) -> c_int {
        raw setup_call,
        hook on_io_setup,
    }
    /// libaio's io_queue_init(3)
    io_queue_init, c"io_queue_init": io_queue_init => fn(room: c_int, context: *mut usize) -> c_int {
        raw setup_call,
        hook on_io_queue_init,
    }
    /// libaio's io_destroy(3), io_queue_release(3)
    io_destroy, c"io_destroy": io_destroy io_queue_release => fn(context: usize) -> c_int {
        raw destroy_call,
        hook on_io_destroy,
    }
}

fn submit_call(context: usize, count: c_long, batch: *mut *mut Block) -> c_int {
    // SAFETY: the application's arguments, as they are.
    as_libaio(unsafe { syscall!(Sysno::io_submit, context, count, batch) })
}

fn setup_call(room: c_int, context: *mut usize) -> c_int {
    // SAFETY: the application's arguments, as they are.
    as_libaio(unsafe { syscall!(Sysno::io_setup, room, context) })
}

fn destroy_call(context: usize) -> c_int {
    // SAFETY: the application's argument, as it is.
    as_libaio(unsafe { syscall!(Sysno::io_destroy, context) })
}

/// The result as libaio gives it.
fn as_libaio(result: Result<usize, syscalls::Errno>) -> c_int {
    match result {
        Ok(value) => value as c_int,
        Err(error) => -error.into_raw(),
    }
}

fn on_io_setup(_: io_setup::Function, room: c_int, context: *mut usize) -> c_int {
    let result = setup_call(room, context);
    if result == 0
        && let Ok(own) = membership::join()
    {
        // SAFETY: the kernel has just stored there.
        own.queues().open(unsafe { *context } as u64);
    }
    result
}

/// As io_setup(3), but the context need not be cleared before.
fn on_io_queue_init(_: io_queue_init::Function, room: c_int, context: *mut usize) -> c_int {
    if room <= 0 {
        return -libc::EINVAL;
    }
    // SAFETY: libaio stores there as well.
    unsafe { *context = 0 };
    on_io_setup(io_setup::raw, room, context)
}

fn on_io_destroy(_: io_destroy::Function, context: usize) -> c_int {
    let closing = identity::attached().and_then(|own| own.queues().start_close(context as u64));
    let result = destroy_call(context);
    if let Some(closing) = closing {
        closing.finish(result == 0);
    }
    result
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

/// Submits the requests one at a time, because each may go to another file. As in a batch, the requests before one that fails
/// count.
pub fn on_io_submit(_: io_submit::Function, context: usize, count: c_long, batch: *mut *mut Block) -> c_int {
    if count <= 0 {
        return submit_call(context, count, batch);
    }
    let submitter = Submitter::of(context);
    let mut submitted = 0;
    while c_long::from(submitted) < count {
        let entry = batch.wrapping_add(submitted as usize);
        match submitter.submit(entry) {
            1 => submitted += 1,
            other if submitted == 0 => return other,
            _ => return submitted,
        }
    }
    submitted
}

/// A context, with what is needed to submit to it.
struct Submitter {
    context: usize,
    /// `None`: the process takes no part in the table.
    own: Option<ThisProcess>,
    /// `None`: what is submitted to it is not counted.
    queue: Option<&'static Queue>,
}

impl Submitter {
    fn of(context: usize) -> Self {
        let own = membership::join().ok();
        Self { context, own, queue: own.and_then(|own| own.queues().of(context as u64)) }
    }

    /// Submits one request: 1, or a negative errno.
    fn submit(&self, entry: *mut *mut Block) -> c_int {
        self.let_creation_pass();
        match submission_at(entry as u64) {
            None => self.counted(entry, None),
            Some(read) if read.operation == PREAD => submit_read(&read, &|| self.counted(entry, None)),
            Some(write) => self.submit_write(entry, write),
        }
    }

    fn submit_write(&self, entry: *mut *mut Block, write: Submission) -> c_int {
        let descriptor = write.descriptor;
        let result = Cell::new(None);
        through_gate(descriptor as c_int, write, || {
            let answer = self.counted(entry, Some(descriptor));
            result.set(Some(answer));
            // The result of a change is a count of bytes, and one request is none.
            answer.min(0) as isize
        });
        // No answer: the gate refused the call.
        result.get().unwrap_or(-libc::ENOSPC)
    }

    fn counted(&self, entry: *mut *mut Block, written: Option<u32>) -> c_int {
        let queue = self.queue.filter(|queue| queue.begin(self.context as u64));
        self.aim(queue, written);
        let result = submit_call(self.context, 1, entry);
        // Once more: another thread may have put another file at the descriptor, or set O_DIRECT, just before the kernel looked.
        self.aim(queue, written);
        if let Some(queue) = queue {
            queue.end(u64::from(result == 1));
        }
        result
    }

    /// Notes the file of a write that lands later. The write has passed the gate, so a creation that must wait for it finds the
    /// note.
    fn aim(&self, queue: Option<&Queue>, written: Option<u32>) {
        let (Some(own), Some(descriptor)) = (&self.own, written) else { return };
        let is_direct =
            rustix::fs::fcntl_getfl(raw::borrow(descriptor)).is_ok_and(|flags| flags.contains(OFlags::DIRECT));
        if !is_direct {
            return;
        }
        let target = target_of_descriptor(descriptor);
        match (queue, target) {
            (_, Target::Elsewhere) => return,
            (Some(queue), Target::Origin(origin)) => queue.aim_at(origin),
            _ => own.queues().overflow(),
        }
        if let Some(record) = own.record() {
            match target {
                Target::Origin(origin) => record.direct.add(origin),
                Target::Elsewhere | Target::Unknown => record.direct.add_all(),
            }
            record.note_queues(own.id);
        }
    }

    /// Lets a creation pass that waits for the context to be idle: further requests would keep it busy.
    fn let_creation_pass(&self) {
        let (Some(own), Some(queue)) = (self.own, self.queue) else { return };
        let creations = own.table.gate().creations;
        let waits = |seen: &Ticket| match creations.scope(*seen, own.table) {
            Some(Scope::One(origin)) => queue.aims_at(origin),
            // It may have the file among others.
            Some(Scope::Group) => true,
            Some(Scope::Held) | None => false,
        };
        for seen in creations.under_way().filter(waits) {
            // In a handler, the creation may wait for the call that the handler interrupted.
            if thread::current().is_ok_and(|thread| !thread.is_inside()) {
                own.table.await_creation(seen);
            }
        }
    }
}

/// Submits a read. The kernel takes hold of the pages before the call returns, so they are opened for the length of the call.
fn submit_read(read: &Submission, one: &impl Fn() -> c_int) -> c_int {
    let range = read.buffer..read.buffer.saturating_add(read.bytes);
    if !list::may_touch(&range) {
        return one();
    }
    let pages = range.start / PAGE * PAGE..range.end.checked_next_multiple_of(PAGE).unwrap_or(range.end);
    while_open(&pages, one).unwrap_or_else(|error| -error.raw_os_error())
}

/// io_submit(2) by number, which answers with -1 and errno.
pub fn by_number(context: usize, count: c_long, batch: *mut *mut Block) -> c_long {
    as_call(on_io_submit(io_submit::raw, context, count, batch))
}

pub fn setup_by_number(room: c_int, context: *mut usize) -> c_long {
    as_call(on_io_setup(io_setup::raw, room, context))
}

pub fn destroy_by_number(context: usize) -> c_long {
    as_call(on_io_destroy(io_destroy::raw, context))
}

fn as_call(result: c_int) -> c_long {
    if result < 0 { fail(-result) } else { result.into() }
}

/// A write or read of a batch, as the kernel will read it; `None` if it is another request, or cannot be read.
fn submission_at(entry: u64) -> Option<Submission> {
    let word = read_value::<u64>;
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
