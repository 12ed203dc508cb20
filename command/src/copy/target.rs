//! A file that is being written and has no name yet. Dropped before it is named, it is gone.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::clone;

/// A block that is all zero becomes a hole.
const BLOCK: usize = 4096;
static ZEROS: [u8; BLOCK] = [0; BLOCK];

#[derive(Debug)]
pub struct Target {
    /// The name that it is to have.
    path: PathBuf,
    /// `None`: all is written, and its temporary name keeps it.
    file: Option<File>,
    /// Its name until then; `None`: it has none at all.
    temporary: Option<PathBuf>,
    written: u64,
    /// Whether it shares the blocks of a file, so that what is not written is not zero.
    is_clone: bool,
}

impl Target {
    /// A new file beside `path`. `nameless`: nothing of it is left even if this process is killed; it takes a descriptor until the
    /// end.
    pub fn new(path: &Path, nameless: bool) -> io::Result<Self> {
        let made =
            |file, temporary| Self { path: path.to_owned(), file: Some(file), temporary, written: 0, is_clone: false };
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        if nameless && let Ok(file) = options.clone().custom_flags(libc::O_TMPFILE).open(folder(path)) {
            return Ok(made(file, None));
        }
        loop {
            let temporary = temporary_name(path);
            match options.clone().create_new(true).open(&temporary) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                opened => return Ok(made(opened?, Some(temporary))),
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file, while it is written.
    pub fn file(&self) -> &File {
        self.file.as_ref().expect("it is being written")
    }

    /// All is written: one that has a temporary name needs no descriptor any more.
    pub fn rest(&mut self) {
        if self.temporary.is_some() {
            self.file = None;
        }
    }

    /// The file, whether it rests or not.
    pub fn opened(&self) -> io::Result<File> {
        match (&self.file, &self.temporary) {
            (None, Some(temporary)) => File::open(temporary),
            _ => self.file().try_clone(),
        }
    }

    /// Makes it a clone of `source`. The error: it stays empty.
    pub fn clone_of(&mut self, source: &File) -> io::Result<()> {
        clone::clone(self.file(), source)?;
        self.is_clone = true;
        Ok(())
    }

    pub fn is_clone(&self) -> bool {
        self.is_clone
    }

    /// Bytes that were written; the rest are holes, or those of the clone.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Writes bytes at an offset, but for the blocks that are zero: in a new file they are, and in a clone they may not be.
    pub fn write(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let is_clone = self.is_clone;
        let is_zero = |block: &[u8]| !is_clone && block == &ZEROS[..block.len()];
        let mut at = 0;
        while at < bytes.len() {
            let blocks = bytes[at..].chunks(BLOCK);
            let skipped: usize = blocks.take_while(|block| is_zero(block)).map(<[u8]>::len).sum();
            at += skipped;
            let run: usize = bytes[at..].chunks(BLOCK).take_while(|block| !is_zero(block)).map(<[u8]>::len).sum();
            self.file().write_all_at(&bytes[at..at + run], offset + at as u64)?;
            self.written += run as u64;
            at += run;
        }
        Ok(())
    }

    /// So many bytes were written by other means.
    pub fn count(&mut self, bytes: u64) {
        self.written += bytes;
    }

    pub fn set_size(&self, size: u64) -> io::Result<()> {
        self.file().set_len(size)
    }

    pub fn sync(&self) -> io::Result<()> {
        self.opened()?.sync_all()
    }

    /// Gives it its name, in the place of what has the name.
    pub fn name(mut self) -> io::Result<()> {
        let temporary = match self.temporary.take() {
            Some(temporary) => temporary,
            None => match self.link(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => loop {
                    let temporary = temporary_name(&self.path);
                    match self.link(&temporary) {
                        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                        linked => break linked.map(|()| temporary)?,
                    }
                },
                linked => return linked,
            },
        };
        fs::rename(&temporary, &self.path).inspect_err(|_| _ = fs::remove_file(&temporary))
    }

    fn link(&self, path: &Path) -> io::Result<()> {
        let own = format!("/proc/self/fd/{}", self.file().as_raw_fd());
        let flags = nix::fcntl::AtFlags::AT_SYMLINK_FOLLOW;
        Ok(nix::unistd::linkat(nix::fcntl::AT_FDCWD, own.as_str(), nix::fcntl::AT_FDCWD, path, flags)?)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(temporary) = self.temporary.take() {
            _ = fs::remove_file(temporary);
        }
    }
}

/// The directory that a name is in.
pub fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

pub fn temporary_name(path: &Path) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    // Relaxed: the numbers have to differ, and nothing else.
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    // The name alone may be as long as a name can be.
    folder(path).join(format!(".snapshim-{}-{number}.part", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("snapshim-target-{}-{name}", std::process::id()));
        fs::create_dir(&path).unwrap();
        path
    }

    #[test]
    fn a_target_that_is_not_named_leaves_nothing() {
        let folder = scratch("left");
        for nameless in [true, false] {
            let mut target = Target::new(&folder.join("a"), nameless).unwrap();
            target.write(b"bytes", 0).unwrap();
            drop(target);
            assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        }
        fs::remove_dir(folder).unwrap();
    }

    #[test]
    fn a_target_replaces_what_has_its_name_and_keeps_holes() {
        let folder = scratch("named");
        for nameless in [true, false] {
            let path = folder.join("a");
            let mut target = Target::new(&path, nameless).unwrap();
            let mut bytes = vec![0; 1 << 20];
            bytes[500_000] = 1;
            target.write(&bytes, 4096).unwrap();
            target.set_size(4096 + (1 << 20)).unwrap();
            assert_eq!(target.written(), 4096);
            target.name().unwrap();
            assert_eq!(fs::read(&path).unwrap(), [vec![0; 4096], bytes].concat());
            assert!(fs::metadata(&path).unwrap().blocks() < 200);
            assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        }
        fs::remove_dir_all(folder).unwrap();
    }
}
