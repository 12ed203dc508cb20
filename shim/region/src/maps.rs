//! /proc/self/maps, read by system calls of our own.

use rustix::fs::OFlags;
use snapshim::sys::raw;

use crate::{Error, Protection, Region, Result};

/// More than a program has before it starts.
const EXPECTED: usize = 8 << 10;

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
    let mut regions = Vec::with_capacity(128);
    for line in text[..length].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let unreadable = || Error::ProcfsInput(String::from_utf8_lossy(line).into_owned());
        regions.push(parse(line).ok_or_else(unreadable)?);
    }
    Ok(regions)
}

/// `7f0c34a26000-7f0c34b7c000 r-xp` and what follows.
fn parse(line: &[u8]) -> Option<Region> {
    let (start, rest) = address(line)?;
    let (end, rest) = address(rest.strip_prefix(b"-")?)?;
    let letters = rest.strip_prefix(b" ")?.get(..4)?;
    let protection = [(b'r', Protection::READ), (b'w', Protection::WRITE), (b'x', Protection::EXECUTE)]
        .into_iter()
        .filter(|(letter, _)| letters.contains(letter))
        .fold(Protection::NONE, |all, (_, one)| all | one);
    Some(Region { range: start..end, protection })
}

/// The hexadecimal number at the start of `text`, and what follows it.
fn address(text: &[u8]) -> Option<(usize, &[u8])> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let value = text[..digits].iter().try_fold(0usize, |value, digit| {
        let digit = char::from(*digit).to_digit(16)? as usize;
        value.checked_mul(16).map(|value| value + digit)
    })?;
    (digits > 0).then(|| (value, &text[digits..]))
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
