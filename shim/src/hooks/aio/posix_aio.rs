//! aio_write(3) and lio_listio(3), which write in threads of libc's own.
//!
//! Where libc's code cannot be patched, the writes of these threads do not reach their hooks. So the hook waits for a write to a
//! file or device: it has ended when the call returns.

use core::ffi::c_int;
use core::ptr;

use libc::{aiocb, sigevent};
use rustix::mm::{MapFlags, ProtFlags};
use snapshim::cooperate::locate::target_of_descriptor;
use snapshim::protocol::origin::Target;
use snapshim::sys::wait::Backoff;

use crate::base::user_memory::read_value;
use crate::interpose::answer::fail;
use crate::interpose::{self, interpose};
use crate::writer::enter::through_gate;
use crate::writer::touch::Plain;

interpose! {
    /// aio_write(3)
    aio_write64, c"aio_write64": aio_write aio_write64 => fn(block: *mut aiocb) -> c_int {
        next_or fail(libc::ENOSYS),
        hook on_aio_write,
    }
    /// lio_listio(3)
    lio_listio64, c"lio_listio64": lio_listio lio_listio64
    => fn(mode: c_int, list: *const *mut aiocb, count: c_int, then: *mut sigevent) -> c_int {
        next_or fail(libc::ENOSYS),
        hook on_lio_listio,
    }
}

fn on_aio_write(real: aio_write64::Function, block: *mut aiocb) -> c_int {
    // SAFETY: the block is the application's, and stays until the request has ended, as aio_write(3) demands.
    if interpose::is_libc_seen() || !unsafe { goes_to_file(block) } {
        // SAFETY: the application's argument, as it is.
        return unsafe { real(block) };
    }
    // SAFETY: as above.
    unsafe { write_and_wait(real, block) }
}

/// # Safety
/// `block` is null or a request that is not under way.
unsafe fn goes_to_file(block: *const aiocb) -> bool {
    // SAFETY: the caller's promise.
    unsafe { block.as_ref() }.is_some_and(|block| target_of_descriptor(block.aio_fildes as u32) != Target::Elsewhere)
}

/// # Safety
/// `block` is a request that is not under way.
unsafe fn write_and_wait(real: aio_write64::Function, block: *mut aiocb) -> c_int {
    // SAFETY: the caller's promise.
    let (descriptor, touch) =
        unsafe { ((*block).aio_fildes, Plain { length: (*block).aio_nbytes, offset: Some((*block).aio_offset) }) };
    through_gate(descriptor, touch, || {
        // SAFETY: the application's argument, as it is.
        let result = unsafe { real(block) };
        if result == 0 {
            await_end(block);
        }
        result as isize
    }) as c_int
}

/// The offset of `__error_code`, the state of a request (bits/types/struct_aiocb.h). aio_error(3) reads nothing else.
const STATE: u64 = 112;

fn state_of(block: *const aiocb) -> c_int {
    // Read through the kernel: a handler that runs at the end may have freed the block.
    read_value(block as u64 + STATE).unwrap_or(0)
}

/// Waits for the end of a write. There is no deadline: a write to a file ends as soon as the disk allows.
fn await_end(block: *const aiocb) {
    let mut backoff = Backoff::default();
    while state_of(block) == libc::EINPROGRESS {
        backoff.pause();
    }
}

fn on_lio_listio(
    real: lio_listio64::Function,
    mode: c_int,
    list: *const *mut aiocb,
    count: c_int,
    then: *mut sigevent,
) -> c_int {
    let entries: &[*mut aiocb] = match usize::try_from(count) {
        // SAFETY: the application's list of so many requests, as lio_listio(3) demands.
        Ok(count) if count > 0 && !list.is_null() => unsafe { core::slice::from_raw_parts(list, count) },
        _ => &[],
    };
    if interpose::is_libc_seen()
        || !matches!(mode, libc::LIO_WAIT | libc::LIO_NOWAIT)
        // SAFETY: the entries are null or requests that are not under way.
        || !entries.iter().any(|entry| unsafe { is_write_to_file(*entry) })
    {
        // SAFETY: the application's arguments, as they are.
        return unsafe { real(mode, list, count, then) };
    }
    let Some(mut others) = Others::new(entries.len()) else {
        return fail(libc::EAGAIN);
    };
    // SAFETY: as above.
    let failed = unsafe { write_each(entries, mode, &mut others) };
    // SAFETY: the rest of the application's requests; with none left, libc tells `then` at once.
    let result = unsafe { real(mode, others.list, others.count as c_int, then) };
    others.give_back();
    if result == 0 && failed { fail(libc::EIO) } else { result }
}

/// # Safety
/// `entry` is null or a request that is not under way.
unsafe fn is_write_to_file(entry: *const aiocb) -> bool {
    // SAFETY: the caller's promise.
    unsafe { goes_to_file(entry) && (*entry).aio_lio_opcode == libc::LIO_WRITE }
}

/// Makes the writes to files one by one, and lists the other requests. True: one has failed, and the call has to say so.
///
/// # Safety
/// The entries are null or requests that are not under way; `others` has room for all of them.
unsafe fn write_each(entries: &[*mut aiocb], mode: c_int, others: &mut Others) -> bool {
    // SAFETY: the pointer is the next library's aio_write(3), or `raw`.
    let aio_write: aio_write64::Function = unsafe { core::mem::transmute(aio_write64::ENTRY_POINT.next()) };
    let mut failed = false;
    for entry in entries {
        // SAFETY: the caller's promise.
        unsafe {
            if is_write_to_file(*entry) {
                let queued = write_and_wait(aio_write, *entry) == 0;
                failed |= !queued || mode == libc::LIO_WAIT && state_of(*entry) != 0;
            } else {
                others.put(*entry);
            }
        }
    }
    failed
}

/// Memory for the list of the other requests. libc reads the list only during the call.
struct Others {
    list: *mut *mut aiocb,
    count: usize,
    bytes: usize,
}

impl Others {
    fn new(count: usize) -> Option<Self> {
        let bytes = count * size_of::<*mut aiocb>();
        // SAFETY: a new mapping at an address that the kernel chooses.
        let memory = unsafe {
            rustix::mm::mmap_anonymous(ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
        };
        Some(Self { list: memory.ok()?.cast(), count: 0, bytes })
    }

    /// # Safety
    /// There is room left.
    unsafe fn put(&mut self, entry: *mut aiocb) {
        // SAFETY: the caller's promise.
        unsafe { self.list.add(self.count).write(entry) };
        self.count += 1;
    }

    /// Not done by a drop: the call may be cancelled, and a cancellation may find nothing to drop in the frame.
    fn give_back(self) {
        // SAFETY: the mapping is the shim's own, and nothing refers to it any more.
        let _ = unsafe { rustix::mm::munmap(self.list.cast(), self.bytes) };
    }
}
