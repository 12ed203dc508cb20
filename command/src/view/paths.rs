//! Whether the paths by which a program finds a view lead into it all the time.
//!
//! The names are those of the live file system. A program outside the namespace may rename a directory in which, or over which, a
//! view is mounted; and where it removes or replaces the file or the directory below a mount, the kernel takes the mount away in
//! every other namespace. A link that the user has named may come to lead elsewhere. The name is then that of newer files.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

use super::inside::Namespace;
use crate::failure::{Code, Failure, Outcome, shown};

/// The paths by which a program finds views.
#[derive(Debug)]
pub struct Paths {
    namespace: Namespace,
    /// Each leads into the view on this device.
    leading: Vec<(PathBuf, u64)>,
    moves: Option<Moves>,
}

impl Paths {
    /// Of the paths those that lead into a view by now. `places` are where views are mounted: all of these have to.
    pub fn new(namespace: Namespace, places: &[PathBuf], named: &[PathBuf]) -> Outcome<Self> {
        let all: BTreeSet<&Path> = places.iter().chain(named).map(PathBuf::as_path).collect();
        let moves = Moves::of(&all);
        let outside = |place: &PathBuf| fs::metadata(place).map(|found| found.dev()).ok();
        let mut devices = BTreeSet::new();
        for place in places {
            // A view has a device of its own.
            let device =
                namespace.device(place).filter(|device| outside(place).is_some_and(|outside| outside != *device));
            let elsewhere = || Failure::failed(format!("{} came to lead elsewhere", shown(place)), "try again");
            devices.insert(device.ok_or_else(elsewhere)?);
        }
        let leads =
            |path: &Path| Some((path.to_owned(), namespace.device(path).filter(|device| devices.contains(device))?));
        let leading = all.into_iter().filter_map(leads).collect();
        Ok(Self { namespace, leading, moves })
    }

    /// Says if one of them has led elsewhere meanwhile.
    pub fn check(&self) -> Outcome {
        let elsewhere = self.leading.iter().find(|(path, device)| self.namespace.device(path) != Some(*device));
        let elsewhere = elsewhere.map(|(path, _)| path.clone());
        let Some(path) = elsewhere.or_else(|| self.moves.as_ref()?.first()) else { return Ok(()) };
        let what = format!("{} was renamed, removed or replaced meanwhile", shown(&path));
        Err(Failure::new(Code::Inexact, what)
            .noting("from then on that name was not the view's, but that of what is newer")
            .helped_by("freeze a directory above it that stays, or show it by --at in a place that stays"))
    }
}

/// What tells of names that went, and may have come back.
#[derive(Debug)]
struct Moves {
    queue: Inotify,
    paths: HashMap<WatchDescriptor, PathBuf>,
}

impl Moves {
    /// `None`: this user may watch no more.
    fn of(paths: &BTreeSet<&Path>) -> Option<Self> {
        let queue = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok()?;
        let flags = AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_DONT_FOLLOW;
        let parts: BTreeSet<&Path> = paths.iter().flat_map(|path| path.ancestors()).collect();
        // What this user may not read is not watched.
        let watch = |part: &Path| Some((queue.add_watch(part, flags).ok()?, part.to_owned()));
        let paths = parts.into_iter().filter_map(watch).collect();
        Some(Self { queue, paths })
    }

    fn first(&self) -> Option<PathBuf> {
        // An error: there were none.
        let events = self.queue.read_events().ok()?;
        events.iter().find_map(|event| self.paths.get(&event.wd).cloned())
    }
}
