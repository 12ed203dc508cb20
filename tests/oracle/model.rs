//! The reference model: what a snapshot may show, told from what was changed when.
//!
//! A snapshot is right if there is one set of changes, a *cut*, that it shows and nothing else: with every change that ended before
//! the snapshot began, with none that began after it ended, with whatever ended before a change in the cut began, and with whatever
//! an earlier snapshot shows. A call is in the cut or not; a change in steps may be in it in part.
//!
//! Of a file of lanes, or of one owner, every byte has one writer. So a cut is a number of changes for each writer: each word
//! that is shown says how many at least and how many at most, the clock says the same, and what the least numbers imply has to
//! stay below the most. A file that changes its size is changed by one at a time: its states are one after the other, and one
//! of them is shown.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::record::{ACTORS, Actor, Records, Resized, Run, Taken, Written};

const PAGE: usize = 4096;

/// What a change writes at a word of a file is the word's number, from this bit on, and the change: see
/// tests/programs/storm/oracle/shared.h.
const PLACE_SHIFT: u32 = 39;

/// Of an actor's changes, in the order in which it made them.
fn number(change: u64) -> u64 {
    change & 0xffff_ffff
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Lanes and files of one owner: each byte has one writer.
    Owned,
    /// One at a time changes it, its size too.
    Serial,
}

/// Everything that no history allows; empty if all is right.
pub fn judge(kinds: &[Kind], records: &Records) -> Vec<String> {
    let mut faults = records.complaints.clone();
    for (file, kind) in kinds.iter().enumerate() {
        let mut taken: Vec<&Taken> = records.taken.iter().filter(|taken| taken.file == file).collect();
        let written = records.written.iter().filter(|written| written.file == file && written.length > 0);
        let state = |taken: &&&Taken| taken.state != 0;
        faults.extend(
            taken.iter().filter(state).map(|taken| format!("{}: it is born with state {}", name(taken), taken.state)),
        );
        match kind {
            Kind::Owned => {
                taken.sort_by_key(|taken| taken.end);
                faults.extend(Owned::new(written).judge(&taken));
            }
            Kind::Serial => {
                let resized = records.resized.iter().filter(|resized| resized.file == file && resized.error == 0);
                taken.sort_by_key(|taken| taken.begin);
                faults.extend(Serial::new(written, resized).judge(&taken));
            }
        }
    }
    faults
}

fn name(taken: &Taken) -> String {
    format!("line {}: snapshot {} of file {} (at {}..{})", taken.line, taken.number, taken.file, taken.begin, taken.end)
}

/// Words that each change covers all or none of.
#[derive(Debug)]
struct Segment {
    start: usize,
    end: usize,
    owner: Actor,
    /// Of the owner's changes, as indices, those that cover it.
    changes: Vec<usize>,
}

struct Owned<'a> {
    /// Of each actor, in the order in which it made them.
    changes: Vec<Vec<&'a Written>>,
    segments: Vec<Segment>,
}

/// Of one actor's changes: how many are in the cut, and where that was seen.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// So many are in it whole.
    least: usize,
    /// No more than so many are in it whole.
    most: usize,
    /// The first so many are in it at least in part.
    touched: usize,
    least_at: Option<usize>,
    most_at: Option<usize>,
}

impl<'a> Owned<'a> {
    fn new(written: impl Iterator<Item = &'a Written>) -> Self {
        let mut changes = vec![Vec::new(); ACTORS];
        for one in written {
            changes[one.actor].push(one);
        }
        changes.iter_mut().for_each(|own: &mut Vec<&Written>| own.sort_by_key(|one| number(one.change)));
        let edges = |one: &&Written| [one.offset / 8, (one.offset + one.length) / 8];
        let edges: BTreeSet<usize> = changes.iter().flatten().flat_map(edges).collect();
        let edges: Vec<usize> = edges.into_iter().collect();
        let segment = |edge: &[usize]| Segment { start: edge[0], end: edge[1], owner: 0, changes: Vec::new() };
        let mut segments: Vec<Segment> = edges.windows(2).map(segment).collect();
        for (actor, own) in changes.iter().enumerate().skip(1) {
            for (index, one) in own.iter().enumerate() {
                let first = segments.partition_point(|segment| segment.start < one.offset / 8);
                for segment in &mut segments[first..] {
                    if segment.start >= (one.offset + one.length) / 8 {
                        break;
                    }
                    assert!(segment.owner == 0 || segment.owner == actor, "two writers of word {:#x}", segment.start);
                    segment.owner = actor;
                    segment.changes.push(index);
                }
            }
        }
        Self { changes, segments }
    }

    /// By when they ended.
    fn judge(&self, taken: &[&Taken]) -> Vec<String> {
        let mut faults = Vec::new();
        let mut shown: Vec<(u64, Vec<usize>)> = Vec::new();
        for taken in taken {
            let earlier = shown.partition_point(|(end, _)| *end < taken.begin).checked_sub(1);
            match self.least_of(taken, earlier.map(|index| shown[index].1.as_slice())) {
                Ok(mut least) => {
                    if let Some((_, last)) = shown.last() {
                        least.iter_mut().zip(last).for_each(|(own, before)| *own = (*own).max(*before));
                    }
                    shown.push((taken.end, least));
                }
                Err(fault) => faults.push(format!("{}: {fault}", name(taken))),
            }
        }
        faults
    }

    /// Of each actor the number of changes that have to be in the cut; an error if there is no cut.
    fn least_of(&self, taken: &Taken, earlier: Option<&[usize]>) -> Result<Vec<usize>, String> {
        let of_clock = |own: &Vec<&Written>| Bounds {
            least: own.partition_point(|one| one.end < taken.begin),
            most: own.partition_point(|one| one.begin < taken.end),
            touched: 0,
            least_at: None,
            most_at: None,
        };
        let mut bounds: Vec<Bounds> = self.changes.iter().map(of_clock).collect();
        for (own, least) in bounds.iter_mut().zip(earlier.unwrap_or_default()) {
            own.least = own.least.max(*least);
        }
        self.read(taken, &mut bounds)?;
        self.close(&mut bounds);
        for (actor, own) in bounds.iter().enumerate() {
            let begun = self.changes[actor].partition_point(|one| one.begin < taken.end);
            if own.least > own.most || own.touched > begun {
                return Err(self.describe(actor, own));
            }
        }
        Ok(bounds.into_iter().map(|own| own.least).collect())
    }

    /// What the words say.
    fn read(&self, taken: &Taken, bounds: &mut [Bounds]) -> Result<(), String> {
        let (mut at, mut index) = (0, 0);
        for run in &taken.runs {
            let end = at + run.words;
            while at < end {
                let Some(segment) = self.segments.get(index) else {
                    return Err(format!("word {at:#x} lies past the end"));
                };
                self.read_word(segment, run, at, bounds)?;
                at = end.min(segment.end);
                index += usize::from(at == segment.end);
            }
        }
        Ok(())
    }

    fn read_word(&self, segment: &Segment, run: &Run, at: usize, bounds: &mut [Bounds]) -> Result<(), String> {
        let (actor, owner) = ((run.value >> 32 & 0x7f) as usize, segment.owner);
        let bad = || Err(format!("word {at:#x} shows {:#x}, which was never written there", run.value));
        if run.is_zero {
            return bad();
        }
        let next = if actor == 0 && self.changes[0].iter().any(|one| one.change == run.value) {
            0
        } else {
            let own = &self.changes[owner];
            let of_number = |index: &usize| number(own[*index].change);
            let Ok(place) = segment.changes.binary_search_by_key(&number(run.value), of_number) else {
                return bad();
            };
            let shown = segment.changes[place];
            if own[shown].change != run.value {
                return bad();
            }
            let bounds = &mut bounds[owner];
            bounds.touched = bounds.touched.max(shown + 1);
            let least = shown + usize::from(!own[shown].in_steps);
            if least > bounds.least {
                (bounds.least, bounds.least_at) = (least, Some(at));
            }
            place + 1
        };
        if let Some(next) = segment.changes.get(next).filter(|next| **next < bounds[owner].most) {
            (bounds[owner].most, bounds[owner].most_at) = (*next, Some(at));
        }
        Ok(())
    }

    /// What ended before a change in the cut began is in it too.
    fn close(&self, bounds: &mut [Bounds]) {
        let mut begun = 0;
        loop {
            let last = |(own, changes): (&Bounds, &Vec<&Written>)| {
                own.touched.max(own.least).checked_sub(1).and_then(|last| changes.get(last)).map(|one| one.begin)
            };
            let latest = bounds.iter().zip(&self.changes).filter_map(last).max().unwrap_or(0);
            if latest <= begun {
                return;
            }
            begun = latest;
            for (own, changes) in bounds.iter_mut().zip(&self.changes) {
                own.least = own.least.max(changes.partition_point(|one| one.end < begun));
            }
        }
    }

    fn describe(&self, actor: Actor, own: &Bounds) -> String {
        let change = |index: usize| {
            let of = self.changes[actor].get(index);
            of.map_or_else(
                || "no change".to_owned(),
                |one| format!("change {:#x} of line {} at {}..{}", one.change, one.line, one.begin, one.end),
            )
        };
        let place = |at: Option<usize>| at.map_or_else(|| "the clock".to_owned(), |at| format!("word {at:#x}"));
        format!(
            "there is no cut: of writer {actor} {} changes are in it ({} says so; the last: {}; begun by then: {}), \
             but no more than {} ({} says so; the next: {})",
            own.least,
            place(own.least_at),
            change(own.least.max(1) - 1),
            own.touched,
            own.most,
            place(own.most_at),
            change(own.most)
        )
    }
}

enum Change<'a> {
    Written(&'a Written),
    Resized(&'a Resized),
}

impl Change<'_> {
    fn times(&self) -> (u64, u64) {
        match self {
            Self::Written(one) => (one.begin, one.end),
            Self::Resized(one) => (one.begin, one.end),
        }
    }

    fn in_steps(&self) -> bool {
        matches!(self, Self::Written(Written { in_steps: true, .. }))
    }

    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Written(one) => {
                bytes.resize(bytes.len().max(one.offset + one.length), 0);
                for (index, byte) in bytes[one.offset..one.offset + one.length].iter_mut().enumerate() {
                    let at = one.offset + index;
                    *byte = (((at / 8) as u64) << PLACE_SHIFT | one.change).to_ne_bytes()[at % 8];
                }
            }
            Self::Resized(one) => resize(one, bytes),
        }
    }
}

/// See `enum resizing` in tests/programs/storm/oracle/writes.h.
fn resize(one: &Resized, bytes: &mut Vec<u8>) {
    let (at, end, size) = (one.at, one.at + one.length, bytes.len());
    match one.how {
        0 | 1 => bytes.resize(at, 0),
        2 | 3 => bytes.clear(),
        4 => bytes.resize(size.max(end), 0),
        6 => bytes[at.min(size)..end.min(size)].fill(0),
        7 => {
            bytes.resize(size.max(end), 0);
            bytes[at..end].fill(0);
        }
        8 => drop(bytes.drain(at..end)),
        9 => drop(bytes.splice(at..at, std::iter::repeat_n(0, one.length))),
        _ => {}
    }
}

struct Serial<'a> {
    changes: Vec<Change<'a>>,
}

impl<'a> Serial<'a> {
    fn new(written: impl Iterator<Item = &'a Written>, resized: impl Iterator<Item = &'a Resized>) -> Self {
        let mut changes: Vec<Change> = written.map(Change::Written).chain(resized.map(Change::Resized)).collect();
        changes.sort_by_key(Change::times);
        Self { changes }
    }

    fn describe(&self, state: usize) -> String {
        match state.checked_sub(1).map(|last| &self.changes[last]) {
            None => "nothing".to_owned(),
            Some(Change::Written(one)) => format!(
                "line {}, {}..{}: {:#x} to {:#x} by writer {}",
                one.line,
                one.begin,
                one.end,
                one.offset,
                one.offset + one.length,
                one.actor
            ),
            Some(Change::Resized(one)) => {
                format!("{}..{}: way {} at {:#x} for {:#x}", one.begin, one.end, one.how, one.at, one.length)
            }
        }
    }

    /// By when they began.
    fn judge(&self, taken: &[&Taken]) -> Vec<String> {
        let mut faults = Vec::new();
        let mut window = VecDeque::from([Vec::new()]);
        // The state that the front of the window is; the least state that an earlier snapshot shows, by when it ended.
        let mut front = 0;
        let mut shown: BTreeMap<u64, usize> = BTreeMap::new();
        for taken in taken {
            let clock = self.changes.partition_point(|one| one.times().1 < taken.begin);
            let most = self.changes.partition_point(|one| one.times().0 < taken.end);
            while front + window.len() <= most {
                let mut next: Vec<u8> = window.back().unwrap().clone();
                self.changes[front + window.len() - 1].apply(&mut next);
                window.push_back(next);
                if front < clock {
                    window.pop_front();
                    front += 1;
                }
            }
            while front < clock {
                window.pop_front();
                front += 1;
            }
            let least = shown.range(..taken.begin).map(|(_, state)| *state).max().unwrap_or(0).max(clock);
            let bytes = bytes_of(&taken.runs);
            let is_shown = |state: &usize| {
                let own = &window[state - front];
                is_like(own, None, &bytes, taken.size)
                    || *state > least
                        && self.changes[state - 1].in_steps()
                        && is_like(own, Some(&window[state - 1 - front]), &bytes, taken.size)
            };
            match (least..=most).find(is_shown) {
                // Of a change in steps a part may be shown.
                Some(state) => drop(shown.insert(taken.end, state.saturating_sub(1).max(least))),
                None => {
                    let states: Vec<String> = (least.saturating_sub(2).max(front)..=most)
                        .map(|state| {
                            format!(
                                "state {state}, after {}: {}",
                                self.describe(state),
                                difference(&window[state - front], &bytes)
                            )
                        })
                        .collect();
                    faults.push(format!(
                        "{}: no state of {least} to {most} has these {} bytes:\n  {}",
                        name(taken),
                        taken.size,
                        states.join("\n  ")
                    ));
                }
            }
        }
        faults
    }
}

/// To the end of the last page.
fn bytes_of(runs: &[Run]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for run in runs {
        for _ in 0..run.words {
            let at = (bytes.len() / 8) as u64;
            let word = if run.is_zero { 0 } else { run.value.wrapping_add(at << PLACE_SHIFT) };
            bytes.extend(word.to_ne_bytes());
        }
    }
    bytes
}

/// Are these the bytes of a state, or, byte by byte, of one of two; with nothing but zeros up to the end of the page?
fn is_like(state: &[u8], other: Option<&Vec<u8>>, bytes: &[u8], size: usize) -> bool {
    if state.len() != size || bytes.len() != size.div_ceil(PAGE) * PAGE || bytes[size..].iter().any(|byte| *byte != 0) {
        return false;
    }
    match other {
        None => state == &bytes[..size],
        Some(other) => {
            let is_either = |at: usize| bytes[at] == state[at] || other.get(at) == Some(&bytes[at]);
            (0..size).all(is_either)
        }
    }
}

fn difference(state: &[u8], bytes: &[u8]) -> String {
    let word =
        |from: &[u8], at: usize| from.get(at..at + 8).map_or(0, |word| u64::from_ne_bytes(word.try_into().unwrap()));
    let differs = |at: &usize| word(state, *at) != word(bytes, *at);
    let places: Vec<usize> = (0..bytes.len()).step_by(8).filter(differs).collect();
    let shown = |at: &usize| format!("word {:#x} is {:#x} and not {:#x}", at / 8, word(bytes, *at), word(state, *at));
    let list: Vec<String> = places.iter().take(3).map(shown).collect();
    format!("{} bytes, {} words differ: {}", state.len(), places.len(), list.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(actor: Actor, number: u64, (begin, end): (u64, u64), (offset, length): (usize, usize)) -> Written {
        let change = (actor as u64) << 32 | number;
        Written { actor, line: 0, change, begin, end, file: 0, offset, length, in_steps: false }
    }

    fn taken((begin, end): (u64, u64), size: usize, runs: &[(usize, u64)]) -> Taken {
        let run = |(words, value): &(usize, u64)| Run { words: *words, is_zero: *value == 0, value: *value };
        let runs = runs.iter().map(run).collect();
        Taken { line: 0, begin, end, file: 0, number: 0, size, state: 0, runs }
    }

    const FIRST: u64 = 1;

    fn of(actor: u64, number: u64) -> u64 {
        actor << 32 | number
    }

    /// A page of two lanes: 1 writes the first half, 2 the second.
    fn lanes(snapshots: &[Taken]) -> Vec<String> {
        let written = vec![
            written(0, 1, (0, 1), (0, PAGE)),
            written(1, 1, (10, 20), (0, PAGE / 2)),
            written(1, 2, (21, 40), (0, PAGE / 2)),
            written(2, 1, (15, 18), (PAGE / 2, PAGE / 2)),
            written(2, 2, (30, 35), (PAGE / 2, PAGE / 2)),
        ];
        judge(&[Kind::Owned], &Records { written, taken: snapshots.to_vec(), ..Records::default() })
    }

    #[test]
    fn a_cut_is_right() {
        assert_eq!(lanes(&[taken((2, 5), PAGE, &[(512, FIRST)])]), [""; 0]);
        assert_eq!(lanes(&[taken((12, 16), PAGE, &[(256, FIRST), (256, of(2, 1))])]), [""; 0]);
        assert_eq!(lanes(&[taken((25, 33), PAGE, &[(256, of(1, 2)), (256, of(2, 1))])]), [""; 0]);
    }

    #[test]
    fn a_torn_call_is_wrong() {
        let torn = taken((12, 16), PAGE, &[(1, of(1, 1)), (255, FIRST), (256, FIRST)]);
        assert_eq!(lanes(&[torn]).len(), 1);
    }

    #[test]
    fn a_newer_byte_at_the_start_of_a_page_is_wrong() {
        assert_eq!(lanes(&[taken((22, 23), PAGE, &[(256, of(1, 1)), (256, of(2, 1))])]), [""; 0]);
        assert_eq!(lanes(&[taken((22, 23), PAGE, &[(1, of(1, 2)), (255, of(1, 1)), (256, of(2, 1))])]).len(), 1);
    }

    #[test]
    fn what_ended_before_is_in_and_what_begins_after_is_not() {
        assert_eq!(lanes(&[taken((22, 23), PAGE, &[(256, FIRST), (256, of(2, 1))])]).len(), 1);
        assert_eq!(lanes(&[taken((2, 5), PAGE, &[(256, of(1, 1)), (256, FIRST)])]).len(), 1);
    }

    #[test]
    fn what_ended_before_a_change_that_is_shown_began_is_shown() {
        // The second change of 2 began when the first of 1 had ended.
        let cut = taken((12, 33), PAGE, &[(256, FIRST), (256, of(2, 2))]);
        assert_eq!(lanes(&[cut]).len(), 1);
    }

    #[test]
    fn what_an_earlier_snapshot_shows_a_later_one_shows() {
        let first = taken((25, 26), PAGE, &[(256, of(1, 2)), (256, of(2, 1))]);
        let second = taken((27, 28), PAGE, &[(256, of(1, 1)), (256, of(2, 1))]);
        assert_eq!(lanes(std::slice::from_ref(&second)), [""; 0]);
        assert_eq!(lanes(&[first, second]).len(), 1);
    }

    #[test]
    fn a_word_at_a_wrong_place_is_wrong() {
        assert_eq!(lanes(&[taken((2, 5), PAGE, &[(511, FIRST), (1, FIRST + (1 << PLACE_SHIFT))])]).len(), 1);
        assert_eq!(lanes(&[taken((2, 5), PAGE, &[(511, FIRST), (1, 0)])]).len(), 1);
    }

    fn serial(snapshot: Taken, in_steps: bool) -> Vec<String> {
        let mut second = written(1, 1, (10, 20), (0, PAGE));
        second.in_steps = in_steps;
        let resized =
            |begin: u64, how, at, length| Resized { begin, end: begin + 5, file: 0, how, at, length, error: 0 };
        let records = Records {
            written: vec![written(0, 1, (0, 1), (0, PAGE)), second],
            resized: vec![resized(30, 0, 20, 0), resized(40, 4, 0, 32), resized(50, 9, 0, PAGE)],
            taken: vec![snapshot],
            ..Records::default()
        };
        judge(&[Kind::Serial], &records)
    }

    #[test]
    fn one_state_is_right_and_two_are_not() {
        assert_eq!(serial(taken((12, 13), PAGE, &[(512, FIRST)]), false), [""; 0]);
        assert_eq!(serial(taken((12, 13), PAGE, &[(512, of(1, 1))]), false), [""; 0]);
        let mixed = taken((12, 13), PAGE, &[(200, of(1, 1)), (312, FIRST)]);
        assert_eq!(serial(mixed.clone(), false).len(), 1);
        assert_eq!(serial(mixed, true), [""; 0]);
    }

    #[test]
    fn a_file_that_is_cut_and_grows_shows_zeros() {
        let half = 1u64.wrapping_sub(2 << PLACE_SHIFT);
        assert_eq!(serial(taken((37, 38), 20, &[(2, of(1, 1)), (1, half), (509, 0)]), false), [""; 0]);
        assert_eq!(serial(taken((47, 48), 32, &[(2, of(1, 1)), (1, half), (509, 0)]), false), [""; 0]);
        assert_eq!(serial(taken((47, 48), 32, &[(3, of(1, 1)), (509, 0)]), false).len(), 1);
    }

    #[test]
    fn bytes_past_the_end_are_zero() {
        let half = 1u64.wrapping_sub(2 << PLACE_SHIFT);
        assert_eq!(serial(taken((37, 38), 20, &[(2, of(1, 1)), (1, half), (508, 0), (1, 7)]), false).len(), 1);
    }

    #[test]
    fn what_is_inserted_moves_the_rest() {
        let moved = of(1, 1).wrapping_sub(512 << PLACE_SHIFT);
        let half = 1u64.wrapping_sub(514 << PLACE_SHIFT);
        let runs = [(512, 0), (2, moved), (1, half), (509, 0)];
        assert_eq!(serial(taken((57, 58), PAGE + 32, &runs), false), [""; 0]);
        assert_eq!(serial(taken((57, 58), PAGE + 31, &runs), false).len(), 1);
    }
}
