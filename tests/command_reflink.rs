//! Copies that share blocks with their source: they are of one instant all the same, and only what changed since is written.

use std::fs;
use std::process::{Command, Stdio};

use crate::common::stamps::{Rewriter, Writer};
use crate::common::{Scratch, command, program, root, run_ok, skip, text};

/// A file system of its own, mounted over the scratch directory.
struct Ground {
    scratch: Scratch,
    device: String,
}

impl Ground {
    fn new(mkfs: &[&str]) -> Result<Self, String> {
        let scratch = Scratch::new(&root().join("target/scratch"));
        let image = scratch.path.with_extension("image");
        fs::File::create(&image).and_then(|file| file.set_len(700 << 20)).map_err(|error| error.to_string())?;
        let device = sh(&["losetup", "-f", "--show", image.to_str().unwrap()]);
        fs::remove_file(&image).unwrap();
        let ground = Self { scratch, device: device? };
        sh(&[mkfs, &[&ground.device]].concat())?;
        sh(&["mount", &ground.device, ground.scratch.path.to_str().unwrap()])?;
        Ok(ground)
    }

    fn cp(&self, how: &str, names: &[&str]) -> Command {
        let mut cp = Command::new(command());
        cp.args(["cp", "--json", how]).args(names).current_dir(&self.scratch.path).stdin(Stdio::null());
        cp.env("SNAPSHIM_DIR", self.scratch.table()).env("SNAPSHIM_TIMEOUT_MS", "60000");
        cp
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        _ = sh(&["umount", self.scratch.path.to_str().unwrap()]);
        _ = sh(&["losetup", "-d", &self.device]);
    }
}

fn sh(command: &[&str]) -> Result<String, String> {
    let output =
        Command::new(command[0]).args(&command[1..]).output().map_err(|error| format!("{}: {error}", command[0]))?;
    if output.status.success() { Ok(text(&output).trim().to_owned()) } else { Err(text(&output)) }
}

/// Does `act` on each file system that shares blocks.
fn on_each(test: &str, act: impl Fn(&Ground)) {
    for mkfs in [&["mkfs.xfs", "-q", "-f"][..], &["mkfs.btrfs", "-q", "-f"]] {
        match Ground::new(mkfs) {
            Ok(ground) => act(&ground),
            Err(why) => skip(test, &format!("no {} here: {}", mkfs[0], why.trim())),
        }
    }
}

/// The number behind a name in what `cp --json` says.
fn number(said: &str, name: &str) -> u64 {
    let (_, rest) = said.split_once(&format!("\"{name}\":")).unwrap();
    rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
}

#[test]
fn a_clone_of_a_file_that_is_written_is_of_one_instant() {
    const BLOCKS: &str = "16384";
    on_each("a_clone", |ground| {
        let scratch = &ground.scratch;
        let writer = Writer::start(scratch, BLOCKS, &["a", "b"]);
        fs::create_dir(scratch.file("copies")).unwrap();
        for round in 0..4 {
            let said = run_ok(&mut ground.cp("--reflink=always", &["a", "b", "copies"]));
            assert!(said.contains("\"cloned\":true") && !said.contains("\"cloned\":false"), "{said}");
            let check = ["check", BLOCKS, "copies/a", "copies/b"];
            let last = run_ok(scratch.native(program("command/stamps")).args(check));
            println!("round {round}: of write {}; {} bytes were written", last.trim(), number(&said, "written"));
        }
        writer.end();
        let said = run_ok(&mut ground.cp("--reflink=auto", &["a", "idle"]));
        assert_eq!(number(&said, "written"), 0, "{said}");
        run_ok(scratch.native("cmp").args(["a", "idle"]));
    });
}

/// Its pages leave the file at each truncation, and the page table does not tell those that were holes from untouched ones.
#[test]
fn a_clone_of_a_file_that_is_truncated_is_of_one_instant() {
    on_each("a_clone", |ground| {
        let scratch = &ground.scratch;
        let writer = Rewriter::start(scratch, "600", "file");
        let mut written = 0;
        for _ in 0..40 {
            let said = run_ok(&mut ground.cp("--reflink=always", &["file", "copy"]));
            written += number(&said, "written");
            run_ok(scratch.native(program("command/rewrite")).args(["check", "copy"]));
        }
        println!("{written} bytes were written");
        writer.end();
    });
}
