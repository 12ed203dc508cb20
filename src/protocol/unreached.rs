//! The last programs that were executed without the library: who may have changed a file, where a snapshot has become doubtful.
//!
//! They are written in a ring, the newest over the oldest. Nothing but words for people depends on them. A reader takes an entry if
//! its number is the same before and after.

use crate::sys::sync::{AtomicU64, Ordering, fence};

/// How many are kept.
const ENTRIES: usize = 16;
/// Words of a name.
const NAME: usize = 5;

/// All-zero is "none".
#[cfg_attr(not(loom), derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout))]
#[cfg_attr(loom, derive(Default))]
#[derive(Debug)]
#[repr(C)]
pub struct Unreached {
    /// How many have been noted, ever.
    noted: AtomicU64,
    entries: [Entry; ENTRIES],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Unreached>() == 8 + ENTRIES * 64);

/// A place of the ring.
#[cfg_attr(not(loom), derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout))]
#[cfg_attr(loom, derive(Default))]
#[derive(Debug)]
#[repr(C)]
pub struct Entry {
    /// Which of all that were ever noted; 0: none, or it is being written.
    number: AtomicU64,
    /// CLOCK_MONOTONIC, nanoseconds.
    time: AtomicU64,
    /// The pid, and behind it [`Why`].
    who: AtomicU64,
    name: [AtomicU64; NAME],
}

/// Why the library is not in a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Why {
    /// The environment does not ask for it.
    NotPreloaded = 1,
    /// It has 32 bits.
    Bits32,
    /// It is for another processor.
    Processor,
    /// Its loader is musl's.
    Musl,
    /// Its loader is another one.
    Loader,
    /// It has no loader.
    Static,
    /// It gets more rights by its mode.
    SetId,
    /// It gets more rights by its capabilities.
    Capabilities,
    /// It makes system calls without libc.
    Go,
}

impl Why {
    const ALL: [Self; 9] = [
        Self::NotPreloaded,
        Self::Bits32,
        Self::Processor,
        Self::Musl,
        Self::Loader,
        Self::Static,
        Self::SetId,
        Self::Capabilities,
        Self::Go,
    ];

    /// For a person.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::NotPreloaded => "LD_PRELOAD does not name it in the new environment",
            Self::Bits32 => "it is a program of 32 bits",
            Self::Processor => "it is a program for another processor",
            Self::Musl => "it is a program of musl's",
            Self::Loader => "its loader is not glibc's",
            Self::Static => "it is statically linked",
            Self::SetId => "it is setuid or setgid",
            Self::Capabilities => "it has capabilities of its own (setcap)",
            Self::Go => "it is a Go program, which makes system calls itself",
        }
    }
}

/// A program that was executed without the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    /// The process that executed it.
    pub pid: u32,
    /// Why the library is not in it.
    pub why: Why,
    /// CLOCK_MONOTONIC, nanoseconds.
    pub time: u64,
    name: [u8; NAME * 8],
}

impl Program {
    /// The last part of the path that was executed, as far as there is room for it.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        let end = self.name.iter().position(|byte| *byte == 0).unwrap_or(self.name.len());
        &self.name[..end]
    }
}

impl Unreached {
    /// Notes that process `pid` is about to execute the program at `path`. The result takes the note back.
    pub fn note(&self, pid: u32, path: &[u8], why: Why, time: u64) -> u64 {
        let number = self.noted.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let entry = self.entry(number);
        entry.number.store(0, Ordering::Relaxed);
        // Release: pairs with the Acquire in `read`: a reader that finds a new field finds another number.
        fence(Ordering::Release);
        entry.time.store(time, Ordering::Relaxed);
        entry.who.store(u64::from(pid) | (why as u64) << 32, Ordering::Relaxed);
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        let mut bytes = [0u8; NAME * 8];
        bytes.iter_mut().zip(name).for_each(|(to, from)| *to = *from);
        for (word, part) in entry.name.iter().zip(bytes.as_chunks().0) {
            word.store(u64::from_ne_bytes(*part), Ordering::Relaxed);
        }
        // Release: pairs with the Acquire in `read`.
        entry.number.store(number, Ordering::Release);
        number
    }

    /// Takes a note back: the program has not been executed.
    pub fn take_back(&self, number: u64) {
        // Relaxed: a note that came in its place stays.
        let _ = self.entry(number).number.compare_exchange(number, 0, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// What is noted, the newest first.
    pub fn programs(&self) -> impl Iterator<Item = Program> + '_ {
        let last = self.noted.load(Ordering::Relaxed);
        (0..ENTRIES as u64).filter_map(move |back| self.read(last.wrapping_sub(back)))
    }

    fn entry(&self, number: u64) -> &Entry {
        &self.entries[(number % ENTRIES as u64) as usize]
    }

    fn read(&self, number: u64) -> Option<Program> {
        let entry = self.entry(number);
        // Acquire: pairs with the last Release in `note`.
        let before = entry.number.load(Ordering::Acquire);
        let who = entry.who.load(Ordering::Relaxed);
        let time = entry.time.load(Ordering::Relaxed);
        let mut name = [0u8; NAME * 8];
        for (part, word) in name.as_chunks_mut().0.iter_mut().zip(&entry.name) {
            *part = word.load(Ordering::Relaxed).to_ne_bytes();
        }
        // Acquire: orders the loads above before the second look.
        fence(Ordering::Acquire);
        let is_whole = number != 0 && before == number && entry.number.load(Ordering::Relaxed) == number;
        let why = Why::ALL.into_iter().find(|why| *why as u64 == who >> 32)?;
        is_whole.then_some(Program { pid: who as u32, why, time, name })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_last_are_kept_the_newest_first() {
        let ring: Unreached = zerocopy::FromZeros::new_zeroed();
        assert_eq!(ring.programs().count(), 0);
        for pid in 1..=20 {
            ring.note(pid, b"/usr/bin/a-program", Why::Static, u64::from(pid));
        }
        assert!(ring.programs().map(|program| program.pid).eq((5..=20).rev()));
        let newest = ring.programs().next().unwrap();
        assert_eq!((newest.name(), newest.why, newest.time), (&b"a-program"[..], Why::Static, 20));
    }

    #[test]
    fn a_program_that_was_not_executed_is_taken_back() {
        let ring: Unreached = zerocopy::FromZeros::new_zeroed();
        let kept = ring.note(1, b"kept", Why::Go, 0);
        let failed = ring.note(2, b"failed", Why::Go, 0);
        ring.take_back(failed);
        assert!(ring.programs().map(|program| program.pid).eq([1]));
        ring.take_back(kept + 16);
        assert_eq!(ring.programs().count(), 1);
    }

    #[test]
    fn a_name_that_is_too_long_is_cut() {
        let ring: Unreached = zerocopy::FromZeros::new_zeroed();
        ring.note(1, &[b'x'; 100], Why::Musl, 0);
        assert_eq!(ring.programs().next().unwrap().name(), [b'x'; 40]);
    }
}
