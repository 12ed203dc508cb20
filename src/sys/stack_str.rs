//! Text put together on the stack: paths, and lines of the log, without allocation.

use core::ffi::CStr;
use core::fmt::{self, Write};

/// Text of fewer than `N` bytes; the byte behind it is always NUL.
///
/// Text that does not fit is cut where the buffer ends, in the middle of a character perhaps. A path must not be cut: it would name
/// another file. See [`StackStr::whole`].
#[derive(Clone, Debug)]
pub struct StackStr<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> StackStr<N> {
    /// No text.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "`new` can be called in a constant")]
    pub const fn new() -> Self {
        const { assert!(N > 0 && N <= 1024, "at least the NUL, and no large array on the stack") };
        Self { bytes: [0; N], length: 0 }
    }

    /// The text that `parts` make; no text if they do not fit.
    #[must_use]
    pub fn whole(parts: fmt::Arguments<'_>) -> Self {
        let mut text = Self::new();
        if text.write_fmt(parts).is_ok() { text } else { Self::new() }
    }

    /// The text.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// The text, up to its first NUL, as a C string.
    #[must_use]
    pub fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or(c"")
    }

    /// Ends the text with a newline, in the place of the NUL. A copy would take the size of the buffer from the stack once more.
    pub fn end_line(&mut self) {
        // `write_str` leaves one byte free, and a line is ended once.
        if let Some(end) = self.bytes.get_mut(self.length) {
            *end = b'\n';
            self.length += 1;
        }
    }
}

impl<const N: usize> Write for StackStr<N> {
    /// Appends what fits of `text`; an error if something did not.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = N.saturating_sub(1 + self.length);
        let taken = text.len().min(room);
        self.bytes[self.length..self.length + taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.length += taken;
        if taken == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_where_the_buffer_ends_and_a_nul_follows() {
        let mut text = StackStr::<8>::new();
        assert_eq!(text.write_str("abc"), Ok(()));
        assert_eq!(text.write_str("defgh"), Err(fmt::Error));
        assert_eq!((text.as_bytes(), text.as_c_str()), (&b"abcdefg"[..], c"abcdefg"));
        text.end_line();
        assert_eq!(text.as_bytes(), b"abcdefg\n");
    }

    #[test]
    fn what_does_not_fit_whole_is_no_text() {
        assert_eq!(StackStr::<8>::whole(format_args!("/{}/{}", 12, "ab")).as_c_str(), c"/12/ab");
        assert_eq!(StackStr::<8>::whole(format_args!("/{}/{}", 12, "abcd")).as_c_str(), c"");
        assert_eq!(StackStr::<1>::new().as_c_str(), c"");
    }
}
