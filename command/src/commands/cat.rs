//! `snapshim cat`: one file as it was at one instant, to standard output.

use std::fs;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::process::ExitCode;

use crate::cli::Cat;
use crate::copy::pipeline::{self, Sink, UNFIT};
use crate::failure::{Code, Failure, Outcome, shown, words};
use crate::interrupt;
use crate::library::Library;
use crate::snapshot::{self, Source, Use};
use crate::verdict;

pub fn run(arguments: &Cat) -> Outcome<ExitCode> {
    let path = &arguments.source;
    let found = fs::metadata(path).map_err(|error| Failure::of_file("read", path, &error))?;
    if !found.is_file() && !found.file_type().is_block_device() {
        return Err(Failure::failed(
            format!("cannot read {}: it is neither a file nor a block device", shown(path)),
            "name a regular file or a block device",
        ));
    }
    let library = Library::enter()?;
    interrupt::catch();
    let file = fs::File::open(path).map_err(|error| Failure::of_file("read", path, &error))?;
    let sources = [Source { path: path.clone(), file }];
    let mut snapshots = snapshot::take(library, &sources, Use::GivenBack)?;
    let output = io::stdout().as_fd().try_clone_to_owned().map_err(|error| unwritable(&error))?;
    let mut stream = Stream { output: output.into(), at: 0, is_closed: false };
    match pipeline::run(&sources, &mut snapshots, &mut stream) {
        // The reader of the pipe has seen enough, as `head` has.
        Err(_) if stream.is_closed => return Ok(Code::Failed.into()),
        Err(failure) if failure.code == Code::Inexact => return Err(failure.noting(UNFIT)),
        done => done?,
    }
    verdict::exact(&sources[0], &snapshots[0]).map_err(|failure| failure.noting(UNFIT))?;
    Ok(ExitCode::SUCCESS)
}

fn unwritable(error: &io::Error) -> Failure {
    Failure::new(Code::Failed, format!("cannot write to standard output: {}", words(error)))
}

/// Standard output: holes are written as zeros.
struct Stream {
    output: fs::File,
    /// Bytes that were written.
    at: u64,
    /// Whether nobody reads any more.
    is_closed: bool,
}

impl Stream {
    fn put(&mut self, mut bytes: &[u8]) -> Outcome {
        while !bytes.is_empty() {
            interrupt::check_or(UNFIT)?;
            match self.output.write(bytes) {
                Ok(count) => {
                    self.at += count as u64;
                    bytes = &bytes[count..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.is_closed = error.kind() == io::ErrorKind::BrokenPipe;
                    return Err(unwritable(&error));
                }
            }
        }
        Ok(())
    }

    fn fill(&mut self, end: u64) -> Outcome {
        static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
        while self.at < end {
            let length = (end - self.at).min(ZEROS.len() as u64) as usize;
            self.put(&ZEROS[..length])?;
        }
        Ok(())
    }
}

impl Sink for Stream {
    fn write(&mut self, _: usize, offset: u64, bytes: &[u8]) -> Outcome {
        self.fill(offset)?;
        self.put(bytes)
    }

    fn end(&mut self, _: usize, size: u64) -> Outcome {
        self.fill(size)
    }
}
