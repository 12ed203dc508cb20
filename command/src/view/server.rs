//! Answers to the kernel's requests for a view.
//!
//! Nothing in a view ever changes. So the kernel may keep all that it is told, the bytes, too, for as long as it likes.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

use fuser::{
    BackgroundSession, Config, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEntry, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyXattr, Request, Session, SessionACL,
};

use super::nodes::{Content, Node, View};
use super::pages::{self, LARGEST_READ};
use crate::copy::bounce::Buffer;
use crate::failure::{Failure, Outcome, words};
use crate::snapshot::PAGE;

/// The kernel forgets by itself when it needs the memory.
const FOR_GOOD: Duration = Duration::from_secs(u32::MAX as u64);

/// Answers that wait for a disk keep no other reader waiting.
const THREADS: std::ops::RangeInclusive<usize> = 2..=8;

/// The attribute of a view's root that says what its snapshots are worth by now: empty, or the words for a person.
pub const VERDICT: &str = "user.snapshim.verdict";

/// One mount of a view.
pub struct Server {
    view: Arc<View>,
    /// The node that is the root of the mount.
    root: usize,
    device: OwnedFd,
    /// Whether the kernel checks the modes of files.
    checks_modes: bool,
}

/// Begins to answer what the kernel asks by `device`, for a mount whose root is the node `root`.
pub fn start(view: &Arc<View>, root: usize, device: OwnedFd, checks_modes: bool) -> Outcome<BackgroundSession> {
    let failed =
        |error: io::Error| Failure::failed(format!("the view cannot be served: {}", words(&error)), "try again");
    let own = device.try_clone().map_err(failed)?;
    let server = Server { view: Arc::clone(view), root, device: own, checks_modes };
    let mut config = Config::default();
    let processors = std::thread::available_parallelism().map_or(2, usize::from);
    let is_alone = view.roots.len() == 1;
    config.n_threads = Some(if is_alone { processors.clamp(*THREADS.start(), *THREADS.end()) } else { 2 });
    Session::from_fd(server, device, SessionACL::All, config).and_then(Session::spawn).map_err(failed)
}

impl Server {
    /// Whether the bytes of a file that were copied before may go to a reader. That they may not is said once.
    fn may_be_read(&self, group: usize, index: usize) -> bool {
        let may_be = self.view.may_be_read(group, index);
        if !may_be && self.view.begin_to_say() {
            // Not by this thread: who looks for the program that is why asks for files of the view as well.
            let view = Arc::clone(&self.view);
            std::thread::spawn(move || view.say_unreadable(group, index));
        }
        may_be
    }

    fn verdict(&self) -> String {
        let verdict = self.view.verdict();
        let rest = verdict.rest();
        verdict.told.into_iter().map(|failure| failure.what).chain(rest).map(|line| line + "\n").collect()
    }

    /// The names in a directory from `offset` on, each with its node and the offset behind it.
    fn entries(&self, number: INodeNo, offset: u64) -> Result<impl Iterator<Item = (u64, &OsStr, &Node)>, Errno> {
        let own = self.view.node(self.root, number).ok_or(Errno::ENOENT)?;
        let Content::Directory(entries) = &own.content else { return Err(Errno::ENOTDIR) };
        let usual = [".", ".."].map(|name| (OsStr::new(name), own));
        let all = usual.into_iter().chain(entries.iter().map(|(name, node)| (name.as_os_str(), self.view.at(*node))));
        Ok((1..).zip(all).skip(offset as usize).map(|(behind, (name, node))| (behind, name, node)))
    }
}

fn answer(reply: ReplyXattr, size: u32, value: &[u8]) {
    match size as usize {
        0 => reply.size(value.len() as u32),
        room if room < value.len() => reply.error(Errno::ERANGE),
        _ => reply.data(value),
    }
}

/// Answers a read where there is no pipe for it: a user has only so many pages in pipes (pipe(7)).
fn send_copied(reply: ReplyData, address: usize, length: usize, is_fit: impl FnOnce() -> bool) {
    let filled = Buffer::new().and_then(|mut buffer| {
        buffer.fill(address, length)?;
        Ok(buffer)
    });
    match filled {
        Ok(buffer) if is_fit() => reply.data(buffer.bytes(length)),
        _ => reply.error(Errno::EIO),
    }
}

impl Filesystem for Server {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Where the kernel has less, it has its own way of doing without.
        _ = config.set_max_write(LARGEST_READ);
        if let Err(most) = config.set_max_readahead(LARGEST_READ) {
            _ = config.set_max_readahead(most);
        }
        let mut wanted = InitFlags::FUSE_PARALLEL_DIROPS | InitFlags::FUSE_CACHE_SYMLINKS;
        wanted |= InitFlags::FUSE_DO_READDIRPLUS | InitFlags::FUSE_READDIRPLUS_AUTO;
        if self.checks_modes {
            wanted |= InitFlags::FUSE_POSIX_ACL;
        }
        _ = config.add_capabilities(wanted & config.capabilities());
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let directory = self.view.node(self.root, parent);
        match directory.and_then(|directory| self.view.entry(directory, name)) {
            Some(node) => reply.entry(&FOR_GOOD, &node.attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.view.node(self.root, number) {
            Some(node) => reply.attr(&FOR_GOOD, &node.attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn readlink(&self, _: &Request, number: INodeNo, reply: ReplyData) {
        match self.view.node(self.root, number).map(|node| &node.content) {
            Some(Content::Link(target)) => reply.data(target),
            _ => reply.error(Errno::EINVAL),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR);
    }

    fn read(
        &self,
        request: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(Content::File(group, index)) = self.view.node(self.root, number).map(|node| &node.content) else {
            return reply.error(Errno::EISDIR);
        };
        let snapshot = self.view.snapshot(*group, *index);
        let end = (offset + u64::from(size)).min(snapshot.size());
        if offset >= end {
            return reply.data(&[]);
        }
        let (address, length) = (snapshot.address(offset), (end - offset) as usize);
        // After the bytes were copied: a change that came before is seen then.
        let is_fit = || self.may_be_read(*group, *index);
        match pages::send(self.device.as_fd(), request.unique().0, address, length, is_fit) {
            // It was answered.
            Ok(()) => std::mem::forget(reply),
            // A page of the snapshot is broken. The kernel asks for pages one by one then.
            Err(error) if error.raw_os_error() == Some(libc::EFAULT) => reply.error(Errno::EIO),
            Err(_) => send_copied(reply, address, length, is_fit),
        }
    }

    /// SEEK_DATA and SEEK_HOLE; the kernel answers the others by itself.
    fn lseek(&self, _: &Request, number: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let Some(Content::File(group, index)) = self.view.node(self.root, number).map(|node| &node.content) else {
            return reply.error(Errno::EISDIR);
        };
        match self.view.seek(*group, *index, offset as u64, whence == libc::SEEK_DATA) {
            Ok(Some(found)) => reply.offset(found as i64),
            Ok(None) => reply.error(Errno::ENXIO),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn readdir(&self, _: &Request, number: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let entries = match self.entries(number, offset) {
            Ok(entries) => entries,
            Err(error) => return reply.error(error),
        };
        for (behind, name, node) in entries {
            let attributes = &node.attributes;
            if reply.add(attributes.ino, behind, attributes.kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(&self, _: &Request, number: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let entries = match self.entries(number, offset) {
            Ok(entries) => entries,
            Err(error) => return reply.error(error),
        };
        for (behind, name, node) in entries {
            let attributes = &node.attributes;
            if reply.add(attributes.ino, behind, name, &FOR_GOOD, attributes, Generation(0)) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(self.view.bytes().div_ceil(PAGE), 0, 0, self.view.names(), 0, PAGE as u32, 255, PAGE as u32);
    }

    fn getxattr(&self, _: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let Some(node) = self.view.node(self.root, number) else { return reply.error(Errno::ENOENT) };
        if name == VERDICT && number.0 == 1 {
            return answer(reply, size, self.verdict().as_bytes());
        }
        match node.extended.iter().find(|(own, _)| own == name) {
            Some((_, value)) => answer(reply, size, value),
            None => reply.error(Errno::ENODATA),
        }
    }

    fn listxattr(&self, _: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        let Some(node) = self.view.node(self.root, number) else { return reply.error(Errno::ENOENT) };
        let names: Vec<u8> =
            node.extended.iter().flat_map(|(name, _)| name.as_bytes().iter().copied().chain([0])).collect();
        answer(reply, size, &names);
    }
}
