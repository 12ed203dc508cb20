//! Calls that have the kernel store into memory of the application's, where that is a shared mapping or a snapshot.
//!
//! The kernel does not store into an armed page, nor into one that is being moved off the file: the call fails with EFAULT, and a
//! packet that was to come there is lost. A call that waits may find a snapshot moved at any time. So such a call is made in one
//! of three ways:
//!
//! - While no snapshot of the shared mapping's file exists, and the bytes come from a file, which makes no call wait long: the call
//!   is announced, and the kernel stores into the open mapping. No snapshot comes into being meanwhile.
//! - Else the kernel stores into a [`bounce`] buffer, and the call may wait as long as it likes. A call that is left by
//!   pthread_cancel(3) or longjmp(3) leaks that memory and nothing more.
//! - For one buffer in a snapshot there are faster ways. A little comes by a [`spare`](super::spare) buffer; much that comes from a
//!   file is stored into the snapshot itself ([`fill_promptly`]).

use core::ffi::{c_int, c_void};
use core::ops::Range;
use core::sync::atomic::Ordering;

use libc::{iovec, mmsghdr};
use rustix::fs::OFlags;
use snapshim::cooperate::locate::target_of_descriptor;
use snapshim::protocol::origin::{Origin, Target};
use snapshim::sys::{raw, signal_block};

use super::bounce::{self, Bounce, Touched};
use super::bounce_messages::{self, Headers, Messages};
use super::fault::open_whole;
use super::list::{self, Entry};
use super::spare::Spare;
use crate::address_space::{freeze, lock};
use crate::base::user_memory::each_buffer;
use crate::interpose::answer::fail;
use crate::origins::filesystem;
use crate::writer::announced::{Announced, announced};

/// Where the bytes of a call come from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// From a descriptor, which may lead to a file.
    Descriptor(c_int),
    /// From a descriptor at an offset that the call names: from a file the same bytes can be read again.
    DescriptorAt(c_int),
    /// From a source that may make the call wait.
    Other,
    /// From such a source, and the result may count bytes that are not stored (MSG_TRUNC).
    OtherCounting,
}

/// Whether a buffer may lie in a shared mapping or a snapshot.
#[inline]
pub fn may_touch(data: u64, length: usize) -> bool {
    let range = data..data.saturating_add(length as u64);
    list::may_touch(&range) || lock::may_touch(&range)
}

/// Whether there may be a shared mapping or a snapshot at all.
#[inline]
pub fn may_touch_any() -> bool {
    list::is_any() || lock::has_any()
}

/// Has the kernel fill the buffers of `vector`: makes `call` with it, or `bounced` with bounce buffers.
#[cold]
pub fn fill(
    source: Source,
    vector: *const iovec,
    count: usize,
    call: impl Fn() -> isize,
    bounced: impl Fn(&[iovec]) -> isize,
) -> isize {
    let touched = bounce::touched_by(vector, count);
    if touched == Touched::Nothing {
        return call();
    }
    if let Touched::One(origin) = touched
        && source.is_prompt()
        && let Some(result) = fill_open(origin, vector, count, &call)
    {
        return result;
    }
    let other = match Bounce::of(vector, count) {
        Ok(other) => other,
        Err(error) => return fail(error.raw_os_error()),
    };
    if source == Source::OtherCounting {
        other.copy_in();
    }
    let result = bounced(other.parts().vector());
    other.finish(result)
}

/// The same for a single buffer.
#[cold]
pub fn fill_one(
    source: Source,
    data: *mut c_void,
    length: usize,
    call: impl Fn() -> isize,
    bounced: impl Fn(&[iovec]) -> isize,
) -> isize {
    let user = data as u64..(data as u64).saturating_add(length as u64);
    if source != Source::OtherCounting
        && let Some(spare) = Spare::take(&user)
    {
        let part = iovec { iov_base: spare.at().cast(), iov_len: length };
        return spare.finish(bounced(&[part]));
    }
    if let Some(result) = fill_promptly(source, &user, &call) {
        return result;
    }
    fill(source, &iovec { iov_base: data, iov_len: length }, 1, call, bounced)
}

/// Makes a call whose bytes come from a file and go to a snapshot that may be moved off its file. `None`: the call was not made,
/// or is to be made again with a bounce buffer.
///
/// If no range was frozen meanwhile, the kernel found the snapshot as the application made it. If one was, the call decides. A
/// read at an offset that the call names is made again, whatever its result. A read at the file position counts if it has stored
/// something: it stored as many bytes as it says, page by page, each page before it was frozen, and so was copied, or after the
/// move. Bytes that were left out are for the next call, as after a signal that ends a call early. If it has stored nothing, the
/// position is where it was.
///
/// A read at the file position with O_DIRECT is not made here: the kernel pins pages, which may not be the snapshot's any more
/// when the bytes come.
fn fill_promptly(source: Source, user: &Range<u64>, call: &impl Fn() -> isize) -> Option<isize> {
    let descriptor = match source {
        Source::Descriptor(descriptor) | Source::DescriptorAt(descriptor) => descriptor,
        _ => return None,
    };
    if list::may_touch(user) || lock::first_that_may_move(user).is_none() || !source.is_prompt() {
        return None;
    }
    let is_direct = || {
        let flags = rustix::fs::fcntl_getfl(raw::borrow(descriptor as u32));
        flags.is_ok_and(|flags| flags.contains(OFlags::DIRECT))
    };
    let can_repeat = matches!(source, Source::DescriptorAt(_));
    if !can_repeat && is_direct() {
        return None;
    }
    let before = freeze::freezes();
    let result = call();
    let is_done = !freeze::any_frozen_since(before) || !can_repeat && result > 0;
    is_done.then_some(result)
}

impl Source {
    /// Whether a read waits at most for a disk.
    fn is_prompt(self) -> bool {
        let (Self::Descriptor(descriptor) | Self::DescriptorAt(descriptor)) = self else { return false };
        match target_of_descriptor(descriptor as u32) {
            Target::Origin(origin) => {
                origin.is_block_device() || filesystem::is_on_known_file_system(raw::borrow(descriptor as u32))
            }
            _ => false,
        }
    }
}

/// Makes the call announced, with its mappings open; `None`: the call was not made, as a snapshot of their origin exists.
fn fill_open(origin: Origin, vector: *const iovec, count: usize, call: &impl Fn() -> isize) -> Option<isize> {
    let act = |announced: Option<&Announced<'_>>| {
        let is_free = announced.is_some_and(|announced| !announced.is_in_use());
        let mut is_open = is_free;
        let open = |address: u64, length: u64| {
            is_open = is_open && open_range(origin, &(address..address.saturating_add(length)))
        };
        (is_free && each_buffer(vector, count as c_int, open) && is_open).then(call)
    };
    announced(origin, act).ok()?
}

/// Opens the mappings in a range. False: one of them shows another origin, or cannot be opened.
fn open_range(origin: Origin, range: &Range<u64>) -> bool {
    let _signals = signal_block::SignalsBlocked::new();
    let list = list::read();
    // Relaxed: the list's lock orders it.
    let open = |entry: &Entry| entry.history.is_open.load(Ordering::Relaxed) || open_whole(entry).is_ok();
    let mut touched = list.touching(range).filter(|entry| entry.is_writable());
    touched.all(|entry| entry.origin == origin && open(entry))
}

/// Receives messages: makes `call` with the application's headers, or `bounced` with others, in which there are bounce buffers.
/// `bounced` returns its result and how many messages came.
#[cold]
pub fn receive(
    given: Headers,
    counts_more: bool,
    call: impl Fn() -> isize,
    bounced: impl Fn(*mut mmsghdr, usize) -> (isize, usize),
) -> isize {
    if !bounce_messages::is_touched_by_messages(given) {
        return call();
    }
    let messages = match Messages::of(given) {
        Ok(messages) => messages,
        Err(error) => return fail(error.raw_os_error()),
    };
    if counts_more {
        messages.copy_in();
    }
    let (headers, count) = messages.headers();
    let (result, received) = bounced(headers, count);
    messages.copy_out(received);
    messages.end();
    result
}
