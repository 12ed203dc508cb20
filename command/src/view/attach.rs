//! Mounting a view, and what can keep it from being mounted.

use std::fs::{self, File};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::cmsg_space;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::mount::{MsFlags, mount};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg};
use nix::unistd::{getegid, geteuid};

use crate::failure::{Failure, Outcome, shown, words};

/// The type in /proc/self/mountinfo.
pub const TYPE: &str = "fuse.snapshim";

const DEVICE: &str = "/dev/fuse";

/// In KiB.
const AHEAD: u32 = 4096;

const NO_MODULE: &str = "load the kernel's module for it (modprobe fuse); into a container the device has to be given \
                         (--device /dev/fuse); `snapshim cp` needs none";

/// Where a view becomes visible.
#[derive(Debug)]
pub struct Place {
    pub path: PathBuf,
    pub is_directory: bool,
}

/// Mounts a view that has no server yet, and returns the device by which the kernel asks one. `checks_modes`: the kernel lets a
/// user read what the modes of the files allow; else it lets everyone read all.
pub fn mount_at(place: &Place, checks_modes: bool) -> Outcome<OwnedFd> {
    let device = open()?;
    let kind = if place.is_directory { libc::S_IFDIR } else { libc::S_IFREG };
    let checking = if checks_modes { ",default_permissions" } else { "" };
    let options = format!(
        "fd={},rootmode={kind:o},user_id={},group_id={},allow_other{checking}",
        device.as_raw_fd(),
        geteuid(),
        getegid()
    );
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOATIME;
    mount(Some("snapshim"), &place.path, Some(TYPE), flags, Some(options.as_str())).map_err(|error| {
        let failure = format!("cannot mount a view over {}: {}", shown(&place.path), words(&error.into()));
        Failure::failed(
            failure,
            match error {
                nix::errno::Errno::ENODEV => NO_MODULE,
                nix::errno::Errno::EPERM | nix::errno::Errno::EACCES => {
                    "be root; in a container, one that may mount (CAP_SYS_ADMIN); `snapshim cp` needs neither"
                }
                _ => "see dmesg",
            },
        )
    })?;
    Ok(device)
}

/// Opens the device. Where it cannot be had, that is said before anything else is done.
pub fn open() -> Outcome<OwnedFd> {
    let opened = File::options().read(true).write(true).open(DEVICE);
    opened.map(OwnedFd::from).map_err(|error| unusable(&error))
}

fn unusable(error: &io::Error) -> Failure {
    let help = match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => NO_MODULE,
        _ => {
            "its mode should let every user read and write it (0666); in a container, give it the device; `snapshim cp` needs none"
        }
    };
    Failure::failed(format!("cannot show a view: {DEVICE}: {}", words(error)), help)
}

/// A view that is mounted, as /proc/self/mountinfo has it.
#[derive(Debug)]
pub struct Mounted {
    /// Its number among all mounts.
    pub number: u64,
    /// "MAJOR:MINOR".
    device: String,
}

impl Mounted {
    /// The device, as stat(2) has it.
    pub fn device(&self) -> u64 {
        let numbers =
            self.device.split_once(':').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
        numbers.map_or(0, |(major, minor)| nix::sys::stat::makedev(major, minor))
    }
}

/// Has the kernel read ahead of a reader by more than it does of itself: two answers are then on their way at once. To be asked
/// for once the view is served. Only root may; without it all works, if slower.
pub fn read_ahead(place: &Place) {
    if let Some(view) = mounted(&place.path) {
        _ = fs::write(format!("/sys/class/bdi/{}/read_ahead_kb", view.device), AHEAD.to_string());
    }
}

/// The view that is mounted at a path.
pub fn mounted(path: &Path) -> Option<Mounted> {
    let mounts = fs::read("/proc/self/mountinfo").ok()?;
    // What was mounted last is what is seen.
    mounts.split(|byte| *byte == b'\n').rev().find_map(|line| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let kind = fields.iter().position(|field| *field == b"-").and_then(|at| fields.get(at + 1));
        let is_there = fields.get(4).is_some_and(|place| unescaped(place) == path.as_os_str().as_bytes());
        let is_ours = is_there && kind.is_some_and(|kind| *kind == TYPE.as_bytes());
        let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
        is_ours.then(|| Some(Mounted { number: text(fields[0]).parse().ok()?, device: text(fields[2]) })).flatten()
    })
}

/// The kernel writes blanks and backslashes as three octal digits.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    let mut rest = field;
    while let Some((first, behind)) = rest.split_first() {
        let digits = behind.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = &behind[3..];
            }
            None => {
                plain.push(*first);
                rest = behind;
            }
        }
    }
    plain
}

/// Mounts as [`mount_at`] does, by fusermount3: it may mount for any user. Only this user may look there.
pub fn mount_by_helper(place: &Place) -> Outcome<OwnedFd> {
    let failed = |error: &io::Error| {
        Failure::failed(
            format!("cannot mount a view at {} by fusermount3: {}", shown(&place.path), words(error)),
            "install it (the package fuse3), or be root; `snapshim freeze` needs neither",
        )
    };
    let (own, other) = UnixDatagram::pair().map_err(|error| failed(&error))?;
    // The helper is handed the socket by its number.
    fcntl(&other, FcntlArg::F_SETFD(FdFlag::empty())).map_err(|error| failed(&error.into()))?;
    let mut helper = Command::new("fusermount3");
    helper.args(["-o", "ro,nosuid,nodev,noatime,fsname=snapshim,subtype=snapshim", "--"]).arg(&place.path);
    let status = helper.env("_FUSE_COMMFD", other.as_raw_fd().to_string()).status().map_err(|error| failed(&error))?;
    drop(other);
    if !status.success() {
        return Err(failed(&io::Error::other("it has said why")));
    }
    received(&own.into()).map(|(device, _)| device).map_err(|error| failed(&error))
}

/// The descriptor that a message brings, and its byte.
pub fn received(socket: &OwnedFd) -> io::Result<(OwnedFd, u8)> {
    let mut space = cmsg_space!([RawFd; 1]);
    let mut byte = [0];
    let mut buffers = [IoSliceMut::new(&mut byte)];
    let message = recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut buffers, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let numbers = message.cmsgs()?.find_map(|part| match part {
        ControlMessageOwned::ScmRights(numbers) => numbers.first().copied(),
        _ => None,
    });
    // SAFETY: the kernel has made the number for this call.
    let device = numbers.map(|number| unsafe { OwnedFd::from_raw_fd(number) });
    device.map(|device| (device, byte[0])).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}
