//! Read, check, store: how pages of a read-only mapping are preserved, by storing into each page a byte that it shows already.
//!
//! The kernel pins a page before it copies from it, in process_vm_readv(2) as in /proc/PID/mem. Between pin and copy another pusher
//! may preserve the page, and its change may land. So a byte that was read may be newer than the snapshot. Therefore the pagemap is
//! read after the bytes, and a byte is stored only into a page that is still shared with the file at that look.
//!
//! That is enough. A change lands only after its writer has proved that the page is private, and a private page stays private while
//! this frame pushes: the mapper drops no page before the push is over. So no change of a page that is shared at the look has
//! landed before the look, nor before the read, and the byte is the original's. Whatever happens between check and store, the byte
//! equals what the page's private copy has there: the mapping is read-only, and the mapper waits for this frame before it makes it
//! writable. A page that is private at the look is preserved, and nothing is stored into it.
//!
//! The last byte of a page and the first byte of the next lie side by side, so one store makes two pages private. It is made only
//! where both are shared at the look.

use rustix::io::Errno;

use crate::sys::sync::{Fault, planted};

/// Pages that are read, looked at and stored into together.
pub const AT_ONCE: usize = 48;

/// What a look at the pagemap finds where one page should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The file's page, or none: the next access shows the file's.
    Shared,
    /// A page of the mapper's own. It is never absent: the kernel swaps it.
    Private,
    /// Neither of both: a guard region, or a marker of userfaultfd(2).
    Other,
}

/// A run of at most [`AT_ONCE`] pages of a mapper.
#[allow(clippy::len_without_is_empty, reason = "a run is never empty")]
pub trait Run {
    /// How many pages.
    fn len(&self) -> usize;
    /// Reads one byte of each page: the last byte of pages 0, 2, 4..., the first byte of pages 1, 3, 5..., and the first byte of a
    /// last page that has no partner. The bytes may come from pages that were pinned long before.
    fn read(&self, bytes: &mut [u8]) -> Result<(), Errno>;
    /// Reads from the pagemap what each page is.
    fn check(&self, found: &mut [Found]) -> Result<(), Errno>;
    /// Stores one byte, or two, where they were read, from page `first` on. The result is how many pages the store reached: those
    /// are private afterwards.
    fn store(&self, first: usize, bytes: &[u8]) -> Result<usize, Errno>;
}

/// Makes the pages of `run` private. The result is how many pages are, from the first on; an error if the first could not be
/// reached.
pub fn make_private(run: &impl Run) -> Result<usize, Errno> {
    let (mut bytes, mut found) = ([0; AT_ONCE], [Found::Other; AT_ONCE]);
    let count = run.len().min(AT_ONCE);
    run.read(&mut bytes[..count])?;
    run.check(&mut found[..count])?;
    if planted(Fault::UncheckedStore) {
        found = [Found::Shared; AT_ONCE];
    }
    let mut page = 0;
    while page < count {
        match found[page] {
            Found::Private => page += 1,
            Found::Other => break,
            Found::Shared => {
                let is_pair = page.is_multiple_of(2) && page + 1 < count && found[page + 1] == Found::Shared;
                let end = page + 1 + usize::from(is_pair);
                match run.store(page, &bytes[page..end]) {
                    Ok(stored) if stored == end - page => page = end,
                    Ok(stored) => return Ok(page + stored),
                    Err(error) if page == 0 => return Err(error),
                    Err(_) => break,
                }
            }
        }
    }
    Ok(page)
}

#[cfg(all(test, not(loom)))]
mod tests {
    extern crate std;

    use core::cell::RefCell;
    use std::vec::Vec;

    use super::*;

    /// Stores: from which page on, and what.
    type Stores = Vec<(usize, Vec<u8>)>;

    /// What each page is, and which stores were made.
    struct Recorded<'a> {
        pages: &'a [Found],
        reachable: usize,
        stores: RefCell<Stores>,
    }

    impl Run for Recorded<'_> {
        fn len(&self) -> usize {
            self.pages.len()
        }

        fn read(&self, bytes: &mut [u8]) -> Result<(), Errno> {
            bytes.iter_mut().enumerate().for_each(|(page, byte)| *byte = page as u8);
            Ok(())
        }

        fn check(&self, found: &mut [Found]) -> Result<(), Errno> {
            found.copy_from_slice(self.pages);
            Ok(())
        }

        fn store(&self, first: usize, bytes: &[u8]) -> Result<usize, Errno> {
            self.stores.borrow_mut().push((first, bytes.to_vec()));
            match self.reachable.saturating_sub(first).min(bytes.len()) {
                0 => Err(Errno::IO),
                stored => Ok(stored),
            }
        }
    }

    fn made(pages: &[Found], reachable: usize) -> (Result<usize, Errno>, Stores) {
        let run = Recorded { pages, reachable, stores: RefCell::default() };
        (make_private(&run), run.stores.into_inner())
    }

    #[test]
    fn two_shared_pages_take_one_store_and_private_ones_none() {
        use Found::{Private, Shared};
        let (done, stores) = made(&[Shared, Shared, Private, Shared, Shared, Private, Shared], 7);
        assert_eq!(done, Ok(7));
        assert_eq!(stores, [(0, [0, 1].to_vec()), (3, [3].to_vec()), (4, [4].to_vec()), (6, [6].to_vec())]);
    }

    #[test]
    fn what_cannot_be_reached_ends_the_run() {
        use Found::{Other, Private, Shared};
        assert_eq!(made(&[Shared; 4], 3).0, Ok(3));
        assert_eq!(made(&[Shared; 4], 2).0, Ok(2));
        assert_eq!(made(&[Shared; 4], 0).0, Err(Errno::IO));
        assert_eq!(made(&[Private, Shared], 0).0, Ok(1));
        assert_eq!(made(&[Shared, Other, Shared], 3).0, Ok(1));
        assert_eq!(made(&[Other, Shared], 2), (Ok(0), Vec::new()));
    }
}
