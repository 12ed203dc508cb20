//! Verify: read from the mapper's pagemap which pages are private.
//!
//! A page is private when it is present and not file-backed, or swapped and neither file-backed, nor a guard region, nor marked by
//! userfaultfd(2) (Documentation/admin-guide/mm/pagemap.rst). An absent page is not private.

use rustix::fd::BorrowedFd;
use rustix::io::Errno;

use super::proc_fd_cache::ProcFdCache;
use crate::PAGE;
use crate::protocol::bytes::{self, Found};
use crate::protocol::process_id::ProcessId;
use crate::sys::raw;

/// How many of the `pages` pages at `address`, from the first on, are private to the process `id`, one of whose living threads is
/// `thread`.
pub fn private_pages(
    id: ProcessId,
    thread: u32,
    address: u64,
    pages: u64,
    proc_fds: &ProcFdCache,
) -> Result<u64, Errno> {
    proc_fds.with_pagemap(id, thread, |pagemap| {
        let mut private = 0;
        while private < pages {
            let at = address + private * PAGE;
            let scanned = match scan(pagemap, at, pages - private, PAGE_IS_PRESENT) {
                // Not a pagemap: the application has replaced the descriptor.
                Err(Errno::BADF) => return Err(Errno::BADF),
                Ok(Some(run)) if run.start == 0 => run.end,
                _ => entries(pagemap, at, pages - private)?,
            };
            if scanned == 0 {
                break;
            }
            private += scanned;
        }
        Ok(private)
    })
}

/// Pages that are looked at one by one, at most, where the kernel has no [`PAGEMAP_SCAN`].
const FEW: u64 = 512;

/// The first run of private pages among the `pages` pages at `address`, as page numbers from there; `None`: there are none.
///
/// Where that cannot be told of so many pages, all count as private.
pub fn first_private(
    id: ProcessId,
    address: u64,
    pages: u64,
    proc_fds: &ProcFdCache,
) -> Result<Option<core::ops::Range<u64>>, Errno> {
    proc_fds.with_pagemap(id, raw::own_tid(), |pagemap| {
        match scan(pagemap, address, pages, PAGE_IS_PRESENT | PAGE_IS_SWAPPED) {
            Err(Errno::BADF) => Err(Errno::BADF),
            Err(_) if pages > FEW => Ok(Some(0..pages)),
            Err(_) => first_private_entry(pagemap, address, pages),
            found => found,
        }
    })
}

/// The same, one page long, read from the pagemap itself.
fn first_private_entry(
    pagemap: BorrowedFd<'_>,
    address: u64,
    pages: u64,
) -> Result<Option<core::ops::Range<u64>>, Errno> {
    let mut buffer = [0u8; 64 * 8];
    let mut page = 0;
    while page < pages {
        let wanted = ((pages - page) * 8).min(buffer.len() as u64) as usize;
        let read = rustix::io::pread(pagemap, &mut buffer[..wanted], (address / PAGE + page) * 8)?;
        if read < 8 {
            return Err(Errno::IO);
        }
        for entry in buffer[..read].chunks_exact(8) {
            let mut word = [0u8; 8];
            word.copy_from_slice(entry);
            let word = u64::from_ne_bytes(word);
            if word & FILE == 0 && word & (PRESENT | SWAPPED) != 0 {
                return Ok(Some(page..page + 1));
            }
            page += 1;
        }
    }
    Ok(None)
}

const PAGE_IS_FILE: u64 = 1 << 2;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;
const PAGEMAP_SCAN: u32 = 0xC060_6610;

/// `struct pm_scan_arg` of linux/fs.h.
#[repr(C)]
#[derive(Default)]
struct ScanArguments {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    regions: u64,
    regions_length: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

const _: () = assert!(size_of::<ScanArguments>() == 96);

/// `struct page_region` of linux/fs.h.
#[repr(C)]
#[derive(Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// The PAGEMAP_SCAN ioctl (Linux 6.7): the first run of pages, as page numbers from `address` on, that are not file-backed and are
/// one of `any_of`.
fn scan(
    pagemap: BorrowedFd<'_>,
    address: u64,
    pages: u64,
    any_of: u64,
) -> Result<Option<core::ops::Range<u64>>, Errno> {
    let mut region = Region::default();
    let mut arguments = ScanArguments {
        size: size_of::<ScanArguments>() as u64,
        start: address,
        end: address + pages * PAGE,
        regions: &raw mut region as u64,
        regions_length: 1,
        category_inverted: PAGE_IS_FILE,
        category_mask: PAGE_IS_FILE,
        category_anyof_mask: any_of,
        ..ScanArguments::default()
    };
    // SAFETY: the argument is a struct pm_scan_arg whose one region is writable; both outlive the call.
    let found = unsafe { raw::ioctl(pagemap, PAGEMAP_SCAN, &raw mut arguments as usize) }?;
    let page = |at: u64| (at - address) / PAGE;
    Ok((found == 1).then(|| page(region.start)..page(region.end)))
}

const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const FILE: u64 = 1 << 61;
const GUARD: u64 = 1 << 58;
/// Write-protected by userfaultfd(2). On an entry that looks swapped this may be a marker where no page is, or a swapped page: that
/// cannot be told.
const WATCHED: u64 = 1 << 57;

fn what_is(entry: u64) -> Found {
    match entry {
        _ if entry & PRESENT != 0 => {
            if entry & FILE == 0 {
                Found::Private
            } else {
                Found::Shared
            }
        }
        _ if entry & SWAPPED == 0 || entry & FILE != 0 => Found::Shared,
        _ if entry & (GUARD | WATCHED) != 0 => Found::Other,
        _ => Found::Private,
    }
}

fn is_private(entry: u64) -> bool {
    what_is(entry) == Found::Private
}

/// What each of the pages at `address` is, all at one look.
pub fn classify(
    id: ProcessId,
    thread: u32,
    address: u64,
    found: &mut [Found],
    proc_fds: &ProcFdCache,
) -> Result<(), Errno> {
    let entries = proc_fds.with_pagemap(id, thread, |pagemap| {
        let mut entries = [0u8; bytes::AT_ONCE * 8];
        let wanted = &mut entries[..found.len() * 8];
        let length = wanted.len();
        match rustix::io::pread(pagemap, wanted, address / PAGE * 8)? {
            read if read == length => Ok(entries),
            _ => Err(Errno::FAULT),
        }
    })?;
    for (place, entry) in found.iter_mut().zip(entries.chunks_exact(8)) {
        let mut word = [0u8; 8];
        word.copy_from_slice(entry);
        *place = what_is(u64::from_ne_bytes(word));
    }
    Ok(())
}

/// The same, read from the pagemap itself.
fn entries(pagemap: BorrowedFd<'_>, address: u64, pages: u64) -> Result<u64, Errno> {
    let mut buffer = [0u8; 64 * 8];
    let mut private = 0;
    while private < pages {
        let wanted = ((pages - private) * 8).min(buffer.len() as u64) as usize;
        let read = rustix::io::pread(pagemap, &mut buffer[..wanted], (address / PAGE + private) * 8)?;
        for entry in buffer[..read].chunks_exact(8) {
            let mut word = [0u8; 8];
            word.copy_from_slice(entry);
            if !is_private(u64::from_ne_bytes(word)) {
                return Ok(private);
            }
            private += 1;
        }
        if read < 8 {
            break;
        }
    }
    Ok(private)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_surely_the_mappers_own_is_private() {
        let cases = [
            (PRESENT, Found::Private),
            (PRESENT | WATCHED, Found::Private),
            (PRESENT | FILE, Found::Shared),
            (0, Found::Shared),
            // A page of the file that is being migrated.
            (SWAPPED | FILE, Found::Shared),
            (SWAPPED, Found::Private),
            (SWAPPED | GUARD, Found::Other),
            (SWAPPED | WATCHED, Found::Other),
        ];
        for (entry, wanted) in cases {
            assert_eq!(what_is(entry), wanted, "{entry:#x}");
        }
    }
}
