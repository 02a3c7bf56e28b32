//! What is stored, and what stands on the wire, stays readable: frozen records, whole factories' histories and
//! messages, under `tests/golden`. Both are version 1.
//!
//! `UPDATE_GOLDEN=1 cargo test --test golden` writes what is missing: for a new event, message, field or course of
//! things. Nothing that is there is ever written again: `frozen.txt` has a hash of each entry, and only grows.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;
#[path = "golden/digest.rs"]
mod digest;
#[path = "golden/frozen.rs"]
mod frozen;
#[path = "golden/samples.rs"]
mod samples;
mod wire_samples;
#[path = "golden/worlds.rs"]
mod worlds;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Once;

use bitcoin::hex::{DisplayHex, FromHex};
use factory_engine::record::event::{Accepted, Event, RecordError, decode_record, encode_record};
use factory_engine::terms::Terms;
use factory_engine::tx::musig::MasterSecret;
use factory_engine::types::{NodeId, ProtocolId};
use factory_engine::wire::codec::{BigSize, Codec, Reader, Records};
use factory_engine::wire::envelope::Envelope;
use factory_engine::wire::message::{ChannelInFactory, Message};
use factory_engine::{Config, Engine, Ladder, PriceList};
use frozen::{folder, lines};

fn unhex(text: &str) -> Vec<u8> {
    Vec::from_hex(text).unwrap()
}

/// Before anything is read: what is missing is written, if that is asked for.
fn ready() {
    static READY: Once = Once::new();
    READY.call_once(|| {
        if std::env::var("UPDATE_GOLDEN").is_ok_and(|mode| !mode.is_empty()) {
            let records = samples::named().into_iter().map(|(name, event)| (name, encode_record(&[event])));
            frozen::append(
                "events.txt",
                records.map(|(name, bytes)| (name.to_owned(), bytes.to_lower_hex_string())),
            );
            frozen::append(
                "wire.txt",
                wire().into_iter().map(|(name, bytes)| (name, bytes.to_lower_hex_string())),
            );
            for (name, world, instance) in worlds::worlds() {
                for at in [0, 1, 2] {
                    let records = world.members[at].store.records(instance);
                    if !records.is_empty() {
                        save(&format!("{name}_{at}"), records);
                    }
                }
            }
            frozen::freeze();
        }
    });
}

/// Everything that travels, by name.
fn wire() -> Vec<(String, Vec<u8>)> {
    let messages = wire_samples::messages().into_iter();
    let envelopes = wire_samples::envelopes().into_iter();
    messages
        .map(|(name, message)| (format!("message/{name}"), message.encode()))
        .chain(envelopes.map(|(name, envelope)| (format!("envelope/{name}"), envelope.encode().unwrap())))
        .chain([
            ("terms".to_owned(), wire_samples::terms().encoded()),
            ("channel_in_factory".to_owned(), wire_samples::channel_in_factory().encoded()),
            ("prices".to_owned(), prices().to_bytes()),
            ("prices/renewals".to_owned(), renewal_prices().to_bytes()),
            ("ladder".to_owned(), ladder().to_bytes()),
        ])
        .collect()
}

/// No message, but stored as it is.
fn ladder() -> Ladder {
    Ladder { begins: 4_180, tree_feerate: Some(700), ..Ladder::default() }
}

fn prices() -> PriceList {
    PriceList::of_sales(700_001, 2_500)
}

/// With what came later.
fn renewal_prices() -> PriceList {
    PriceList { renewal_base_msat: Some(1_000_001), renewal_ppm: Some(0), ..prices() }
}

/// Hex of each frozen line, by name.
fn frozen_bytes(file: &str) -> BTreeMap<String, Vec<u8>> {
    ready();
    lines(file).into_iter().map(|(name, hex)| (name, unhex(&hex))).collect()
}

#[test]
fn what_is_frozen_only_grows() {
    ready();
    assert_eq!(frozen::problems(), Vec::<String>::new());
}

/// The guard itself: a line that was changed, or is gone, is found, and so is one that nobody has frozen.
#[test]
fn a_changed_and_a_missing_entry_are_found() {
    let entry = |name: &str, hash: &str| (name.to_owned(), hash.to_owned());
    let frozen = [entry("event/a", "1"), entry("event/b", "2")];
    let told = |now: &[(String, String)]| frozen::compared(&frozen, now);
    assert_eq!(told(&frozen), Vec::<String>::new());
    assert_eq!(
        told(&[entry("event/a", "1"), entry("event/b", "3")]),
        ["event/b was frozen, and has changed"]
    );
    assert_eq!(told(&[entry("event/a", "1")]), ["event/b was frozen, and is gone"]);
    let more = [entry("event/a", "1"), entry("event/b", "2"), entry("event/c", "3")];
    assert_eq!(told(&more), ["event/c is not frozen: UPDATE_GOLDEN=1 cargo test --test golden"]);
}

#[test]
fn every_event_has_a_frozen_record() {
    let names: Vec<&str> = samples::samples().iter().map(Event::name).collect();
    let samples = samples::named();
    assert_eq!(names, Event::NAMES, "an event without a sample in tests/golden/samples.rs");
    let frozen = frozen_bytes("events.txt");
    assert_eq!(frozen.len(), samples.len(), "a sample is gone, or its name is not its own");
    for (name, event) in samples {
        assert!(name.starts_with(event.name()), "{name}");
        let record = frozen.get(name).unwrap_or_else(|| panic!("no frozen record of {name}"));
        assert_eq!(decode_record(record).as_ref(), Ok(&vec![event.clone()]), "{name}");
        assert_eq!(&encode_record(&[event]), record, "the encoding of {name} has changed");
    }
}

#[test]
fn everything_that_travels_has_frozen_bytes() {
    let frozen = frozen_bytes("wire.txt");
    let wire = wire();
    assert_eq!(frozen.len(), wire.len(), "a sample is gone, or its name is not its own");
    for (name, bytes) in &wire {
        let known = frozen.get(name).unwrap_or_else(|| panic!("no frozen bytes of {name}"));
        assert_eq!(
            bytes.to_lower_hex_string(),
            known.to_lower_hex_string(),
            "the encoding of {name} has changed"
        );
    }
    for (name, message) in wire_samples::messages() {
        assert_eq!(Message::decode(&frozen[&format!("message/{name}")]), Ok(message), "{name}");
    }
    for (name, envelope) in wire_samples::envelopes() {
        assert_eq!(Envelope::decode(&frozen[&format!("envelope/{name}")]), Ok(envelope), "{name}");
    }
    assert_eq!(Terms::decoded(&frozen["terms"]), Ok(wire_samples::terms()));
    let record = ChannelInFactory::decoded(&frozen["channel_in_factory"]);
    assert_eq!(record, Ok(wire_samples::channel_in_factory()));
    assert_eq!(PriceList::from_bytes(&frozen["prices"]), Ok(prices()));
    assert_eq!(PriceList::from_bytes(&frozen["prices/renewals"]), Ok(renewal_prices()));
    assert_eq!(Ladder::from_bytes(&frozen["ladder"]), Ok(ladder()));
}

/// Types of the records of a TLV stream.
fn kinds(stream: &[u8]) -> BTreeSet<u64> {
    let mut records = Records::new(stream);
    let mut kinds = BTreeSet::new();
    while let Some((kind, _)) = records.next_record().unwrap() {
        kinds.insert(kind);
    }
    kinds
}

/// Of one kind of message or event there is a sample with every field, and one with none that may be absent.
fn full_and_bare(name: &str, fields: &[(u64, bool)], samples: &[BTreeSet<u64>]) {
    let full: BTreeSet<u64> = fields.iter().map(|(kind, _)| *kind).collect();
    let bare: BTreeSet<u64> =
        fields.iter().filter(|(_, optional)| !optional).map(|(kind, _)| *kind).collect();
    assert!(samples.contains(&full), "no sample of {name} with all of {full:?}");
    assert!(samples.contains(&bare), "no sample of {name} with no more than {bare:?}");
}

#[test]
fn each_kind_has_a_sample_with_and_one_without_what_is_optional() {
    let mut messages: BTreeMap<u16, (&str, Vec<_>)> = BTreeMap::new();
    for (_, message) in wire_samples::messages() {
        let found = messages.entry(message.kind()).or_insert((message.name(), vec![]));
        found.1.push(kinds(&message.encode()[2..]));
    }
    assert_eq!(messages.len(), Message::NAMES.len());
    for (kind, (name, samples)) in messages {
        full_and_bare(name, Message::fields_of(kind).unwrap(), &samples);
    }
    let mut events: BTreeMap<u16, (&str, Vec<_>)> = BTreeMap::new();
    for (_, event) in samples::named() {
        let found = events.entry(event.kind()).or_insert((event.name(), vec![]));
        found.1.push(kinds(&body(&encode_record(std::slice::from_ref(&event)))[2..]));
    }
    assert_eq!(events.len(), Event::NAMES.len());
    for (kind, (name, samples)) in events {
        full_and_bare(name, Event::fields_of(kind).unwrap(), &samples);
    }
}

/// Number and stream of the one event of a record.
fn body(record: &[u8]) -> Vec<u8> {
    let mut reader = Reader::new(&record[1..]);
    let body = reader.take_counted().unwrap().to_vec();
    assert_eq!(reader.remaining(), 0);
    body
}

/// A record that stands after every other one.
fn last_record(kind: u64) -> Vec<u8> {
    [BigSize(kind).encoded(), vec![3, 7, 8, 9]].concat()
}

/// BOLT 1: an unknown odd record is passed over, and nothing of it is left; an unknown even one is refused.
#[test]
fn it_is_ok_to_be_odd() {
    let (odd, even) = (u64::MAX, u64::MAX - 1);
    let refused = format!("unknown even record {even}");
    for (name, message) in wire_samples::messages() {
        let with = |kind| [message.encode(), last_record(kind)].concat();
        assert_eq!(Message::decode(&with(odd)), Ok(message.clone()), "{name}");
        assert_eq!(Message::decode(&with(odd)).unwrap().encode(), message.encode(), "{name}");
        let error = Message::decode(&with(even)).unwrap_err();
        assert_eq!(error.to_string(), format!("{}: {refused}", message.name()));
        assert!(!error.may_ignore());
    }
    for (name, envelope) in wire_samples::envelopes() {
        let with = |kind| [envelope.encode().unwrap(), last_record(kind)].concat();
        assert_eq!(Envelope::decode(&with(odd)), Ok(envelope.clone()), "{name}");
        assert!(Envelope::decode(&with(even)).unwrap_err().to_string().ends_with(&refused), "{name}");
    }
    for (name, event) in samples::named() {
        let with = |kind| {
            let body = [body(&encode_record(std::slice::from_ref(&event))), last_record(kind)].concat();
            [vec![1], BigSize::of(body.len()).encoded(), body].concat()
        };
        assert_eq!(decode_record(&with(odd)), Ok(vec![event.clone()]), "{name}");
        let error = decode_record(&with(even)).unwrap_err().to_string();
        assert_eq!(error, format!("the record is damaged: {}: {refused}", event.name()));
    }
}

#[test]
fn another_version_or_protocol_is_refused_by_name() {
    let mut newer = encode_record(&[Accepted { from: None }.into()]);
    newer[0] = 2;
    assert_eq!(decode_record(&newer), Err(RecordError::UnknownVersion(2)));
    let other = ProtocolId([9; 32]);
    for (_, event) in samples::named() {
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

fn save(name: &str, records: &[Vec<u8>]) {
    let path = folder().join("histories").join(format!("{name}.txt"));
    if path.exists() {
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
    ready();
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
