//! Why a snapshot is doubtful or broken, with the names that the table keeps.

use core::fmt::{self, Display};

use crate::protocol::cause::Cause;
use crate::sys::named::Program;
use crate::table::Table;

/// The cause in words, and what to do. The table does not keep which process was the cause; where one can be suspected, it is
/// named.
#[derive(Debug)]
pub struct Why<'a> {
    table: &'a Table,
    cause: Cause,
}

impl Table {
    /// `cause` in words.
    #[must_use]
    pub fn why(&self, cause: Cause) -> Why<'_> {
        Why { table: self, cause }
    }
}

impl Display for Why<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, cause } = *self;
        match cause {
            Cause::Unseen if table.unseen().is_up() => cause.of(Unseen(table)).in_full().fmt(formatter),
            Cause::ForeignChange | Cause::ForeignTruncation | Cause::PagesGone | Cause::ForeignMapping => {
                cause.of(Suspected(table, cause.subject())).in_full().fmt(formatter)
            }
            _ => cause.in_full().fmt(formatter),
        }
    }
}

/// A subject, and the program that may be meant by it: one that runs without the library, and is among the last that were executed
/// so.
#[derive(Debug)]
pub struct Suspected<'a>(pub &'a Table, pub &'a str);

impl Display for Suspected<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.1)?;
        match self.0.unreached().programs().find(|suspect| suspect.is_running()) {
            Some(suspect) => {
                let (program, why) = (Program(suspect.pid), suspect.why.text());
                write!(formatter, " (perhaps {program}, without the shim because {why})")
            }
            None => Ok(()),
        }
    }
}

/// The processes that change files unseen.
#[derive(Debug)]
pub struct Unseen<'a>(pub &'a Table);

impl Display for Unseen<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unseen = self.0.unseen();
        match unseen.named().next() {
            Some(who) => Program(who.pid).fmt(formatter)?,
            None => formatter.write_str(Cause::Unseen.subject())?,
        }
        match unseen.named().count() {
            0 | 1 => Ok(()),
            count => write!(formatter, " and {} more", count - 1),
        }
    }
}
