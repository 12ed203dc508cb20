//! A file or a block device: whether there can be snapshots of it, and which processes change it unseen.

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use nix::sys::statfs;
use snapshim::protocol::snapshot::State;
use snapshim::sys::filesystem::ALLOWED;
use snapshim::table::Table;

use super::standing::{self, Standing};
use super::{Finding, Grade, Report};
use crate::failure::{Failure, Outcome, shown};
use crate::library::Library;
use crate::maps::Mapping;
use crate::snapshot::{self, Source};
use crate::{processes, survey, table, verdict};

/// Whether a look at the file takes the library: where there is a table, a snapshot is tried.
pub fn needs_library() -> Outcome<bool> {
    Ok(table::attached_or_none()?.is_some())
}

pub fn report(path: &Path, library: Option<Library>) -> Outcome<Report> {
    let found = fs::metadata(path).map_err(|error| Failure::of_file("look at", path, &error))?;
    let is_device = found.file_type().is_block_device();
    if !found.is_file() && !is_device {
        return Err(Failure::failed(
            format!("cannot look at {}: it is neither a file nor a block device", shown(path)),
            "name a program, a process, a regular file or a block device",
        ));
    }
    let file = File::open(path).map_err(|error| Failure::of_file("read", path, &error))?;
    let source = Source { path: path.to_owned(), file };
    let mut findings = Vec::new();
    findings.extend((!is_device).then(|| file_system(&source)));
    findings.extend(holders(&source, &found));
    match library {
        Some(library) => findings.push(trial(library, &source)),
        None => findings.push(
            Finding::new(
                "table",
                Grade::NoTable,
                "there is no table: each program that writes it runs without the library",
            )
            .helped_by("start the programs by `snapshim run -- PROGRAM`, or set SNAPSHIM_DIR to where their table is"),
        ),
    }
    if let Some(attached) = table::attached_or_none()? {
        findings.extend(held(attached.table, &source));
    }
    let kind = if is_device { "block device" } else { "file" };
    Ok(Report { subject: format!("{kind} {}", shown(path)), findings })
}

fn file_system(source: &Source) -> Finding {
    let kind = match statfs::fstatfs(&source.file) {
        Ok(found) => found.filesystem_type().0 as u64,
        Err(error) => return Finding::of("file_system", Failure::of_file("look at", &source.path, &error.into())),
    };
    let name = name_of_kind(kind).map_or_else(|| format!("of the kind {kind:#x}"), str::to_owned);
    if ALLOWED.contains(&kind) {
        return Finding::well("file_system", format!("its file system is {name}"));
    }
    Finding::new(
        "file_system",
        Grade::Failed,
        format!("its file system is {name}: files there can change without a system call on this machine"),
    )
    .helped_by("keep it on ext4, xfs, btrfs, f2fs, tmpfs or overlayfs; SNAPSHIM_ANYFS=1 gives doubtful snapshots")
}

/// `f_type` of statfs(2), as people call it.
fn name_of_kind(kind: u64) -> Option<&'static str> {
    Some(match kind {
        0xEF53 => "ext4 (or ext2, ext3)",
        0x5846_5342 => "xfs",
        0x9123_683E => "btrfs",
        0x0102_1994 => "tmpfs",
        0xF2F5_2010 => "f2fs",
        0x794c_7630 => "overlayfs",
        0x6969 => "NFS",
        0x6573_5546 => "FUSE",
        0xFF53_4D42 | 0xFE53_4D42 => "CIFS",
        0x0102_1997 => "9p",
        0x2FC1_2FC1 => "zfs",
        0x9fa0 => "proc",
        0x6265_6572 => "sysfs",
        _ => return None,
    })
}

/// A process that can change the file.
struct Holder {
    pid: u32,
    standing: Standing,
    is_open: bool,
    is_mapped: bool,
}

impl Holder {
    fn how(&self) -> &'static str {
        match (self.is_open, self.is_mapped) {
            (true, true) => "has it open for writing and mapped shared",
            (true, false) => "has it open for writing",
            _ => "has it mapped shared and writable",
        }
    }

    fn finding(&self) -> Finding {
        let Self { pid, standing, .. } = self;
        let what = format!("process {pid} ({}) {}; {}", processes::program(*pid), self.how(), standing.words());
        if standing.is_seen() {
            Finding::well("holder", what)
        } else {
            Finding::new("holder", Grade::Doubtful, what).helped_by(standing.remedy())
        }
    }
}

fn holders(source: &Source, found: &fs::Metadata) -> Vec<Finding> {
    let own = std::process::id();
    let mut hidden = 0;
    let mut findings = Vec::new();
    for pid in processes::all().into_iter().filter(|pid| *pid != own) {
        if processes::is_hidden(pid) {
            hidden += 1;
            continue;
        }
        let is_open = match found.file_type().is_block_device() {
            true => processes::writes(pid, found.rdev(), 0),
            false => processes::writes(pid, found.dev(), found.ino()),
        };
        let (standing, maps) = standing::of(pid);
        let is_mapped = maps.iter().any(|mapping| mapping.changes_file() && is_of(mapping, source, found));
        if is_open || is_mapped {
            findings.push(Holder { pid, standing, is_open, is_mapped }.finding());
        }
    }
    if findings.is_empty() {
        findings.push(Finding::well("holder", "no process has it open for writing or mapped shared"));
    }
    if hidden > 0 {
        findings.push(
            Finding::new("hidden", Grade::Note, format!("{hidden} processes of other users cannot be looked at"))
                .helped_by(format!("if one of them may write it: {}", standing::who_may_look())),
        );
    }
    findings
}

/// On btrfs and overlayfs the kernel names another device here than stat(2), so there the path has to be the same.
fn is_of(mapping: &Mapping, source: &Source, found: &fs::Metadata) -> bool {
    mapping.inode == found.ino()
        && (mapping.device == found.dev() || source.path.canonicalize().is_ok_and(|path| path == mapping.path()))
}

/// Takes a snapshot, asks what it is worth, and gives it back.
fn trial(library: Library, source: &Source) -> Finding {
    let begun = std::time::Instant::now();
    let sources = std::slice::from_ref(source);
    let taken = snapshot::take(library, sources, snapshot::Use::Kept)
        .and_then(|taken| verdict::exact(source, &taken[0]).map(|_| ()));
    match taken {
        Ok(()) => {
            let millis = begun.elapsed().as_secs_f64() * 1e3;
            Finding::well("trial", format!("a snapshot was taken, was exact, and was given back: {millis:.1} ms"))
        }
        Err(failure) => Finding::of("trial", failure),
    }
}

/// The snapshots of the file that are not exact.
fn held(table: &Table, source: &Source) -> Vec<Finding> {
    let Some(origin) = survey::origin(&source.file) else { return Vec::new() };
    let views = table.over_splits(|walk| walk.of(origin).map(|(_, view)| view).collect::<Vec<_>>());
    let inexact = views.iter().filter(|view| view.head.state() != State::Exact).count();
    match (views.len(), inexact) {
        (0, _) => Vec::new(),
        (all, 0) => vec![Finding::well("snapshots", format!("{all} snapshots of it are held, all exact"))],
        (all, inexact) => vec![
            Finding::new(
                "snapshots",
                Grade::Doubtful,
                format!("of the {all} snapshots of it that are held, {inexact} are doubtful or broken"),
            )
            .helped_by("`snapshim status` says which, and why"),
        ],
    }
}
