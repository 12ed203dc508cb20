//! The layers: each source file imports what lies below it, and no file imports, by whatever way round, what imports it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The layers of one crate, the highest first: each may import itself and those behind it.
///
/// A layer is a file or a folder of the crate's sources; a sub-folder named here is a layer of its own.
struct Crate {
    sources: &'static str,
    layers: &'static [&'static str],
}

const CRATES: [Crate; 3] = [
    Crate {
        sources: "shim/src",
        layers: &[
            "constructor",
            "c_api",
            "hooks",
            "hooks/process",
            "hooks/signal",
            "hooks/stdio",
            "hooks/aio",
            "hooks/file",
            "lifecycle",
            "snapshot",
            "agent",
            "shared",
            "mapper",
            "writer",
            "origins",
            "address_space",
            "signals",
            "process",
            "interpose",
            "base",
        ],
    },
    Crate { sources: "src", layers: &["preserve", "cooperate", "table", "protocol", "sys"] },
    Crate {
        sources: "command/src",
        layers: &[
            "commands",
            "doctor",
            "view",
            "copy",
            "verdict",
            "overview",
            "survey",
            "snapshot",
            "library",
            "program",
            "processes",
            "maps",
            "table",
            "number",
            "interrupt",
            "failure",
            "cli",
        ],
    },
];

/// A place in the modules of a crate: `a::b` as ["a", "b"].
type Module = Vec<String>;

/// One use of another file, and where it stands.
struct Arrow {
    from: Module,
    to: Module,
    line: usize,
}

impl Crate {
    fn root(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(self.sources)
    }

    /// The file of each module.
    fn files(&self) -> BTreeMap<Module, PathBuf> {
        let mut found = BTreeMap::new();
        collect(&self.root(), &mut |path| {
            let inside = path.strip_prefix(self.root()).unwrap().with_extension("");
            let mut module: Module = inside.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
            if module.last().is_some_and(|last| last == "mod" || last == "main") || module == ["lib"] {
                module.pop();
            }
            found.insert(module, path.to_owned());
        });
        found
    }

    /// The layer of a module, counted from the highest; the crate's root lies above all.
    fn layer(&self, module: &Module) -> Option<usize> {
        let path = module.join("/");
        let holds = |layer: &&str| path == *layer || path.starts_with(&format!("{layer}/"));
        let longest = self.layers.iter().filter(|layer| holds(layer)).max_by_key(|layer| layer.len())?;
        self.layers.iter().position(|layer| layer == longest)
    }

    /// What is wrong, a line each.
    fn faults(&self) -> Vec<String> {
        let files = self.files();
        let text = |module: &Module| fs::read_to_string(&files[module]).unwrap();
        let place = |module: &Module, line: usize| {
            let path = files[module].strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap();
            format!("{}:{line}", path.display())
        };
        let mut faults = Vec::new();
        let mut graph: BTreeMap<Module, BTreeMap<Module, usize>> = BTreeMap::new();
        for module in files.keys().filter(|module| !module.is_empty()) {
            let Some(layer) = self.layer(module) else {
                faults.push(format!("{}: in no layer of the list", place(module, 1)));
                continue;
            };
            for Arrow { from, to, line } in arrows(module, &text(module), &files) {
                if self.layer(&to).is_some_and(|other| other < layer) {
                    faults.push(format!("{}: runs up: {} -> {}", place(&from, line), from.join("::"), to.join("::")));
                }
                graph.entry(from).or_default().entry(to).or_insert(line);
            }
        }
        for circle in circles(&graph) {
            let inside = |module: &Module| circle.contains(module);
            let mut text = format!("{}: a circle of {} files:", self.sources, circle.len());
            for from in &circle {
                for (to, line) in graph[from].iter().filter(|(to, _)| inside(to)) {
                    text += &format!("\n    {}: {} -> {}", place(from, *line), from.join("::"), to.join("::"));
                }
            }
            faults.push(text);
        }
        faults
    }
}

fn collect(directory: &Path, found: &mut dyn FnMut(&Path)) {
    let mut entries: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found(&path);
        }
    }
}

/// The code of a source file: comments, strings and characters are blank, and so are its tests. Lines stay where they are.
fn code(text: &str) -> String {
    without_tests(&without_prose(text))
}

fn without_prose(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut kept = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = end_of_prose(bytes, at);
        if end > at {
            kept[at..end].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
            at = end;
        } else if is_word(bytes[at]) {
            // The prefix of a string (c"", br#""#) is no word of its own.
            let word = at + bytes[at..].iter().take_while(|byte| is_word(**byte)).count();
            let is_prefix = matches!(&bytes[at..word], b"r" | b"b" | b"c" | b"br" | b"cr");
            at = if is_prefix && end_of_raw(bytes, word) > word { end_of_raw(bytes, word) } else { word };
            if is_prefix && at > word {
                kept[word..at].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
            }
        } else {
            at += 1;
        }
    }
    String::from_utf8_lossy(&kept).into_owned()
}

const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Behind a comment, a string or a character that begins at `at`; `at` where there is none.
fn end_of_prose(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let found = |end: Option<usize>| end.map_or(bytes.len(), |end| at + end);
    if rest.starts_with(b"//") {
        return found(rest.iter().position(|byte| *byte == b'\n'));
    }
    if rest.starts_with(b"/*") {
        return found(rest.windows(2).position(|two| two == b"*/").map(|end| end + 2));
    }
    if rest[0] == b'"' {
        let mut end = 1;
        while end < rest.len() && rest[end] != b'"' {
            end += if rest[end] == b'\\' { 2 } else { 1 };
        }
        return (at + end + 1).min(bytes.len());
    }
    if rest[0] == b'\'' && rest.len() > 2 {
        if rest[1] == b'\\' {
            let end = rest[2..].iter().skip(1).position(|byte| *byte == b'\'');
            return found(end.map(|end| end + 4));
        }
        // Else a lifetime.
        let length = (1..=4).find(|length| rest.get(1 + length) == Some(&b'\''));
        let is_character =
            length.is_some_and(|length| str::from_utf8(&rest[1..=length]).is_ok_and(|it| it.chars().count() == 1));
        return if is_character { at + length.unwrap() + 2 } else { at };
    }
    at
}

/// Behind a raw string whose `#` or quote stands at `at`; `at` where there is none.
fn end_of_raw(bytes: &[u8], at: usize) -> usize {
    let hashes = bytes[at..].iter().take_while(|byte| **byte == b'#').count();
    if hashes == 0 || bytes.get(at + hashes) != Some(&b'"') {
        return at;
    }
    let end = [&b"\""[..], &b"#".repeat(hashes)].concat();
    let inside = at + hashes + 1;
    let found = bytes[inside..].windows(end.len()).position(|window| window == end);
    found.map_or(bytes.len(), |found| inside + found + end.len())
}

/// What only tests and models compile may import what it tests.
fn without_tests(code: &str) -> String {
    let mut kept = code.to_owned();
    for attribute in ["#[cfg(test)]", "#[cfg(all(test", "#[cfg(loom)]"] {
        let mut from = 0;
        while let Some(found) = kept[from..].find(attribute) {
            let start = from + found;
            let end = end_of_item(&kept, start);
            let blank: String = kept[start..end].chars().map(|it| if it == '\n' { '\n' } else { ' ' }).collect();
            kept.replace_range(start..end, &blank);
            from = end;
        }
    }
    kept
}

/// Behind the item that begins with the attribute at `start`: its semicolon, or its outermost brace.
fn end_of_item(code: &str, start: usize) -> usize {
    let mut depth = 0;
    for (at, character) in code[start..].char_indices() {
        match character {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => {
                depth -= 1;
                if depth == 0 && character == '}' {
                    return start + at + 1;
                }
            }
            ';' if depth == 0 => return start + at + 1,
            _ => {}
        }
    }
    code.len()
}

/// Where modules that are written inside the file begin and end.
fn inline_modules(code: &str) -> Vec<std::ops::Range<usize>> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("mod ") {
        if at > 0 && is_word(code.as_bytes()[at - 1]) {
            continue;
        }
        let rest = &code[at + 4..];
        let name = rest.trim_start().trim_start_matches('$');
        let behind = name.trim_start_matches(|it: char| it.is_ascii_alphanumeric() || it == '_').trim_start();
        if name.len() != behind.len() && behind.starts_with('{') {
            found.push(at..end_of_item(code, at));
        }
    }
    found
}

/// The imports of a file, and the paths that stand in its code, as far as they lead to other files of its crate.
fn arrows(module: &Module, text: &str, files: &BTreeMap<Module, PathBuf>) -> Vec<Arrow> {
    let code = code(text);
    let inline = inline_modules(&code);
    let scope = Scope { module, files };
    let mut names: BTreeMap<String, Module> = BTreeMap::new();
    let mut found = Vec::new();
    let mut add = |target: &Module, at: usize| {
        let line = 1 + code[..at].matches('\n').count();
        if let Some(to) = scope.file_of(target)
            && to != *module
            && !to.is_empty()
        {
            found.push(Arrow { from: module.clone(), to, line });
        }
    };
    let mut uses = Vec::new();
    for (at, _) in code.match_indices("use ") {
        if at > 0 && is_word(code.as_bytes()[at - 1]) {
            continue;
        }
        let Some(length) = code[at..].find(';') else { continue };
        uses.push(at..at + length);
        let depth = inline.iter().filter(|inline| inline.contains(&at)).count();
        for (path, alias) in tree(&code[at + 4..at + length]) {
            let Some(target) = scope.resolve(&path, depth, &BTreeMap::new()) else { continue };
            let is_module = files.contains_key(&target);
            add(&target, at);
            let bound = alias.or_else(|| path.last().cloned()).unwrap_or_default();
            if depth == 0 && (is_module || !names.contains_key(&bound)) {
                names.insert(bound, target);
            }
        }
    }
    for (at, path) in paths(&code) {
        if uses.iter().any(|range| range.contains(&at)) {
            continue;
        }
        let depth = inline.iter().filter(|inline| inline.contains(&at)).count();
        if let Some(target) = scope.resolve(&path, depth, &names) {
            add(&target, at);
        }
    }
    found
}

/// Where a file's paths are read.
struct Scope<'a> {
    module: &'a Module,
    files: &'a BTreeMap<Module, PathBuf>,
}

impl Scope<'_> {
    /// Where in the crate a path leads; `None`: elsewhere. `depth` modules inside the file stand around it.
    fn resolve(&self, path: &[String], depth: usize, names: &BTreeMap<String, Module>) -> Option<Module> {
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => Some(rest.to_vec()),
            "super" => {
                let supers = path.iter().take_while(|part| *part == "super").count();
                // Within the file.
                let up = supers.checked_sub(depth)?;
                let base = self.module.len().checked_sub(up)?;
                Some([&self.module[..base], &path[supers..]].concat())
            }
            "self" => (depth == 0).then(|| [self.module.as_slice(), rest].concat()),
            _ if names.contains_key(first) => Some([names[first].as_slice(), rest].concat()),
            _ => {
                let child = [self.module.as_slice(), std::slice::from_ref(first)].concat();
                self.files.contains_key(&child).then(|| [self.module.as_slice(), path].concat())
            }
        }
    }

    /// The file in which the target of a path stands.
    fn file_of(&self, target: &Module) -> Option<Module> {
        (0..=target.len()).rev().map(|length| target[..length].to_vec()).find(|prefix| self.files.contains_key(prefix))
    }
}

/// The paths of a use declaration, each with the name that it is given.
fn tree(text: &str) -> Vec<(Module, Option<String>)> {
    let text = text.trim();
    if let Some(open) = text.find('{') {
        let before: Module = words(&text[..open]);
        let inside = &text[open + 1..text.rfind('}').unwrap_or(text.len())];
        let with = |(path, alias): (Module, _)| {
            let path: Module = if path == ["self"] { before.clone() } else { [before.as_slice(), &path].concat() };
            (path, alias)
        };
        return split(inside).flat_map(tree).map(with).collect();
    }
    if text.is_empty() {
        return Vec::new();
    }
    let (path, alias) =
        text.split_once(" as ").map_or((text, None), |(path, alias)| (path, Some(alias.trim().to_owned())));
    vec![(words(path), alias)]
}

fn words(path: &str) -> Module {
    path.split("::").map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}

/// At the commas outside of braces.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0;
    text.split(move |it| {
        depth += i32::from(it == '{') - i32::from(it == '}');
        it == ',' && depth == 0
    })
}

/// The paths of at least two parts in code, and where they begin.
fn paths(code: &str) -> Vec<(usize, Module)> {
    let bytes = code.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        if !is_word(bytes[at]) {
            at += 1;
            continue;
        }
        let start = at;
        let mut path = Vec::new();
        loop {
            let end = at + bytes[at..].iter().take_while(|byte| is_word(**byte)).count();
            path.push(code[at..end].to_owned());
            at = end;
            let next = at + bytes[at..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            if !bytes[next..].starts_with(b"::") {
                break;
            }
            let next = next + 2;
            let next = next + bytes[next..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            if next >= bytes.len() || !is_word(bytes[next]) {
                break;
            }
            at = next;
        }
        let is_inner = code[..start].trim_end().ends_with("::");
        if path.len() > 1 && !is_inner {
            found.push((start, path));
        }
    }
    found
}

/// The files that import one another, each group once.
fn circles(graph: &BTreeMap<Module, BTreeMap<Module, usize>>) -> Vec<BTreeSet<Module>> {
    let reached: BTreeMap<_, _> = graph.keys().map(|from| (from, reach(graph, from))).collect();
    let mut found: Vec<BTreeSet<Module>> = Vec::new();
    for (from, all) in &reached {
        let back = |to: &&Module| reached.get(to).is_some_and(|back| back.contains(*from));
        let circle: BTreeSet<Module> = all.iter().filter(back).cloned().collect();
        if circle.contains(*from) && !found.contains(&circle) {
            found.push(circle);
        }
    }
    found
}

fn reach(graph: &BTreeMap<Module, BTreeMap<Module, usize>>, from: &Module) -> BTreeSet<Module> {
    let mut found = BTreeSet::new();
    let mut left = vec![from.clone()];
    while let Some(next) = left.pop() {
        for to in graph.get(&next).into_iter().flat_map(BTreeMap::keys) {
            if found.insert(to.clone()) {
                left.push(to.clone());
            }
        }
    }
    found
}

fn check(index: usize) {
    let faults = CRATES[index].faults();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn no_import_of_the_library_runs_up_or_round() {
    check(0);
}

#[test]
fn no_import_of_the_core_runs_up_or_round() {
    check(1);
}

#[test]
fn no_import_of_the_command_runs_up_or_round() {
    check(2);
}

/// What is read of a file, by an example of each kind.
#[test]
fn paths_are_found_where_code_names_them() {
    let files: BTreeMap<Module, PathBuf> =
        ["a", "a/b", "a/c", "a/x", "d", "e", "f"].map(|path| (words(&path.replace('/', "::")), PathBuf::new())).into();
    let text = r##"
//! crate::f::comment
use crate::a::{self, b::{X, Y as Z}};
use super::c as other;
fn one() -> &'static str { crate::d::two('"', "crate::f::string", r#"crate::f::raw"#) }
fn three() { other::four(); a::five(); c"crate::f::bytes"; /* crate::f::block */ std::mem::take(&mut 1); }
mod inner { use super::*; fn six() { super::super::super::e::seven() } }
#[cfg(test)]
mod tests { use crate::f; }
"##;
    let found: BTreeSet<(String, usize)> =
        arrows(&words("a::x"), text, &files).into_iter().map(|arrow| (arrow.to.join("::"), arrow.line)).collect();
    let expected = [("a", 3), ("a", 6), ("a::b", 3), ("a::c", 4), ("a::c", 6), ("d", 5), ("e", 7)];
    assert_eq!(found, expected.map(|(path, line)| (path.to_owned(), line)).into());
}
