//! What a process has mapped, as /proc/PID/maps shows it (proc_pid_maps(5)).

use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::sys::stat::makedev;
use snapshim::sys::escaped::Escaped;

/// One line of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    pub addresses: Range<u64>,
    pub can_write: bool,
    pub is_shared: bool,
    /// As the kernel names them here: on btrfs and overlayfs stat(2) names another device.
    pub device: u64,
    pub inode: u64,
    /// Of a file that was deleted, without the mark of that.
    pub path: Vec<u8>,
    pub is_deleted: bool,
}

impl Mapping {
    fn parse(line: &[u8]) -> Option<Self> {
        const DELETED: &[u8] = b" (deleted)";
        let mut fields = line.splitn(6, |byte| *byte == b' ');
        let mut field = || std::str::from_utf8(fields.next()?).ok();
        let (start, end) = field()?.split_once('-')?;
        let rights = field()?.as_bytes();
        field()?;
        let (major, minor) = field()?.split_once(':')?;
        let inode = field()?.parse().ok()?;
        let path = fields.next().unwrap_or_default().trim_ascii_start();
        let number = |text| u64::from_str_radix(text, 16).ok();
        let kept = path.strip_suffix(DELETED).filter(|path| path.starts_with(b"/"));
        Some(Self {
            addresses: number(start)?..number(end)?,
            can_write: rights.get(1) == Some(&b'w'),
            is_shared: rights.get(3) == Some(&b's'),
            device: makedev(number(major)?, number(minor)?),
            inode,
            path: kept.unwrap_or(path).to_vec(),
            is_deleted: kept.is_some(),
        })
    }

    pub fn path(&self) -> &Path {
        std::ffi::OsStr::from_bytes(&self.path).as_ref()
    }

    /// Whether it is of a file that has, or had, a path.
    pub fn is_of_file(&self) -> bool {
        self.inode != 0 && self.path.starts_with(b"/")
    }

    /// Whether stores into it change a file.
    pub fn changes_file(&self) -> bool {
        self.is_of_file() && self.is_shared && self.can_write
    }
}

/// What lies in the place of a snapshot that is broken.
const FAULTING: &[u8] = b"/memfd:snapshim";

/// The path of the file that is mapped at an address, as the kernel shows it; `None`: none is. `all` is as [`of`] has it.
pub fn file_at(all: &[Mapping], address: u64) -> Option<String> {
    let behind = all.partition_point(|mapping| mapping.addresses.start <= address);
    let mapping = all[..behind].last().filter(|mapping| mapping.addresses.contains(&address))?;
    let is_file = mapping.path.starts_with(b"/") && mapping.path != FAULTING;
    let mark = if mapping.is_deleted { " (deleted)" } else { "" };
    is_file.then(|| format!("{}{mark}", Escaped(&mapping.path)))
}

/// All of them, from the lowest address on.
pub fn of(pid: u32) -> io::Result<Vec<Mapping>> {
    let text = fs::read(format!("/proc/{pid}/maps"))?;
    Ok(text.split(|byte| *byte == b'\n').filter_map(Mapping::parse).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_taken_apart() {
        let line = b"7f1c-7f1d rw-s 00001000 fe:01 1234                     /a b (deleted)";
        let mapping = Mapping::parse(line).unwrap();
        assert_eq!(mapping.addresses, 0x7f1c..0x7f1d);
        assert_eq!((mapping.device, mapping.inode), (makedev(0xfe, 1), 1234));
        assert!(mapping.changes_file() && mapping.is_deleted && mapping.path == b"/a b");
        let heap = Mapping::parse(b"1000-2000 rw-p 00000000 00:00 0                          [heap]").unwrap();
        assert!(!heap.is_of_file() && !heap.is_shared && heap.path == b"[heap]");
        assert!(Mapping::parse(b"1000-2000 r--p 00000000 00:00 0 ").unwrap().path.is_empty());
        assert_eq!(Mapping::parse(b""), None);
    }

    #[test]
    fn a_file_is_found_by_an_address_in_it() {
        let lines: [&[u8]; 4] = [
            b"1000-2000 r--p 0 fe:01 7 /a",
            b"3000-4000 r--p 0 fe:01 8 /b (deleted)",
            b"4000-5000 rw-p 0 00:00 0 [heap]",
            b"5000-6000 r--p 0 00:01 9 /memfd:snapshim (deleted)",
        ];
        let all: Vec<_> = lines.into_iter().filter_map(Mapping::parse).collect();
        let found = [0xfff, 0x1000, 0x1fff, 0x2000, 0x3000, 0x4000, 0x5000, 0x6000].map(|at| file_at(&all, at));
        let [a, b] = ["/a", "/b (deleted)"].map(|name| Some(name.to_owned()));
        assert_eq!(found, [None, a.clone(), a, None, b, None, None, None]);
    }

    #[test]
    fn own_code_is_mapped() {
        let own = std::env::current_exe().unwrap();
        assert!(of(std::process::id()).unwrap().iter().any(|mapping| mapping.path() == own));
    }
}
