//! /proc/self/maps, read by system calls of our own.

use rustix::fs::OFlags;
use snapshim::sys::raw;

use crate::{Error, Protection, Region, Result};

/// More than a program has before it starts.
const EXPECTED: usize = 16 << 10;

/// What is mapped, by address.
pub fn read() -> Result<Vec<Region>> {
    let file = raw::open(c"/proc/self/maps", OFlags::RDONLY)?;
    let mut text = vec![0; EXPECTED];
    let mut length = 0;
    loop {
        match rustix::io::read(&file, &mut text[length..])? {
            0 => break,
            count => length += count,
        }
        if length == text.len() {
            text.resize(2 * length, 0);
        }
    }
    let lines = text[..length].split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines
        .map(|line| parse(line).ok_or_else(|| Error::ProcfsInput(String::from_utf8_lossy(line).into_owned())))
        .collect()
}

/// `7f0c34a26000-7f0c34b7c000 r-xp` and what follows.
fn parse(line: &[u8]) -> Option<Region> {
    let mut words = line.split(|byte| *byte == b' ').map(core::str::from_utf8);
    let (start, end) = words.next()?.ok()?.split_once('-')?;
    let letters = words.next()?.ok()?;
    let protection = [('r', Protection::READ), ('w', Protection::WRITE), ('x', Protection::EXECUTE)]
        .into_iter()
        .filter(|(letter, _)| letters.contains(*letter))
        .fold(Protection::NONE, |all, (_, one)| all | one);
    Some(Region { range: address(start)?..address(end)?, protection })
}

fn address(text: &str) -> Option<usize> {
    usize::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_proc_says() {
        let library = b"7f0c34a26000-7f0c34b7c000 r-xp 00026000 fe:00 4567   /usr/lib/with a space, -w-.so";
        let expected = Region { range: 0x7f0c_34a2_6000..0x7f0c_34b7_c000, protection: Protection::READ_EXECUTE };
        assert_eq!(parse(library), Some(expected));
        let shared = b"1000-2000 -w-s 00000000 00:01 17   /memfd:\xff (deleted)";
        assert_eq!(parse(shared), Some(Region { range: 0x1000..0x2000, protection: Protection::WRITE }));
        assert_eq!(parse(b"1000 r-xp"), None);
    }
}
