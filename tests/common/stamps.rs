//! Programs that write under the library as fast as they can, so that it can be told of which moment a copy is.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use super::{Scratch, program, text};

/// The writer; its files are filled.
pub struct Writer(Child);

impl Writer {
    pub fn start(scratch: &Scratch, blocks: &str, files: &[&str]) -> Self {
        let mut writer = scratch.shimmed(program("command/stamps"), "auto");
        Self(started(writer.args(["write", blocks]).args(files)))
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    pub fn pause(&self) {
        self.signal(libc::SIGSTOP);
    }

    pub fn go_on(&self) {
        self.signal(libc::SIGCONT);
    }

    fn signal(&self, signal: i32) {
        // SAFETY: kill(2) of our own child, which has not been waited for.
        unsafe { libc::kill(self.0.id() as i32, signal) };
    }

    /// Ends it; blocks a second.
    pub fn end(self) -> f64 {
        ended(self.0)
    }
}

/// A program that writes a file anew again and again, from nothing on.
pub struct Rewriter(Child);

impl Rewriter {
    pub fn start(scratch: &Scratch, blocks: &str, file: &str) -> Self {
        let mut writer = scratch.shimmed(program("command/rewrite"), "auto");
        Self(started(writer.args(["write", blocks, file])))
    }

    pub fn end(self) {
        ended(self.0);
    }
}

fn started(writer: &mut Command) -> Child {
    let mut child = writer.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    child
}

fn ended(mut writer: Child) -> f64 {
    drop(writer.stdin.take());
    let output = writer.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8_lossy(&output.stdout).trim().parse().unwrap()
}
