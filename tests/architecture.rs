//! Keeps ARCHITECTURE.md true, by reading manifests and imports: what each crate may name and depend on,
//! which way its modules import each other, and that no file is longer than 600 lines.

#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "architecture/imports.rs"]
mod imports;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use imports::{Graph, code};

const ENGINE: &str = "factory-engine/src";
const RUNTIME: &str = "factory-runtime/src";
const PLUGIN: &str = "src";
const LAB: &str = "factory-lab/src";
const CRATES: [&str; 4] = [ENGINE, RUNTIME, PLUGIN, LAB];

/// What a crate never names outside of comments.
const FORBIDDEN: [(&str, &[&str]); 4] = [
    (
        ENGINE,
        &[
            "tokio",
            "serde_json",
            "getrandom",
            "rusqlite",
            "tokio_postgres",
            "cln_",
            "factory_runtime",
            "factory_lab",
            "std::env",
            "std::fs",
            "std::io",
            "std::net",
            "std::os",
            "std::process",
            "std::thread",
            "std::time",
            "SystemTime",
            "Instant::",
        ],
    ),
    (RUNTIME, &["serde_json", "rusqlite", "tokio_postgres", "cln_", "factory_lab", "std::fs", "std::net"]),
    (PLUGIN, &["factory_lab"]),
    (LAB, &["cln_", "tokio"]),
];

/// All that a crate's `[dependencies]` may have.
const DEPENDENCIES: [(&str, &[&str]); 3] = [
    (
        "factory-engine",
        &["bitcoin", "bitcoinconsensus", "chacha20poly1305", "secp256k1", "secp-musig", "zeroize"],
    ),
    ("factory-runtime", &["bitcoin", "factory-engine", "getrandom", "log", "tokio"]),
    ("factory-lab", &["bitcoin", "factory-engine", "factory-runtime", "serde_json"]),
];

/// Names, each with others.
type Table = &'static [(&'static str, &'static [&'static str])];

/// Which modules of a crate may import which, each with all that it may.
const DIRECTIONS: [(&str, Table); 3] = [
    (
        ENGINE,
        &[
            ("types", &[]),
            ("terms", &["types"]),
            ("tx", &["types", "terms"]),
            ("wire", &["types", "terms", "tx"]),
            ("record", &["types", "terms", "tx", "wire"]),
            ("signing", &["types", "terms", "tx", "record"]),
            ("policy", &["types", "terms", "tx", "wire"]),
            ("io", &["types", "terms", "tx", "wire", "record", "policy"]),
            ("memory", &["types", "terms", "tx", "wire", "record", "signing", "io"]),
            ("step", &["types", "terms", "wire", "record", "signing", "io", "memory"]),
            (
                "engine",
                &["types", "terms", "tx", "wire", "record", "signing", "policy", "io", "memory", "step"],
            ),
            ("report", &["types", "terms", "tx", "record", "memory", "engine"]),
            // The capabilities: of each other they import no more than this.
            (
                "chain",
                &["types", "terms", "tx", "wire", "record", "io", "memory", "step", "engine", "report"],
            ),
            ("fees", &["types", "tx", "record", "policy", "io", "memory", "step", "engine", "chain"]),
            ("admission", &["types", "terms", "tx", "record", "policy", "engine"]),
            (
                "create",
                &[
                    "types", "terms", "tx", "wire", "record", "signing", "policy", "io", "memory", "step",
                    "engine", "report",
                ],
            ),
            (
                "sale",
                &[
                    "types", "terms", "tx", "wire", "record", "signing", "policy", "io", "memory", "step",
                    "engine",
                ],
            ),
            ("backup", &["types", "wire", "record", "io", "memory", "step", "engine"]),
            // What a tower publishes is what its client would.
            ("tower", &["types", "terms", "tx", "wire", "record", "io", "memory", "step", "engine", "chain"]),
            (
                "reclaim",
                &["types", "terms", "tx", "record", "signing", "policy", "io", "memory", "step", "engine"],
            ),
            (
                "handover",
                &["types", "terms", "tx", "wire", "record", "policy", "io", "memory", "step", "engine"],
            ),
            (
                "close",
                &["types", "terms", "tx", "wire", "record", "signing", "io", "memory", "step", "engine"],
            ),
            // Whether a client may leave is what a renewal waits for in the end.
            (
                "renew",
                &["types", "terms", "wire", "record", "policy", "io", "memory", "step", "engine", "handover"],
            ),
            // What a client leaves for, and when, is a handover's.
            (
                "ramp",
                &["types", "terms", "wire", "record", "policy", "io", "memory", "step", "engine", "handover"],
            ),
            // A rung is an ordinary creation.
            (
                "ladder",
                &["types", "terms", "tx", "record", "policy", "io", "memory", "step", "engine", "report"],
            ),
            ("moving", &["types", "tx", "wire", "record", "io", "memory", "step", "engine", "admission"]),
            (
                "handle",
                &["types", "wire", "record", "io", "memory", "step", "engine", "chain", "sale", "close"],
            ),
        ],
    ),
    (PLUGIN, &[("config", &[]), ("cln", &["config"])]),
    (
        LAB,
        &[
            ("fault", &[]),
            ("key", &[]),
            ("rng", &["fault", "key"]),
            ("chain", &[]),
            ("store", &[]),
            ("judge", &[]),
            ("node", &["chain", "key", "rng"]),
            ("offer", &[]),
            ("scripted", &[]),
            ("world", &["fault", "key", "rng", "chain", "store", "judge", "node", "offer"]),
            ("scenario", &["offer", "world"]),
            ("raw", &["offer", "world", "scenario"]),
            (
                "sim",
                &["fault", "key", "rng", "chain", "store", "judge", "node", "offer", "world", "scenario"],
            ),
            ("years", &["fault", "chain", "offer", "world", "scenario"]),
        ],
    ),
];

/// What one file or folder imports of another only in part: of the second nothing but the third.
const ONLY: [(&str, &str, &[&str]); 4] = [
    // Bytes of keys, nonces and signatures.
    ("wire", "tx", &["tx::musig"]),
    // Not the messages, so that a change on the wire changes no disk.
    ("record", "wire", &["wire::codec"]),
    ("policy", "wire", &["wire::codec", "wire::message"]),
    // Not the factory: whoever signs brings its own.
    ("signing", "record", &["record::event"]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            sources(&entry.unwrap().path(), found);
        }
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        found.push(path.to_owned());
    }
}

fn files(folder: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    sources(&root().join(folder), &mut files);
    files.sort();
    assert!(!files.is_empty(), "nothing in {folder}: mend this test");
    files
}

fn shown(file: &Path) -> String {
    file.strip_prefix(root()).unwrap().display().to_string()
}

#[test]
fn a_crate_names_nothing_that_lies_above_it() {
    let mut found = Vec::new();
    for (folder, forbidden) in FORBIDDEN {
        for file in files(folder) {
            for (at, line) in code(&fs::read_to_string(&file).unwrap()) {
                let names = forbidden.iter().filter(|name| line.contains(**name));
                found.extend(names.map(|name| format!("{}:{at}: {name}", shown(&file))));
            }
        }
    }
    assert!(found.is_empty(), "names that have no place there:\n{}", found.join("\n"));
}

#[test]
fn a_crate_depends_on_nothing_that_lies_above_it() {
    for (package, allowed) in DEPENDENCIES {
        let manifest = fs::read_to_string(root().join(package).join("Cargo.toml")).unwrap();
        let section =
            manifest.split("\n[").find_map(|section| section.strip_prefix("dependencies]")).unwrap();
        let lines = section.lines().filter(|line| !line.starts_with('#'));
        let names: Vec<&str> = lines
            .filter_map(|line| line.split(['.', ' ', '=']).next())
            .filter(|name| !name.is_empty())
            .collect();
        assert_eq!(names, allowed, "{package}/Cargo.toml");
    }
    let plugin = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let normal = plugin.split("\n[").find_map(|section| section.strip_prefix("dependencies]")).unwrap();
    assert!(!normal.contains("factory-lab"), "the plugin needs the lab");
}

#[test]
fn modules_import_only_what_lies_below() {
    let mut wrong = Vec::new();
    for (folder, directions) in DIRECTIONS {
        let graph = Graph::read(&root().join(folder));
        let directions: BTreeMap<&str, &[&str]> = directions.iter().copied().collect();
        for (from, to, file) in graph.between_children("") {
            let allowed = directions.get(from.as_str());
            if !allowed.is_some_and(|allowed| allowed.contains(&to.as_str())) {
                wrong.push(format!("{folder}/{file}: {from} imports {to}"));
            }
        }
        for name in graph.children("") {
            if !directions.contains_key(name.as_str()) {
                wrong.push(format!("{folder}: {name} is new: say here what it may import"));
            }
        }
    }
    let engine = Graph::read(&root().join(ENGINE));
    for (from, to, parts) in ONLY {
        for (path, file) in engine.imports_of(from) {
            let inside = |part: &str| path == part || path.starts_with(&format!("{part}::"));
            if inside(to) && !parts.iter().any(|part| inside(part)) {
                wrong.push(format!("{file}: {from} imports {path}"));
            }
        }
    }
    // The root only shows what others need: an import of it would hide which module it is.
    let hidden = engine.imports_of_root();
    wrong.extend(
        hidden.iter().map(|(path, file)| format!("{file}: {path} is imported from the crate's root")),
    );
    assert!(wrong.is_empty(), "imports that go the wrong way:\n{}", wrong.join("\n"));
}

#[test]
fn no_two_modules_import_each_other() {
    for folder in CRATES {
        let graph = Graph::read(&root().join(folder));
        let mut found: BTreeSet<(String, String)> = BTreeSet::new();
        for parent in graph.folders() {
            let edges: BTreeSet<(String, String)> =
                graph.between_children(&parent).into_iter().map(|(from, to, _)| (from, to)).collect();
            let inside =
                |name: &str| if parent.is_empty() { name.to_owned() } else { format!("{parent}::{name}") };
            let mutual =
                edges.iter().filter(|(from, to)| from < to && edges.contains(&(to.clone(), from.clone())));
            found.extend(mutual.map(|(from, to)| (inside(from), inside(to))));
        }
        assert!(found.is_empty(), "{folder}: modules that import each other: {found:#?}");
    }
}

/// S28: what a peer says for people is `Words`, which are cut and escaped where they are read. A `String` would
/// be whatever it likes.
#[test]
fn no_message_has_plain_text() {
    let read = |file| fs::read_to_string(root().join("factory-engine/src/wire").join(file)).unwrap();
    let text = ["message.rs", "message/sale.rs"].map(read).concat();
    let plain: Vec<_> = code(&text).into_iter().filter(|(_, line)| line.contains("String")).collect();
    assert!(plain.is_empty(), "{plain:?}");
    assert_eq!(text.matches(": Words =>").count(), 3);
}

#[test]
fn only_one_module_names_a_musig_crate() {
    let mut named = 0;
    for folder in CRATES.into_iter().chain(["benches", "tests", "fuzz/src", "fuzz/fuzz_targets"]) {
        for file in files(folder) {
            let name = shown(&file);
            if name.starts_with("tests/architecture") {
                continue;
            }
            let text = fs::read_to_string(&file).unwrap();
            let paths = imports::paths(&text);
            let is_musig = |path: &String| {
                let mut parts = path.split("::");
                let first = parts.next().unwrap_or_default();
                matches!(first, "musig2" | "secp_musig") || path.contains("secp256k1::musig")
            };
            if paths.iter().any(is_musig) {
                let musig = name == "factory-engine/src/tx/musig.rs"
                    || name.starts_with("factory-engine/src/tx/musig/");
                assert!(musig, "{name} names a MuSig2 crate");
                named += 1;
            }
        }
    }
    assert!(named > 0, "nobody names it: mend this test");
}

#[test]
fn no_source_file_is_longer_than_600_lines() {
    for folder in CRATES {
        for file in files(folder) {
            let lines = fs::read_to_string(&file).unwrap().lines().count();
            assert!(lines <= 600, "{} has {lines} lines", shown(&file));
        }
    }
}
