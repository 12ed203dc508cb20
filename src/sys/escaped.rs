//! Names and paths as people may see them: what could move a terminal's cursor, or end a line, is escaped.

use core::fmt::{self, Write};

/// Bytes of a name, a path or a value. Control characters, characters that change the direction or the lines of a text, and bytes
/// that are not UTF-8 are written as `\n`, `\x1b` or `\u{202e}`, and a backslash as two.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for character in chunk.valid().chars() {
                write_visibly(formatter, character)?;
            }
            for byte in chunk.invalid() {
                write!(formatter, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

fn write_visibly(formatter: &mut fmt::Formatter<'_>, character: char) -> fmt::Result {
    match character {
        '\n' => formatter.write_str("\\n"),
        '\t' => formatter.write_str("\\t"),
        '\r' => formatter.write_str("\\r"),
        '\\' => formatter.write_str("\\\\"),
        control if control.is_ascii_control() => write!(formatter, "\\x{:02x}", u32::from(control)),
        hidden if is_hidden(hidden) => write!(formatter, "\\u{{{:x}}}", u32::from(hidden)),
        shown => formatter.write_char(shown),
    }
}

/// Whether a character is not shown, and changes how others are: C1 controls, marks of direction, separators of lines.
fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::Escaped;
    use crate::sys::stack_str::StackStr;

    fn shown(bytes: &[u8]) -> StackStr<64> {
        StackStr::whole(format_args!("{}", Escaped(bytes)))
    }

    #[test]
    fn nothing_that_a_terminal_obeys_is_left() {
        assert_eq!(shown(b"\x1b[31m\n9 evil").as_bytes(), r"\x1b[31m\n9 evil".as_bytes());
        assert_eq!(shown("\u{9b}2J\u{202e}txt".as_bytes()).as_bytes(), r"\u{9b}2J\u{202e}txt".as_bytes());
        assert_eq!(shown(b"a\xff\x7fb\\n").as_bytes(), r"a\xff\x7fb\\n".as_bytes());
    }

    #[test]
    fn names_stay_what_they_are() {
        assert_eq!(shown("/data/Übersicht ✓ 数.db".as_bytes()).as_bytes(), "/data/Übersicht ✓ 数.db".as_bytes());
    }
}
