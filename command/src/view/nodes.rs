//! What a view shows: each name with its attributes, as they were found, and each file with its snapshot.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo};

use crate::copy::attributes::Extended;
use crate::copy::data::Data;
use crate::copy::group::{self, Group, Listing};
use crate::copy::tree::{Item, Kind, Root};
use crate::failure::{Failure, Outcome};
use crate::library::Library;
use crate::snapshot::{LARGEST_GROUP, PAGE, Snapshot, Source, Use};
use crate::verdict;

/// So many inexact files are told of one by one.
const TOLD: usize = 3;

/// The first of the numbers that are given to what cannot have the number of its inode.
const OWN_NUMBERS: u64 = 1 << 56;

/// So many blocks a file has that is not empty. One that had none when it was listed may have bytes at the instant, and tar(1) takes
/// a file without blocks for a hole, without a look.
const FEWEST_BLOCKS: u64 = PAGE / 512;

/// The kernel's number for the root of a mount.
const ROOT: u64 = 1;

#[derive(Debug)]
pub enum Content {
    /// Names in their order, and the nodes that they lead to.
    Directory(Vec<(OsString, usize)>),
    /// Which group, and which snapshot of it.
    File(usize, usize),
    Link(Vec<u8>),
    /// A FIFO, a socket, a device: a name without bytes.
    Special,
}

/// One file, directory or link; several names may lead to it.
#[derive(Debug)]
pub struct Node {
    pub attributes: FileAttr,
    pub content: Content,
    pub extended: Extended,
}

/// Files and directories as they were at one instant.
#[derive(Debug)]
pub struct View {
    nodes: Vec<Node>,
    by_number: HashMap<u64, usize>,
    groups: Vec<Group>,
    /// What the user has named, as nodes.
    pub roots: Vec<usize>,
    /// A name that came, went or changed around the instant.
    pub unstable: Option<PathBuf>,
    serves: Serves,
    has_said: AtomicBool,
}

/// Which files are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serves {
    /// Doubtful ones as well: in the end it is said what they were worth.
    All,
    /// Exact ones alone: who reads is told nothing else.
    Exact,
}

impl View {
    /// Takes the files at or below the paths. `is_split`: in several groups, if there are more than one holds.
    pub fn take(library: Library, paths: &[PathBuf], is_split: bool) -> Outcome<Self> {
        let roots: Vec<_> = paths.iter().map(|path| Root { source: path.clone(), target: path.clone() }).collect();
        let limit = group::raise_limit();
        let taken =
            group::take(library, &roots, true, Use::Kept, |files| group::may_hold(files, Use::Kept, limit, is_split))?;
        let mut groups = vec![taken.first];
        for files in taken.listing.files.chunks(LARGEST_GROUP).skip(1) {
            let further = group::take_further(library, &taken.listing, files, Use::Kept)?;
            groups.push(further.ok_or_else(|| {
                Failure::failed("a name came to lead to another file between two groups", "try again")
            })?);
        }
        let mut building = Building::new(&taken.listing, groups);
        building.all(paths);
        let Building { nodes, by_number, groups, roots, .. } = building;
        Ok(Self {
            nodes,
            by_number,
            groups,
            roots,
            unstable: taken.unstable,
            serves: Serves::All,
            has_said: AtomicBool::new(false),
        })
    }

    pub fn serving(mut self, serves: Serves) -> Self {
        self.serves = serves;
        self
    }

    /// Whether the bytes of a file that were copied before may go to a reader.
    pub fn may_be_read(&self, group: usize, index: usize) -> bool {
        let (source, snapshot) = (&self.groups[group].sources[index], &self.groups[group].snapshots[index]);
        self.serves == Serves::All || verdict::is_exact(source, snapshot)
    }

    /// Whether it has not been said yet that a file cannot be read any more. The next question is answered by no.
    pub fn begin_to_say(&self) -> bool {
        // Relaxed: nothing but the flag itself tells who says it.
        !self.has_said.swap(true, Ordering::Relaxed)
    }

    /// Says that a file cannot be read any more.
    pub fn say_unreadable(&self, group: usize, index: usize) {
        if let Err(failure) = verdict::exact(&self.groups[group].sources[index], &self.groups[group].snapshots[index]) {
            failure.noting("its readers get errors (EIO) from now on").say();
        }
    }

    /// Puts all roots into one directory, under their own names, with the attributes of `place`.
    pub fn gather(&mut self, paths: &[PathBuf], place: &Path) -> Outcome {
        let found = fs::metadata(place).map_err(|error| Failure::of_file("look at", place, &error))?;
        let names = paths.iter().zip(&self.roots);
        let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_owned();
        let mut entries: Vec<_> = names.map(|(path, root)| (name(path), *root)).collect();
        entries.sort();
        let attributes = attributes_of(&found, found.ino(), FileType::Directory);
        self.nodes.push(Node { attributes, content: Content::Directory(entries), extended: Vec::new() });
        self.roots = vec![self.nodes.len() - 1];
        Ok(())
    }

    /// The node that the kernel means by a number, in the mount whose root is the node `root`.
    pub fn node(&self, root: usize, number: INodeNo) -> Option<&Node> {
        let index = if number.0 == ROOT { root } else { *self.by_number.get(&number.0)? };
        Some(&self.nodes[index])
    }

    pub fn at(&self, index: usize) -> &Node {
        &self.nodes[index]
    }

    /// What a directory has under a name.
    pub fn entry(&self, directory: &Node, name: &OsStr) -> Option<&Node> {
        let Content::Directory(entries) = &directory.content else { return None };
        let at = entries.binary_search_by(|(entry, _)| entry.as_os_str().cmp(name)).ok()?;
        Some(&self.nodes[entries[at].1])
    }

    pub fn snapshot(&self, group: usize, index: usize) -> &Snapshot {
        &self.groups[group].snapshots[index]
    }

    /// Where from `offset` on a file has data (`wants_data`) or a hole: its end counts as one. `None`: there is none.
    pub fn seek(&self, group: usize, index: usize, offset: u64, wants_data: bool) -> io::Result<Option<u64>> {
        let (source, snapshot) = (&self.groups[group].sources[index], &self.groups[group].snapshots[index]);
        if offset >= snapshot.size() {
            return Ok(None);
        }
        let data = data_at(source, snapshot, offset)?;
        // A program without the library may have made the hole, or cut the file: what is lost is an error for its reader, and no
        // zeros. So this is asked after the holes.
        let data = if verdict::is_exact(source, snapshot) { data } else { Some(offset..snapshot.size()) };
        Ok(match data {
            Some(data) if wants_data => Some(data.start),
            Some(data) if data.start == offset => Some(data.end),
            _ => (!wants_data).then_some(offset),
        })
    }

    pub fn bytes(&self) -> u64 {
        self.groups.iter().flat_map(|group| &group.snapshots).map(Snapshot::size).sum()
    }

    pub fn names(&self) -> u64 {
        self.nodes.len() as u64
    }

    /// What is not exact.
    pub fn verdict(&self) -> Verdict {
        let mut verdict = Verdict::default();
        for (source, snapshot) in self.groups.iter().flat_map(|group| group.sources.iter().zip(&group.snapshots)) {
            if verdict.told.len() == TOLD && !verdict::is_exact(source, snapshot) {
                verdict.more += 1;
            } else if verdict.told.len() < TOLD
                && let Err(failure) = verdict::exact(source, snapshot)
            {
                verdict.told.push(failure);
            }
        }
        verdict
    }
}

/// What of a view is not exact.
#[derive(Debug, Default)]
pub struct Verdict {
    /// The first files, one by one.
    pub told: Vec<Failure>,
    more: usize,
}

impl Verdict {
    /// What there is to say of the other files.
    pub fn rest(&self) -> Option<String> {
        (self.more > 0).then(|| format!("so are the snapshots of {} more files", self.more))
    }
}

/// The first data of a snapshot from `offset` on, up to the hole behind it.
fn data_at(source: &Source, snapshot: &Snapshot, offset: u64) -> io::Result<Option<Range<u64>>> {
    let pagemap = File::open("/proc/self/pagemap")?;
    // What lies in a page is of one kind.
    let mut parts = Data::from(&source.file, &pagemap, offset / PAGE * PAGE);
    let Some(first) = parts.next(snapshot)? else { return Ok(None) };
    let mut end = first.end;
    while let Some(part) = parts.next(snapshot)?
        && part.start == end
    {
        end = part.end;
    }
    Ok(Some(first.start.max(offset)..end))
}

/// A view in the making.
struct Building<'a> {
    listing: &'a Listing,
    groups: Vec<Group>,
    nodes: Vec<Node>,
    by_number: HashMap<u64, usize>,
    roots: Vec<usize>,
    /// The node of each directory.
    directories: HashMap<&'a Path, usize>,
    /// The nodes that more than one name may lead to.
    linked: HashMap<(u64, u64), usize>,
    /// Where the snapshot of an item is.
    files: HashMap<usize, (usize, usize)>,
}

impl<'a> Building<'a> {
    fn new(listing: &'a Listing, groups: Vec<Group>) -> Self {
        let places = listing.files.iter().enumerate();
        let files = places.map(|(at, item)| (*item, (at / LARGEST_GROUP, at % LARGEST_GROUP))).collect();
        Self {
            listing,
            groups,
            nodes: Vec::new(),
            by_number: HashMap::new(),
            roots: Vec::new(),
            directories: HashMap::new(),
            linked: HashMap::new(),
            files,
        }
    }

    fn all(&mut self, paths: &[PathBuf]) {
        let roots: HashSet<&Path> = paths.iter().map(PathBuf::as_path).collect();
        for (index, item) in self.listing.items.iter().enumerate() {
            let node = self.node(index, item);
            if roots.contains(item.source.as_path()) {
                self.roots.push(node);
                continue;
            }
            let parent = item.source.parent().and_then(|parent| self.directories.get(parent));
            if let (Some(parent), Some(name)) = (parent, item.source.file_name())
                && let Content::Directory(entries) = &mut self.nodes[*parent].content
            {
                entries.push((name.to_owned(), node));
            }
        }
    }

    fn node(&mut self, index: usize, item: &'a Item) -> usize {
        let kind = item.kind();
        if kind != Kind::Directory
            && let Some(node) = self.linked.get(&item.identity())
        {
            return *node;
        }
        let node = self.nodes.len();
        let content = match kind {
            Kind::Directory => Content::Directory(Vec::new()),
            Kind::Link => Content::Link(item.link.clone().unwrap_or_default().into_os_string().into_vec()),
            Kind::Special => Content::Special,
            Kind::File => {
                let (group, snapshot) = self.files[&index];
                Content::File(group, snapshot)
            }
        };
        let mut attributes = self.attributes(item, node);
        if let Content::File(group, snapshot) = &content {
            attributes.size = self.groups[*group].snapshots[*snapshot].size();
            attributes.blocks = attributes.blocks.max(FEWEST_BLOCKS.min(attributes.size));
        }
        if kind == Kind::Directory {
            self.directories.insert(&item.source, node);
        } else {
            self.linked.insert(item.identity(), node);
        }
        self.by_number.insert(attributes.ino.0, node);
        self.nodes.push(Node { attributes, content, extended: item.extended.clone() });
        node
    }

    /// The attributes, with the number of the inode: programs know a file by it from one backup to the next. Two of different
    /// devices may have one number, so that the second one gets another.
    fn attributes(&self, item: &Item, node: usize) -> FileAttr {
        let own = item.found.ino();
        let is_free = own != ROOT && own < OWN_NUMBERS && !self.by_number.contains_key(&own);
        let number = if is_free { own } else { OWN_NUMBERS + node as u64 };
        let kind = match item.kind() {
            Kind::File => FileType::RegularFile,
            _ => FileType::from_std(item.found.file_type()).unwrap_or(FileType::RegularFile),
        };
        attributes_of(&item.found, number, kind)
    }
}

fn attributes_of(found: &Metadata, number: u64, kind: FileType) -> FileAttr {
    FileAttr {
        ino: INodeNo(number),
        size: found.size(),
        blocks: found.blocks(),
        atime: time(found.atime(), found.atime_nsec()),
        mtime: time(found.mtime(), found.mtime_nsec()),
        ctime: time(found.ctime(), found.ctime_nsec()),
        crtime: UNIX_EPOCH,
        kind,
        perm: (found.mode() & 0o7777) as u16,
        nlink: u32::try_from(found.nlink()).unwrap_or(u32::MAX),
        uid: found.uid(),
        gid: found.gid(),
        rdev: found.rdev() as u32,
        blksize: 4096,
        flags: 0,
    }
}

fn time(seconds: i64, nanoseconds: i64) -> SystemTime {
    let (whole, fraction) = (Duration::from_secs(seconds.unsigned_abs()), Duration::from_nanos(nanoseconds as u64));
    if seconds < 0 { UNIX_EPOCH - whole + fraction } else { UNIX_EPOCH + whole + fraction }
}
