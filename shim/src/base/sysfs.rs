//! Small questions to sysfs and /proc, asked by raw system calls with buffers on the stack.

use core::fmt;

use rustix::fs::{OFlags, Stat};
use rustix::io::Errno;
use snapshim::sys::stack_str::StackStr;
use snapshim::sys::{procfs, raw};

/// A path that does not fit is empty, and nothing is found there.
type Path = StackStr<400>;

/// The content of a small file, without the newline at its end; `None` if it cannot be read.
pub fn read<'a>(path: fmt::Arguments<'_>, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let text = procfs::read_file(Path::whole(path).as_c_str(), buffer).ok()?;
    Some(text.strip_suffix(b"\n").unwrap_or(text))
}

/// stat(2) of a path.
pub fn stat(path: fmt::Arguments<'_>) -> Result<Stat, Errno> {
    rustix::fs::stat(Path::whole(path).as_c_str())
}

/// The device number that a file such as /sys/block/NAME/dev says.
pub fn device(path: fmt::Arguments<'_>) -> Option<u64> {
    let mut buffer = [0u8; 32];
    let (major, minor) = core::str::from_utf8(read(path, &mut buffer)?).ok()?.split_once(':')?;
    Some(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// Whether a file's content is 1.
pub fn is_set(path: fmt::Arguments<'_>) -> bool {
    read(path, &mut [0u8; 8]) == Some(b"1")
}

/// Whether `wanted` is true of one of the names in a directory.
pub fn any_entry(path: fmt::Arguments<'_>, wanted: impl FnMut(&str) -> bool) -> bool {
    let Ok(directory) = raw::open(Path::whole(path).as_c_str(), OFlags::DIRECTORY | OFlags::RDONLY) else {
        return false;
    };
    procfs::any_entry(directory, wanted)
}

/// A block device by its number; displayed as the directory in which sysfs describes it.
pub struct Device(pub u64);

impl Device {
    /// The disk of a partition, whose directory in sysfs lies in that of the disk. `None`: the device is no partition.
    pub fn disk(&self) -> Option<u64> {
        read(format_args!("{self}/partition"), &mut [0; 8])?;
        device(format_args!("{self}/../dev"))
    }
}

impl fmt::Display for Device {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "/sys/dev/block/{}:{}", rustix::fs::major(self.0), rustix::fs::minor(self.0))
    }
}
