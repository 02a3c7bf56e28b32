//! Every entry that was frozen, with its hash: `frozen.txt`, which only grows.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bitcoin::hashes::{Hash, sha256};
use serde_json::Value;

pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn read(file: &str) -> String {
    fs::read_to_string(folder().join(file)).unwrap_or_default()
}

/// Lines of a name and what belongs to it.
pub fn lines(file: &str) -> Vec<(String, String)> {
    let text = read(file);
    let split = |line: &str| line.split_once(' ').map(|(name, rest)| (name.to_owned(), rest.to_owned()));
    text.lines().map(|line| split(line).unwrap()).collect()
}

/// Adds the lines whose names aren't there yet. What is there stays as it is.
pub fn append(file: &str, entries: impl Iterator<Item = (String, String)>) {
    let known: BTreeMap<String, String> = lines(file).into_iter().collect();
    let new = entries.filter(|(name, _)| !known.contains_key(name));
    let text = new.fold(read(file), |text, (name, rest)| format!("{text}{name} {rest}\n"));
    fs::write(folder().join(file), text).unwrap();
}

fn hash(bytes: impl AsRef<[u8]>) -> String {
    sha256::Hash::hash(bytes.as_ref()).to_string()
}

/// Everything under `tests/golden` and `tests/vectors` as it is now, with its hash.
fn now() -> Vec<(String, String)> {
    let of = |file: &str, kind: &'static str| {
        lines(file).into_iter().map(move |(name, hex)| (format!("{kind}/{name}"), hash(hex)))
    };
    let mut all: Vec<(String, String)> = of("events.txt", "event").chain(of("wire.txt", "wire")).collect();
    let mut histories: Vec<PathBuf> =
        fs::read_dir(folder().join("histories")).unwrap().map(|entry| entry.unwrap().path()).collect();
    histories.sort();
    all.extend(histories.iter().map(|path| {
        let name = path.file_stem().unwrap().to_str().unwrap();
        (format!("history/{name}"), hash(fs::read(path).unwrap()))
    }));
    // What a second encoder wrote.
    let vectors: Value = serde_json::from_str(include_str!("../vectors/wire.json")).unwrap();
    for group in ["messages", "envelopes"] {
        let entries = vectors[group].as_array().unwrap().iter();
        all.extend(entries.map(|vector| {
            let name = vector["name"].as_str().unwrap();
            (format!("vector/{group}/{name}"), hash(vector["hex"].as_str().unwrap()))
        }));
    }
    let single = ["terms", "channel_in_factory"];
    all.extend(single.map(|name| (format!("vector/{name}"), hash(vectors[name]["hex"].as_str().unwrap()))));
    all
}

/// Freezes what isn't yet.
pub fn freeze() {
    append("frozen.txt", now().into_iter());
}

/// What of the frozen entries is not as it was, or isn't frozen.
pub fn problems() -> Vec<String> {
    compared(&lines("frozen.txt"), &now())
}

/// The same, of these entries with their hashes.
pub fn compared(frozen: &[(String, String)], now: &[(String, String)]) -> Vec<String> {
    let known: BTreeMap<&String, &String> = now.iter().map(|(name, hash)| (name, hash)).collect();
    let changed = frozen.iter().filter_map(|(name, hash)| match known.get(name) {
        Some(same) if *same == hash => None,
        Some(_) => Some(format!("{name} was frozen, and has changed")),
        None => Some(format!("{name} was frozen, and is gone")),
    });
    let is_frozen = |name: &String| frozen.iter().any(|(known, _)| known == name);
    let new = now.iter().filter(|(name, _)| !is_frozen(name));
    changed
        .chain(new.map(|(name, _)| format!("{name} is not frozen: UPDATE_GOLDEN=1 cargo test --test golden")))
        .collect()
}
