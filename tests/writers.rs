//! Real programs write while a snapshot is held: it never changes.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use common::{Scratch, WAYS, program, run_ok, scratches};

/// A program that holds a snapshot until it is asked whether it still is what it was.
struct Holder {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Holder {
    fn start(scratch: &Scratch, way: &str, file: &Path, protection: &str) -> Self {
        let size = fs::metadata(file).unwrap().len().to_string();
        let mut child = scratch
            .shimmed(program("hold"), way)
            .arg(file)
            .args([protection, &size])
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
    fn finish(mut self) -> String {
        drop(self.input.take());
        let mut found = String::new();
        self.output.read_to_string(&mut found).unwrap();
        self.child.wait().unwrap();
        found
    }
}

/// `shell` changes the file `victim` while snapshots of it are held, read-only and writable.
fn survives(name: &str, size: usize, shell: &str) {
    for scratch in scratches() {
        for way in WAYS {
            for protection in ["r", "rw"] {
                let victim = scratch.file("victim");
                let content: Vec<u8> = (0..size).map(|at| (at / 4096 * 7 + at % 251) as u8).collect();
                fs::write(&victim, &content).unwrap();
                let holder = Holder::start(&scratch, way, &victim, protection);
                run_ok(scratch.shimmed("bash", "auto").args(["-c", shell]));
                assert_ne!(fs::read(&victim).unwrap(), content, "{name}: the file did not change");
                let found = holder.finish();
                assert!(found.contains("same\n"), "{name}, {way}, {protection}, {}: {found}", scratch.path.display());
                assert!(found.contains("state=0"), "{name}, {way}, {protection}: {found}");
            }
        }
    }
}

#[test]
fn dd_over_a_file() {
    survives("dd", 300_000, "dd if=/dev/urandom of=victim bs=7777 count=30 seek=2 conv=notrunc status=none");
}

#[test]
fn bash_echo_through_stdio() {
    survives("bash", 50_000, "exec 1<>victim; for i in 1 2 3 4 5 6 7 8 9; do echo line $i; done");
}
