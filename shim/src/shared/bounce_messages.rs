//! Messages of recvmsg(2) and its kin, laid out in bounce buffers.

use core::mem::offset_of;
use core::ptr::with_exposed_provenance_mut as pointer_mut;

use libc::{mmsghdr, msghdr};
use rustix::io::Errno;

use super::bounce::{Parts, Room, Touched, bring_home, first_home, lay_out, lay_vector, measure};
use super::list::List;
use crate::base::user_memory::read_own;
use crate::writer::touch::LONGEST_WRITE;

/// The user buffers of one message. All-zero is "no bounce buffer".
#[repr(C)]
struct Envelope {
    /// The address of the sender's name, and how long that may be.
    name: u64,
    name_length: u32,
    /// The address of the control messages.
    control: u64,
    parts: *const Parts,
}

/// Headers of messages to receive, as the kernel gets them, with bounce buffers where they have to be.
pub struct Messages {
    room: Room,
    /// The application's headers.
    home: *mut u8,
    stride: usize,
    headers: *mut mmsghdr,
    envelopes: *const Envelope,
    /// How many of the application's headers could be read.
    count: usize,
}

/// The application's headers at `home`, `stride` bytes apart: several `mmsghdr`, or one `msghdr`.
#[derive(Clone, Copy)]
pub struct Headers {
    pub home: *mut u8,
    pub stride: usize,
    pub count: usize,
}

type Laid = (*mut mmsghdr, *mut Envelope, usize);

/// The longest address of a socket (`sockaddr_storage`).
const LONGEST_NAME: u32 = 128;

/// Lays out all messages. `None`: the first cannot be read, or there is no room.
fn lay_messages(room: &mut Room, list: &List, given: Headers) -> Option<Laid> {
    let headers = room.take_zeroed::<mmsghdr>(given.count)?;
    let envelopes = room.take_zeroed::<Envelope>(given.count)?;
    for index in 0..given.count {
        // SAFETY: all-zero is a valid header.
        let mut header: mmsghdr = unsafe { core::mem::zeroed() };
        let home = given.home.wrapping_add(index * given.stride) as u64;
        let length = given.stride.min(size_of::<mmsghdr>()) as u64;
        if read_own(home, (&raw mut header) as u64, length) != length {
            // The kernel receives messages up to this one, too.
            return (index > 0).then_some((headers, envelopes, index));
        }
        if let Some(touched) = first_home(list, &(home..home + length)) {
            room.touched.add(&touched);
        }
        let envelope = lay_message(room, list, &mut header.msg_hdr)?;
        if !headers.is_null() {
            // SAFETY: both point to `count` elements in the room.
            unsafe {
                headers.add(index).write(header);
                envelopes.add(index).write(envelope);
            }
        }
    }
    Some((headers, envelopes, given.count))
}

/// Lays out one message, and puts bounce buffers into its header.
fn lay_message(room: &mut Room, list: &List, header: &mut msghdr) -> Option<Envelope> {
    let parts = lay_vector(room, list, header.msg_iov, header.msg_iovlen)?;
    let (name, control) = (header.msg_name as u64, header.msg_control as u64);
    let name_length = header.msg_namelen;
    if let Some(aside) = lay_result(room, list, name, u64::from(name_length.min(LONGEST_NAME)))? {
        header.msg_name = pointer_mut(aside as usize);
    }
    if let Some(aside) = lay_result(room, list, control, (header.msg_controllen as u64).min(LONGEST_WRITE))? {
        header.msg_control = pointer_mut(aside as usize);
    }
    // SAFETY: null, or the parts that were just laid out.
    if let Some(parts) = unsafe { parts.as_ref() } {
        header.msg_iov = parts.vector.as_ptr().cast_mut();
        header.msg_iovlen = parts.count;
    }
    Some(Envelope { name, name_length, control, parts })
}

/// A bounce buffer for a result of at most so many bytes, if it needs one.
fn lay_result(room: &mut Room, list: &List, home: u64, length: u64) -> Option<Option<u64>> {
    let range = home..home.saturating_add(length);
    let Some(touched) = first_home(list, &range).filter(|_| home != 0) else { return Some(None) };
    room.touched.add(&touched);
    let aside = room.take(length, home)?;
    if room.start.is_some() {
        // The kernel leaves gaps between control messages. The bytes there stay as they are.
        read_own(home, aside, length);
    }
    Some(Some(aside))
}

/// Whether a bounce buffer is needed to receive the messages.
pub fn is_touched_by_messages(given: Headers) -> bool {
    measure(&|room: &mut Room, list: &List| lay_messages(room, list, given)) != Touched::Nothing
}

impl Messages {
    /// Lays out the headers and what they name.
    pub fn of(given: Headers) -> Result<Self, Errno> {
        let (room, laid) = lay_out(&|room: &mut Room, list: &List| lay_messages(room, list, given))?;
        let (headers, envelopes, count) = laid;
        Ok(Self { room, home: given.home, stride: given.stride, headers, envelopes, count })
    }

    /// The headers that the kernel gets, and how many.
    pub fn headers(&self) -> (*mut mmsghdr, usize) {
        (self.headers, self.count)
    }

    fn envelope(&self, index: usize) -> &Envelope {
        // SAFETY: `index` is below `count`; the envelopes lie in the room, which is mapped until `end`.
        unsafe { &*self.envelopes.add(index) }
    }

    fn parts(&self, index: usize) -> &Parts {
        // SAFETY: as in `envelope`.
        unsafe { &*self.envelope(index).parts }
    }

    /// Copies the user buffers to the bounce buffers, for calls whose result counts more bytes than they store (MSG_TRUNC).
    pub fn fill_from_home(&self) {
        (0..self.count).for_each(|index| self.parts(index).fill_from_home());
    }

    /// Copies the first `received` messages to the user buffers.
    pub fn bring_home(&self, received: usize) {
        for index in 0..received.min(self.count) {
            // SAFETY: as in `envelope`.
            let now = unsafe { *self.headers.add(index) };
            let (header, envelope) = (now.msg_hdr, self.envelope(index));
            self.parts(index).bring_home(now.msg_len.into());
            if header.msg_name as u64 != envelope.name {
                let length = header.msg_namelen.min(envelope.name_length).min(LONGEST_NAME);
                bring_home(header.msg_name as u64, envelope.name, length.into());
            }
            if header.msg_control as u64 != envelope.control {
                bring_home(header.msg_control as u64, envelope.control, header.msg_controllen as u64);
            }
            self.answer(index, &now);
        }
    }

    /// Copies what the kernel says of a message to the application's header.
    fn answer(&self, index: usize, now: &mmsghdr) {
        let home = self.home.wrapping_add(index * self.stride);
        let header = home.cast::<msghdr>();
        // SAFETY: it is the application's header, and without the shim the kernel would store into the same fields.
        unsafe {
            (&raw mut (*header).msg_namelen).write_unaligned(now.msg_hdr.msg_namelen);
            (&raw mut (*header).msg_controllen).write_unaligned(now.msg_hdr.msg_controllen);
            (&raw mut (*header).msg_flags).write_unaligned(now.msg_hdr.msg_flags);
            if self.stride > size_of::<msghdr>() {
                home.add(offset_of!(mmsghdr, msg_len)).cast::<u32>().write_unaligned(now.msg_len);
            }
        }
    }

    /// Ends the call: unmaps the memory.
    pub fn end(self) {
        self.room.give_back();
    }
}
