//! Keeps planted/bugs.toml true: what shall be changed for a bug is in the tree, once, and no bug is.

// In planted/run's copy they are planted.
#![cfg(not(planted_bugs))]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::{Path, PathBuf};

/// An entry of planted/bugs.toml, as far as it is looked at here.
#[derive(Default)]
struct Bug {
    name: String,
    property: String,
    what: String,
    tests: Option<String>,
    seed: Option<u64>,
    edits: Vec<Edit>,
}

#[derive(Default)]
struct Edit {
    file: String,
    find: String,
    asks: bool,
}

/// What that file needs of TOML: tables, whole numbers, and strings in one line or between two `"""`.
fn bugs() -> Vec<Bug> {
    let text = fs::read_to_string(root().join("planted/bugs.toml")).unwrap();
    let mut lines = text.lines();
    let mut bugs: Vec<Bug> = Vec::new();
    while let Some(line) = lines.next() {
        match line {
            "[[bug]]" => bugs.push(Bug::default()),
            "[[bug.edit]]" => bugs.last_mut().unwrap().edits.push(Edit::default()),
            _ if line.is_empty() || line.starts_with('#') => {}
            _ => {
                let (key, value) = line.split_once(" = ").unwrap_or_else(|| panic!("what is {line:?}?"));
                let value = if value.parse::<u64>().is_ok() {
                    value.to_owned()
                } else if value == "\"\"\"" {
                    let block: Vec<&str> =
                        lines.by_ref().take_while(|line| !line.ends_with("\"\"\"")).collect();
                    block.join("\n")
                } else {
                    let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
                    quoted.unwrap_or_else(|| panic!("no string: {line:?}")).replace("\\\"", "\"")
                };
                let bug = bugs.last_mut().unwrap();
                match (key, bug.edits.last_mut()) {
                    ("name", None) => bug.name = value,
                    ("property", None) => bug.property = value,
                    ("what", None) => bug.what = value,
                    ("tests", None) => bug.tests = Some(value),
                    ("seed", None) => bug.seed = value.parse().ok(),
                    ("file", Some(edit)) => edit.file = value,
                    ("find", Some(edit)) => edit.find = value,
                    ("replace", Some(edit)) => {
                        edit.asks = line.contains("PLANTED") || value.contains("PLANTED")
                    }
                    _ => panic!("{line:?} is out of place"),
                }
            }
        }
    }
    bugs
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Rust sources of the workspace's packages: below a folder `src`.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, found);
        } else if name.ends_with(".rs") && path.iter().any(|part| part == "src") {
            found.push(path.strip_prefix(root()).unwrap().to_owned());
        }
    }
}

/// Each file with its text.
fn tree() -> Vec<(String, String)> {
    let mut files = Vec::new();
    sources(root(), &mut files);
    let read = |file: PathBuf| (file.display().to_string(), fs::read_to_string(root().join(&file)).unwrap());
    files.into_iter().map(read).collect()
}

/// Line breaks and indentation don't count.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Edits whose text is in a tree not once, but never or more often.
fn misplaced(bugs: &[Bug], tree: &[(String, String)]) -> Vec<String> {
    let tree: Vec<_> = tree.iter().map(|(file, text)| (file, words(text))).collect();
    let mut wrong = Vec::new();
    for Bug { name, edits, .. } in bugs {
        assert!(edits.iter().any(|edit| edit.asks), "{name}: nothing asks whether it is planted");
        for Edit { file, find, .. } in edits {
            let among = tree.iter().filter(|(path, _)| path.ends_with(file.as_str()));
            let count: usize = among.map(|(_, text)| text.matches(&words(find)).count()).sum();
            if count != 1 || find.is_empty() {
                wrong.push(format!("{name}: found {count} times: {find}"));
            }
        }
    }
    wrong
}

#[test]
fn each_bug_has_its_place() {
    let bugs = bugs();
    assert!(!bugs.is_empty());
    let wrong = misplaced(&bugs, &tree());
    assert!(wrong.is_empty(), "mend planted/bugs.toml:\n{}", wrong.join("\n"));
}

/// Code that is changed, gone or there twice takes a bug's place away.
#[test]
fn a_bug_without_its_place_is_noticed() {
    let (bugs, tree) = (bugs(), tree());
    let at = tree.iter().position(|(file, _)| file.ends_with("chain/evict.rs")).unwrap();
    let (mut changed, mut gone, mut twice) = (tree.clone(), tree.clone(), tree.clone());
    changed[at].1 = changed[at].1.replace("step.height >= factory", "step.height > factory");
    gone.remove(at);
    twice.push((format!("{}.rs", tree[at].0), tree[at].1.clone()));
    for (tree, bug, count) in [
        (&changed, "evict-late", "0 times"),
        (&gone, "evict-never", "0 times"),
        (&twice, "evict-never", "2 times"),
        (&twice, "evict-late", "2 times"),
    ] {
        let wrong = misplaced(&bugs, tree);
        assert!(wrong.iter().any(|line| line.starts_with(&format!("{bug}: found {count}"))), "{wrong:?}");
    }
    let spread = tree[at].1.split(' ').collect::<Vec<_>>().join("\n    ");
    let reflowed = vec![(tree[at].0.clone(), spread)];
    assert!(!misplaced(&bugs, &reflowed).iter().any(|line| line.starts_with("evict-")), "lines don't count");
}

/// Code that handles money has no switch for a mistake; the simulator's own program may ask for one.
#[test]
fn no_bug_is_planted_in_the_tree() {
    for (file, text) in tree() {
        let program = file.ends_with("bin/factory-sim.rs");
        let knows = ["planted(", "planted::", "planted_bugs"].iter().any(|name| text.contains(name));
        assert!(program || !knows, "{file} knows of planted bugs");
    }
}

/// docs/planted.md says of each bug what the list says.
#[test]
fn the_table_is_complete() {
    let text = fs::read_to_string(root().join("docs/planted.md")).unwrap();
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| `")).collect();
    let bugs = bugs();
    assert_eq!(rows.len(), bugs.len());
    for (row, Bug { name, property, what, tests, seed, .. }) in rows.into_iter().zip(bugs) {
        assert!(row.starts_with(&format!("| `{name}` | {what} | {property} |")), "{name}: {row}");
        assert_eq!(row.contains("| tests |"), tests.is_some(), "{name}: {row}");
        assert!(tests.is_none() || seed.is_none(), "{name}: nothing begins with a seed but the simulator");
        if let Some(tests) = tests {
            assert!(root().join(format!("tests/{tests}.rs")).is_file(), "{name}: there are no tests {tests}");
        }
    }
}
