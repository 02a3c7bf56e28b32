//! Keeps ARCHITECTURE.md true: the pure modules stay pure.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::{Path, PathBuf};

const PURE: [&str; 6] = [
    "factory-engine/src/types.rs",
    "factory-engine/src/terms.rs",
    "factory-engine/src/tx",
    "factory-engine/src/wire",
    "factory-engine/src/record",
    "factory-engine/src/protocol",
];
const IMPURE: [&str; 12] = [
    "tokio",
    "cln_plugin",
    "cln_rpc",
    "rusqlite",
    "getrandom",
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
    "SystemTime",
    "Instant::",
    "crate::cln",
];

fn sources(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            sources(&entry.unwrap().path(), found);
        }
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        found.push(path.to_owned());
    }
}

fn code(path: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(path).unwrap();
    let is_code = |line: &&str| !line.trim_start().starts_with("//");
    (1..)
        .zip(text.lines())
        .filter(|(_, line)| is_code(line))
        .map(|(at, line)| (at, line.to_owned()))
        .collect()
}

#[test]
fn the_pure_part_names_nothing_impure() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    PURE.iter().for_each(|path| sources(&root.join(path), &mut files));
    assert!(files.len() > 20, "the pure part has moved: mend this test");
    let mut found = Vec::new();
    for file in &files {
        for (at, line) in code(file) {
            if let Some(name) = IMPURE.iter().find(|name| line.contains(**name)) {
                found.push(format!("{}:{at}: {name}", file.strip_prefix(root).unwrap().display()));
            }
        }
    }
    assert!(found.is_empty(), "impure names in the pure part:\n{}", found.join("\n"));
}

#[test]
fn layers_import_only_what_lies_below() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let rules: [(&str, &[&str]); 3] = [
        ("factory-engine/src/tx", &["crate::wire", "crate::record", "crate::protocol"]),
        ("factory-engine/src/wire", &["crate::record", "crate::protocol"]),
        // Not the messages, so that a change on the wire changes no disk.
        ("factory-engine/src/record", &["wire::message", "wire::envelope", "wire::link", "crate::protocol"]),
    ];
    for (folder, forbidden) in rules {
        let mut files = Vec::new();
        sources(&root.join(folder), &mut files);
        for file in &files {
            for (at, line) in code(file) {
                let upward = forbidden.iter().find(|name| line.contains(**name));
                assert_eq!(upward, None, "{}:{at}", file.display());
            }
        }
    }
}

#[test]
fn only_one_file_names_the_musig_crate() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    sources(&root.join("factory-engine/src"), &mut files);
    sources(&root.join("factory-runtime/src"), &mut files);
    sources(&root.join("factory-lab/src"), &mut files);
    for file in &files {
        let musig = file.starts_with(root.join("factory-engine/src/tx/musig.rs"))
            || file.starts_with(root.join("factory-engine/src/tx/musig"));
        let names =
            code(file).iter().any(|(_, line)| line.contains("musig2::") || line.contains("use musig2"));
        assert!(!names || musig, "{} names the MuSig2 crate", file.display());
    }
}

#[test]
fn no_source_file_is_longer_than_600_lines() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    sources(&root.join("factory-engine/src"), &mut files);
    sources(&root.join("factory-runtime/src"), &mut files);
    sources(&root.join("factory-lab/src"), &mut files);
    for file in &files {
        let lines = fs::read_to_string(file).unwrap().lines().count();
        assert!(lines <= 600, "{} has {lines} lines", file.display());
    }
}
