//! The names of the environment variables, and what a name that is none of them was meant to be.

/// Each variable that the library or the command obeys. A unit test holds the list beside the sources.
pub const NAMES: &[&str] = &[
    "SNAPSHIM_ANYFS",
    "SNAPSHIM_CHUNK_KB",
    "SNAPSHIM_CLAIM",
    "SNAPSHIM_DIR",
    "SNAPSHIM_DISABLE",
    "SNAPSHIM_FANOTIFY",
    "SNAPSHIM_FILES",
    "SNAPSHIM_GUARD_FILES",
    "SNAPSHIM_IO_URING",
    "SNAPSHIM_KEEP",
    "SNAPSHIM_LIBRARY",
    "SNAPSHIM_LOG",
    "SNAPSHIM_ON_FAILURE",
    "SNAPSHIM_PUSH",
    "SNAPSHIM_SHARED",
    "SNAPSHIM_SHARED_FILES",
    "SNAPSHIM_SHORT",
    "SNAPSHIM_STRICT",
    "SNAPSHIM_TIMEOUT_MS",
];

/// What the project's own tests read; the programs that they run inherit it.
const OF_TESTS: &[&str] = &[
    "SNAPSHIM_DAMAGE_",
    "SNAPSHIM_KILL_EVERY",
    "SNAPSHIM_ORACLE_",
    "SNAPSHIM_PLANT",
    "SNAPSHIM_SOAK_",
    "SNAPSHIM_STOP_EVERY",
    "SNAPSHIM_STOP_FIRST",
    "SNAPSHIM_STORM_",
];

const PREFIX: &str = "SNAPSHIM";
/// A name that is longer is cut: no variable's is nearly as long.
const LONGEST: usize = 40;

/// Whether a name begins as the variables' names do, or nearly so: one letter is wrong, is missing, is too many or has changed
/// places with the next, or letters are small. Other programs have names that are further away (SNAPSHOT_DIR).
pub fn is_nearly_own(name: &[u8]) -> bool {
    let mut candidates = (PREFIX.len() - 1..=PREFIX.len() + 1).filter_map(|length| {
        let separator = *name.get(length)?;
        (separator == b'_' || separator == b'-').then(|| &name[..length])
    });
    name.first().is_some_and(|first| b"SsNn".contains(first))
        && candidates.any(|start| distance(start, PREFIX.as_bytes()) <= 1)
}

/// Whether a variable of this name means something, to the library or to its tests.
pub fn is_known(name: &[u8]) -> bool {
    NAMES.iter().any(|known| known.as_bytes() == name)
        || OF_TESTS.iter().any(|start| name.starts_with(start.as_bytes()))
}

/// The variable whose name is nearest; `None` if none is near.
pub fn nearest(name: &[u8]) -> Option<&'static str> {
    let far = |known: &str| (known.len() - PREFIX.len()).max(2) / 2;
    let measured = NAMES.iter().map(|known| (distance(name, known.as_bytes()), *known));
    let near = measured.filter(|(distance, known)| *distance <= far(known));
    near.min_by_key(|(distance, _)| *distance).map(|(_, known)| known)
}

/// How many letters are to be changed, put in, left out or swapped with the next, to make one name of the other; small letters
/// count as capitals, and `-` as `_` (optimal string alignment).
fn distance(one: &[u8], other: &[u8]) -> usize {
    let (one, other) = (&one[..one.len().min(LONGEST)], &other[..other.len().min(LONGEST)]);
    let letter = |byte: u8| if byte == b'-' { b'_' } else { byte.to_ascii_uppercase() };
    let mut before = [0u8; LONGEST + 1];
    let mut last: [u8; LONGEST + 1] = core::array::from_fn(|column| column as u8);
    for (row, mine) in one.iter().enumerate() {
        let mut next = [row as u8 + 1; LONGEST + 1];
        for (column, theirs) in other.iter().enumerate() {
            let is_same = letter(*mine) == letter(*theirs);
            let mut least = (last[column] + u8::from(!is_same)).min(last[column + 1] + 1).min(next[column] + 1);
            let is_swapped = row > 0
                && column > 0
                && letter(one[row - 1]) == letter(*theirs)
                && letter(*mine) == letter(other[column - 1]);
            if is_swapped {
                least = least.min(before[column - 1] + 1);
            }
            next[column + 1] = least;
        }
        before = last;
        last = next;
    }
    usize::from(last[other.len()])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn a_mistyped_name_leads_to_the_right_one() {
        let cases = [
            ("SNAPSHIM_FILE", Some("SNAPSHIM_FILES")),
            ("SNAPSHIM_SHAREDFILES", Some("SNAPSHIM_SHARED_FILES")),
            ("SNAPSHIM_SHARED_FILE", Some("SNAPSHIM_SHARED_FILES")),
            ("SNAPSHIM_TIMEOUT", Some("SNAPSHIM_TIMEOUT_MS")),
            ("SNAPSHIM_DRI", Some("SNAPSHIM_DIR")),
            ("SNAPHSIM_DIR", Some("SNAPSHIM_DIR")),
            ("snapshim_log", Some("SNAPSHIM_LOG")),
            ("SNAPSHIM-KEEP", Some("SNAPSHIM_KEEP")),
            ("SNAPSHIM_ONFAIL", Some("SNAPSHIM_ON_FAILURE")),
            ("SNAPSHIM_XYZZY_PLUGH", None),
        ];
        for (name, wanted) in cases {
            assert!(is_nearly_own(name.as_bytes()) && !is_known(name.as_bytes()), "{name}");
            assert_eq!(nearest(name.as_bytes()), wanted, "{name}");
        }
    }

    #[test]
    fn names_of_other_programs_are_their_own() {
        for name in ["SNAPSHOT_DIR", "SNAPPER_FILES", "SHIM_LOG", "SNAP", "SNAPSHIM", "", "SNAPSHIMS", "NSS_FILES"] {
            assert!(!is_nearly_own(name.as_bytes()), "{name}");
        }
    }

    /// A variable that is not listed would be called mistyped.
    #[test]
    fn each_variable_in_the_sources_is_listed() {
        let mut found = BTreeSet::new();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for folder in [root.join("src"), root.join("../command/src")] {
            collect(&folder, &mut found);
        }
        assert_eq!(found, NAMES.iter().map(|name| (*name).to_owned()).collect());
    }

    fn collect(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, found);
            } else if !path.ends_with("variables.rs") {
                let text = fs::read_to_string(&path).unwrap();
                let quoted = text.split('"').filter(|part| part.starts_with("SNAPSHIM_"));
                let is_name = |part: &&str| part.bytes().all(|byte| byte == b'_' || byte.is_ascii_uppercase());
                found.extend(quoted.filter(is_name).map(str::to_owned));
            }
        }
    }
}
