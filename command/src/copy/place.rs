//! Where copies are put: all of them, when all are whole and exact.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, SFlag, mknod};

use super::attributes;
use super::group::Listing;
use super::target::{Target, folder, temporary_name};
use super::tree::{Item, Kind};
use crate::failure::{Failure, Outcome, shown, warn};

/// More files than these are brought to the disk by one call for the whole file system.
const SYNCED_SINGLY: usize = 64;

/// Directories that were made for a copy. Dropped, they are taken away again.
#[derive(Debug, Default)]
pub struct Directories {
    made: Vec<PathBuf>,
}

/// Refuses a listing of which a name cannot be put where something else is. A link in the place of a directory is not followed, as
/// by cp(1): it may lead into the sources.
pub fn check(listing: &Listing) -> Outcome {
    for item in &listing.items {
        let Ok(found) = fs::symlink_metadata(&item.target) else { continue };
        let is = match item.kind() {
            Kind::Directory if found.is_symlink() => "a link",
            Kind::Directory if !found.is_dir() => "no directory",
            Kind::Directory if (found.dev(), found.ino()) == item.identity() => "the very same directory",
            Kind::File | Kind::Link | Kind::Special if found.is_dir() => "a directory",
            _ => continue,
        };
        return Err(Failure::failed(
            format!("cannot put {} in the place of {}: that is {is}", shown(&item.source), shown(&item.target)),
            "take that away, or name another target",
        ));
    }
    Ok(())
}

impl Directories {
    /// Makes the directories of a listing that are not there.
    pub fn make(&mut self, listing: &Listing) -> Outcome {
        for item in listing.items.iter().filter(|item| item.kind() == Kind::Directory) {
            match fs::DirBuilder::new().mode(0o700).create(&item.target) {
                Ok(()) => self.made.push(item.target.clone()),
                Err(_) if item.target.is_dir() => {}
                Err(error) => return Err(Failure::of_file("make the directory", &item.target, &error)),
            }
        }
        Ok(())
    }

    pub fn keep(mut self) {
        self.made.clear();
    }
}

impl Drop for Directories {
    fn drop(&mut self) {
        for path in self.made.iter().rev() {
            _ = fs::remove_dir(path);
        }
    }
}

/// Brings what was written to the disk.
pub fn sync(targets: &[Target]) -> Outcome {
    let failed = |target: &Target, error| Failure::of_file("write", target.path(), &error);
    if targets.len() <= SYNCED_SINGLY {
        return targets.iter().try_for_each(|target| target.sync().map_err(|error| failed(target, error)));
    }
    let mut seen = BTreeSet::new();
    for target in targets {
        let file = target.opened().map_err(|error| failed(target, error))?;
        let device = file.metadata().map_err(|error| failed(target, error))?.dev();
        if seen.insert(device) {
            nix::unistd::syncfs(&file).map_err(|error| failed(target, error.into()))?;
        }
    }
    Ok(())
}

/// Gives all copies their names. `false`: something that has no bytes could not be made, and was said.
pub fn name(listing: &Listing, targets: Vec<Target>) -> Outcome<bool> {
    let mut named = 0;
    name_all(listing, targets, &mut named).map_err(|failure| match named {
        0 => failure,
        _ => failure
            .noting(format!("files that are in their places: {named}"))
            .helped_by("copy again once that is mended: what is in its place is whole"),
    })
}

fn name_all(listing: &Listing, targets: Vec<Target>, named: &mut usize) -> Outcome<bool> {
    let mut folders: BTreeSet<PathBuf> = targets.iter().map(|target| folder(target.path()).to_owned()).collect();
    for target in targets {
        let path = target.path().to_owned();
        target.name().map_err(|error| Failure::of_file("put a copy in the place of", &path, &error))?;
        *named += 1;
    }
    let mut is_whole = true;
    for (index, first) in &listing.other_names {
        let (item, first) = (&listing.items[*index], &listing.items[*first]);
        replace(&item.target, |path| fs::hard_link(&first.target, path))
            .map_err(|error| Failure::of_file("link", &item.target, &error))?;
    }
    for item in &listing.items {
        match item.kind() {
            Kind::Link => link(item)?,
            Kind::Special => is_whole &= make_special(item),
            Kind::File | Kind::Directory => {}
        }
        if item.kind() == Kind::Link {
            folders.insert(folder(&item.target).to_owned());
        }
    }
    // What is in a directory changes its times: the innermost first, after all is in it.
    for item in listing.items.iter().rev().filter(|item| item.kind() == Kind::Directory) {
        File::open(&item.target)
            .and_then(|target| attributes::copy(&item.found, &item.extended, &target))
            .map_err(|error| Failure::of_file("set the attributes of", &item.target, &error))?;
        folders.insert(item.target.clone());
    }
    for folder in folders {
        File::open(&folder)
            .and_then(|opened| opened.sync_all())
            .or_else(|error| if error.raw_os_error() == Some(libc::EINVAL) { Ok(()) } else { Err(error) })
            .map_err(|error| Failure::of_file("bring to the disk", &folder, &error))?;
    }
    Ok(is_whole)
}

fn link(item: &Item) -> Outcome {
    let Some(content) = &item.link else { return Ok(()) };
    let make = |path: &Path| symlink(content, path).and_then(|()| attributes::copy_to_name(&item.found, path));
    replace(&item.target, make).map_err(|error| Failure::of_file("link", &item.target, &error))
}

/// A FIFO, a socket or a device node, by its name alone.
fn make_special(item: &Item) -> bool {
    let kind = SFlag::from_bits_truncate(item.found.mode() & libc::S_IFMT);
    let mode = Mode::from_bits_truncate(item.found.mode());
    let made = replace(&item.target, |path| {
        mknod(path, kind, mode, item.found.rdev())?;
        attributes::copy_to_name(&item.found, path)
    });
    if let Err(error) = &made {
        let failure = Failure::of_file("make", &item.target, error);
        warn(format!("{} is passed over: {}", shown(&item.source), failure.what));
    }
    made.is_ok()
}

/// Makes something under a temporary name, and renames it.
fn replace(path: &Path, make: impl Fn(&Path) -> io::Result<()>) -> io::Result<()> {
    loop {
        let temporary = temporary_name(path);
        match make(&temporary) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                _ = fs::remove_file(&temporary);
                return Err(error);
            }
            // Two names of one file: rename(2) would leave both.
            Ok(()) if is_same(&temporary, path) => return fs::remove_file(&temporary),
            Ok(()) => return fs::rename(&temporary, path).inspect_err(|_| _ = fs::remove_file(&temporary)),
        }
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    let identity = |path| fs::symlink_metadata(path).map(|found| (found.dev(), found.ino())).ok();
    identity(one).is_some() && identity(one) == identity(other)
}
