//! `snapshim cp`: files and directories as they were at one instant.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::cli::{Cp, Reflink};
use crate::copy::attributes;
use crate::copy::direct::Copier;
use crate::copy::group::{self, Group, Listing, SPARE_DESCRIPTORS};
use crate::copy::place::{self, Directories};
use crate::copy::target::{Target, folder};
use crate::copy::tree::{self, Root};
use crate::failure::{Code, Failure, Outcome, shown, words};
use crate::interrupt;
use crate::library::{Library, Stat};
use crate::snapshot::{LARGEST_GROUP, Snapshot, Source, Use};
use crate::verdict;

pub fn run(arguments: &Cp) -> Outcome<ExitCode> {
    let started = Instant::now();
    let roots = roots(arguments)?;
    // What cannot be copied is said before this process becomes one under the library.
    tree::check(&roots, arguments.recursive)?;
    let library = Library::enter()?;
    interrupt::catch();
    let limit = group::raise_limit();
    let prepares = |files| group::may_hold(files, Use::GivenBack, limit, arguments.split);
    let taken = group::take(library, &roots, arguments.recursive, Use::GivenBack, prepares)?;
    group::warn_of_names(taken.unstable.as_deref());
    // A nameless target takes a descriptor until all is copied.
    let nameless = 2 * taken.listing.files.len() as u64 + SPARE_DESCRIPTORS < limit;
    let mut copying = Copying {
        listing: taken.listing,
        nameless,
        reflink: arguments.reflink,
        targets: Vec::new(),
        copied: Vec::new(),
        done: 0,
        bar: bar(),
    };
    place::check(&copying.listing)?;
    let mut directories = Directories::default();
    directories.make(&copying.listing)?;
    let groups = copying.all(library, taken.first)?;
    place::sync(&copying.targets)?;
    interrupt::check()?;
    let is_whole = place::name(&copying.listing, std::mem::take(&mut copying.targets))?;
    directories.keep();
    copying.bar.finish_and_clear();
    if arguments.json {
        let report = copying.report(groups, taken.unstable.is_none(), started);
        let written = writeln!(io::stdout(), "{report}");
        written.map_err(|error| unreported(&error))?;
    }
    let is_all = is_whole && taken.unstable.is_none();
    Ok(if is_all { ExitCode::SUCCESS } else { Code::Partly.into() })
}

/// What goes where.
fn roots(arguments: &Cp) -> Outcome<Vec<Root>> {
    let Cp { sources, destination, .. } = arguments;
    // As cp(1), through a link.
    let is_link = fs::symlink_metadata(destination).is_ok_and(|found| found.is_symlink());
    let followed = is_link.then(|| destination.canonicalize().ok()).flatten();
    let destination = followed.as_ref().unwrap_or(destination);
    let is_directory = destination.is_dir();
    if sources.len() > 1 && !is_directory {
        return Err(Failure::new(Code::Usage, format!("{} is not a directory", shown(destination)))
            .helped_by("several files go into a directory: make it first"));
    }
    let mut targets = BTreeSet::new();
    let mut roots = Vec::new();
    for source in sources {
        let target = match source.components().next_back() {
            Some(Component::Normal(name)) if is_directory => destination.join(name),
            _ => destination.clone(),
        };
        if !targets.insert(target.clone()) {
            return Err(Failure::new(Code::Usage, format!("two files would become {}", shown(&target)))
                .helped_by("copy them into different directories"));
        }
        check_target(source, &target)?;
        roots.push(Root { source: source.clone(), target });
    }
    Ok(roots)
}

/// Refuses a target in whose place no copy can be put.
fn check_target(source: &Path, target: &Path) -> Outcome {
    let Ok(of_source) = fs::metadata(source) else { return Ok(()) };
    let inside =
        folder(target).canonicalize().map_err(|error| Failure::of_file("write into", folder(target), &error))?;
    if of_source.is_dir() && source.canonicalize().is_ok_and(|source| inside.starts_with(source)) {
        return Err(Failure::failed(
            format!("cannot copy {} into itself, as {}", shown(source), shown(target)),
            "name a directory outside of it",
        ));
    }
    let Ok(found) = fs::metadata(target) else { return Ok(()) };
    if (found.dev(), found.ino()) == (of_source.dev(), of_source.ino()) {
        return Err(Failure::failed(
            format!("{} and {} are one file", shown(source), shown(target)),
            "name another target",
        ));
    }
    if found.is_dir() != of_source.is_dir() {
        let is = if found.is_dir() { "a directory" } else { "no directory" };
        return Err(Failure::failed(
            format!("cannot put {} in the place of {}: that is {is}", shown(source), shown(target)),
            "name another target",
        ));
    }
    let kind = found.file_type();
    if kind.is_block_device() || kind.is_char_device() || kind.is_fifo() || kind.is_socket() {
        return Err(Failure::failed(
            format!("cannot put a copy in the place of {}: it is no file", shown(target)),
            "write into it by `snapshim cat SRC >DEST`",
        ));
    }
    Ok(())
}

fn unreported(error: &io::Error) -> Failure {
    Failure::new(Code::Failed, format!("cannot write to standard output: {}", words(error)))
        .noting("all copies are in their places")
}

fn bar() -> ProgressBar {
    // It is hidden where standard error is no terminal.
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left");
    bar.with_style(style.expect("the template is a constant"))
}

fn not_cloned(source: &Source, target: &Path, error: &io::Error) -> Failure {
    let what = format!("{} cannot become a clone of {}", shown(target), shown(&source.path));
    let why = match error.raw_os_error() {
        Some(libc::EXDEV) => "they are on different file systems".to_owned(),
        Some(libc::EOPNOTSUPP | libc::ENOTTY | libc::EINVAL | libc::EISDIR) => {
            "the file system shares no blocks of such files".to_owned()
        }
        _ => words(error),
    };
    Failure::failed(format!("{what}: {why}"), "copy without --reflink=always (--reflink=auto clones where that works)")
}

/// A file that was copied.
struct Copied {
    item: usize,
    size: u64,
    written: u64,
    is_clone: bool,
    stat: Stat,
}

/// What was copied so far, and is not in its place yet.
struct Copying {
    listing: Listing,
    nameless: bool,
    reflink: Reflink,
    targets: Vec<Target>,
    copied: Vec<Copied>,
    /// Bytes of the files that were copied as a whole.
    done: u64,
    bar: ProgressBar,
}

impl Copying {
    /// Copies all groups; how many they are.
    fn all(&mut self, library: Library, first: Group) -> Outcome<usize> {
        let files = self.listing.files.clone();
        let mut first = Some(first);
        let mut groups = 0;
        for files in files.chunks(LARGEST_GROUP) {
            let group = match first.take() {
                Some(group) => group,
                None => group::take_further(library, &self.listing, files, Use::GivenBack)?.ok_or_else(|| {
                    Failure::failed("a name came to lead to another file between two groups", "try again")
                })?,
            };
            self.group(files, group)?;
            groups += 1;
        }
        Ok(groups)
    }

    fn group(&mut self, files: &[usize], mut group: Group) -> Outcome {
        self.bar.inc_length(group.snapshots.iter().map(Snapshot::size).sum());
        let before = self.targets.len();
        let mut copier = Copier::new()?;
        for (index, (source, snapshot)) in group.sources.iter().zip(&mut group.snapshots).enumerate() {
            self.file(files[index], source, snapshot, &mut copier)?;
        }
        for (index, (source, snapshot)) in group.sources.iter().zip(&group.snapshots).enumerate() {
            let stat =
                verdict::exact(source, snapshot).map_err(|failure| failure.noting("nothing was put in its place"))?;
            let target = &self.targets[before + index];
            let (written, is_clone) = (target.written(), target.is_clone());
            self.copied.push(Copied { item: files[index], size: snapshot.size(), written, is_clone, stat });
        }
        Ok(())
    }

    fn file(&mut self, item: usize, source: &Source, snapshot: &mut Snapshot, copier: &mut Copier) -> Outcome {
        let item = &self.listing.items[item];
        let mut target = Target::new(&item.target, self.nameless)
            .map_err(|error| Failure::of_file("write", &item.target, &error))?;
        if self.reflink != Reflink::Never
            && let Err(error) = target.clone_of(&source.file)
            && self.reflink == Reflink::Always
        {
            return Err(not_cloned(source, &item.target, &error));
        }
        copier.copy(source, snapshot, &mut target, |offset| self.bar.set_position(self.done + offset))?;
        let is_device = item.found.file_type().is_block_device();
        let set = target.set_size(snapshot.size()).and_then(|()| {
            if is_device { Ok(()) } else { attributes::copy(&item.found, &item.extended, target.file()) }
        });
        set.map_err(|error| Failure::of_file("write", target.path(), &error))?;
        target.rest();
        self.done += snapshot.size();
        self.targets.push(target);
        Ok(())
    }

    fn report(&self, groups: usize, same_names: bool, started: Instant) -> Value {
        let path = |path: &PathBuf| path.to_string_lossy().into_owned();
        let file = |copied: &Copied| {
            let item = &self.listing.items[copied.item];
            json!({
                "source": path(&item.source), "target": path(&item.target), "bytes": copied.size, "written": copied.written,
                "state": "exact", "cloned": copied.is_clone, "preserved_pages": copied.stat.preserved,
            })
        };
        json!({
            "files": self.copied.iter().map(file).collect::<Vec<_>>(), "names": self.listing.items.len(), "instants": groups,
            "names_are_of_the_instant": same_names, "seconds": started.elapsed().as_secs_f64(),
        })
    }
}
