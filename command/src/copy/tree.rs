//! What there is to copy: names are listed, files opened, and after the instant the names are listed again.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Outcome, shown};

/// What is to be copied under which name.
#[derive(Debug)]
pub struct Root {
    pub source: PathBuf,
    pub target: PathBuf,
}

/// One name.
#[derive(Debug)]
pub struct Item {
    pub source: PathBuf,
    pub target: PathBuf,
    pub found: Metadata,
    /// Whether the user has named it: its link is followed, and a block device is copied by its bytes.
    is_root: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It has bytes.
    File,
    Directory,
    Link,
    /// A FIFO, a socket, a device: a name without bytes.
    Special,
}

impl Item {
    pub fn kind(&self) -> Kind {
        let kind = self.found.file_type();
        if kind.is_file() || (self.is_root && kind.is_block_device()) {
            Kind::File
        } else if kind.is_dir() {
            Kind::Directory
        } else if kind.is_symlink() {
            Kind::Link
        } else {
            Kind::Special
        }
    }

    /// What it is known by: another file under the same name differs in it.
    pub fn identity(&self) -> (u64, u64) {
        (self.found.dev(), self.found.ino())
    }

    /// Opens a file. `None`: its name leads elsewhere by now.
    pub fn open(&self) -> Outcome<Option<File>> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_NONBLOCK | if self.is_root { 0 } else { libc::O_NOFOLLOW });
        let opened = options.open(&self.source).and_then(|file| Ok((file.metadata()?, file)));
        match opened {
            Ok((found, file)) => Ok(((found.dev(), found.ino()) == self.identity()).then_some(file)),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(Failure::of_file("open", &self.source, &error)),
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ELOOP)
}

/// All names below the roots, each directory before what is in it.
pub fn list(roots: &[Root], recursive: bool) -> Outcome<Vec<Item>> {
    let mut items = Vec::new();
    for root in roots {
        let found = if recursive { fs::symlink_metadata(&root.source) } else { fs::metadata(&root.source) };
        let found = found.map_err(|error| Failure::of_file("copy", &root.source, &error))?;
        let item = Item { source: root.source.clone(), target: root.target.clone(), found, is_root: true };
        match item.kind() {
            Kind::Directory if !recursive => {
                return Err(Failure::failed(
                    format!("cannot copy {}: it is a directory", shown(&root.source)),
                    "copy it with all that is in it by `snapshim cp -r`",
                ));
            }
            Kind::Special => {
                return Err(Failure::failed(
                    format!("cannot copy {}: it is neither a file nor a block device", shown(&root.source)),
                    "name a regular file or a block device",
                ));
            }
            Kind::Directory => {
                items.push(item);
                list_below(&root.source, &root.target, &mut items)?;
            }
            _ => items.push(item),
        }
    }
    Ok(items)
}

fn list_below(source: &Path, target: &Path, items: &mut Vec<Item>) -> Outcome {
    let mut names = match fs::read_dir(source).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
        Ok(entries) => entries.into_iter().map(|entry| entry.file_name()).collect::<Vec<_>>(),
        Err(error) if is_gone(&error) => return Ok(()),
        Err(error) => return Err(Failure::of_file("list", source, &error)),
    };
    names.sort();
    for name in names {
        let (source, target) = (source.join(&name), target.join(&name));
        let found = match fs::symlink_metadata(&source) {
            Ok(found) => found,
            Err(error) if is_gone(&error) => continue,
            Err(error) => return Err(Failure::of_file("look at", &source, &error)),
        };
        let is_directory = found.is_dir();
        items.push(Item { source: source.clone(), target: target.clone(), found, is_root: false });
        if is_directory {
            list_below(&source, &target, items)?;
        }
    }
    Ok(())
}

/// The first name that came, went, or leads to another file.
pub fn difference(before: &[Item], after: &[Item]) -> Option<PathBuf> {
    let key = |item: &Item| (item.source.clone(), item.identity(), item.kind());
    let longer = if before.len() > after.len() { before } else { after };
    let differs = before.iter().zip(after).position(|(before, after)| key(before) != key(after));
    let at = differs.or((before.len() != after.len()).then(|| before.len().min(after.len())))?;
    Some(longer[at].source.clone())
}
