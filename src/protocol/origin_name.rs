//! Names of origins, as they were called when a snapshot of them was taken last. They are words for people: nothing depends on
//! them.
//!
//! Each home has room for one name, so of two origins with the same home the one that was taken later has its name here.

use super::origin::Origin;
use crate::sys::mix;
use crate::sys::sync::{AtomicU64, Ordering};

/// Words of a name.
const WORDS: usize = 31;

/// The longest name, bytes. Of a longer one the end is kept.
pub const LONGEST: usize = WORDS * 8;

/// The name of one origin. All-zero is "none".
#[cfg_attr(not(loom), derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout))]
#[cfg_attr(loom, derive(Default))]
#[derive(Debug)]
#[repr(C)]
pub struct OriginName {
    /// A hash of the origin and the name. Where two processes write at once, it fits neither, and there is no name.
    hash: AtomicU64,
    words: [AtomicU64; WORDS],
}

/// A name that was read.
#[derive(Clone, Copy, Debug)]
pub struct Read([u8; LONGEST]);

impl Read {
    /// The name. One that does not begin with a slash is the end of a longer one.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(LONGEST);
        &self.0[..end]
    }
}

fn hash_of(origin: Origin, words: impl Iterator<Item = u64>) -> u64 {
    let start = mix::mix(mix::mix(mix::SEED, origin.fingerprint()), origin.inode());
    words.fold(start, mix::mix)
}

impl OriginName {
    /// Notes that `origin` is called `name`.
    pub fn note(&self, origin: Origin, name: &[u8]) {
        let name = &name[name.len().saturating_sub(LONGEST)..];
        let word = |at: usize| {
            let mut bytes = [0u8; 8];
            let part = name.get(at * 8..).unwrap_or(&[]);
            bytes.iter_mut().zip(part).for_each(|(to, from)| *to = *from);
            u64::from_ne_bytes(bytes)
        };
        // Relaxed: the hash tells whether the words are of one name.
        for (at, to) in self.words.iter().enumerate() {
            to.store(word(at), Ordering::Relaxed);
        }
        self.hash.store(hash_of(origin, (0..WORDS).map(word)), Ordering::Relaxed);
    }

    /// The name of `origin`, if it is noted here.
    #[must_use]
    pub fn read(&self, origin: Origin) -> Option<Read> {
        let mut found = Read([0; LONGEST]);
        let mut seen = [0u64; WORDS];
        for ((from, word), to) in self.words.iter().zip(&mut seen).zip(found.0.as_chunks_mut().0) {
            *word = from.load(Ordering::Relaxed);
            *to = word.to_ne_bytes();
        }
        let is_whole = self.hash.load(Ordering::Relaxed) == hash_of(origin, seen.into_iter());
        (is_whole && !found.bytes().is_empty()).then_some(found)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;

    #[test]
    fn a_name_is_of_the_origin_that_was_noted_last() {
        let noted: OriginName = zerocopy::FromZeros::new_zeroed();
        let (first, second) = (Origin::file(1, 2), Origin::file(1, 3));
        assert!(noted.read(first).is_none());
        noted.note(first, b"/a/rather/long/name");
        assert_eq!(noted.read(first).unwrap().bytes(), b"/a/rather/long/name");
        assert!(noted.read(second).is_none());
        noted.note(second, b"/b");
        assert_eq!(noted.read(second).unwrap().bytes(), b"/b");
        assert!(noted.read(first).is_none());
    }

    #[test]
    fn of_a_long_name_the_end_is_kept_and_a_torn_one_is_none() {
        let noted: OriginName = zerocopy::FromZeros::new_zeroed();
        let long: Vec<u8> = (0..400).map(|at| b'a' + (at % 26) as u8).collect();
        noted.note(Origin::file(1, 2), &long);
        assert_eq!(noted.read(Origin::file(1, 2)).unwrap().bytes(), &long[400 - LONGEST..]);
        noted.words[5].store(7, Ordering::Relaxed);
        assert!(noted.read(Origin::file(1, 2)).is_none());
    }
}
