//! The mappings of files that a process has, as the kernel says: by an ioctl(2) on /proc/PID/maps, or by the text of that file
//! (proc_pid_maps(5)).

use core::ops::ControlFlow;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::OFlags;
use rustix::io::Errno;
use snapshim::sys::procfs::{self, ProcPath};
use snapshim::sys::raw;

/// How /proc/PID/maps names the file behind a mapping: alike for all mappings of one file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backing {
    pub device: (u32, u32),
    pub inode: u64,
}

/// Calls `see` with the pid of each process.
pub fn each_process(mut see: impl FnMut(u32)) {
    procfs::any_number(c"/proc", |pid| {
        see(pid);
        false
    });
}

/// One of the kernel's mappings of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    pub start: u64,
    pub end: u64,
    pub offset: u64,
    pub is_shared: bool,
    pub backing: Backing,
}

/// Which mappings are asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// Those that are writable and shared.
    WritableAndShared,
    /// The one that covers this address.
    At(u64),
}

/// /proc/PID/maps of a process. The open file stays with the memory that the process has now: after exec it says nothing more.
pub fn maps_of(pid: u32) -> Result<OwnedFd, Errno> {
    let maps = raw::open(ProcPath::of(pid, "maps").as_c_str(), OFlags::RDONLY)?;
    // A first thread that has ended shows no memory any more (exit_mm, kernel/exit.c); the others do.
    let is_empty = rustix::io::pread(&maps, &mut [0u8; 1], 0) == Ok(0);
    match is_empty.then(|| procfs::other_thread(pid)).flatten() {
        Some(thread) => raw::open(ProcPath::of(pid, "task").slash(thread).then("/maps").as_c_str(), OFlags::RDONLY),
        None => Ok(maps),
    }
}

/// Whether process `pid` has a writable shared mapping of a file that is `wanted`.
pub fn has_shared(pid: u32, wanted: impl Fn(Backing) -> bool) -> bool {
    let Ok(maps) = maps_of(pid) else { return false };
    let mut is_found = false;
    let _ = each_mapping(&maps, Filter::WritableAndShared, |mapping| {
        is_found = wanted(mapping.backing);
        if is_found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    is_found
}

/// Calls `see` with the mappings of a process, from the lowest address on, until it breaks.
pub fn each_mapping(
    maps: &OwnedFd,
    filter: Filter,
    mut see: impl FnMut(Mapping) -> ControlFlow<()>,
) -> Result<(), Errno> {
    let mut next = if let Filter::At(address) = filter { address } else { 0 };
    loop {
        let mapping = match Query::ask(maps, next, filter) {
            Ok(mapping) => mapping,
            Err(Errno::NOTTY) => return read_each_mapping(maps, filter, see),
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error),
        };
        next = mapping.end;
        if see(mapping).is_break() || filter != Filter::WritableAndShared {
            return Ok(());
        }
    }
}

/// `struct procmap_query` (linux/fs.h, from Linux 6.11 on).
#[derive(Default)]
#[repr(C)]
pub struct Query {
    size: u64,
    wanted: u64,
    address: u64,
    start: u64,
    end: u64,
    flags: u64,
    page_size: u64,
    offset: u64,
    inode: u64,
    major: u32,
    minor: u32,
    name_size: u32,
    build_id_size: u32,
    name: u64,
    build_id: u64,
}

/// _IOWR('f', 17, struct procmap_query).
const PROCMAP_QUERY: u32 = 0xC068_6611;
const _: () = assert!(size_of::<Query>() == 0x68);
const WRITABLE: u64 = 0x02;
const SHARED: u64 = 0x08;
const COVERING_OR_NEXT: u64 = 0x10;
const OF_A_FILE: u64 = 0x20;

impl Query {
    /// The path by which the file was mapped; `None` if it has none, or one that does not fit.
    pub fn name<'a>(maps: &OwnedFd, mapping: &Mapping, buffer: &'a mut [u8]) -> Option<&'a str> {
        let (name, name_size) = (buffer.as_mut_ptr() as u64, buffer.len() as u32);
        let size = size_of::<Self>() as u64;
        let mut query = Self { size, wanted: OF_A_FILE, address: mapping.start, name, name_size, ..Self::default() };
        // SAFETY: as in `ask`; the kernel stores the name into the buffer, which is as large as the structure says.
        unsafe { raw::ioctl(maps.as_fd(), PROCMAP_QUERY, (&raw mut query) as usize) }.ok()?;
        core::ffi::CStr::from_bytes_until_nul(buffer).ok()?.to_str().ok().filter(|name| name.starts_with('/'))
    }

    /// Asks for the first mapping that the filter wants at or behind `address`.
    fn ask(maps: &OwnedFd, address: u64, filter: Filter) -> Result<Mapping, Errno> {
        let wanted = match filter {
            Filter::WritableAndShared => WRITABLE | SHARED | COVERING_OR_NEXT | OF_A_FILE,
            Filter::At(_) => OF_A_FILE,
        };
        let mut query = Self { size: size_of::<Self>() as u64, wanted, address, ..Self::default() };
        // SAFETY: the argument is the structure that the request takes, of the size that it says; it asks for no name.
        unsafe { raw::ioctl(maps.as_fd(), PROCMAP_QUERY, (&raw mut query) as usize) }?;
        let backing = Backing { device: (query.major, query.minor), inode: query.inode };
        let Self { start, end, offset, flags, .. } = query;
        Ok(Mapping { start, end, offset, is_shared: flags & SHARED != 0, backing })
    }
}

/// The same by the text of proc_pid_maps(5).
fn read_each_mapping(
    maps: &OwnedFd,
    filter: Filter,
    mut see: impl FnMut(Mapping) -> ControlFlow<()>,
) -> Result<(), Errno> {
    let is_wanted = |line: &Line| match filter {
        Filter::WritableAndShared => line.is_writable && line.mapping.is_shared,
        Filter::At(address) => (line.mapping.start..line.mapping.end).contains(&address),
    };
    let mut position = 0;
    // `see` may read the same file, so its own position is not used.
    let read = |buffer: &mut [u8]| {
        let count = rustix::io::pread(maps, buffer, position)?;
        position += count as u64;
        Ok(count)
    };
    let broken_off = procfs::find_line_by(read, |line| {
        let line = Line::parse(line).filter(|line| line.mapping.backing.inode != 0 && is_wanted(line))?;
        see(line.mapping).is_break().then_some(())
    });
    broken_off.map(drop)
}

/// A line of proc_pid_maps(5).
struct Line {
    is_writable: bool,
    mapping: Mapping,
}

impl Line {
    fn parse(text: &[u8]) -> Option<Self> {
        let numbers = text.utf8_chunks().next()?.valid();
        let mut fields = numbers.split_ascii_whitespace();
        let hexadecimal = |text: &str| u64::from_str_radix(text, 16).ok();
        let (start, end) = fields.next()?.split_once('-')?;
        let rights = fields.next()?.as_bytes();
        let offset = hexadecimal(fields.next()?)?;
        let (major, minor) = fields.next()?.split_once(':')?;
        let device = (hexadecimal(major)? as u32, hexadecimal(minor)? as u32);
        let backing = Backing { device, inode: fields.next()?.parse().ok()? };
        let (start, end) = (hexadecimal(start)?, hexadecimal(end)?);
        let is_shared = rights.get(3) == Some(&b's');
        Some(Self {
            is_writable: rights.get(1) == Some(&b'w'),
            mapping: Mapping { start, end, offset, is_shared, backing },
        })
    }
}
