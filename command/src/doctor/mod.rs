//! What is well and what is not, for snapshots: of this machine, of a program, of a process, of a file.
//!
//! Each check answers with a [`Finding`]. `machine` makes the calls that the library needs, and looks whether they do what they
//! have to. `program` asks what SNAPSHIM_STRICT asks, `process` looks at a process through /proc, `file` looks for all processes
//! that may change a file, and `standing` tells which of them take part.
//!
//! Promise: nothing is changed, but for a snapshot of the file that is asked about, which is given back at once.

pub mod file;
pub mod machine;
pub mod process;
pub mod program;
mod standing;
mod tables;

use serde_json::{Value, json};

use crate::failure::{Code, Failure};

/// How much a finding is worth, from the best on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    Well,
    /// Snapshots are as promised; something is slower, or is not there that not everybody needs.
    Note,
    /// Something is not covered.
    Partly,
    /// A snapshot is doubtful or broken, or would become so.
    Doubtful,
    /// There is no table that can be used.
    NoTable,
    /// There can be no snapshot.
    Failed,
}

impl Grade {
    pub const fn word(self) -> &'static str {
        match self {
            Self::Well => "ok",
            Self::Note => "note",
            Self::Partly => "partly",
            Self::Doubtful => "doubtful",
            Self::NoTable => "no table",
            Self::Failed => "bad",
        }
    }

    /// The exit status that it makes; `None`: success.
    pub const fn code(self) -> Option<Code> {
        match self {
            Self::Well | Self::Note => None,
            Self::Partly => Some(Code::Partly),
            Self::Doubtful => Some(Code::Inexact),
            Self::NoTable => Some(Code::NoTable),
            Self::Failed => Some(Code::Failed),
        }
    }
}

/// What one check has found.
#[derive(Debug)]
pub struct Finding {
    /// The check, for scripts.
    pub check: &'static str,
    pub grade: Grade,
    pub what: String,
    /// What to do.
    pub help: Option<String>,
}

impl Finding {
    pub fn new(check: &'static str, grade: Grade, what: impl Into<String>) -> Self {
        Self { check, grade, what: what.into(), help: None }
    }

    pub fn well(check: &'static str, what: impl Into<String>) -> Self {
        Self::new(check, Grade::Well, what)
    }

    pub fn helped_by(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// A failure of something that was tried.
    pub fn of(check: &'static str, failure: Failure) -> Self {
        let grade = match failure.code {
            Code::NoTable => Grade::NoTable,
            Code::Inexact => Grade::Doubtful,
            Code::Partly => Grade::Partly,
            Code::Failed | Code::Usage => Grade::Failed,
        };
        let what = [vec![failure.what], failure.notes].concat().join("; ");
        Self { check, grade, what, help: failure.help }
    }

    pub fn as_json(&self) -> Value {
        json!({ "check": self.check, "grade": self.grade.word(), "what": self.what, "help": self.help })
    }
}

/// All that was found of one subject.
#[derive(Debug)]
pub struct Report {
    pub subject: String,
    pub findings: Vec<Finding>,
}

impl Report {
    /// The worst of them.
    pub fn grade(&self) -> Grade {
        self.findings.iter().map(|finding| finding.grade).max().unwrap_or(Grade::Well)
    }

    pub fn as_json(&self) -> Value {
        let findings: Vec<Value> = self.findings.iter().map(Finding::as_json).collect();
        json!({ "subject": self.subject, "grade": self.grade().word(), "findings": findings })
    }
}
