//! The documents name what is there: files, folders, functions, faults, tests and make's targets.
//!
//! docs/architecture.md is how a reader finds a file. Each name in it that the sources do not have fails here, and so does a folder
//! of the sources that it does not name.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

const ARCHITECTURE: &str = "docs/architecture.md";

/// Names of the files in a folder, by suffix.
fn files_in(folder: &str, suffix: &str) -> Vec<String> {
    let entries = fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path());
    let names =
        entries.filter(|path| path.is_file()).map(|path| path.file_name().unwrap().to_str().unwrap().to_owned());
    let mut names: Vec<_> =
        names.filter(|name| name.ends_with(suffix)).map(|name| format!("{folder}/{name}")).collect();
    names.sort();
    names
}

/// The documents for people, by their paths.
fn documents() -> Vec<String> {
    [".", "docs", "tests"].iter().flat_map(|folder| files_in(folder, ".md")).collect()
}

/// What stands between backquotes, line by line.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// Whether a quoted word is a path in the repository; `NAME` in it stands for any.
fn is_path(word: &str) -> bool {
    const ROOTS: [&str; 7] = ["shim/", "src/", "command/", "tests/", "docs/", "examples/", ".github/"];
    ROOTS.iter().any(|root| word.starts_with(root)) && !word.contains([' ', '*']) && !word.contains("NAME")
}

/// The targets of the links of a line that lead into the repository.
fn linked(line: &str) -> impl Iterator<Item = &str> {
    let targets = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.filter(|target| !target.starts_with(['#', 'h']) || target.starts_with("how"))
}

#[test]
fn every_path_in_the_documents_is_there() {
    let mut missing = Vec::new();
    let mut seen = 0;
    for document in documents() {
        let folder = Path::new(&document).parent().unwrap().to_owned();
        for line in read(&document).lines() {
            let paths = quoted(line).filter(|word| is_path(word)).map(|word| root().join(word));
            let links = linked(line).map(|target| root().join(&folder).join(target.split('#').next().unwrap()));
            for path in paths.chain(links) {
                seen += 1;
                if !path.exists() {
                    missing.push(format!("{document} names {}", path.display()));
                }
            }
        }
    }
    assert!(seen > 100, "the documents were read");
    assert!(missing.is_empty(), "{missing:#?}");
}

/// All folders below one of the sources that have files, as the document writes them.
fn folders(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap());
    let names = entries.filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name().into_string().unwrap());
    let below = names.map(|name| format!("{folder}/{name}"));
    let named = |path: &String| if files_in(path, ".rs").is_empty() { vec![] } else { vec![format!("{path}/")] };
    below.flat_map(|path| [named(&path), folders(&path)].concat()).collect()
}

#[test]
fn every_folder_of_the_sources_is_named() {
    let text = read(ARCHITECTURE);
    let all = [folders("shim/src"), folders("src"), folders("command/src")].concat();
    assert!(all.len() > 15, "the folders were found");
    let unnamed: Vec<_> = all.iter().filter(|folder| !text.contains(&format!("`{folder}`"))).collect();
    assert!(unnamed.is_empty(), "{ARCHITECTURE} does not say what lives in {unnamed:?}");
}

/// The layers of the library, of the core and of the command, from the top: as the test of imports has them.
fn layers() -> Vec<Vec<String>> {
    let source = read("tests/layers.rs");
    let lists = source.split("layers: &[").skip(1).filter_map(|rest| rest.split(']').next());
    let names = |list: &str| list.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    lists.map(names).collect()
}

/// Words in the order of the text, each once.
fn in_order(words: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen = Vec::new();
    words.for_each(|word| {
        if !seen.contains(&word) {
            seen.push(word)
        }
    });
    seen
}

#[test]
fn the_tables_show_the_layers_of_the_test_of_imports() {
    let text = read(ARCHITECTURE);
    let headings = [
        ("### The library, from the top", "shim/src/"),
        ("### The core, from the top", "src/"),
        ("### The command, from the top", "command/src/"),
    ];
    for ((heading, sources), layers) in headings.into_iter().zip(layers()) {
        let table = text.split_once(heading).expect("the table is there").1.lines();
        let rows = table.skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
        let cells = rows.filter_map(|row| row.split('|').nth(1));
        let name = |path: &str| path.trim_end_matches('/').trim_end_matches(".rs").to_owned();
        let shown = in_order(cells.flat_map(quoted).filter_map(|word| word.strip_prefix(sources)).map(name));
        assert_eq!(shown, layers, "{heading}");
    }
}

#[test]
fn the_picture_shows_the_layers_of_the_test_of_imports() {
    let text = read(ARCHITECTURE);
    let pictures = text.split("subgraph ").skip(1).map(|picture| picture.split("\n  end").next().unwrap());
    for (picture, layers) in pictures.zip(layers()) {
        // The first is the picture's own.
        let labels = picture.split("[\"").skip(2).filter_map(|rest| rest.split("\"]").next());
        let names = labels.flat_map(|label| label.split(", "));
        let shown = in_order(names.map(|name| name.trim_end_matches('/').trim_end_matches(".rs").to_owned()));
        let layers: Vec<_> = layers.into_iter().filter(|layer| !layer.contains('/')).collect();
        assert_eq!(shown, layers);
    }
}

#[test]
fn every_function_is_in_the_file_named_before_it() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    let mut file = String::new();
    for line in read(ARCHITECTURE).lines() {
        for word in quoted(line) {
            if is_path(word) {
                word.clone_into(&mut file);
            } else if let Some(name) = word.strip_suffix("()") {
                seen += 1;
                let text = fs::read_to_string(root().join(&file)).unwrap_or_default();
                let is_there = ["(", "<"].iter().any(|next| text.contains(&format!("fn {name}{next}")));
                if !is_there {
                    wrong.push(format!("{word} in {file}"));
                }
            }
        }
    }
    assert!(seen > 30, "the journeys were read");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_fault_is_one_that_can_be_planted() {
    let text = read(ARCHITECTURE);
    let faults: Vec<_> = text.lines().flat_map(quoted).filter_map(|word| word.strip_prefix("Fault::")).collect();
    let there = read("src/sys/sync.rs");
    assert!(faults.len() > 10, "the rules were read");
    let wrong: Vec<_> = faults.iter().filter(|fault| !there.contains(&format!("    {fault},\n"))).collect();
    assert!(wrong.is_empty(), "no model leaves out {wrong:?}");
}

/// What tells a person or a machine which commands to run.
fn instructions() -> Vec<String> {
    [documents(), vec!["./Makefile".to_owned()], files_in(".github/workflows", ".yml"), files_in("tests", ".sh")]
        .concat()
}

#[test]
fn every_test_that_is_to_be_run_is_there() {
    let modules = test_modules();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for document in instructions() {
        // A command may go on in the next line.
        let text = read(&document).split_whitespace().collect::<Vec<_>>().join(" ");
        let mut commands = text.split("--test ").skip(1);
        let of_integration = commands.clone().filter_map(|rest| rest.strip_prefix("integration "));
        if let Some(other) = commands.find(|rest| !["integration", "models"].iter().any(|name| rest.starts_with(name)))
        {
            wrong.push(format!("{document}: --test {other:.20}"));
        }
        let end =
            |rest: &str| rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(rest.len());
        for name in of_integration.map(|rest| &rest[..end(rest)]).filter(|name| !name.is_empty()) {
            seen += 1;
            if !modules.contains(name) {
                wrong.push(format!("{document}: --test integration {name}"));
            }
        }
    }
    assert!(seen > 5, "the commands were read");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The modules of the integration tests.
fn test_modules() -> BTreeSet<String> {
    let main = read("tests/main.rs");
    let names = main.lines().filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'));
    names.filter(|name| *name != "common").map(str::to_owned).collect()
}

#[test]
fn each_test_file_is_a_module() {
    let modules = test_modules();
    let names = |path: String| Some(path.strip_prefix("tests/")?.strip_suffix(".rs")?.to_owned());
    let files: BTreeSet<_> = files_in("tests", ".rs").into_iter().filter_map(names).collect();
    let files: BTreeSet<_> = files.iter().filter(|file| *file != "main").collect();
    assert!(files.len() > 50, "the files were found");
    for file in files {
        assert!(modules.contains(file), "tests/{file}.rs is not in tests/main.rs");
    }
}

/// The targets in a command line of make's; `None`: it is another command.
fn targets(command: &str) -> Option<impl Iterator<Item = &str>> {
    let words = command.trim_start_matches("- run:").trim().strip_prefix("make ")?.split_whitespace();
    Some(words.take_while(|word| !word.starts_with(['#', '|', '&'])).filter(|word| !word.contains('=')))
}

#[test]
fn every_target_of_make_is_there() {
    let makefile = read("Makefile");
    let mut wrong = Vec::new();
    let mut seen = 0;
    for document in instructions().into_iter().filter(|path| !path.ends_with("Makefile")) {
        let text = read(&document);
        let commands = text.lines().flat_map(|line| quoted(line).chain(core::iter::once(line.trim())));
        for target in commands.filter_map(targets).flatten() {
            seen += 1;
            if !makefile.lines().any(|line| line.starts_with(&format!("{target}:"))) {
                wrong.push(format!("{document}: make {target}"));
            }
        }
    }
    assert!(seen > 10, "the commands were read");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The crates that a manifest asks for.
fn dependencies(manifest: &str) -> Vec<String> {
    let text = read(manifest);
    let sections = text.split("\n[").filter(|section| section.split(']').next().unwrap().ends_with("dependencies"));
    let lines = sections.flat_map(|section| section.lines().skip(1)).filter(|line| !line.starts_with('#'));
    let names =
        lines.filter_map(|line| line.split_once('=')).map(|(name, _)| name.trim().trim_end_matches(".workspace"));
    names.filter(|name| *name != "snapshim").map(str::to_owned).collect()
}

#[test]
fn every_crate_that_is_used_has_its_place() {
    let text = read(ARCHITECTURE);
    let crates: Vec<_> = text.split_once("## The crates").expect("the crates are there").1.split('`').collect();
    let used = ["Cargo.toml", "shim/Cargo.toml", "shim/region/Cargo.toml", "command/Cargo.toml"]
        .into_iter()
        .flat_map(dependencies);
    let used: Vec<_> = used.collect();
    assert!(used.len() > 10, "the manifests were read");
    let unnamed: Vec<_> = used.iter().filter(|name| !crates.contains(&name.as_str())).collect();
    assert!(unnamed.is_empty(), "{ARCHITECTURE} does not say what for: {unnamed:?}");
}

#[test]
fn the_changelog_knows_the_layout_of_the_table() {
    let source = read("src/table/attach.rs");
    let name = source.split("\"table-").nth(1).and_then(|rest| rest.split('"').next());
    let layout = name.expect("the table has a name");
    let changelog = read("CHANGELOG.md");
    assert!(
        changelog.contains(&format!("`table-{layout}`")),
        "CHANGELOG.md speaks of another file than table-{layout}"
    );
    let last = changelog.lines().rfind(|line| line.starts_with("| ")).unwrap();
    assert!(last.starts_with(&format!("| {layout} |")), "CHANGELOG.md ends with {last:?}, the layout is {layout}");
}
