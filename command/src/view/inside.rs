//! The process that has a view over the files' own paths, and becomes the user's program.
//!
//! It begins before this command becomes one under the library: the program then has the environment that the user gave it, and
//! no library that the user did not ask for. It makes a mount namespace (and a user namespace where it may not make one
//! otherwise), mounts there, and sends the devices and the namespace to the command, which answers for the view from outside. When
//! both have ended, the namespace goes, and the mounts with it.

use std::convert::Infallible;
use std::env;
use std::ffi::{CString, OsString};
use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, recv, recvmsg, sendmsg, socketpair,
};
use nix::unistd::{ForkResult, Pid, fork, getegid, geteuid};

use super::attach::{self, Place};
use crate::failure::{Code, Failure, Outcome, words};
use crate::interrupt;

/// By what the command finds the process again after it has become one under the library.
const VARIABLE: &str = "_SNAPSHIM_INSIDE";

/// Exit statuses of env(1): the program cannot be run, it is not there.
const NOT_RUN: i32 = 126;
const NOT_FOUND: i32 = 127;

/// The process, waiting to be told that the view is served.
#[derive(Debug)]
pub struct Inside {
    pub pid: Pid,
    socket: OwnedFd,
}

/// What the process has mounted.
#[derive(Debug)]
pub struct Mounts {
    /// The device of each place.
    pub devices: Vec<OwnedFd>,
    /// Whether the kernel checks modes there.
    pub checks_modes: bool,
    pub namespace: Namespace,
}

/// The mount namespace of the process.
#[derive(Debug)]
pub struct Namespace {
    root: OwnedFd,
    /// The mounts stay as long as it is open, be the process there or not.
    _open: OwnedFd,
}

impl Namespace {
    /// The device of the file that a path leads to in the namespace; `None`: to none.
    pub fn device(&self, path: &Path) -> Option<u64> {
        let path = CString::new(path.as_os_str().as_bytes()).ok()?;
        // A link is followed inside.
        // SAFETY: all-zero is a value of the type.
        let mut how: libc::open_how = unsafe { std::mem::zeroed() };
        (how.flags, how.resolve) = ((libc::O_PATH | libc::O_CLOEXEC) as u64, libc::RESOLVE_IN_ROOT);
        let (root, size) = (self.root.as_raw_fd(), size_of::<libc::open_how>());
        // SAFETY: the path ends, and `how` is of this size.
        let mut opened = unsafe { libc::syscall(libc::SYS_openat2, root, path.as_ptr(), &raw const how, size) };
        if opened < 0 && matches!(Errno::last(), Errno::ENOSYS | Errno::EPERM) {
            // Before Linux 5.6, or by a filter. A path without links leads to the same; one with a link to the root does not.
            let relative = path.to_bytes_with_nul().strip_prefix(b"/")?;
            let flags = libc::O_PATH | libc::O_CLOEXEC;
            // SAFETY: the path ends.
            opened = unsafe { libc::openat(root, relative.as_ptr().cast(), flags) }.into();
        }
        let number = RawFd::try_from(opened).ok().filter(|number| *number >= 0)?;
        // SAFETY: the kernel has made the number for this call.
        let file = unsafe { OwnedFd::from_raw_fd(number) };
        // To a process outside of the namespace's users the kernel tells of a view nothing but this.
        let (flags, nothing) = (libc::AT_EMPTY_PATH, 0);
        // SAFETY: all-zero is a value of the type.
        let mut found: libc::statx = unsafe { std::mem::zeroed() };
        // SAFETY: the path ends, and the call writes into `found`.
        let failed = unsafe { libc::statx(file.as_raw_fd(), c"".as_ptr(), flags, nothing, &raw mut found) };
        (failed == 0).then(|| libc::makedev(found.stx_dev_major, found.stx_dev_minor))
    }
}

impl Inside {
    /// The process that was started before this one became one under the library; else a new one.
    pub fn start(places: &[Place], command: &[OsString]) -> Outcome<Self> {
        match Self::announced() {
            Some(inside) => Ok(inside),
            None => Self::new(places, command),
        }
    }

    fn new(places: &[Place], command: &[OsString]) -> Outcome<Self> {
        let failed =
            |error: Errno| Failure::new(Code::Failed, format!("cannot start a process: {}", words(&error.into())));
        let (own, other) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).map_err(failed)?;
        let before = interrupt::see_children().map_err(failed)?;
        // SAFETY: this process has one thread.
        match unsafe { fork() }.map_err(failed)? {
            ForkResult::Child => {
                drop(own);
                interrupt::see_children_as_before(&before);
                let Err((status, failure)) = enter(places, command, &other);
                failure.say();
                std::process::exit(status)
            }
            ForkResult::Parent { child } => {
                // It shall live through the execve(2) to come.
                fcntl(&own, FcntlArg::F_SETFD(FdFlag::empty())).map_err(failed)?;
                // SAFETY: as above.
                unsafe { env::set_var(VARIABLE, format!("{}:{child}", own.as_raw_fd())) };
                Ok(Self { pid: child, socket: own })
            }
        }
    }

    fn announced() -> Option<Self> {
        let text = env::var(VARIABLE).ok()?;
        // SAFETY: this process has one thread.
        unsafe { env::remove_var(VARIABLE) };
        let (socket, pid) = text.split_once(':')?;
        let (socket, pid): (RawFd, i32) = (socket.parse().ok()?, pid.parse().ok()?);
        if socket <= 2 {
            return None;
        }
        // SAFETY: the number was made by `new` before this process executed itself, and has no other owner.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        fcntl(&socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok()?;
        Some(Self { pid: Pid::from_raw(pid), socket })
    }

    /// Waits until the process has mounted; `false`: it has failed, and has said why.
    pub fn has_mounted(&self) -> bool {
        loop {
            let (mut byte, number) = ([0], self.socket.as_raw_fd());
            match recv(number, &mut byte, MsgFlags::MSG_PEEK) {
                Err(Errno::EINTR) => {}
                other => return other.is_ok_and(|count| count > 0),
            }
        }
    }

    /// What the process has mounted; `None`: it has failed, and has said why.
    pub fn mounts(&self, count: usize) -> Option<Mounts> {
        let mut checks_modes = false;
        let mut received = || loop {
            match attach::received(&self.socket) {
                Ok((descriptor, byte)) => {
                    checks_modes = byte == 1;
                    return Some(descriptor);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted && !interrupt::is_caught() => {}
                Err(_) => return None,
            }
        };
        let devices = (0..count).map(|_| received()).collect::<Option<_>>()?;
        let namespace = Namespace { root: received()?, _open: received()? };
        Some(Mounts { devices, checks_modes, namespace })
    }

    /// Lets the process become the user's program.
    pub fn go(&self) -> io::Result<()> {
        sendmsg::<UnixAddr>(self.socket.as_raw_fd(), &[IoSlice::new(&[1])], &[], MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(())
    }
}

/// Makes the namespace and the mounts, waits for their server, and becomes the program; returns only to say why not.
fn enter(places: &[Place], command: &[OsString], socket: &OwnedFd) -> Result<Infallible, (i32, Failure)> {
    // Without the command there is no server.
    _ = prctl::set_pdeathsig(Signal::SIGTERM);
    let directory = env::current_dir();
    mount_all(places, socket).map_err(|failure| (1, failure))?;
    if !is_told_to_go(socket) {
        // The command has said why.
        std::process::exit(1);
    }
    places.iter().for_each(attach::read_ahead);
    // The working directory may be under a view. Its name leads into the view; the directory itself is the one that is written.
    if let Ok(directory) = directory {
        env::set_current_dir(&directory).map_err(|error| (1, Failure::of_file("go to", &directory, &error)))?;
    }
    let [name, arguments @ ..] = command else { std::process::exit(NOT_RUN) };
    let error = Command::new(name).args(arguments).exec();
    let status = if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_RUN };
    Err((status, Failure::of_file("run", Path::new(name), &error)))
}

fn mount_all(places: &[Place], socket: &OwnedFd) -> Outcome {
    drop(attach::open()?);
    let checks_modes = separate()?;
    let devices: Vec<_> = places.iter().map(|place| attach::mount_at(place, checks_modes)).collect::<Outcome<_>>()?;
    let open = |path: &str, flags| {
        let opened = fs::File::options().read(true).custom_flags(flags).open(path);
        opened.map(OwnedFd::from).map_err(|error| Failure::of_file("open", Path::new(path), &error))
    };
    let namespace = [open("/", libc::O_PATH)?, open("/proc/self/ns/mnt", 0)?];
    for descriptor in devices.into_iter().chain(namespace) {
        let numbers = [descriptor.as_raw_fd()];
        let byte = [u8::from(checks_modes)];
        let rights = [ControlMessage::ScmRights(&numbers)];
        // Where nobody receives it, the command has ended, and nothing is told to go.
        _ = sendmsg::<UnixAddr>(socket.as_raw_fd(), &[IoSlice::new(&byte)], &rights, MsgFlags::MSG_NOSIGNAL, None);
    }
    Ok(())
}

fn is_told_to_go(socket: &OwnedFd) -> bool {
    let mut byte = [0];
    loop {
        let mut buffers = [IoSliceMut::new(&mut byte)];
        match recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut buffers, None, MsgFlags::empty()) {
            Err(Errno::EINTR) => {}
            other => return other.is_ok_and(|message| message.bytes > 0),
        }
    }
}

/// Makes this process have mounts of its own. Whether the kernel shall check the modes of files: a user in a namespace of its own
/// reads what this command could read.
fn separate() -> Outcome<bool> {
    let is_privileged = unshare(CloneFlags::CLONE_NEWNS).is_ok();
    if !is_privileged {
        let (user, group) = (geteuid(), getegid());
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).map_err(|error| alone(&error.into()))?;
        let write =
            |file: &str, text: String| fs::write(format!("/proc/self/{file}"), text).map_err(|error| alone(&error));
        write("setgroups", "deny".to_owned())?;
        write("uid_map", format!("{user} {user} 1"))?;
        write("gid_map", format!("{group} {group} 1"))?;
    }
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .map_err(|error| alone(&error.into()))?;
    Ok(is_privileged)
}

fn alone(error: &io::Error) -> Failure {
    Failure::failed(
        format!("a process of this user gets no mounts of its own: {}", words(error)),
        "be root, or have user namespaces allowed: sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone=1, \
         kernel.apparmor_restrict_unprivileged_userns=0; `snapshim cp` needs none",
    )
}
