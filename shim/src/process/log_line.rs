//! A line of the log, as text or as a JSON object, put together on the stack.

use core::fmt::{self, Write};

use rustix::time::{ClockId, clock_gettime};
use snapshim::sys::mix::{SEED, mix};
use snapshim::sys::named::Name;
use snapshim::sys::raw;
use snapshim::sys::stack_str::StackStr;

use crate::base::config::{Format, Level};

/// What a line is about, beside its text: for readers of `SNAPSHIM_LOG=json`.
#[derive(Clone, Copy, Default)]
pub struct About<'a> {
    pub file: Option<&'a dyn fmt::Display>,
    /// Another process than the one that writes the line.
    pub process: Option<u32>,
}

/// A line with its newline. One that is longer ends where the room does; an object is closed all the same.
pub struct Line(StackStr<ROOM>);

const ROOM: usize = 1000;

impl Line {
    pub fn new(format: Format, level: Level, about: About<'_>, message: fmt::Arguments<'_>) -> Self {
        let mut line = Self(StackStr::new());
        match format {
            Format::Text => {
                let _ = write!(line.0, "snapshim: {} {message}", Moment::now());
            }
            Format::Json => line.write_object(level, about, message),
        }
        line.0.end_line();
        line
    }

    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The message comes last: what is cut is its end.
    fn write_object(&mut self, level: Level, about: About<'_>, message: fmt::Arguments<'_>) {
        const END: usize = "\"}".len();
        /// A path is cut, so that there is room for the message.
        const LONGEST_FILE: usize = 400;
        let pid = raw::own_pid();
        let _ = write!(self.0, r#"{{"time":"{}","pid":{pid},"program":""#, Moment::now());
        self.write_quoted(ROOM, format_args!("{}", Name(pid)));
        let _ = write!(self.0, r#"","level":"{}""#, level.name());
        if let Some(file) = about.file {
            let _ = self.0.write_str(r#","file":""#);
            self.write_quoted(LONGEST_FILE, format_args!("{file}"));
            let _ = self.0.write_str("\"");
        }
        if let Some(process) = about.process {
            let _ = write!(self.0, r#","process":{{"pid":{process},"program":""#);
            self.write_quoted(ROOM, format_args!("{}", Name(process)));
            let _ = self.0.write_str("\"}");
        }
        let _ = self.0.write_str(r#","message":""#);
        self.write_quoted(ROOM - END - 1, message);
        let _ = self.0.write_str("\"}");
    }

    /// Appends the inside of a JSON string, whole characters of it, while the line is shorter than `longest`.
    fn write_quoted(&mut self, longest: usize, text: fmt::Arguments<'_>) {
        let _ = Quoted { line: &mut self.0, longest }.write_fmt(text);
    }
}

/// Writes what a JSON string may hold (RFC 8259, 7).
struct Quoted<'a> {
    line: &'a mut StackStr<ROOM>,
    longest: usize,
}

impl Write for Quoted<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            let mut part = StackStr::<8>::new();
            match character {
                '"' | '\\' => write!(part, "\\{character}")?,
                control if control < ' ' => write!(part, "\\u{:04x}", u32::from(control))?,
                shown => write!(part, "{shown}")?,
            }
            let part = core::str::from_utf8(part.as_bytes()).map_err(|_| fmt::Error)?;
            if self.line.as_bytes().len() + part.len() >= self.longest {
                return Err(fmt::Error);
            }
            self.line.write_str(part)?;
        }
        Ok(())
    }
}

/// A moment in UTC, to the millisecond: `2026-11-30T07:01:04.123Z` (RFC 3339).
struct Moment {
    seconds: u64,
    milliseconds: u32,
}

impl Moment {
    fn now() -> Self {
        let time = clock_gettime(ClockId::Realtime);
        Self { seconds: time.tv_sec as u64, milliseconds: time.tv_nsec as u32 / 1_000_000 }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = date(self.seconds / 86400);
        let second = self.seconds % 86400;
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let milliseconds = self.milliseconds;
        write!(formatter, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milliseconds:03}Z")
    }
}

/// The date so many days after 1970-01-01. A year begins with March here, so that the leap day is its last.
fn date(days: u64) -> (u64, u64, u64) {
    const FROM_YEAR_0: u64 = 719_468;
    const DAYS_OF_400_YEARS: u64 = 146_097;
    let days = days + FROM_YEAR_0;
    let (era, day) = (days / DAYS_OF_400_YEARS, days % DAYS_OF_400_YEARS);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

/// What a message says, as a number. The own pid does not count: two processes that say the same differ in it.
pub struct Gist {
    hash: u64,
    own_pid: u64,
    /// The number that is being read, and whether one is.
    number: Option<u64>,
}

impl Gist {
    pub fn of(message: fmt::Arguments<'_>) -> u64 {
        let mut gist = Self { hash: SEED, own_pid: u64::from(raw::own_pid()), number: None };
        let _ = gist.write_fmt(message);
        gist.end_number();
        gist.hash
    }

    fn end_number(&mut self) {
        if let Some(number) = self.number.take().filter(|number| *number != self.own_pid) {
            self.hash = mix(self.hash, number);
        }
    }
}

impl Write for Gist {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte.is_ascii_digit() {
                self.number = Some(self.number.unwrap_or(0).wrapping_mul(10) + u64::from(byte - b'0'));
            } else {
                self.end_number();
                self.hash = mix(self.hash, u64::from(byte));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        for (days, wanted) in [
            (0, (1970, 1, 1)),
            (59, (1970, 3, 1)),
            (11_016, (2000, 2, 29)),
            (20_787, (2026, 11, 30)),
            (47_540, (2100, 2, 28)),
            (47_541, (2100, 3, 1)),
        ] {
            assert_eq!(date(days), wanted);
        }
        let moment = Moment { seconds: 1_796_022_064, milliseconds: 7 };
        assert_eq!(moment.to_string(), "2026-11-30T07:01:04.007Z");
    }

    #[test]
    fn an_object_is_closed_however_long_its_parts_are() {
        let long = "a\"\u{1}ä".repeat(600);
        let about = About { file: Some(&long), process: Some(1) };
        let line = Line::new(Format::Json, Level::Warn, about, format_args!("{long}"));
        let text = std::str::from_utf8(line.as_bytes()).unwrap();
        assert!(text.starts_with("{\"time\":\"") && text.ends_with("\"}\n") && text.len() <= ROOM, "{text}");
        assert!(text.contains(r#""file":"a\"\u0001ä"#) && text.contains(r#","message":"a\"\u0001"#), "{text}");
    }

    #[test]
    fn the_own_pid_makes_no_difference() {
        let own = raw::own_pid();
        assert_eq!(Gist::of(format_args!("process {own} a")), Gist::of(format_args!("process {} a", "")));
        assert_ne!(Gist::of(format_args!("process {} a", own + 1)), Gist::of(format_args!("process {} a", own + 2)));
        assert_ne!(Gist::of(format_args!("x=12")), Gist::of(format_args!("x=13")));
    }
}
