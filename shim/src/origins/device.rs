//! Block devices that the kernel itself uses: it changes their page cache without any system call on them.
//!
//! A snapshot of one is refused; one that comes into such use later makes its snapshots doubtful, which the agent's rounds find
//! out.

use core::fmt;

use rustix::io::Errno;
use snapshim::cooperate::locate::place_of;
use snapshim::protocol::origin::{Origin, Place};
use snapshim::sys::{procfs, raw};

use crate::base::sysfs::{self, Device};
use crate::process::log::{Level, Named, say};

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

/// What the kernel uses the block device for, if anything.
pub fn user_of(device: u64) -> Option<DeviceUser> {
    if is_mounted(device) || is_part_of_btrfs(device) {
        return Some(DeviceUser::Mount);
    }
    if is_swap(device) {
        return Some(DeviceUser::Swap);
    }
    has_holders(device).then_some(DeviceUser::Holder)
}

/// EBUSY for a device that the kernel uses.
pub fn refuse_if_busy(origin: Origin) -> Result<(), Errno> {
    let Some(user) = user_of(origin.device()) else { return Ok(()) };
    say!(
        Level::Warn,
        "snapshot of {} refused: {user} it, so the kernel changes it without a system call; unmount or detach it first, or take the \
         snapshot of the files on it",
        Named(origin)
    );
    Err(Errno::BUSY)
}

/// proc_pid_mountinfo(5): the third field is major:minor.
fn is_mounted(device: u64) -> bool {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let path = procfs::ProcPath::own("mountinfo");
    let Ok(file) = raw::open(path.as_c_str(), rustix::fs::OFlags::RDONLY) else { return false };
    let mut buffer = [0u8; 512];
    // The field under way: its number, and the numbers before and behind its colon.
    let (mut field, mut numbers, mut behind) = (0, [0u32; 2], 0);
    loop {
        let Ok(count) = rustix::io::read(&file, &mut buffer) else { return false };
        if count == 0 {
            return false;
        }
        for byte in &buffer[..count] {
            match byte {
                b' ' if field == 2 && numbers == [major, minor] => return true,
                b' ' => field += 1,
                b'\n' => (field, numbers, behind) = (0, [0; 2], 0),
                b':' if field == 2 => behind = 1,
                b'0'..=b'9' if field == 2 => {
                    numbers[behind] = numbers[behind].wrapping_mul(10).wrapping_add(u32::from(byte - b'0'));
                }
                _ => {}
            }
        }
    }
}

/// /proc/swaps: a line begins with the path of what is swapped out to, in which a blank is `\\040`. The first line names the columns.
fn is_swap(device: u64) -> bool {
    let Ok(file) = raw::open(c"/proc/swaps", rustix::fs::OFlags::RDONLY) else { return false };
    let mut buffer = [0u8; 256];
    // The path under way, and whether the line has gone on behind it.
    let (mut path, mut length, mut is_over) = ([0u8; 256], 0, false);
    loop {
        let Ok(count) = rustix::io::read(&file, &mut buffer) else { return false };
        if count == 0 {
            return false;
        }
        for byte in &buffer[..count] {
            match byte {
                b'\n' => (length, is_over) = (0, false),
                _ if is_over => {}
                b' ' | b'\t' => {
                    is_over = true;
                    // One that does not fit leads nowhere.
                    path[length.min(path.len() - 1)] = 0;
                    if is_block_device_at(&path, device) {
                        return true;
                    }
                }
                _ if length < path.len() => {
                    path[length] = *byte;
                    length += 1;
                }
                _ => {}
            }
        }
    }
}

fn is_block_device_at(path: &[u8], device: u64) -> bool {
    let path = core::ffi::CStr::from_bytes_until_nul(path).unwrap_or(c"");
    rustix::fs::stat(path).is_ok_and(|stat| place_of(&stat) == Place::Origin(Origin::block_device(device)))
}

/// A btrfs has a device number of its own; which block devices it lies on, sysfs says.
fn is_part_of_btrfs(device: u64) -> bool {
    const MOUNTED: &str = "/sys/fs/btrfs";
    sysfs::any_entry(format_args!("{MOUNTED}"), |id| {
        sysfs::any_entry(format_args!("{MOUNTED}/{id}/devices"), |name| {
            sysfs::device(format_args!("{MOUNTED}/{id}/devices/{name}/dev")) == Some(device)
        })
    })
}

fn has_holders(device: u64) -> bool {
    sysfs::any_entry(format_args!("{}/holders", Device(device)), |_| true)
}
