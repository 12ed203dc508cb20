//! What the processes of a history left behind: see tests/programs/storm/oracle/shared.h, which writes it.

/// The thread that changed a file; 0 filled it.
pub type Actor = usize;
pub const ACTORS: usize = 32;

/// Words that have the same in common: all zero, or all put there by one change, each for its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    pub words: usize,
    pub is_zero: bool,
    /// Word minus place.
    pub value: u64,
}

/// A call, or a series of stores.
#[derive(Clone, Debug)]
pub struct Written {
    pub actor: Actor,
    pub line: u64,
    pub change: u64,
    pub begin: u64,
    pub end: u64,
    pub file: usize,
    pub offset: usize,
    pub length: usize,
    /// A snapshot may show a part of it.
    pub in_steps: bool,
}

#[derive(Clone, Debug)]
pub struct Resized {
    pub begin: u64,
    pub end: u64,
    pub file: usize,
    pub how: u64,
    pub at: usize,
    pub length: usize,
    pub error: u64,
}

#[derive(Clone, Debug)]
pub struct Taken {
    pub line: u64,
    pub begin: u64,
    pub end: u64,
    pub file: usize,
    pub number: u64,
    pub size: usize,
    pub state: u64,
    pub runs: Vec<Run>,
}

#[derive(Clone, Debug, Default)]
pub struct Records {
    pub snapshots: u64,
    pub looks: u64,
    pub written: Vec<Written>,
    pub resized: Vec<Resized>,
    pub taken: Vec<Taken>,
    /// What a process saw by itself: a snapshot that changed or faulted, a call that failed for no reason.
    pub complaints: Vec<String>,
}

impl Records {
    pub fn parse(bytes: &[u8]) -> Self {
        let words: Vec<u64> = bytes.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap())).collect();
        let (counts, mut rest) = words.split_at(2);
        let mut records = Self { snapshots: counts[0], looks: counts[1], ..Self::default() };
        while let [actor, length, after @ ..] = rest {
            let (mut own, others) = after.split_at(*length as usize);
            while !own.is_empty() {
                let (entry, next) = own.split_at(own[1] as usize);
                records.add(*actor as usize, entry);
                own = next;
            }
            rest = others;
        }
        records
    }

    fn add(&mut self, actor: Actor, entry: &[u64]) {
        let (line, words) = (entry[2], &entry[3..]);
        let at = |index: usize| words[index] as usize;
        match entry[0] {
            1 => self.written.push(Written {
                actor,
                line,
                change: words[0],
                begin: words[1],
                end: words[2],
                file: at(3),
                offset: at(4),
                length: at(5),
                in_steps: words[6] != 0,
            }),
            2 => self.resized.push(Resized {
                begin: words[0],
                end: words[1],
                file: at(2),
                how: words[3],
                at: at(4),
                length: at(5),
                error: words[6],
            }),
            3 => self.taken.push(Taken {
                line,
                begin: words[0],
                end: words[1],
                file: at(2),
                number: words[3],
                size: at(4),
                state: words[5],
                runs: words[7..].chunks_exact(2).take(at(6)).map(run).collect(),
            }),
            4 => self.complaints.push(seen_bad(line, words)),
            5 => self
                .complaints
                .push(format!("line {line}: a call fails: errno or status {} (at {})", words[1], words[0])),
            kind => panic!("an entry of kind {kind}"),
        }
    }
}

fn run(words: &[u64]) -> Run {
    Run { words: (words[0] >> 1) as usize, is_zero: words[0] & 1 != 0, value: words[1] }
}

fn seen_bad(line: u64, words: &[u64]) -> String {
    let state = match words[4] {
        0 => "exact",
        1 => "doubtful",
        2 => "broken",
        _ => "not a snapshot",
    };
    let what = match words[3] {
        1 => format!("changes at word {:#x}: it showed {:#018x} and shows {:#018x}", words[5], words[6], words[7]),
        2 => format!("faults at word {:#x}", words[5]),
        3 => "is not exact".to_owned(),
        _ => format!("does not end at the end of the file: word {:#x} can be read", words[5]),
    };
    format!("line {line}: snapshot {} of file {} {what}; state {state} (at {})", words[1], words[2], words[0])
}
