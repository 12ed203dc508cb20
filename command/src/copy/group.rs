//! Files that are copied as they were at one instant: listed, opened, taken, and listed again.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::tree::{self, Item, Kind, Root};
use crate::failure::{Failure, Outcome, shown, warn};
use crate::interrupt;
use crate::library::Library;
use crate::snapshot::{self, LARGEST_GROUP, Snapshot, Source, Use};

/// Descriptors for other things than the files.
pub const SPARE_DESCRIPTORS: u64 = 64;

/// How often the names are listed anew because they changed around the instant.
const ATTEMPTS: u32 = 5;

/// What is listed, and which of it has bytes.
#[derive(Debug)]
pub struct Listing {
    pub items: Vec<Item>,
    /// The files, as places in `items`: of several names of one file the first.
    pub files: Vec<usize>,
    /// The other names of a file, and the first one's.
    pub other_names: Vec<(usize, usize)>,
}

impl Listing {
    fn new(roots: &[Root], recursive: bool) -> Outcome<Self> {
        let items = tree::list(roots, recursive)?;
        let mut first_names = HashMap::new();
        let (mut files, mut other_names) = (Vec::new(), Vec::new());
        for (index, item) in items.iter().enumerate().filter(|(_, item)| item.kind() == Kind::File) {
            match first_names.insert(item.identity(), index) {
                Some(first) => {
                    first_names.insert(item.identity(), first);
                    other_names.push((index, first));
                }
                None => files.push(index),
            }
        }
        Ok(Self { items, files, other_names })
    }

    /// Opens files; `None`: a name of them leads elsewhere by now.
    fn open(&self, files: &[usize]) -> Outcome<Option<Vec<Source>>> {
        let mut sources = Vec::with_capacity(files.len());
        for item in files.iter().map(|index| &self.items[*index]) {
            let Some(file) = item.open()? else { return Ok(None) };
            sources.push(Source { path: item.source.clone(), file });
        }
        Ok(Some(sources))
    }
}

/// Snapshots of one instant.
#[derive(Debug)]
pub struct Group {
    pub sources: Vec<Source>,
    pub snapshots: Vec<Snapshot>,
}

/// What was taken first, and what of the names is not of its instant.
#[derive(Debug)]
pub struct Taken {
    pub listing: Listing,
    /// The first of the groups; the others have not been taken yet.
    pub first: Group,
    /// A name that came, went or changed around the instant, each time.
    pub unstable: Option<PathBuf>,
}

/// Lists the names and takes snapshots of the files, as many as one group holds. `prepares` sees how many files there are.
pub fn take(
    library: Library,
    roots: &[Root],
    recursive: bool,
    what_for: Use,
    prepares: impl Fn(usize) -> Outcome,
) -> Outcome<Taken> {
    let mut attempt = 1;
    loop {
        interrupt::check()?;
        let listing = Listing::new(roots, recursive)?;
        prepares(listing.files.len())?;
        let files = &listing.files[..listing.files.len().min(LARGEST_GROUP)];
        let taken = match listing.open(files)? {
            Some(sources) => Some(Group { snapshots: snapshot::take(library, &sources, what_for)?, sources }),
            None => None,
        };
        let unstable = tree::difference(&listing.items, &tree::list(roots, recursive)?);
        match taken {
            Some(first) if unstable.is_none() || attempt >= ATTEMPTS => return Ok(Taken { listing, first, unstable }),
            None if attempt >= 10 * ATTEMPTS => {
                return Err(Failure::failed("names lead to other files faster than they can be opened", "try again"));
            }
            _ => attempt += 1,
        }
    }
}

/// Says that a name is not of the instant, if one is not.
pub fn warn_of_names(unstable: Option<&Path>) {
    if let Some(name) = unstable {
        warn(format!(
            "names or attributes changed while the files were listed ({}); the bytes are of one instant, these are not",
            shown(name)
        ));
    }
}

/// A further group of a listing. `None`: a name leads elsewhere by now.
pub fn take_further(library: Library, listing: &Listing, files: &[usize], what_for: Use) -> Outcome<Option<Group>> {
    let Some(sources) = listing.open(files)? else { return Ok(None) };
    Ok(Some(Group { snapshots: snapshot::take(library, &sources, what_for)?, sources }))
}

/// Lets this process open as many files as its user may have it open, and says how many these are.
pub fn raise_limit() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 1024 };
    if setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() { hard } else { soft }
}

/// Whether so many files can be taken, of which the process has those of one group open at a time, or all of them (`Use::Kept`).
pub fn may_hold(files: usize, what_for: Use, limit: u64, is_split: bool) -> Outcome {
    if files > LARGEST_GROUP && !is_split {
        return Err(Failure::failed(
            format!("{files} files are more than one group holds ({LARGEST_GROUP})"),
            "take parts of them, or set --split: then each group is of an instant of its own",
        ));
    }
    let at_once = if what_for == Use::Kept { files } else { files.min(LARGEST_GROUP) };
    let open = at_once as u64 + SPARE_DESCRIPTORS;
    if open > limit {
        return Err(Failure::failed(
            format!("{files} files are more than this process may open ({limit})"),
            "raise the limit on open files (ulimit -Hn)",
        ));
    }
    Ok(())
}
