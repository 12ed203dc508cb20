//! aio_write(3) and lio_listio(3), which write in threads of libc's own. Where libc's code cannot be patched, what these do is not
//! seen, so a write to a file or device is waited for: it has ended when the call returns.

use core::ffi::c_int;
use core::ptr;

use libc::{aiocb, sigevent};
use rustix::mm::{MapFlags, ProtFlags};
use snapshim::cooperate::locate::place_behind;
use snapshim::protocol::origin::Place;
use snapshim::sys::raw;
use snapshim::sys::wait::Patience;

use crate::base::errno::set_errno;
use crate::hooks::file::write::Plain;
use crate::interpose::{self, interpose};
use crate::writer::enter::change;

interpose! {
    /// aio_write(3)
    aio_write64, c"aio_write64": aio_write aio_write64 => fn(block: *mut aiocb) -> c_int {
        raw |block| match interpose::behind(c"aio_write64") {
            // SAFETY: libc's function of that name; the application's arguments, as they are.
            Some(next) => unsafe { core::mem::transmute::<*const (), Function>(next)(block) },
            None => unknown(),
        },
        hook on_aio_write,
    }
    /// lio_listio(3)
    lio_listio64, c"lio_listio64": lio_listio lio_listio64
    => fn(mode: c_int, list: *const *mut aiocb, count: c_int, then: *mut sigevent) -> c_int {
        raw |mode, list, count, then| match interpose::behind(c"lio_listio64") {
            // SAFETY: libc's function of that name; the application's arguments, as they are.
            Some(next) => unsafe { core::mem::transmute::<*const (), Function>(next)(mode, list, count, then) },
            None => unknown(),
        },
        hook on_lio_listio,
    }
}

fn unknown() -> c_int {
    set_errno(libc::ENOSYS);
    -1
}

fn on_aio_write(real: aio_write64::Function, block: *mut aiocb) -> c_int {
    // SAFETY: the block is the application's; it stays until the request has ended, as aio_write(3) demands.
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
    unsafe { block.as_ref() }.is_some_and(|block| place_behind(block.aio_fildes as u32) != Place::Elsewhere)
}

/// # Safety
/// `block` is a request that is not under way.
unsafe fn write_and_wait(real: aio_write64::Function, block: *mut aiocb) -> c_int {
    // SAFETY: the caller's promise.
    let (descriptor, touch) =
        unsafe { ((*block).aio_fildes, Plain { length: (*block).aio_nbytes, offset: Some((*block).aio_offset) }) };
    change(descriptor, touch, || {
        // SAFETY: the application's argument, as it is.
        let result = unsafe { real(block) };
        if result == 0 {
            await_end(block);
        }
        result as isize
    }) as c_int
}

/// Where libc keeps how a request stands (bits/types/struct_aiocb.h, `__error_code`): aio_error(3) reads no more.
const STATE: u64 = 112;

fn state_of(block: *const aiocb) -> c_int {
    // Through the kernel: a handler that is told of the end may have given the block back.
    raw::read_remote_word(raw::own_tid(), block as u64 + STATE).map_or(0, |word| word as c_int)
}

/// A write to a file ends; only the disk decides when.
fn await_end(block: *const aiocb) {
    let mut patience = Patience::default();
    while state_of(block) == libc::EINPROGRESS {
        patience.pause();
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
    // SAFETY: the entries are null or requests that are not under way.
    let is_ours = |entry: *mut aiocb| unsafe { goes_to_file(entry) && (*entry).aio_lio_opcode == libc::LIO_WRITE };
    if interpose::is_libc_seen()
        || !matches!(mode, libc::LIO_WAIT | libc::LIO_NOWAIT)
        || !entries.iter().any(|entry| is_ours(*entry))
    {
        // SAFETY: the application's arguments, as they are.
        return unsafe { real(mode, list, count, then) };
    }
    let Some(others) = Others::new(entries.len()) else {
        set_errno(libc::EAGAIN);
        return -1;
    };
    // SAFETY: the pointer is the next library's aio_write(3), or `raw`.
    let aio_write: aio_write64::Function = unsafe { core::mem::transmute(aio_write64::DOOR.next()) };
    let (mut kept, mut failed) = (0, false);
    for entry in entries {
        if is_ours(*entry) {
            // SAFETY: a request that is not under way.
            let queued = unsafe { write_and_wait(aio_write, *entry) } == 0;
            failed |= !queued || mode == libc::LIO_WAIT && state_of(*entry) != 0;
        } else {
            others.put(kept, *entry);
            kept += 1;
        }
    }
    // SAFETY: the rest of the application's requests; with none left, libc tells `then` at once.
    let result = unsafe { real(mode, others.list, kept as c_int, then) };
    others.give_back();
    if result == 0 && failed {
        set_errno(libc::EIO);
        return -1;
    }
    result
}

/// Memory for the list of the other requests; libc looks at it only during the call.
struct Others {
    list: *mut *mut aiocb,
    bytes: usize,
}

impl Others {
    fn new(count: usize) -> Option<Self> {
        let bytes = count * size_of::<*mut aiocb>();
        // SAFETY: a new mapping at an address that the kernel chooses.
        let memory = unsafe {
            rustix::mm::mmap_anonymous(ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
        };
        Some(Self { list: memory.ok()?.cast(), bytes })
    }

    fn put(&self, at: usize, entry: *mut aiocb) {
        // SAFETY: `at` is below the number of entries that there is room for.
        unsafe { self.list.add(at).write(entry) };
    }

    /// Not when dropped: the call may be cancelled, and then nothing may be left to do in this frame.
    fn give_back(self) {
        // SAFETY: our own mapping, which nobody else knows.
        let _ = unsafe { rustix::mm::munmap(self.list.cast(), self.bytes) };
    }
}
