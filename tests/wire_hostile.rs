//! What a peer can send instead (S28): damaged, cut short, made up. It gets an error that says what is
//! wrong, and nothing panics.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod wire_samples;

use factory_engine::tx::musig::{AggNonce, PartialSig};
use factory_engine::types::{InstanceId, ProtocolId, ScriptBuf};
use factory_engine::wire::codec::{BigSize, Codec};
use factory_engine::wire::envelope::{Envelope, MAX_MESSAGE_BYTES, Oversized, PIGGYBACK_OVERHEAD};
use factory_engine::wire::message::*;
use factory_engine::wire::words::Words;
use wire_samples::{envelopes, messages};

/// The bytes of the sample called `name`.
fn sample(name: &str) -> Vec<u8> {
    let found = messages().into_iter().find(|(sample, _)| *sample == name);
    found.expect("a sample").1.encode()
}

fn refused(bytes: &[u8]) -> String {
    Message::decode(bytes).expect_err("refused").to_string()
}

fn record(kind: u64, value: &[u8]) -> Vec<u8> {
    let length = BigSize(value.len().try_into().unwrap());
    [BigSize(kind).encoded(), length.encoded(), value.to_vec()].concat()
}

/// xorshift64, seeded, so that a failure comes again.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() >> 16).unwrap() % end
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.next() >> 56).unwrap()
    }
}

// S28
#[test]
fn cut_short_anywhere() {
    for (name, message) in messages() {
        let bytes = message.encode();
        for end in 0..bytes.len() {
            // Without its last record a message may still be one, but never the same.
            assert_ne!(Message::decode(&bytes[..end]), Ok(message.clone()), "{name} at {end}");
        }
    }
    for (name, envelope) in envelopes() {
        let bytes = envelope.encode().unwrap();
        for end in 0..bytes.len() {
            if let Ok(read) = Envelope::decode(&bytes[..end]) {
                // An absent list is an empty one.
                let empty = envelope == Envelope::SupportedFactoryProtocols(vec![]);
                assert!(read != envelope || empty, "{name} at {end}");
            }
        }
    }
    assert_eq!(refused(&[]), "type: truncated: 2 bytes needed, 0 left");
    assert_eq!(refused(&sample("stored")[..2]), "stored.instance: record 0 is missing");
    assert_eq!(refused(&sample("stored")[..36]), "stored.attempt: record 2 is missing");
}

// S28
#[test]
fn records_that_should_not_be_there() {
    let stored = sample("stored");
    let with = |kind| [&stored[..], &record(kind, &[1, 2, 3])].concat();
    assert_eq!(Message::decode(&with(3)), Message::decode(&stored), "unknown odd");
    assert_eq!(Message::decode(&with(u64::MAX)), Message::decode(&stored), "unknown odd");
    assert_eq!(refused(&with(4)), "stored: unknown even record 4");
    assert_eq!(refused(&with(65600)), "stored: unknown even record 65600");
    assert_eq!(refused(&with(2)), "stored: record 2 occurs twice");
    assert_eq!(refused(&with(1)), "stored: record 1 stands after record 2");
    let stray = [&stored[..], &[5]].concat();
    assert_eq!(refused(&stray), "stored.record length: truncated: 1 bytes needed, 0 left");
}

// S28
#[test]
fn numbers_that_are_not_minimal() {
    let mut stored = sample("stored");
    // The length of record 0, 32, in three bytes.
    stored.splice(3..4, [0xfd, 0, 32]);
    assert_eq!(refused(&stored), "stored.record length: a BigSize that isn't minimal");
    let mut stored = sample("stored");
    stored.splice(2..3, [0xfe, 0, 0, 0, 0]);
    assert_eq!(refused(&stored), "stored.record type: a BigSize that isn't minimal");
}

/// The sample with one record's value changed.
fn altered(name: &str, kind: u64, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let bytes = sample(name);
    let mut out = bytes[..2].to_vec();
    let mut records = factory_engine::wire::codec::Records::new(&bytes[2..]);
    let mut change = Some(change);
    while let Some((found, value)) = records.next_record().unwrap() {
        let mut value = value.to_vec();
        if found == kind {
            change.take().expect("once")(&mut value);
        }
        out.extend(record(found, &value));
    }
    assert!(change.is_none(), "{name} has a record {kind}");
    out
}

// S28
#[test]
fn values_that_can_not_be() {
    let bad_key = altered("join", 4, |key| key[0] = 5);
    assert_eq!(refused(&bad_key), "join.factory_key: not a point on secp256k1");
    let bad_key = altered("propose", 14, |keys| keys[5..37].fill(0xff));
    assert_eq!(refused(&bad_key), "propose.foreign_keys: not a point on secp256k1");
    let no_tx = altered("propose", 8, |tx| tx[1..].fill(0xff));
    assert_eq!(refused(&no_tx), "propose.funding_tx: not a Bitcoin transaction");
    let rich = altered("expect_channel", 6, |sat| {
        *sat = 2_100_000_000_000_001_u64.to_be_bytes().to_vec();
    });
    assert_eq!(refused(&rich), "expect_channel.capacity: 2100000000000001 sat is more than 21 million BTC");
    let long = altered("stored", 2, |attempt| attempt.push(0));
    assert_eq!(refused(&long), "stored.attempt: 1 bytes too many");
    // The first level's kind stands behind instance, lsp, count and arity.
    let kind = altered("invite", 4, |terms| terms[32 + 33 + 1 + 2] = 2);
    assert_eq!(
        refused(&kind),
        "invite.terms.shape.levels.kind: 2 where 0 (static) or 1 (stateful) is expected"
    );
    // And the number of capacities behind two levels and the leaf.
    let at = 32 + 33 + 1 + 6 + 5;
    let absurd = altered("invite", 4, |terms| {
        assert_eq!(terms[at], 3);
        terms.splice(at..=at, [0xff; 9]);
    });
    assert_eq!(
        refused(&absurd),
        "invite.terms.capacities: 18446744073709551615 entries announced, but only 67 bytes follow"
    );
    let nonces = altered("join", 8, |nonces| nonces[0] = 3);
    assert_eq!(refused(&nonces), "join.nonces: truncated: 66 bytes needed, 0 left");
}

// S28
#[test]
fn a_peers_words_are_cut_and_escaped_where_they_are_read() {
    let reason = |bytes: &[u8]| {
        let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
        let message = altered("abort", 6, |reason| *reason = [&length[..], bytes].concat());
        let Ok(Message::Abort(abort)) = Message::decode(&message) else { panic!("it is lost") };
        abort.reason
    };
    assert_eq!(&*reason("\x1b[2J\u{202e}ok".as_bytes()), "\\u{1b}[2J\\u{202e}ok");
    assert_eq!(&*reason(b"\xff"), "\\xff");
    let long = reason(&[b'x'; 65_000]);
    assert_eq!(long.chars().count(), Words::MOST);
    // What is sent has the same limit.
    assert_eq!(Words::new(&"x".repeat(65_000)), long);
}

// S28
#[test]
fn envelopes_of_the_wrong_size_or_kind() {
    let refused = |raw: &[u8]| Envelope::decode(raw).expect_err("refused").to_string();
    assert_eq!(refused(&[0x80]), "message type: truncated: 2 bytes needed, 1 left");
    assert_eq!(refused(&[0, 7, 0, 0]), "lightning message 7 isn't a factory message");
    assert_eq!(refused(&[0x80, 0x20, 0, 0]), "unknown message 0");
    assert_eq!(refused(&[0x80, 0x20, 0, 4]), "factory_piggyback.protocol: record 0 is missing");
    let list = [&[0x80, 0x20, 0, 2][..], &record(512, &[9; 33])].concat();
    assert_eq!(refused(&list), "supported_factory_protocols.ids: truncated: 32 bytes needed, 1 left");
    let payload = |len| Envelope::Piggyback {
        protocol: ProtocolId([7; 32]),
        payload: vec![0; len],
        frame: None,
        ack: None,
    };
    // Without a frame and an acknowledgement there is a little more room.
    let most = MAX_MESSAGE_BYTES - PIGGYBACK_OVERHEAD + 22;
    assert_eq!(payload(most).encode().map(|raw| raw.len()), Ok(MAX_MESSAGE_BYTES));
    let error = Oversized { bytes: MAX_MESSAGE_BYTES + 1 };
    assert_eq!(payload(most + 1).encode(), Err(error));
    assert_eq!(refused(&[0; 65_536]), "65536 bytes, at most 65535 allowed");
}

// S28: damage gives an error, or something that has an encoding of its own.
#[test]
fn random_damage() {
    let mut random = Random(0x0dd5_eed5);
    for (name, message) in messages() {
        let bytes = message.encode();
        for _ in 0..2000 {
            let mut damaged = bytes.clone();
            for _ in 0..=random.below(3) {
                let at = random.below(damaged.len());
                match random.below(3) {
                    0 => damaged[at] = random.byte(),
                    1 => drop(damaged.remove(at)),
                    _ => damaged.insert(at, random.byte()),
                }
            }
            if let Ok(read) = Message::decode(&damaged) {
                assert_eq!(Message::decode(&read.encode()), Ok(read), "{name}");
            }
        }
    }
    for (name, envelope) in envelopes() {
        let bytes = envelope.encode().unwrap();
        for _ in 0..2000 {
            let mut damaged = bytes.clone();
            let at = random.below(damaged.len());
            damaged[at] = random.byte();
            damaged.truncate(1 + random.below(bytes.len() * 2));
            if let Ok(read) = Envelope::decode(&damaged) {
                assert_eq!(Envelope::decode(&read.encode().unwrap()), Ok(read), "{name}");
            }
        }
    }
}

#[test]
fn random_messages_come_back() {
    let mut random = Random(0xc0ff_ee00);
    let Some((_, Message::Propose(fixed))) = messages().into_iter().find(|(name, _)| *name == "propose")
    else {
        panic!("a sample")
    };
    for _ in 0..500 {
        let mut clients = fixed.clients.to_vec();
        for _ in 0..random.below(30) {
            let script = (0..random.below(40)).map(|_| random.byte()).collect::<Vec<_>>();
            clients.push((clients[random.below(2)].0, ScriptBuf::from_bytes(script)));
        }
        let nonces = (0..random.below(300)).map(|_| AggNonce(random.bytes())).collect();
        let foreign_hashes = (0..random.below(9)).map(|i| (u32::try_from(i).unwrap(), random.bytes()));
        let foreign_hashes = foreign_hashes.collect();
        let message =
            Message::Propose(Propose { clients: clients.into(), nonces, foreign_hashes, ..fixed.clone() });
        assert_eq!(Message::decode(&message.encode()), Ok(message));

        let signatures = (0..random.below(300)).map(|_| PartialSig(random.bytes())).collect();
        let message = Message::PartialSignatures(PartialSignatures {
            instance: InstanceId(random.bytes()),
            attempt: u32::from_be_bytes(random.bytes()),
            transcript: random.bytes(),
            signatures,
        });
        assert_eq!(Message::decode(&message.encode()), Ok(message));
    }
}
