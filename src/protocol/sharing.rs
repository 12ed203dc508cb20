//! Shared mappings of writers: a store through one is a write that makes no call.
//!
//! A process that maps a file shared and writable says so in its record, announced, before it can store. A creation first drains
//! the writers under way. Then it has every such process *arm* its mappings: take the write permission away, so that the next store
//! traps and goes through the gate like a write. Only then is the instant chosen. So a store is either before the arming, and in
//! the snapshot, or behind the gate.

use super::creation::Ticket;
use super::limits::CREATIONS;
use super::origin::Origin;
use crate::sys::sync::{AtomicU64, Fault, Ordering, planted};

/// What a process record says of shared mappings. All words are written by the process itself.
#[cfg_attr(not(loom), derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout))]
#[cfg_attr(loom, derive(Default))]
#[derive(Debug)]
#[repr(C)]
pub struct Sharing {
    /// Two bits for each origin that the process has mapped shared and writable, one in each half. Other origins may have the same
    /// bits.
    origins: AtomicU64,
    /// For each creation record: low bits of the image epoch:24 | number of the last creation there that the process has armed
    /// for:40.
    armed: [AtomicU64; CREATIONS],
}

const NUMBER_BITS: u32 = 40;

/// The two bits of an origin, by the first ten bits of its fingerprint.
const fn bits_of(fingerprint: u64) -> u64 {
    1 << (fingerprint >> 59) | 1 << (32 + (fingerprint >> 54 & 31))
}

/// The bits that [`Sharing`] has of several origins. It lists, for each bit of the low half, the bits of the high half with which
/// an origin has it.
#[derive(Clone, Copy, Debug, Default)]
pub struct OriginBits([u32; 32]);

impl FromIterator<Origin> for OriginBits {
    fn from_iter<T: IntoIterator<Item = Origin>>(origins: T) -> Self {
        let mut all = Self::default();
        for origin in origins {
            let bits = bits_of(origin.fingerprint());
            all.0[(bits as u32).trailing_zeros() as usize] |= (bits >> 32) as u32;
        }
        all
    }
}

/// How many mappings have each bit of the word that describes them: so the word is known without a walk over all.
#[cfg(not(loom))]
#[derive(Debug)]
pub struct OriginCounts([u32; 64]);

#[cfg(not(loom))]
impl OriginCounts {
    /// Of none.
    pub const NONE: Self = Self([0; 64]);

    /// A mapping of `origin` has come.
    pub fn add(&mut self, origin: Origin) {
        self.each(origin, |count| *count += 1);
    }

    /// A mapping of `origin` that was added has gone.
    pub fn remove(&mut self, origin: Origin) {
        self.each(origin, |count| *count -= 1);
    }

    fn each(&mut self, origin: Origin, change: impl Fn(&mut u32)) {
        let bits = bits_of(origin.fingerprint());
        self.0.iter_mut().enumerate().filter(|(bit, _)| bits >> bit & 1 == 1).for_each(|(_, count)| change(count));
    }

    fn bits(&self) -> u64 {
        self.0.iter().enumerate().fold(0, |bits, (bit, count)| bits | u64::from(*count > 0) << bit)
    }
}

impl Sharing {
    /// The same as [`Sharing::describe`], of mappings that were counted.
    #[cfg(not(loom))]
    pub fn describe_counted(&self, counts: &OriginCounts) {
        // Release: pairs with the Acquire in `includes`.
        self.origins.store(counts.bits(), Ordering::Release);
    }

    /// Notes which origins the process has mapped shared and writable. For each that is new the call is announced.
    pub fn describe(&self, origins: impl Iterator<Item = Origin>) {
        // Release: pairs with the Acquire in `includes`.
        self.origins.store(origins.fold(0, |bits, origin| bits | bits_of(origin.fingerprint())), Ordering::Release);
    }

    /// Whether the process may have `origin` mapped shared and writable.
    pub fn includes(&self, origin: Origin) -> bool {
        self.includes_any(&[origin].into_iter().collect())
    }

    /// Whether the process may have one of `origins` mapped shared and writable.
    pub fn includes_any(&self, origins: &OriginBits) -> bool {
        // Acquire: pairs with the Release in `describe`; a mapping whose announcement is over is in it.
        let bits = self.origins.load(Ordering::Acquire);
        let high = (bits >> 32) as u32;
        let mut low = (0..32).filter(|bit| bits >> bit & 1 == 1);
        !planted(Fault::Arming) && low.any(|bit| origins.0[bit] & high != 0)
    }

    /// Whether the process has any origin mapped shared and writable.
    pub fn is_any(&self) -> bool {
        // Acquire: pairs with the Release in `describe`.
        self.origins.load(Ordering::Acquire) != 0
    }

    /// Whether the process may have an origin mapped shared and writable whose fingerprint begins with the bits `first`.
    pub fn includes_fingerprint_of(&self, first: u8) -> bool {
        // Acquire: pairs with the Release in `describe`.
        let bits = self.origins.load(Ordering::Acquire);
        (0..4u64).any(|next| {
            let wanted = bits_of(u64::from(first) << 56 | next << 54);
            bits & wanted == wanted
        })
    }

    fn armed_for(&self, creation: Ticket) -> &AtomicU64 {
        &self.armed[if planted(Fault::ArmedRecord) { 0 } else { creation.record() }]
    }

    /// From now on stores of the image `epoch` through its shared mappings of what `creation` covers trap.
    pub fn acknowledge(&self, epoch: u32, creation: Ticket) {
        // Release: pairs with the Acquire in `is_armed_for`.
        self.armed_for(creation).store(acknowledgement(epoch, creation), Ordering::Release);
    }

    /// Whether the image `epoch` has acknowledged `creation`.
    pub fn is_armed_for(&self, epoch: u32, creation: Ticket) -> bool {
        // Acquire: pairs with the Release in `acknowledge`; the stores that came before the arming are visible.
        self.armed_for(creation).load(Ordering::Acquire) == acknowledgement(epoch, creation)
    }
}

fn acknowledgement(epoch: u32, creation: Ticket) -> u64 {
    u64::from(epoch) << NUMBER_BITS | creation.number()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use zerocopy::FromZeros;

    fn sharing(origins: impl Iterator<Item = Origin>) -> Sharing {
        let sharing = Sharing::new_zeroed();
        sharing.describe(origins);
        sharing
    }

    #[test]
    fn what_is_shared_is_found_by_origin_and_by_the_beginning_of_its_fingerprint() {
        for inode in 1..2000 {
            let origin = Origin::file(64, inode);
            let sharing = sharing([origin].into_iter());
            assert!(sharing.includes(origin) && sharing.includes_fingerprint_of((origin.fingerprint() >> 56) as u8));
        }
    }

    #[test]
    fn one_shared_file_is_seldom_taken_for_another() {
        let shared = sharing([Origin::file(64, 1)].into_iter());
        let mistaken = (2..10_002).filter(|inode| shared.includes(Origin::file(64, *inode))).count();
        let counted = (0..=u8::MAX).filter(|first| shared.includes_fingerprint_of(*first)).count();
        assert!(mistaken < 40, "{mistaken} of 10000");
        assert_eq!(counted, 1);
        assert!(!sharing(core::iter::empty()).includes_fingerprint_of(0));
    }

    #[test]
    fn each_of_several_origins_is_found_and_no_mixture_of_them_is() {
        let all: OriginBits = (1..100).map(|inode| Origin::file(64, inode)).collect();
        assert!((1..100).all(|inode| sharing([Origin::file(64, inode)].into_iter()).includes_any(&all)));
        let few: OriginBits = (1..4).map(|inode| Origin::file(64, inode)).collect();
        let mistaken = (4..10_004).filter(|inode| sharing([Origin::file(64, *inode)].into_iter()).includes_any(&few));
        assert!(mistaken.count() < 120);
        assert!(!sharing(core::iter::empty()).includes_any(&all));
    }
}
