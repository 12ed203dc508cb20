//! Every import runs down: no file of the library or of the core uses a layer above its own, and no files use each other in a circle.
//!
//! The layers, from the top, are the rows of the tables in docs/architecture.md. They stand nowhere else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A crate: where its sources lie, and the heading over its layers.
const CRATES: [(&str, &str); 2] =
    [("shim/src/", "### The library, from the top"), ("src/", "### The core, from the top")];

/// The layer of each file and folder right below a crate's sources; the top one is 0.
fn layers((sources, heading): (&str, &str)) -> BTreeMap<String, usize> {
    let document = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let section = document.split_once(heading).unwrap().1;
    let rows = section.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let mut layers = BTreeMap::new();
    for (layer, row) in rows.enumerate() {
        let cell = row.split('|').nth(1).unwrap();
        for path in cell.split('`').filter_map(|word| word.strip_prefix(sources)) {
            let name = path.trim_end_matches('/').trim_end_matches(".rs");
            if !name.contains('/') {
                layers.insert(name.to_owned(), layer);
            }
        }
    }
    assert!(layers.len() > 5, "the layers of {sources} were read");
    layers
}

/// The files below a folder, by their paths from there.
fn files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let below = entries.flat_map(|path| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let inside = |file: String| format!("{name}/{file}");
        if path.is_dir() { files(&path).into_iter().map(inside).collect() } else { vec![name] }
    });
    let mut files: Vec<_> = below.filter(|file| file.ends_with(".rs")).collect();
    files.sort();
    files
}

/// A source text without its comments and its unit tests.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// `a::{b, c::{d, e}}` as the paths a::b, a::c::d and a::c::e.
fn expand(tree: &str) -> Vec<String> {
    let Some((prefix, rest)) = tree.split_once('{') else {
        return vec![tree.split(" as ").next().unwrap().trim().to_owned()];
    };
    let inner = rest.rsplit_once('}').unwrap().0;
    let mut depth = 0;
    let branches = inner.split(|letter| {
        depth += i32::from(letter == '{') - i32::from(letter == '}');
        letter == ',' && depth == 0
    });
    let branches = branches.map(str::trim).filter(|branch| !branch.is_empty());
    branches.flat_map(expand).map(|path| format!("{}{path}", prefix.trim())).collect()
}

/// The paths that a source text uses: those of its `use` lines, and those that it writes out.
fn paths(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = code;
    let is_part = |letter: char| letter.is_alphanumeric() || letter == '_';
    // Not in the middle of a sentence that a person reads.
    let begins_item = |before: &str| {
        let line = before.rsplit('\n').next().unwrap().trim();
        line.is_empty() || line.starts_with("pub") || line.ends_with('{')
    };
    while let Some(at) = ["use ", "crate::", "super::", "self::"].iter().filter_map(|word| rest.find(word)).min() {
        let starts_word = !rest[..at].ends_with(|letter| is_part(letter) || letter == ':');
        let (before, from) = (at, &rest[at..]);
        let end = match from.strip_prefix("use ") {
            Some(tree) if begins_item(&rest[..at]) => {
                let end = tree.find(';').unwrap_or(0);
                found.extend(expand(&tree[..end]));
                "use ".len() + end
            }
            Some(_) => "use ".len(),
            None => {
                let end = from.find(|letter| !is_part(letter) && letter != ':').unwrap_or(from.len());
                if starts_word {
                    found.push(from[..end].to_owned());
                }
                end
            }
        };
        rest = &rest[before + end..];
    }
    found
}

/// The module that a file is: `a/b.rs` is a::b, `a/mod.rs` is a.
fn module(file: &str) -> Vec<&str> {
    let mut parts: Vec<_> = file.trim_end_matches(".rs").split('/').collect();
    if parts.last().is_some_and(|last| ["mod", "lib"].contains(last)) {
        parts.pop();
    }
    parts
}

/// What `path` in `file` means, from the crate's root on; `None`: another crate, or a name of the file's own.
fn resolve<'a>(file: &'a str, path: &'a str, is_module: impl Fn(&[&str]) -> bool) -> Option<Vec<&'a str>> {
    let own = module(file);
    let mut parts: Vec<_> = path.split("::").filter(|part| !part.is_empty()).collect();
    let first = *parts.first()?;
    let base = match first {
        "crate" => vec![],
        "self" => own,
        "super" => {
            let up = parts.iter().take_while(|part| **part == "super").count();
            parts.drain(..up - 1);
            own[..own.len().saturating_sub(up)].to_vec()
        }
        child => {
            parts.insert(0, "self");
            if !is_module(&[own.as_slice(), &[child]].concat()) {
                return None;
            }
            own
        }
    };
    Some([base, parts[1..].to_vec()].concat())
}

/// The file that a path leads into.
fn file_of(path: &[&str], files: &BTreeSet<String>) -> Option<String> {
    (1..=path.len()).rev().find_map(|length| {
        let name = path[..length].join("/");
        [format!("{name}.rs"), format!("{name}/mod.rs")].into_iter().find(|file| files.contains(file))
    })
}

/// For each file of a crate, the paths that it imports from the crate.
fn imports(sources: &str) -> (BTreeSet<String>, BTreeMap<String, BTreeSet<String>>) {
    let folder = root().join(sources);
    let all: BTreeSet<_> = files(&folder).into_iter().collect();
    let is_module = |path: &[&str]| {
        let name = path.join("/");
        all.contains(&format!("{name}.rs")) || all.contains(&format!("{name}/mod.rs"))
    };
    let of_file = |file: &String| {
        let text = code(&fs::read_to_string(folder.join(file)).unwrap());
        let found = paths(&text);
        let resolved = found.iter().filter_map(|path| resolve(file, path, is_module)).filter(|path| !path.is_empty());
        (file.clone(), resolved.map(|path| path.join("::")).collect())
    };
    (all.clone(), all.iter().filter(|file| *file != "lib.rs").map(of_file).collect())
}

fn top(path: &str) -> &str {
    path.split(['/', ':']).next().unwrap().trim_end_matches(".rs")
}

#[test]
fn every_file_lies_in_a_layer() {
    for one in CRATES {
        let layers = layers(one);
        let lost: Vec<_> = imports(one.0).1.into_keys().filter(|file| !layers.contains_key(top(file))).collect();
        assert!(lost.is_empty(), "docs/architecture.md says in which layer of {} these lie: {lost:?}", one.0);
    }
}

#[test]
fn the_picture_shows_the_layers_of_the_tables() {
    let document = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let mut pictures = document.split("subgraph ").skip(1).map(|picture| picture.split("\n  end").next().unwrap());
    for one in CRATES {
        let picture = pictures.next().expect("one picture for each crate");
        let labels = picture.split("[\"").skip(2).map(|rest| rest.split("\"]").next().unwrap());
        let shown: Vec<_> = labels.flat_map(|label| label.split(", ")).map(top).collect();
        let mut wanted: Vec<_> = layers(one).into_iter().map(|(name, layer)| (layer, name)).collect();
        wanted.sort();
        let rank = |name: &str| wanted.iter().find(|(_, other)| other == name).map(|(layer, _)| *layer);
        let ranks: Vec<_> = shown.iter().map(|name| rank(name)).collect();
        assert!(ranks.is_sorted() && ranks.iter().all(Option::is_some), "{shown:?} in the order of {wanted:?}");
        assert_eq!(shown.len(), wanted.len(), "{shown:?} are all of {wanted:?}");
    }
}

#[test]
fn no_import_runs_up() {
    for one in CRATES {
        let layers = layers(one);
        let mut up = Vec::new();
        let mut down = 0;
        for (file, paths) in imports(one.0).1 {
            for path in paths {
                match (layers.get(top(&file)), layers.get(top(&path))) {
                    (Some(own), Some(other)) if other < own => up.push(format!("{file} uses {path}")),
                    (Some(own), Some(other)) => down += usize::from(other > own),
                    _ => {}
                }
            }
        }
        assert!(down > 20, "the imports of {} were read", one.0);
        assert!(up.is_empty(), "in {}: {up:#?}", one.0);
    }
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    for (sources, _) in CRATES {
        let (all, imports) = imports(sources);
        let next = |file: &String| -> BTreeSet<String> {
            let paths = imports.get(file).into_iter().flatten();
            let parts = paths.map(|path| path.split("::").collect::<Vec<_>>());
            parts.filter_map(|path| file_of(&path, &all)).filter(|other| other != file).collect()
        };
        // What imports nothing that is left is in no circle.
        let mut left: BTreeMap<_, _> = imports.keys().map(|file| (file.clone(), next(file))).collect();
        while let Some(free) = left.iter().find(|(_, next)| next.iter().all(|file| !left.contains_key(file))) {
            let free = free.0.clone();
            left.remove(&free);
        }
        // What nothing imports that is left only leads to one.
        while let Some(first) = left.keys().find(|file| !left.values().any(|next| next.contains(*file))).cloned() {
            left.remove(&first);
        }
        assert!(left.is_empty(), "in {sources} these import each other: {:?}", left.keys());
    }
}

#[test]
fn an_import_is_read_however_it_is_written() {
    let text = "use super::{a, b::{c, d as e}};\nuse core::ptr; // crate::no\nfn f() { crate::g::h(); self::i() }\nuse j::k;\n";
    let wanted = ["super::a", "super::b::c", "super::b::d", "core::ptr", "crate::g::h", "self::i", "j::k"];
    assert_eq!(paths(&code(text)), wanted);
    let resolved = |path| resolve("x/y.rs", path, |module| module == ["x", "y", "j"]).map(|path| path.join("::"));
    assert_eq!(resolved("super::a").as_deref(), Some("x::a"));
    assert_eq!(resolved("super::super::a").as_deref(), Some("a"));
    assert_eq!(resolved("crate::g::h").as_deref(), Some("g::h"));
    assert_eq!(resolved("j::k").as_deref(), Some("x::y::j::k"));
    assert_eq!(resolved("core::ptr"), None);
    assert_eq!(resolve("x/mod.rs", "super::a", |_| false), Some(vec!["a"]));
}
