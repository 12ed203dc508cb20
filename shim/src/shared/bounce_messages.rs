//! Messages of recvmsg(2) and its kin, laid out in bounce buffers.

use core::mem::offset_of;
use core::ptr::with_exposed_provenance_mut as pointer_mut;

use libc::{mmsghdr, msghdr};
use rustix::io::Errno;

use super::bounce::{Parts, Room, Touched, bring_home, first_home, lay_out, lay_vector, look};
use super::list::List;
use crate::base::user_memory::read_own;
use crate::writer::enter::LONGEST_WRITE;

/// What belongs to one message. All-zero is "nothing aside".
#[repr(C)]
struct Envelope {
    name: u64,
    name_length: u32,
    control: u64,
    parts: *const Parts,
}

/// Headers of messages to receive, aside, with all that they name.
pub struct Messages {
    room: Room,
    home: *mut u8,
    stride: usize,
    headers: *mut mmsghdr,
    envelopes: *const Envelope,
    /// How many could be read.
    count: usize,
}

/// The headers at `home`, `stride` bytes apart: of `mmsghdr`, or one `msghdr`.
#[derive(Clone, Copy)]
pub struct Headers {
    pub home: *mut u8,
    pub stride: usize,
    pub count: usize,
}

type Laid = (*mut mmsghdr, *mut Envelope, usize);

/// The longest address of a socket (`sockaddr_storage`).
const LONGEST_NAME: u32 = 128;

fn lay_messages(room: &mut Room, list: &List, given: Headers) -> Option<Laid> {
    let headers = room.take_zeroed::<mmsghdr>(given.count)?;
    let envelopes = room.take_zeroed::<Envelope>(given.count)?;
    for index in 0..given.count {
        // SAFETY: all-zero is a valid header.
        let mut header: mmsghdr = unsafe { core::mem::zeroed() };
        let home = given.home.wrapping_add(index * given.stride) as u64;
        let length = given.stride.min(size_of::<mmsghdr>()) as u64;
        if read_own(home, (&raw mut header) as u64, length) != length {
            // The kernel gets as far as this one.
            return (index > 0).then_some((headers, envelopes, index));
        }
        if let Some(touched) = first_home(list, &(home..home + length)) {
            room.touched.add(&touched);
        }
        let envelope = lay_message(room, list, &mut header.msg_hdr)?;
        if !headers.is_null() {
            // SAFETY: both have `count` places, in memory of our own.
            unsafe {
                headers.add(index).write(header);
                envelopes.add(index).write(envelope);
            }
        }
    }
    Some((headers, envelopes, given.count))
}

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
    // SAFETY: null, or just laid out.
    if let Some(parts) = unsafe { parts.as_ref() } {
        header.msg_iov = parts.vector.as_ptr().cast_mut();
        header.msg_iovlen = parts.count;
    }
    Some(Envelope { name, name_length, control, parts })
}

/// Memory aside for a result of at most so many bytes, if a mapping is touched.
fn lay_result(room: &mut Room, list: &List, home: u64, length: u64) -> Option<Option<u64>> {
    let range = home..home.saturating_add(length);
    let Some(touched) = first_home(list, &range).filter(|_| home != 0) else { return Some(None) };
    room.touched.add(&touched);
    let aside = room.take(length, home)?;
    if room.start.is_some() {
        // What the kernel leaves out between two control messages stays as it is.
        read_own(home, aside, length);
    }
    Some(Some(aside))
}

/// Whether receiving messages would touch shared mappings.
pub fn is_touched_by_messages(given: Headers) -> bool {
    look(&|room: &mut Room, list: &List| lay_messages(room, list, given)) != Touched::Nothing
}

impl Messages {
    /// Lays out the headers and what they name.
    pub fn of(given: Headers) -> Result<Self, Errno> {
        let (room, laid) = lay_out(&|room: &mut Room, list: &List| lay_messages(room, list, given))?;
        let (headers, envelopes, count) = laid;
        Ok(Self { room, home: given.home, stride: given.stride, headers, envelopes, count })
    }

    /// What the kernel is given.
    pub fn headers(&self) -> (*mut mmsghdr, usize) {
        (self.headers, self.count)
    }

    fn envelope(&self, index: usize) -> &Envelope {
        // SAFETY: `index` is below `count`; laid out in the room, which is mapped until the end.
        unsafe { &*self.envelopes.add(index) }
    }

    fn parts(&self, index: usize) -> &Parts {
        // SAFETY: as above.
        unsafe { &*self.envelope(index).parts }
    }

    /// Makes the memory aside what is at home, for calls that say more bytes than they store (MSG_TRUNC).
    pub fn fill_from_home(&self) {
        (0..self.count).for_each(|index| self.parts(index).fill_from_home());
    }

    /// Stores the first `received` messages where they belong.
    pub fn bring_home(&self, received: usize) {
        for index in 0..received.min(self.count) {
            // SAFETY: as above.
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

    /// What the kernel says of a message in its header.
    fn answer(&self, index: usize, now: &mmsghdr) {
        let home = self.home.wrapping_add(index * self.stride);
        let header = home.cast::<msghdr>();
        // SAFETY: the application's header, which the kernel stores into at the same places.
        unsafe {
            (&raw mut (*header).msg_namelen).write_unaligned(now.msg_hdr.msg_namelen);
            (&raw mut (*header).msg_controllen).write_unaligned(now.msg_hdr.msg_controllen);
            (&raw mut (*header).msg_flags).write_unaligned(now.msg_hdr.msg_flags);
            if self.stride > size_of::<msghdr>() {
                home.add(offset_of!(mmsghdr, msg_len)).cast::<u32>().write_unaligned(now.msg_len);
            }
        }
    }

    /// The call is over.
    pub fn end(self) {
        self.room.give_back();
    }
}
