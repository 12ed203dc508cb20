//! A program that goes on until its standard input ends; above all one that holds a snapshot and then says whether it still is what
//! it was.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

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
        Self::run(scratch.shimmed(program("common/hold"), way).arg(file).args([protection, &size.to_string()]))
    }

    /// Takes a snapshot of the first `size` bytes of `file` before anything has been read of it.
    pub fn start_at_once(scratch: &Scratch, file: &Path, protection: &str, size: usize) -> Self {
        Self::run(scratch.shimmed(program("common/hold"), "auto").arg(file).args([
            protection,
            &size.to_string(),
            "at-once",
        ]))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Starts any program and waits until it says that it is ready.
    pub fn run(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
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

    /// Ends the program; the snapshot must be exact.
    pub fn finish_exact(self, about: &str) {
        let found = self.finish();
        assert!(found.contains("same\n") && found.contains("state=0 "), "{about}: {found}");
    }
}

/// A test that fails leaves no process behind, stopped or not.
impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}
