//! Makes a history that failed as short as it can be with the failure still to be seen.

use std::time::{Duration, Instant};

use proptest::strategy::ValueTree;

use super::history::History;
use super::run::live;

/// A race does not show each time.
const TRIES: usize = 4;

/// The shortest script that failed, and its faults.
pub fn shrink(
    mut tree: impl ValueTree<Value = History>,
    faults: Vec<String>,
    limit: Duration,
) -> (String, Vec<String>) {
    let end = Instant::now() + limit;
    let mut best = (tree.current().to_string(), faults);
    let mut is_simpler = tree.simplify();
    while is_simpler && Instant::now() < end {
        let script = tree.current().to_string();
        let failed = if script == best.0 { Some(best.1.clone()) } else { fails(&script, TRIES, end) };
        is_simpler = match failed {
            Some(faults) => {
                best = (script, faults);
                tree.simplify()
            }
            None => tree.complicate(),
        };
    }
    best
}

fn fails(script: &str, tries: usize, end: Instant) -> Option<Vec<String>> {
    (0..tries).take_while(|_| Instant::now() < end).map(|_| live(script).faults).find(|faults| !faults.is_empty())
}
