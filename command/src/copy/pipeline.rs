//! The reader and the writer, and the channels between them.

use std::fs::File;
use std::io;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::bounce::{Buffer, PIECE};
use super::data::Data;
use crate::failure::{Code, Failure, Outcome, shown};
use crate::interrupt;
use crate::snapshot::{Snapshot, Source};
use crate::verdict;

/// So many pieces are on their way at once: what a slow target can hold up, and what a copy takes of memory.
const BUFFERS: usize = 8;

/// What a copy that is not whole is worth: its reader has bytes of it already.
pub const UNFIT: &str = "do not use what was written";

/// What goes from the reader to the writer.
enum Message {
    /// `length` bytes of the file for `offset`.
    Piece { buffer: Buffer, offset: u64, length: usize },
    /// All of this file was read.
    End,
}

/// What is done with the bytes of one file after the other.
pub trait Sink {
    /// Bytes of the file `index`. What is not written is zero.
    fn write(&mut self, index: usize, offset: u64, bytes: &[u8]) -> Outcome;

    /// All bytes of the file `index` were written.
    fn end(&mut self, index: usize, size: u64) -> Outcome;
}

/// Reads all snapshots, and gives them back as it goes, while the sink writes.
pub fn run(sources: &[Source], snapshots: &mut [Snapshot], sink: &mut dyn Sink) -> Outcome {
    let sizes: Vec<u64> = snapshots.iter().map(Snapshot::size).collect();
    let (filled, to_write) = bounded(BUFFERS);
    let (emptied, free) = bounded(BUFFERS);
    for _ in 0..BUFFERS {
        let buffer =
            Buffer::new().map_err(|error| Failure::new(Code::Failed, format!("no memory for a copy: {error}")))?;
        emptied.send(buffer).expect("the channel has room for all buffers");
    }
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || read(sources, snapshots, &filled, &free));
        let written = write(&sizes, &to_write, &emptied, sink);
        // The reader ends at its next message.
        drop((to_write, emptied));
        let read = reader.join().expect("the reader does not panic");
        // A reader that stopped is why the writer did, unless the writer has a reason of its own.
        written.and_then(|is_whole| if is_whole { Ok(()) } else { read })
    })
}

fn read(sources: &[Source], snapshots: &mut [Snapshot], filled: &Sender<Message>, free: &Receiver<Buffer>) -> Outcome {
    let pagemap = File::open("/proc/self/pagemap")
        .map_err(|error| Failure::of_file("open", "/proc/self/pagemap".as_ref(), &error))?;
    for (source, snapshot) in sources.iter().zip(snapshots) {
        let mut data = Data::new(&source.file, &pagemap);
        loop {
            let part = data.next(snapshot).map_err(|error| Failure::of_file("read", &source.path, &error))?;
            let Some(part) = part else { break };
            snapshot.release_before(part.start);
            let Ok(mut buffer) = free.recv() else { return Ok(()) };
            let length = (part.end - part.start) as usize;
            debug_assert!(length <= PIECE);
            buffer
                .fill(snapshot.address(part.start), length)
                .map_err(|error| unreadable(source, snapshot, part.start, &error))?;
            snapshot.release_before(part.end);
            if filled.send(Message::Piece { buffer, offset: part.start, length }).is_err() {
                return Ok(());
            }
        }
        snapshot.release_before(snapshot.size());
        if filled.send(Message::End).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Why bytes of a snapshot cannot be read. Where a program without the library took them, it is named.
pub fn unreadable(source: &Source, snapshot: &Snapshot, offset: u64, error: &io::Error) -> Failure {
    if error.raw_os_error() != Some(libc::EFAULT) {
        return Failure::of_file("read a snapshot of", &source.path, error);
    }
    if let Err(failure) = verdict::exact(source, snapshot) {
        return failure.noting(format!("the page at byte {offset} or behind it was lost"));
    }
    Failure::new(
        Code::Inexact,
        format!(
            "the snapshot of {} is broken: the page at byte {offset} or behind it could not be preserved",
            shown(&source.path)
        ),
    )
    .helped_by("the library's log, here or of the program that writes, says why; try again")
}

/// Whether all was written; `false`: the reader stopped before.
fn write(sizes: &[u64], to_write: &Receiver<Message>, emptied: &Sender<Buffer>, sink: &mut dyn Sink) -> Outcome<bool> {
    let mut index = 0;
    while index < sizes.len() {
        interrupt::check_or(UNFIT)?;
        match to_write.recv() {
            Ok(Message::Piece { buffer, offset, length }) => {
                sink.write(index, offset, buffer.bytes(length))?;
                // A reader that has gone needs none.
                _ = emptied.send(buffer);
            }
            Ok(Message::End) => {
                sink.end(index, sizes[index])?;
                index += 1;
            }
            Err(_) => return Ok(false),
        }
    }
    Ok(true)
}
