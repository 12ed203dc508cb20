//! Messages of recvmsg(2) and its kin, laid out in bounce buffers.

use core::mem::offset_of;
use core::ptr::with_exposed_provenance_mut as pointer_mut;

use libc::{mmsghdr, msghdr};
use rustix::io::Errno;

use super::bounce::{BounceArena, BounceVec, Touched, copy_out, first_user_range, lay_out, lay_vector, measure};
use super::list::List;
use crate::base::user_memory::read_own;
use crate::writer::touch::LONGEST_WRITE;

/// The user buffers of one message. All-zero is "no bounce buffer".
#[repr(C)]
struct MessageLayout {
    /// The address of the sender's name, and how long that may be.
    name: u64,
    name_length: u32,
    /// The address of the control messages.
    control: u64,
    parts: *const BounceVec,
}

/// Headers of messages to receive, as the kernel gets them, with bounce buffers where they have to be.
pub struct Messages {
    arena: BounceArena,
    /// The application's headers.
    user: *mut u8,
    stride: usize,
    headers: *mut mmsghdr,
    layouts: *const MessageLayout,
    /// How many of the application's headers could be read.
    count: usize,
}

/// The application's headers at `user`, `stride` bytes apart: several `mmsghdr`, or one `msghdr`.
#[derive(Clone, Copy)]
pub struct Headers {
    pub user: *mut u8,
    pub stride: usize,
    pub count: usize,
}

type Laid = (*mut mmsghdr, *mut MessageLayout, usize);

/// The longest address of a socket (`sockaddr_storage`).
const LONGEST_NAME: u32 = 128;

/// Lays out all messages. `None`: the first cannot be read, or there is no room.
fn lay_messages(arena: &mut BounceArena, list: &List, given: Headers) -> Option<Laid> {
    let headers = arena.take_zeroed::<mmsghdr>(given.count)?;
    let layouts = arena.take_zeroed::<MessageLayout>(given.count)?;
    for index in 0..given.count {
        // SAFETY: all-zero is a valid header.
        let mut header: mmsghdr = unsafe { core::mem::zeroed() };
        let user = given.user.wrapping_add(index * given.stride) as u64;
        let length = given.stride.min(size_of::<mmsghdr>()) as u64;
        if read_own(user, (&raw mut header) as u64, length) != length {
            // The kernel receives messages up to this one, too.
            return (index > 0).then_some((headers, layouts, index));
        }
        if let Some(touched) = first_user_range(list, &(user..user + length)) {
            arena.touched.add(&touched);
        }
        let layout = lay_message(arena, list, &mut header.msg_hdr)?;
        if !headers.is_null() {
            // SAFETY: both point to `count` elements in the room.
            unsafe {
                headers.add(index).write(header);
                layouts.add(index).write(layout);
            }
        }
    }
    Some((headers, layouts, given.count))
}

/// Lays out one message, and puts bounce buffers into its header.
fn lay_message(arena: &mut BounceArena, list: &List, header: &mut msghdr) -> Option<MessageLayout> {
    let parts = lay_vector(arena, list, header.msg_iov, header.msg_iovlen)?;
    let (name, control) = (header.msg_name as u64, header.msg_control as u64);
    let name_length = header.msg_namelen;
    if let Some(bounced) = lay_result(arena, list, name, u64::from(name_length.min(LONGEST_NAME)))? {
        header.msg_name = pointer_mut(bounced as usize);
    }
    if let Some(bounced) = lay_result(arena, list, control, (header.msg_controllen as u64).min(LONGEST_WRITE))? {
        header.msg_control = pointer_mut(bounced as usize);
    }
    // SAFETY: null, or the parts that were just laid out.
    if let Some(parts) = unsafe { parts.as_ref() } {
        header.msg_iov = parts.vector.as_ptr().cast_mut();
        header.msg_iovlen = parts.count;
    }
    Some(MessageLayout { name, name_length, control, parts })
}

/// A bounce buffer for a result of at most so many bytes, if it needs one.
fn lay_result(arena: &mut BounceArena, list: &List, user: u64, length: u64) -> Option<Option<u64>> {
    let range = user..user.saturating_add(length);
    let Some(touched) = first_user_range(list, &range).filter(|_| user != 0) else { return Some(None) };
    arena.touched.add(&touched);
    let bounced = arena.take(length, user)?;
    if arena.start.is_some() {
        // The kernel leaves gaps between control messages. The bytes there stay as they are.
        read_own(user, bounced, length);
    }
    Some(Some(bounced))
}

/// Whether a bounce buffer is needed to receive the messages.
pub fn is_touched_by_messages(given: Headers) -> bool {
    measure(&|arena: &mut BounceArena, list: &List| lay_messages(arena, list, given)) != Touched::Nothing
}

impl Messages {
    /// Lays out the headers and what they name.
    pub fn of(given: Headers) -> Result<Self, Errno> {
        let (arena, laid) = lay_out(&|arena: &mut BounceArena, list: &List| lay_messages(arena, list, given))?;
        let (headers, layouts, count) = laid;
        Ok(Self { arena, user: given.user, stride: given.stride, headers, layouts, count })
    }

    /// The headers that the kernel gets, and how many.
    pub fn headers(&self) -> (*mut mmsghdr, usize) {
        (self.headers, self.count)
    }

    fn layout(&self, index: usize) -> &MessageLayout {
        // SAFETY: `index` is below `count`; the envelopes lie in the room, which is mapped until `end`.
        unsafe { &*self.layouts.add(index) }
    }

    fn parts(&self, index: usize) -> &BounceVec {
        // SAFETY: as in `layout`.
        unsafe { &*self.layout(index).parts }
    }

    /// Copies the user buffers to the bounce buffers, for calls whose result counts more bytes than they store (MSG_TRUNC).
    pub fn copy_in(&self) {
        (0..self.count).for_each(|index| self.parts(index).copy_in());
    }

    /// Copies the first `received` messages to the user buffers.
    pub fn copy_out(&self, received: usize) {
        for index in 0..received.min(self.count) {
            // SAFETY: as in `layout`.
            let now = unsafe { *self.headers.add(index) };
            let (header, layout) = (now.msg_hdr, self.layout(index));
            self.parts(index).copy_out(now.msg_len.into());
            if header.msg_name as u64 != layout.name {
                let length = header.msg_namelen.min(layout.name_length).min(LONGEST_NAME);
                copy_out(header.msg_name as u64, layout.name, length.into());
            }
            if header.msg_control as u64 != layout.control {
                copy_out(header.msg_control as u64, layout.control, header.msg_controllen as u64);
            }
            self.answer(index, &now);
        }
    }

    /// Copies what the kernel says of a message to the application's header.
    fn answer(&self, index: usize, now: &mmsghdr) {
        let user = self.user.wrapping_add(index * self.stride);
        let header = user.cast::<msghdr>();
        // SAFETY: it is the application's header, and without the shim the kernel would store into the same fields.
        unsafe {
            (&raw mut (*header).msg_namelen).write_unaligned(now.msg_hdr.msg_namelen);
            (&raw mut (*header).msg_controllen).write_unaligned(now.msg_hdr.msg_controllen);
            (&raw mut (*header).msg_flags).write_unaligned(now.msg_hdr.msg_flags);
            if self.stride > size_of::<msghdr>() {
                user.add(offset_of!(mmsghdr, msg_len)).cast::<u32>().write_unaligned(now.msg_len);
            }
        }
    }

    /// Ends the call: unmaps the memory.
    pub fn end(self) {
        self.arena.give_back();
    }
}
