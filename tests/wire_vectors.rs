//! What stands on the wire, byte for byte. The vectors in `tests/vectors/wire.json` were written by another encoder,
//! from the documents, and are frozen: these tests only compare. Every kind of message and of submessage is among them; what
//! else there is of samples is in `tests/golden/wire.txt` alone.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire_samples;

use std::collections::{BTreeMap, BTreeSet};

use factory_engine::types::{InstanceId, ProtocolId};
use factory_engine::wire::codec::{BigSize, Codec};
use factory_engine::wire::envelope::{Envelope, FEATURE_BIT, MESSAGE_TYPE};
use factory_engine::wire::message::{ChannelInFactory, Message, PROTOCOL_ID, PROTOCOL_NAME, protocol_id};
use factory_engine::wire::protocol::protocol_name;
use serde_json::Value;
use wire_samples::{channel_in_factory, envelopes, messages, terms};

fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors/wire.json")).unwrap()
}

fn hex(value: &Value) -> Vec<u8> {
    let text = value["hex"].as_str().expect("a vector has hex");
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

/// The vectors of a group, each with its name.
fn group(name: &str) -> Vec<(String, Vec<u8>)> {
    let vectors = vectors();
    let entries = vectors[name].as_array().expect("a group").iter();
    entries.map(|v| (v["name"].as_str().expect("a name").to_owned(), hex(v))).collect()
}

fn show(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn messages_are_their_vectors() {
    let samples: BTreeMap<&str, Message> = messages().into_iter().collect();
    assert_eq!(samples.len(), messages().len(), "two samples of one name");
    let frozen = group("messages");
    assert_eq!(frozen.len(), 80);
    for (name, bytes) in &frozen {
        let message =
            samples.get(name.as_str()).unwrap_or_else(|| panic!("the sample {name} is gone")).clone();
        assert_eq!(show(&message.encode()), show(bytes), "{name}");
        assert_eq!(Message::decode(bytes).as_ref(), Ok(&message), "{name}");
        assert!(name.starts_with(message.name()));
        let (instance, attempt) = header(message.kind(), name);
        assert_eq!((message.instance(), message.attempt()), (InstanceId(instance), attempt), "{name}");
    }
}

/// The factory and the attempt that a vector is about: of a copy or an appointment tag and counter, where it has them.
fn header(kind: u16, name: &str) -> ([u8; 32], u32) {
    match (kind, name) {
        (115 | 117 | 131, _) | (129, "ask_appointments") => ([0; 32], 0),
        (119 | 121 | 125, _) => ([0xa2; 32], 7),
        (123..=143, _) => ([0xa2; 32], 0),
        _ => ([0xa1; 32], 3),
    }
}

#[test]
fn envelopes_are_their_vectors() {
    let samples: BTreeMap<&str, Envelope> = envelopes().into_iter().collect();
    assert_eq!(samples.len(), envelopes().len(), "two samples of one name");
    let frozen = group("envelopes");
    assert_eq!(frozen.len(), 11);
    for (name, bytes) in &frozen {
        let envelope =
            samples.get(name.as_str()).unwrap_or_else(|| panic!("the sample {name} is gone")).clone();
        assert_eq!(show(&envelope.encode().unwrap()), show(bytes), "{name}");
        assert_eq!(Envelope::decode(bytes).as_ref(), Ok(&envelope), "{name}");
        assert!(name.starts_with(envelope.name()));
    }
}

#[test]
fn nothing_is_without_a_vector() {
    let kinds: BTreeSet<u16> = messages().iter().map(|(_, message)| message.kind()).collect();
    let even = (2..=76).chain(80..=84).chain(88..=98).chain(106..=112);
    let even = even.filter(|kind| kind % 2 == 0 && *kind != 6);
    // A peer that knows nothing of copies passes over what is said about them.
    let odd = (115..=143).filter(|kind| kind % 2 == 1);
    assert_eq!(kinds, even.chain(odd).collect());
    let kind = |(_, bytes): &(String, Vec<u8>)| u16::from_be_bytes([bytes[0], bytes[1]]);
    assert_eq!(group("messages").iter().map(kind).collect::<BTreeSet<u16>>(), kinds);
    // Whatever other type decodes at all would be missing here.
    for kind in (0..=u16::MAX).filter(|kind| !kinds.contains(kind)) {
        let error = Message::decode(&kind.to_be_bytes()).expect_err("no such message");
        assert_eq!(error.to_string(), format!("unknown message {kind}"));
        assert_eq!(error.may_ignore(), kind % 2 == 1);
    }
    let submessages: BTreeSet<u16> = envelopes().iter().map(|(_, e)| e.submessage()).collect();
    assert_eq!(submessages, BTreeSet::from([2, 4, 6, 8, 10, 12, 14]));
    let submessage = |(_, bytes): &(String, Vec<u8>)| u16::from_be_bytes([bytes[2], bytes[3]]);
    assert_eq!(group("envelopes").iter().map(submessage).collect::<BTreeSet<u16>>(), submessages);
    for kind in (0..=u16::MAX).filter(|kind| !submessages.contains(kind)) {
        let raw = [MESSAGE_TYPE.to_be_bytes(), kind.to_be_bytes()].concat();
        match Envelope::decode(&raw) {
            Ok(Envelope::UnknownOdd(odd)) => assert!(odd == kind && kind % 2 == 1),
            other => {
                assert_eq!(other.unwrap_err().to_string(), format!("unknown message {kind}"));
                assert_eq!(kind % 2, 0);
            }
        }
    }
}

#[test]
fn numbers_of_blip_56() {
    assert_eq!(MESSAGE_TYPE, 0x8020);
    assert_eq!(FEATURE_BIT, 271);
    assert_eq!(ChannelInFactory::TLV_TYPE, 65600);
}

#[test]
fn protocol_id_is_the_hash_of_its_name() {
    use bitcoin::hashes::{Hash, sha256};
    assert_eq!(PROTOCOL_NAME, "superscalar/1");
    let hash = sha256::Hash::hash(PROTOCOL_NAME.as_bytes());
    assert_eq!(PROTOCOL_ID, ProtocolId(hash.to_byte_array()));
    assert_eq!(protocol_id(), PROTOCOL_ID);
}

/// A later version is refused, and called by its name.
#[test]
fn another_protocol_is_refused_by_its_name() {
    use bitcoin::hashes::{Hash, sha256};
    use factory_engine::wire::link::{Link, LinkLimits};
    let later = ProtocolId(sha256::Hash::hash(b"superscalar/2").to_byte_array());
    assert_eq!(protocol_name(later), "superscalar/2");
    assert_eq!(protocol_name(PROTOCOL_ID), PROTOCOL_NAME);
    let other = ProtocolId([9; 32]);
    assert_eq!(protocol_name(other), other.to_string());
    let mut link = Link::new(LinkLimits::default());
    let payload = messages()[0].1.encode();
    let raw = Envelope::Piggyback { protocol: later, payload, frame: None, ack: None }.encode().unwrap();
    let error = link.receive(&raw, 0).unwrap_err().to_string();
    assert_eq!(error, "a payload for factory protocol superscalar/2; this node speaks superscalar/1 alone");
    let list = Envelope::SupportedFactoryProtocols(vec![later]).encode().unwrap();
    link.receive(&list, 0).unwrap();
    assert_eq!(link.peer_speaks(), Some(false));
    let refused = link.send(&messages()[0].1).unwrap_err().to_string();
    assert_eq!(refused, "the peer doesn't speak superscalar/1");
}

#[test]
fn terms_are_their_vector() {
    let frozen = hex(&vectors()["terms"]);
    assert_eq!(show(&terms().encoded()), show(&frozen));
    assert_eq!(factory_engine::terms::Terms::decoded(&frozen), Ok(terms()));
}

#[test]
fn channel_in_factory_byte_for_byte() {
    let record = hex(&vectors()["channel_in_factory"]);
    let value = channel_in_factory();
    let bytes = value.encoded();
    assert_eq!(bytes.len(), 66);
    assert_eq!(bytes[..32], PROTOCOL_ID.0);
    assert_eq!(bytes[32..64], [0xa1; 32]);
    assert_eq!(bytes[64..], [0x01, 0xb0]);
    assert_eq!(ChannelInFactory::decoded(&bytes), Ok(value));
    let mut whole = BigSize(65600).encoded();
    whole.push(66);
    whole.extend(&bytes);
    assert_eq!(show(&whole), show(&record));

    // The announcement ends with the very record.
    for (name, message) in messages() {
        if let Message::ExpectChannel(_) | Message::Invite(_) = message {
            assert!(message.encode().ends_with(&record), "{name}");
        }
    }
}

#[test]
fn channel_in_factory_among_the_tlvs_of_open_channel() {
    let find = ChannelInFactory::find_in_open_channel_tlvs;
    let record = hex(&vectors()["channel_in_factory"]);
    // upfront_shutdown_script and channel_type, which are lightningd's to judge, and an even one
    // that nobody knows.
    let others = [0x00, 0x00, 0x01, 0x02, 0x10, 0x00, 0x06, 0x01, 0xff];
    assert_eq!(find(&[]), Ok(None));
    assert_eq!(find(&others), Ok(None));
    assert_eq!(find(&record), Ok(Some(channel_in_factory())));
    let tlvs = [&others[..], &record].concat();
    assert_eq!(find(&tlvs), Ok(Some(channel_in_factory())));
    assert!(find(&tlvs[..tlvs.len() - 1]).is_err());
    let mut short = record.clone();
    short[5] = 65;
    short.pop();
    let error = find(&short).unwrap_err();
    assert_eq!(error.to_string(), "channel_in_factory.blocks_early: truncated: 2 bytes needed, 1 left");
}
