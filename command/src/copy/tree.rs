//! What there is to copy: names are listed with all that they have beside bytes, files opened, and after the instant all is listed
//! again.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::attributes::{self, Extended};
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
    /// What a link leads to.
    pub link: Option<PathBuf>,
    pub extended: Extended,
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
    /// Looks at a name. `None`: it has gone.
    fn look(source: PathBuf, target: PathBuf, is_root: bool, follows: bool) -> io::Result<Option<Self>> {
        let look = || {
            let found = if follows { fs::metadata(&source) } else { fs::symlink_metadata(&source) }?;
            let link = found.is_symlink().then(|| fs::read_link(&source)).transpose()?;
            Ok((found, link, attributes::extended_at(&source, follows)?))
        };
        match look() {
            Ok((found, link, extended)) => Ok(Some(Self { source, target, found, link, extended, is_root })),
            Err(error) if !is_root && is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

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

/// Looks whether what the user has named can be copied.
pub fn check(roots: &[Root], recursive: bool) -> Outcome {
    roots.iter().try_for_each(|root| named(root, recursive).map(|_| ()))
}

/// All names below the roots, each directory before what is in it.
pub fn list(roots: &[Root], recursive: bool) -> Outcome<Vec<Item>> {
    let mut items = Vec::new();
    for root in roots {
        let item = named(root, recursive)?;
        let is_directory = item.kind() == Kind::Directory;
        items.push(item);
        if is_directory {
            list_below(&root.source, &root.target, &mut items)?;
        }
    }
    Ok(items)
}

/// What the user has named.
fn named(root: &Root, recursive: bool) -> Outcome<Item> {
    let item = Item::look(root.source.clone(), root.target.clone(), true, !recursive)
        .and_then(|item| item.ok_or_else(|| io::ErrorKind::NotFound.into()))
        .map_err(|error| Failure::of_file("copy", &root.source, &error))?;
    match item.kind() {
        Kind::Directory if !recursive => Err(Failure::failed(
            format!("cannot copy {}: it is a directory", shown(&root.source)),
            "copy it with all that is in it by `snapshim cp -r`",
        )),
        Kind::Special => Err(Failure::failed(
            format!("cannot copy {}: it is neither a file nor a block device", shown(&root.source)),
            "name a regular file or a block device",
        )),
        _ => Ok(item),
    }
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
        let item = Item::look(source.clone(), target.clone(), false, false)
            .map_err(|error| Failure::of_file("look at", &source, &error))?;
        let Some(item) = item else { continue };
        let is_directory = item.found.is_dir();
        items.push(item);
        if is_directory {
            list_below(&source, &target, items)?;
        }
    }
    Ok(())
}

/// The first name that came, went, leads to another file, or has another mode, owner or attribute. Times tell nothing here: those
/// of a file that is written change all the time.
pub fn difference(before: &[Item], after: &[Item]) -> Option<PathBuf> {
    fn key(item: &Item) -> impl PartialEq {
        let Item { source, found, link, extended, .. } = item;
        (source, item.identity(), link, found.mode(), found.uid(), found.gid(), extended)
    }
    let longer = if before.len() > after.len() { before } else { after };
    let differs = before.iter().zip(after).position(|(before, after)| key(before) != key(after));
    let at = differs.or((before.len() != after.len()).then(|| before.len().min(after.len())))?;
    Some(longer[at].source.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_listing_differs_where_a_copy_of_it_would() {
        let path = std::env::temp_dir().join(format!("snapshim-tree-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        let roots = [Root { source: path.clone(), target: "copy".into() }];
        let list = || super::list(&roots, true).unwrap();
        fs::write(path.join("file"), "bytes").unwrap();
        symlink("old", path.join("link")).unwrap();
        let mut before = list();
        assert_eq!(before[2].link, Some("old".into()));
        let mut differs = |name: &str| {
            let after = list();
            let found = difference(&before, &after);
            before = after;
            assert_eq!(found, (!name.is_empty()).then(|| path.join(name)));
        };
        fs::write(path.join("file"), "other bytes").unwrap();
        differs("");
        fs::set_permissions(path.join("file"), fs::Permissions::from_mode(0o600)).unwrap();
        differs("file");
        symlink("new", path.join("other")).unwrap();
        differs("other");
        fs::rename(path.join("other"), path.join("link")).unwrap();
        differs("link");
        fs::remove_dir_all(&path).unwrap();
    }
}
