//! A program that holds a snapshot until it is asked whether it still is what it was.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use super::{Scratch, program};

pub struct Holder {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Holder {
    /// Takes a snapshot of all of `file`; `protection` is r or rw.
    pub fn start(scratch: &Scratch, way: &str, file: &Path, protection: &str) -> Self {
        let found = fs::metadata(file).unwrap();
        let size = if found.file_type().is_block_device() { fs::read(file).unwrap().len() as u64 } else { found.len() };
        let mut child = scratch
            .shimmed(program("hold"), way)
            .arg(file)
            .args([protection, &size.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self { input: child.stdin.take(), child, output }
    }

    /// Ends the program; what it found.
    pub fn finish(mut self) -> String {
        drop(self.input.take());
        let mut found = String::new();
        self.output.read_to_string(&mut found).unwrap();
        self.child.wait().unwrap();
        found
    }
}
