//! Block devices that the kernel itself uses: the kernel changes their page cache, and no process makes a call on them.
//!
//! A snapshot of such a device is refused. A device that comes into such use later is found by the agent's rounds, and its
//! snapshots become doubtful.

use core::ffi::CStr;
use core::fmt;

use rustix::io::Errno;
use snapshim::cooperate::locate::target_of_stat;
use snapshim::protocol::origin::{Origin, Target};
use snapshim::sys::procfs;
use snapshim::sys::stack_str::StackStr;

use crate::base::sysfs::{self, Device};
use crate::process::log::{Level, say};

/// What the kernel uses a block device for.
#[derive(Clone, Copy)]
pub enum DeviceUser {
    Mount,
    Swap,
    Holder,
}

impl fmt::Display for DeviceUser {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Mount => "a file system is mounted from",
            Self::Swap => "memory is swapped out to",
            Self::Holder => "another block device is built on",
        })
    }
}

/// What the kernel uses a block device for; `None`: for nothing.
pub fn user_of(device: u64) -> Option<DeviceUser> {
    if is_mounted(device) || is_part_of_btrfs(device) {
        return Some(DeviceUser::Mount);
    }
    if is_swap(device) {
        return Some(DeviceUser::Swap);
    }
    has_holders(device).then_some(DeviceUser::Holder)
}

/// Refuses, with EBUSY, a snapshot of a device that the kernel uses.
pub fn refuse_if_busy(origin: Origin) -> Result<(), Errno> {
    let Some(user) = user_of(origin.device()) else { return Ok(()) };
    say!(
        Level::Warn,
        file = origin;
        "snapshot of {} refused: {user} it, so the kernel changes it without a system call; unmount or detach it first, or take \
         snapshots of the files on it",
        origin
    );
    Err(Errno::BUSY)
}

/// Whether a file system is mounted from the device: the third field of a line is major:minor (proc_pid_mountinfo(5)).
fn is_mounted(device: u64) -> bool {
    let number = StackStr::<24>::whole(format_args!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device)));
    let is_its = |line: &[u8]| line.split(|byte| *byte == b' ').nth(2) == Some(number.as_bytes());
    has_line(procfs::ProcPath::thread_self("mountinfo").as_c_str(), is_its)
}

/// Whether memory is swapped out to the device. A line of /proc/swaps begins with the path of a file or device, in which a blank is
/// `\\040`. The first line names the columns.
fn is_swap(device: u64) -> bool {
    has_line(c"/proc/swaps", |line| {
        let path = line.split(|byte| matches!(byte, b' ' | b'\t')).next().unwrap_or(line);
        is_block_device_at(path, device)
    })
}

/// Whether a line of the file is `wanted`.
fn has_line(file: &CStr, wanted: impl Fn(&[u8]) -> bool) -> bool {
    procfs::find_line(file, |line| wanted(line).then_some(())).is_ok_and(|found| found.is_some())
}

fn is_block_device_at(path: &[u8], device: u64) -> bool {
    let mut buffer = [0u8; 256];
    // A path that does not fit with its NUL leads nowhere.
    let Some(start) = buffer[..255].get_mut(..path.len()) else { return false };
    start.copy_from_slice(path);
    let path = CStr::from_bytes_until_nul(&buffer).unwrap_or(c"");
    rustix::fs::stat(path).is_ok_and(|stat| target_of_stat(&stat) == Target::Origin(Origin::block_device(device)))
}

/// Whether a mounted btrfs lies on the device. mountinfo gives a btrfs a device number of its own; sysfs says which devices it
/// lies on.
fn is_part_of_btrfs(device: u64) -> bool {
    const MOUNTED: &str = "/sys/fs/btrfs";
    sysfs::any_entry(format_args!("{MOUNTED}"), |id| {
        sysfs::any_entry(format_args!("{MOUNTED}/{id}/devices"), |name| {
            sysfs::device(format_args!("{MOUNTED}/{id}/devices/{name}/dev")) == Some(device)
        })
    })
}

/// Whether another block device is built on the device (device mapper, RAID, bcache).
fn has_holders(device: u64) -> bool {
    sysfs::any_entry(format_args!("{}/holders", Device(device)), |_| true)
}
