//! Calls that have the kernel store into memory of the application's, where that is a shared mapping or a snapshot.
//!
//! Into an armed page, or one that is being moved off the file, the kernel does not store: EFAULT, and a packet that was to come
//! there is lost. A call that waits may find a snapshot moved at any time. So while no snapshot of the shared
//! mapping's file exists, and the bytes come from a file, which does not wait for anybody, the call is announced and made on the
//! open mapping; no snapshot comes meanwhile. Else the kernel stores into memory [`aside`], and the call may wait as long as it
//! likes. A call that is left by pthread_cancel(3) or longjmp(3) leaks that memory and nothing more.
//!
//! What one place of a snapshot is to get comes by a [`spare`] buffer if it is little. If it is much, and comes from a file, the kernel
//! stores into the snapshot ([`fill_promptly`]).

use core::ffi::{c_int, c_void};
use core::ops::Range;
use core::sync::atomic::Ordering;

use libc::{iovec, mmsghdr};
use rustix::fs::OFlags;
use rustix::io::Errno;
use snapshim::cooperate::locate::place_behind;
use snapshim::protocol::origin::{Origin, Place};
use snapshim::sys::{raw, signal_block};

use super::bounce::{self, Aside, Touched};
use super::bounce_messages::{self, Headers, Messages};
use super::fault::open_whole;
use super::list::{self, Entry};
use super::spare::Spare;
use crate::address_space::{freeze, lock};
use crate::base::errno::set_errno;
use crate::base::user_memory::each_buffer;
use crate::origins::filesystem;
use crate::writer::announced::{Announced, announced};

/// Where the bytes come from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// What the descriptor leads to, perhaps a file.
    Descriptor(c_int),
    /// The same at an offset that the call names: a file gives it again when it is asked again.
    DescriptorAt(c_int),
    /// Somebody who may let us wait.
    Other,
    /// The same, and the result may count bytes that are not stored (MSG_TRUNC).
    OtherCounting,
}

/// Whether one buffer may lie in a shared mapping or a snapshot.
#[inline]
pub fn may_touch(data: u64, length: usize) -> bool {
    let range = data..data.saturating_add(length as u64);
    list::may_touch(&range) || lock::may_touch(&range)
}

/// Whether anything may lie in a shared mapping or a snapshot.
#[inline]
pub fn may_touch_any() -> bool {
    list::is_any() || lock::has_any()
}

/// Has the kernel fill the buffers of `vector`: `call` with it, or `aside` with others in their place.
#[cold]
pub fn fill(
    source: Source,
    vector: *const iovec,
    count: usize,
    call: impl Fn() -> isize,
    aside: impl Fn(&[iovec]) -> isize,
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
    let other = match Aside::of(vector, count) {
        Ok(other) => other,
        Err(error) => return fail(error),
    };
    if source == Source::OtherCounting {
        other.fill_from_home();
    }
    let result = aside(other.parts().vector());
    other.finish(result)
}

/// The same for a single buffer.
#[cold]
pub fn fill_one(
    source: Source,
    data: *mut c_void,
    length: usize,
    call: impl Fn() -> isize,
    aside: impl Fn(&[iovec]) -> isize,
) -> isize {
    let home = data as u64..(data as u64).saturating_add(length as u64);
    if source != Source::OtherCounting
        && let Some(spare) = Spare::take(&home)
    {
        let part = iovec { iov_base: spare.at().cast(), iov_len: length };
        return spare.finish(aside(&[part]));
    }
    if let Some(result) = fill_promptly(source, &home, &call) {
        return result;
    }
    fill(source, &iovec { iov_base: data, iov_len: length }, 1, call, aside)
}

/// Makes a call on a snapshot that may be moved off its file, where the bytes come from a file. `None`: it did not come to that, or
/// it is to be made again, aside.
///
/// Where nothing was moved meanwhile, the kernel found the snapshot as the application made it. A read from a file at an offset that
/// the call names is made again otherwise, whatever came of it. One at the file position has stored what it says, page by page, and
/// each store came before the page was closed, and was copied, or behind the move: what is left out is for the next call, as where a
/// signal ends a call early. If it has stored nothing the position is where it was. With O_DIRECT the kernel holds on to pages that
/// may not be the snapshot's any more when the bytes come.
fn fill_promptly(source: Source, home: &Range<u64>, call: &impl Fn() -> isize) -> Option<isize> {
    let descriptor = match source {
        Source::Descriptor(descriptor) | Source::DescriptorAt(descriptor) => descriptor,
        _ => return None,
    };
    if list::may_touch(home) || lock::first_that_may_move(home).is_none() || !source.is_prompt() {
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
    let before = freeze::holds();
    let result = call();
    let is_done = !freeze::any_held_since(before) || !can_repeat && result > 0;
    is_done.then_some(result)
}

fn fail(error: Errno) -> isize {
    set_errno(error.raw_os_error());
    -1
}

impl Source {
    /// Whether a read waits for nobody but a disk.
    fn is_prompt(self) -> bool {
        let (Self::Descriptor(descriptor) | Self::DescriptorAt(descriptor)) = self else { return false };
        match place_behind(descriptor as u32) {
            Place::Origin(origin) => {
                origin.is_block_device() || filesystem::is_on_known_file_system(raw::borrow(descriptor as u32))
            }
            _ => false,
        }
    }
}

/// Makes the call announced, on mappings that are open; `None`: a snapshot needs what they show.
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

fn open_range(origin: Origin, range: &Range<u64>) -> bool {
    let _signals = signal_block::SignalsBlocked::new();
    let list = list::read();
    // The list's lock orders it.
    let open = |entry: &Entry| entry.course.is_open.load(Ordering::Relaxed) || open_whole(entry).is_ok();
    let mut touched = list.touching(range).filter(|entry| entry.is_writable());
    touched.all(|entry| entry.origin == origin && open(entry))
}

/// Receives messages: `call` with the application's headers, or `aside` with others in their place. It tells how many came.
#[cold]
pub fn receive(
    given: Headers,
    counts_more: bool,
    call: impl Fn() -> isize,
    aside: impl Fn(*mut mmsghdr, usize) -> (isize, usize),
) -> isize {
    if !bounce_messages::is_touched_by_messages(given) {
        return call();
    }
    let messages = match Messages::of(given) {
        Ok(messages) => messages,
        Err(error) => return fail(error),
    };
    if counts_more {
        messages.fill_from_home();
    }
    let (headers, count) = messages.headers();
    let (result, received) = aside(headers, count);
    messages.bring_home(received);
    messages.end();
    result
}
