//! Calls that have the kernel store into memory of the application's, where that is a shared mapping or a snapshot.
//!
//! The kernel does not store into an armed page, nor into one that is being moved off the file: the call fails with EFAULT, and a
//! packet that was to come there is lost. A call that waits may find a snapshot moved at any time. So such a call is made in one
//! of three ways:
//!
//! - If the bytes come from a file, which makes no call wait long, and go to shared mappings of one file: the call is announced,
//!   what snapshots have of the buffers is preserved, and the kernel stores into the open mapping. No snapshot comes into being
//!   meanwhile.
//! - Else the kernel stores into a [`bounce`] buffer, and the call may wait as long as it likes. A call that is left by
//!   pthread_cancel(3) or longjmp(3) leaks that memory and nothing more.
//! - For one buffer in a snapshot there are faster ways. A little comes by a [`spare`] buffer; much that comes from a
//!   file is stored into the snapshot itself ([`fill_promptly`]).
//!
//! A bounce buffer takes as much memory as bytes come. Where many may come, and other calls cannot tell one call from several, each
//! piece of the user buffer is filled by a call of its own ([`Source::comes_in_pieces`]). A read at the file position is one call:
//! another thread may read there as well. So is one from a socket or a pipe, which may have messages.

use core::ffi::{c_int, c_void};
use core::ops::Range;
use core::ptr::with_exposed_provenance_mut;
use core::sync::atomic::Ordering;

use libc::{iovec, mmsghdr};
use rustix::fs::{FileType, OFlags, SeekFrom, major, minor};
use snapshim::cooperate::locate::target_of_descriptor;
use snapshim::protocol::origin::{Origin, Target};
use snapshim::sys::{raw, signal_block};

use super::bounce::{self, Bounce, Touched};
use super::bounce_messages::{self, Headers, Messages};
use super::fault::{self, open_whole};
use super::list::{self, Entry};
use super::protection;
use super::spare::{self, Spare};
use crate::address_space::{freeze, lock};
use crate::base::errno;
use crate::base::user_memory::each_buffer;
use crate::interpose::answer::fail;
use crate::mapper::preserve_own;
use crate::origins::filesystem;
use crate::writer::announced::{Announced, announced};
use crate::writer::enter::size_behind;

/// Where the bytes of a call come from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// From a descriptor, which may lead to a file.
    Descriptor(c_int),
    /// From a descriptor at an offset that the call names: from a file the same bytes can be read again.
    DescriptorAt(c_int, i64),
    /// Random bytes.
    Random,
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
    fill_in_place(source, vector, count, &call).unwrap_or_else(|| fill_bounced(source, vector, count, &bounced))
}

/// Makes `call`, if the kernel can store into the buffers themselves. `None`: it was not made, or is to be made with bounce
/// buffers.
fn fill_in_place(source: Source, vector: *const iovec, count: usize, call: &impl Fn() -> isize) -> Option<isize> {
    match bounce::touched_by(vector, count) {
        Touched::Nothing => Some(call()),
        Touched::One(origin) if source.is_prompt() => fill_open(source, origin, vector, count, call),
        _ => None,
    }
}

/// Makes `bounced` with bounce buffers for those parts of `vector` that need them.
fn fill_bounced(source: Source, vector: *const iovec, count: usize, bounced: &impl Fn(&[iovec]) -> isize) -> isize {
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

/// The same as [`fill`] for a single buffer. `bounced` is told how many bytes of it earlier calls have filled.
#[cold]
pub fn fill_one(
    source: Source,
    data: *mut c_void,
    length: usize,
    call: impl Fn() -> isize,
    bounced: impl Fn(u64, &[iovec]) -> isize,
) -> isize {
    let user = data as u64..(data as u64).saturating_add(length as u64);
    if source != Source::OtherCounting
        && let Some(spare) = Spare::take(&user)
    {
        return fill_spare(spare, length as u64, &|parts| bounced(0, parts));
    }
    if let Some(result) = fill_promptly(source, &user, &call) {
        return result;
    }
    let whole = iovec { iov_base: data, iov_len: length };
    if let Some(result) = fill_in_place(source, &whole, 1, &call) {
        return result;
    }
    if length as u64 <= spare::LENGTH {
        return fill_bounced(source, &whole, 1, &|parts| bounced(0, parts));
    }
    if source.comes_in_pieces() {
        return fill_in_pieces(source, &user, &bounced);
    }
    if source.is_prompt() && !list::may_touch(&user) && preserve_own::move_off(&user) {
        // The kernel pins what takes the snapshot's place, and that stays.
        return call();
    }
    fill_bounced(source, &whole, 1, &|parts| bounced(0, parts))
}

fn fill_spare(spare: Spare, length: u64, bounced: &impl Fn(&[iovec]) -> isize) -> isize {
    let part = iovec { iov_base: spare.at().cast(), iov_len: length as usize };
    spare.finish(bounced(&[part]))
}

/// Fills a buffer piece by piece. As with one call, the result counts what came before the first piece that failed or was not
/// filled.
fn fill_in_pieces(source: Source, user: &Range<u64>, bounced: &impl Fn(u64, &[iovec]) -> isize) -> isize {
    let before = errno::errno();
    let mut at = user.start;
    while at < user.end {
        let done = at - user.start;
        let piece = at..user.end.min(at + spare::LENGTH);
        let length = piece.end - piece.start;
        let result = match Spare::take_for_piece(&piece) {
            Some(spare) => fill_spare(spare, length, &|parts| bounced(done, parts)),
            None => {
                let part = iovec { iov_base: with_exposed_provenance_mut(at as usize), iov_len: length as usize };
                fill_bounced(source, &part, 1, &|parts| bounced(done, parts))
            }
        };
        match u64::try_from(result) {
            Ok(came) if came == length => at = piece.end,
            Ok(came) => return (done + came) as isize,
            Err(_) if done == 0 => return result,
            Err(_) => {
                errno::set_errno(before);
                return done as isize;
            }
        }
    }
    (user.end - user.start) as isize
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
        Source::Descriptor(descriptor) | Source::DescriptorAt(descriptor, _) => descriptor,
        _ => return None,
    };
    if list::may_touch(user) || lock::first_that_may_move(user).is_none() || !source.is_prompt() {
        return None;
    }
    let is_direct = || {
        let flags = rustix::fs::fcntl_getfl(raw::borrow(descriptor as u32));
        flags.is_ok_and(|flags| flags.contains(OFlags::DIRECT))
    };
    let can_repeat = matches!(source, Source::DescriptorAt(..));
    if !can_repeat && is_direct() {
        return None;
    }
    let before = freeze::freezes();
    let result = call();
    let is_done = !freeze::any_frozen_since(before) || !can_repeat && result > 0;
    is_done.then_some(result)
}

impl Source {
    /// Whether several calls, each for a piece of the buffer, give what one call would give.
    fn comes_in_pieces(self) -> bool {
        /// major(3) of memory devices, and the minor numbers of /dev/zero, full, random and urandom (drivers/char/mem.c).
        const MEMORY: (u32, [u32; 4]) = (1, [5, 7, 8, 9]);
        let (descriptor, names_offset) = match self {
            Self::Random => return true,
            Self::Descriptor(descriptor) => (descriptor, false),
            Self::DescriptorAt(descriptor, _) => (descriptor, true),
            _ => return false,
        };
        rustix::fs::fstat(raw::borrow(descriptor as u32)).is_ok_and(|found| {
            match FileType::from_raw_mode(found.st_mode) {
                FileType::RegularFile | FileType::BlockDevice => names_offset,
                FileType::CharacterDevice => {
                    major(found.st_rdev) == MEMORY.0 && MEMORY.1.contains(&minor(found.st_rdev))
                }
                _ => false,
            }
        })
    }

    /// How many bytes can come from a file at most; as far as it is known.
    fn bytes_left(self) -> u64 {
        let (descriptor, offset) = match self {
            Self::Descriptor(descriptor) => (descriptor, None),
            Self::DescriptorAt(descriptor, offset) => (descriptor, Some(offset)),
            _ => return u64::MAX,
        };
        let position = || rustix::fs::seek(raw::borrow(descriptor as u32), SeekFrom::Current(0)).ok();
        let at = offset.map_or_else(position, |offset| u64::try_from(offset).ok());
        match (at, size_behind(descriptor)) {
            (Some(at), Some(size)) => size.saturating_sub(at),
            _ => u64::MAX,
        }
    }

    /// Whether a read waits at most for a disk.
    fn is_prompt(self) -> bool {
        let (Self::Descriptor(descriptor) | Self::DescriptorAt(descriptor, _)) = self else { return false };
        match target_of_descriptor(descriptor as u32) {
            Target::Origin(origin) => {
                origin.is_block_device() || filesystem::is_on_known_file_system(raw::borrow(descriptor as u32))
            }
            _ => false,
        }
    }
}

/// Makes the call announced, with its mappings open. `None`: the call was not made, or is to be made again with bounce buffers.
///
/// If no mapping was armed meanwhile, the kernel found them open. If one was, the call decides, as in [`fill_promptly`].
fn fill_open(
    source: Source,
    origin: Origin,
    vector: *const iovec,
    count: usize,
    call: &impl Fn() -> isize,
) -> Option<isize> {
    let act = |announced: Option<&Announced<'_>>| {
        let announced = announced?;
        let before = protection::armings();
        // At least one, so that the call stores something if the file grows now.
        let mut left = source.bytes_left().max(1);
        let mut is_open = true;
        let open = |address: u64, length: u64| {
            let range = address..address.saturating_add(length.min(left));
            left -= length.min(left);
            is_open = is_open && open_range(announced, origin, &range);
        };
        if !each_buffer(vector, count as c_int, open) || !is_open {
            return None;
        }
        let result = call();
        let can_repeat = matches!(source, Source::DescriptorAt(..));
        let is_done = protection::armings() == before || !can_repeat && result > 0;
        is_done.then_some(result)
    };
    announced(origin, act).ok()?
}

/// Opens the mappings in a range. False: one of them shows another origin, or cannot be opened.
fn open_range(announced: &Announced<'_>, origin: Origin, range: &Range<u64>) -> bool {
    let _signals = signal_block::SignalsBlocked::new();
    if announced.is_in_use() {
        return fault::open_for_kernel(announced, origin, range);
    }
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
