//! A program that writes stamps into files under the library, block by block, as fast as it can.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use super::{Scratch, program, text};

/// The writer; its files are filled.
pub struct Writer(Child);

impl Writer {
    pub fn start(scratch: &Scratch, blocks: &str, files: &[&str]) -> Self {
        let mut writer = scratch.shimmed(program("command/stamps"), "auto");
        writer.args(["write", blocks]).args(files).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = writer.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
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
    pub fn end(mut self) -> f64 {
        drop(self.0.stdin.take());
        let output = self.0.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8_lossy(&output.stdout).trim().parse().unwrap()
    }
}
