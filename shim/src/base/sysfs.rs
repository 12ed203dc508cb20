//! Small questions to sysfs and /proc, asked by raw system calls with what the stack has room for.

use core::ffi::CStr;
use core::fmt::{self, Write};

use rustix::fs::{OFlags, Stat};
use rustix::io::Errno;
use snapshim::sys::{procfs, raw};

/// A path that is put together without allocation. One that does not fit is none, and nothing is found there.
struct Path {
    bytes: [u8; 400],
    length: usize,
}

impl Path {
    fn new(parts: fmt::Arguments<'_>) -> Self {
        let mut path = Self { bytes: [0; 400], length: 0 };
        if path.write_fmt(parts).is_err() {
            path.bytes[0] = 0;
        }
        path
    }

    fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or(c"")
    }
}

impl Write for Path {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.length + text.len();
        // The last byte stays NUL.
        if end >= self.bytes.len() {
            return Err(fmt::Error);
        }
        self.bytes[self.length..end].copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

/// What a small file says, without the end of its last line; `None` if it cannot be read.
pub fn read<'a>(path: fmt::Arguments<'_>, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let text = procfs::read_file(Path::new(path).as_c_str(), buffer).ok()?;
    Some(text.strip_suffix(b"\n").unwrap_or(text))
}

/// What a path leads to.
pub fn stat(path: fmt::Arguments<'_>) -> Result<Stat, Errno> {
    rustix::fs::stat(Path::new(path).as_c_str())
}

/// The device number that a file such as /sys/block/NAME/dev says.
pub fn device(path: fmt::Arguments<'_>) -> Option<u64> {
    let mut buffer = [0u8; 32];
    let (major, minor) = core::str::from_utf8(read(path, &mut buffer)?).ok()?.split_once(':')?;
    Some(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// Whether a file says 1.
pub fn is_set(path: fmt::Arguments<'_>) -> bool {
    read(path, &mut [0u8; 8]) == Some(b"1")
}

/// Whether `wanted` finds what it looks for among the names in a directory.
pub fn any_entry(path: fmt::Arguments<'_>, wanted: impl FnMut(&str) -> bool) -> bool {
    let Ok(directory) = raw::open(Path::new(path).as_c_str(), OFlags::DIRECTORY | OFlags::RDONLY) else {
        return false;
    };
    procfs::any_entry(directory, wanted)
}

/// Where sysfs describes a block device.
pub struct Device(pub u64);

impl fmt::Display for Device {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "/sys/dev/block/{}:{}", rustix::fs::major(self.0), rustix::fs::minor(self.0))
    }
}
