//! What is stored stays readable: frozen records and whole factories' histories, under `tests/golden`.
//!
//! `UPDATE_GOLDEN=1 cargo test --test golden` writes what is missing: for a new event, field or course of
//! things. From version 1 of the protocol on files only grow; until then `UPDATE_GOLDEN=replace` makes all
//! anew.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;
#[path = "golden/digest.rs"]
mod digest;
#[path = "golden/samples.rs"]
mod samples;
#[path = "golden/worlds.rs"]
mod worlds;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use bitcoin::hex::{DisplayHex, FromHex};
use factory_engine::record::event::{Accepted, Event, RecordError, decode_record, encode_record};
use factory_engine::tx::musig::MasterSecret;
use factory_engine::types::{NodeId, ProtocolId};
use factory_engine::{Config, Engine};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn unhex(text: &str) -> Vec<u8> {
    Vec::from_hex(text).unwrap()
}

/// Whether to write, and whether over what is there.
fn update() -> (bool, bool) {
    let mode = std::env::var("UPDATE_GOLDEN").unwrap_or_default();
    (!mode.is_empty(), mode == "replace")
}

/// The frozen record of each kind of event, by name.
fn frozen() -> BTreeMap<String, Vec<u8>> {
    let text = fs::read_to_string(folder().join("events.txt")).unwrap_or_default();
    text.lines()
        .map(|line| {
            let (name, hex) = line.split_once(' ').unwrap();
            (name.to_owned(), unhex(hex))
        })
        .collect()
}

#[test]
fn every_event_has_a_frozen_record() {
    let samples = samples::samples();
    let (write, replace) = update();
    if write {
        let mut known = if replace { BTreeMap::new() } else { frozen() };
        for event in &samples {
            let name = event.name().to_owned();
            known.entry(name).or_insert_with(|| encode_record(std::slice::from_ref(event)));
        }
        for (name, event) in samples::later() {
            known.entry(name.to_owned()).or_insert_with(|| encode_record(&[event]));
        }
        let names = samples.iter().map(Event::name).chain(samples::later().into_iter().map(|(name, _)| name));
        let line = |name: &str| format!("{name} {}\n", known[name].to_lower_hex_string());
        fs::write(folder().join("events.txt"), names.map(line).collect::<String>()).unwrap();
    }
    let frozen = frozen();
    let names: Vec<&str> = samples.iter().map(Event::name).collect();
    assert_eq!(names, Event::NAMES, "an event without a sample in tests/golden/samples.rs");
    let named = samples.into_iter().map(|event| (event.name(), event));
    for (name, event) in named.chain(samples::later()) {
        let record = frozen.get(name).unwrap_or_else(|| panic!("no frozen record of {name}"));
        assert_eq!(decode_record(record).as_ref(), Ok(&vec![event.clone()]), "{name}");
        assert_eq!(&encode_record(&[event]), record, "the encoding of {name} has changed");
    }
}

#[test]
fn another_version_or_protocol_is_refused_by_name() {
    let mut newer = encode_record(&[Accepted {}.into()]);
    newer[0] = 2;
    assert_eq!(decode_record(&newer), Err(RecordError::UnknownVersion(2)));
    let other = ProtocolId([9; 32]);
    for event in samples::samples() {
        let event: Event = match event {
            Event::Created(mut created) => {
                created.protocol = other;
                created.into()
            }
            Event::Invited(mut invited) => {
                invited.protocol = other;
                invited.into()
            }
            _ => continue,
        };
        assert_eq!(decode_record(&encode_record(&[event])), Err(RecordError::UnknownProtocol(other)));
    }
}

/// What a restart makes of these records.
fn fold(records: &[Vec<u8>]) -> String {
    let events: Vec<Vec<Event>> = records.iter().map(|record| decode_record(record).unwrap()).collect();
    let instance = match events.first().and_then(|events| events.first()) {
        Some(Event::Created(created)) => created.terms.instance,
        Some(Event::Invited(invited)) => invited.terms.instance,
        other => panic!("a history begins with {other:?}"),
    };
    let mut engine = Engine::new(NodeId([2; 33]), MasterSecret::new([1; 32]), Config::default());
    engine.load(instance, events.clone()).unwrap();
    digest::digest(engine.factory(instance), &events, engine.ledger().len())
}

fn save(name: &str, records: &[Vec<u8>], replace: bool) {
    let path = folder().join("histories").join(format!("{name}.txt"));
    if path.exists() && !replace {
        return;
    }
    let hex = |record: &Vec<u8>| format!("record {}\n", record.to_lower_hex_string());
    let text = records.iter().map(hex).collect::<String>() + &fold(records);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// What a history that is frozen says: its records, and the state that they make.
fn parse(text: &str) -> (Vec<Vec<u8>>, String) {
    let records = text.lines().filter_map(|line| line.strip_prefix("record ")).map(unhex).collect();
    let state = text.lines().filter(|line| !line.starts_with("record "));
    (records, state.map(|line| format!("{line}\n")).collect())
}

#[test]
fn every_history_makes_the_same_factory() {
    let (write, replace) = update();
    if write {
        for (name, world, instance) in worlds::worlds() {
            for at in [0, 1, 2] {
                let records = world.members[at].store.records(instance);
                if !records.is_empty() {
                    save(&format!("{name}_{at}"), records, replace);
                }
            }
        }
    }
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder().join("histories")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let (records, state) = parse(&fs::read_to_string(&path).unwrap());
        for record in &records {
            let again = encode_record(&decode_record(record).unwrap());
            assert_eq!(&again, record, "{name}: a record is written in another way now");
        }
        assert_eq!(fold(&records), state, "{name}");
        names.insert(name);
    }
    for name in worlds::NAMES {
        for at in [0, 1] {
            assert!(names.contains(&format!("{name}_{at}")), "no history {name}_{at}");
        }
    }
}
