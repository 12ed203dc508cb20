//! A small fork of crate `region` 4.0.1: as much of it as crate `detour` uses on Linux, quick enough to run before every program.
//!
//! `Cargo.toml` puts it in the original's place, because `detour` calls `region` by itself and takes no answers from outside. It asks
//! four times about each function that it patches, and for each question the original reads /proc/self/maps. What differs:
//!
//! - Only what `detour` uses is here: [`query`], [`query_range`], [`protect`], [`page`], [`Region`], [`Protection`], [`Error`].
//! - While a [`Survey`] lasts, one reading serves for all questions. A known region is taken to stay, and to change its protection by
//!   [`protect`] alone; whatever does not lie within one known region is looked up anew. Only the first search for free memory
//!   makes do with what was just read.
//! - [`page::size`] is four pages, so that `detour` maps memory for its code once.
//! - [`protect`] makes no system call where the protection is known to be so already.
//! - System calls are raw, so they pass through no hook.

mod maps;
mod protection;

use core::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub use protection::{Protection, protect};

/// Why a question has no answer.
#[derive(Debug)]
pub enum Error {
    /// Nothing is mapped there.
    UnmappedRegion,
    /// An argument that makes no sense.
    InvalidParameter(&'static str),
    /// /proc/self/maps does not read as proc(5) says.
    ProcfsInput(String),
    /// The system call's errno.
    SystemCall(i32),
    /// Never here: what macOS answers.
    MachCall(i32),
}

/// What a question is answered with.
pub type Result<T> = core::result::Result<T, Error>;

impl From<rustix::io::Errno> for Error {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::SystemCall(errno.raw_os_error())
    }
}

/// Pages next to each other that are mapped alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    range: Range<usize>,
    protection: Protection,
}

impl Region {
    /// Its addresses.
    pub fn as_range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// What may be done there.
    pub fn protection(&self) -> Protection {
        self.protection
    }

    /// Whether it may be read.
    pub fn is_readable(&self) -> bool {
        self.protection.contains(Protection::READ)
    }

    /// Whether it may be executed.
    pub fn is_executable(&self) -> bool {
        self.protection.contains(Protection::EXECUTE)
    }

    fn holds(&self, range: &Range<usize>) -> bool {
        self.range.start <= range.start && range.end <= self.range.end
    }

    fn meets(&self, range: &Range<usize>) -> bool {
        self.range.start < range.end && range.start < self.range.end
    }
}

/// Pages, as `detour` rounds to them.
pub mod page {
    const PAGE: usize = snapshim::PAGE as usize;

    /// How much memory `detour` maps at once for the code that it makes: more than a page, so that it maps once.
    pub const fn size() -> usize {
        4 * PAGE
    }

    /// The start of the page.
    pub fn floor<T>(address: *const T) -> *const T {
        address.with_addr(address.addr() / PAGE * PAGE)
    }

    /// The first start of a page that is not below.
    pub fn ceil<T>(address: *const T) -> *const T {
        address.with_addr(address.addr().checked_next_multiple_of(PAGE).unwrap_or(usize::MAX / PAGE * PAGE))
    }

    /// The pages that `length` bytes at `address` touch.
    pub(crate) fn around<T>(address: *const T, length: usize) -> core::ops::Range<usize> {
        floor(address).addr()..ceil(address.with_addr(address.addr().saturating_add(length))).addr()
    }
}

/// What was read last.
#[derive(Debug, Default)]
struct Known {
    regions: Vec<Region>,
    /// Whether free memory may be judged by it.
    is_fresh: bool,
}

/// What was read last, while a survey lasts.
static KNOWN: Mutex<Option<Known>> = Mutex::new(None);

fn known() -> MutexGuard<'static, Option<Known>> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// While it lives, what was read of the mappings is remembered.
#[derive(Debug)]
#[must_use]
pub struct Survey(());

impl Survey {
    /// Begins to remember.
    pub fn begin() -> Self {
        *known() = Some(Known::default());
        Self(())
    }
}

impl Drop for Survey {
    fn drop(&mut self) {
        *known() = None;
    }
}

/// The region of `address`.
pub fn query<T>(address: *const T) -> Result<Region> {
    query_range(address, 1)?.next().ok_or(Error::UnmappedRegion)?
}

/// The regions that the pages of `length` bytes at `address` lie in, by address.
pub fn query_range<T>(address: *const T, length: usize) -> Result<impl Iterator<Item = Result<Region>>> {
    if length == 0 {
        return Err(Error::InvalidParameter("length"));
    }
    let pages = page::around(address, length);
    let mut known = known();
    let one = known.iter().flat_map(|known| &known.regions).find(|region| region.holds(&pages)).cloned();
    let all = if one.is_some() { Vec::new() } else { met_by(&mut known, &pages)? };
    Ok(one.into_iter().chain(all).map(Ok))
}

/// A question about so much is the search for free memory near a function. `detour` then asks the kernel for it without MAP_FIXED:
/// a place that was taken since the reading costs another search, and nothing else.
const SEARCH: usize = 1 << 30;

fn met_by(known: &mut Option<Known>, pages: &Range<usize>) -> Result<Vec<Region>> {
    let met = |regions: &[Region]| regions.iter().filter(|region| region.meets(pages)).cloned().collect();
    if let Some(known) = known.as_mut().filter(|known| known.is_fresh && pages.len() >= SEARCH) {
        known.is_fresh = false;
        return Ok(met(&known.regions));
    }
    let regions = maps::read()?;
    let answer = met(&regions);
    if let Some(known) = known {
        *known = Known { regions, is_fresh: true };
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use core::ffi::c_void;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

    use super::*;

    const PAGE: usize = snapshim::PAGE as usize;

    /// What is known is one for all: one test at a time.
    fn alone() -> MutexGuard<'static, ()> {
        static TEST: Mutex<()> = Mutex::new(());
        TEST.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Three pages, of which the middle one may be read. Far below where the kernel puts mappings of its own choice: a stack
    /// of another test's thread would else come to lie where they were unmapped.
    fn pages() -> *mut c_void {
        let place = core::ptr::without_provenance_mut(1 << 40);
        let flags = MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE;
        // SAFETY: a new mapping where none is: the kernel refuses it otherwise.
        let start = unsafe { mmap_anonymous(place, 3 * PAGE, ProtFlags::empty(), flags).unwrap() };
        // SAFETY: the second of them. Not by `protect`, which would have what is known forgotten.
        unsafe { mprotect(start.byte_add(PAGE), PAGE, MprotectFlags::READ).unwrap() };
        start
    }

    fn unmap(start: *mut c_void) {
        // SAFETY: pages of `pages`.
        unsafe { munmap(start, 3 * PAGE).unwrap() };
    }

    #[test]
    fn the_region_of_an_address_is_the_kernels() {
        let _alone = alone();
        let start = pages();
        let middle = query(start.wrapping_byte_add(PAGE + 100)).unwrap();
        assert_eq!(middle.as_range(), start.addr() + PAGE..start.addr() + 2 * PAGE);
        assert_eq!(middle.protection(), Protection::READ);
        unmap(start);
        assert!(matches!(query(start), Err(Error::UnmappedRegion)));
    }

    #[test]
    fn what_is_known_is_not_read_again() {
        let _alone = alone();
        let start = pages();
        let middle = start.wrapping_byte_add(PAGE);
        let survey = Survey::begin();
        let before = query(middle).unwrap();
        unmap(start);
        assert_eq!(query(middle).unwrap(), before);
        drop(survey);
        assert!(matches!(query(middle), Err(Error::UnmappedRegion)));
    }

    #[test]
    fn free_memory_is_looked_up_anew() {
        let _alone = alone();
        let _survey = Survey::begin();
        query(alone as *const ()).unwrap();
        let start = pages();
        let around = query_range(start.wrapping_byte_sub(PAGE), 5 * PAGE).unwrap();
        let found: Vec<_> = around.map(|region| region.unwrap().as_range()).collect();
        assert!(found.contains(&(start.addr() + PAGE..start.addr() + 2 * PAGE)), "{found:x?}");
        unmap(start);
    }

    #[test]
    fn a_changed_protection_is_known_at_once() {
        let _alone = alone();
        let start = pages();
        let middle = start.wrapping_byte_add(PAGE);
        let _survey = Survey::begin();
        for protection in [Protection::READ, Protection::READ_WRITE, Protection::READ, Protection::NONE] {
            // SAFETY: nobody else uses the page.
            unsafe { protect(middle, 1, protection).unwrap() };
            assert_eq!(query(middle).unwrap().protection(), protection);
        }
        unmap(start);
    }
}
