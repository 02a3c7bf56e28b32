#![allow(clippy::unwrap_used, clippy::expect_used)]

use bitcoin::SignedAmount;

use super::*;
use crate::terms::Terms;
use crate::types::{Amount, ScriptBuf};

tlv_struct! {
    /// A struct as messages and events declare it.
    pub struct Sample {
        /// Required.
        pub number: u32 => 0,
        /// May be absent.
        pub maybe: Option<u16> => 2,
        /// An odd type is known too.
        pub list: Vec<(u8, String)> => 5,
    }
}

tlv_struct! {
    /// Structs nest, alone and in lists.
    struct Nest {
        inner: Sample => 1,
        inners: Vec<Sample> => 300,
        map: BTreeMap<u16, bool> => 70_000,
    }
}

fn sample() -> Sample {
    Sample { number: 7, maybe: Some(8), list: vec![(1, "é".to_owned())] }
}

fn stream(value: &impl TlvStream) -> Vec<u8> {
    let mut out = Vec::new();
    value.write_stream(&mut out);
    out
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().filter_map(|c| c.to_digit(16)).map(|d| u8::try_from(d).unwrap()).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn refused(text: &str) -> String {
    Sample::read_stream(&hex(text)).expect_err("refused").to_string()
}

fn fault<T: Codec>(bytes: &[u8]) -> Malformed {
    T::decoded(bytes).err().expect("refused").fault
}

/// xorshift64*, seeded, so that a failure comes again.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end).unwrap()).unwrap()
    }
}

#[test]
fn bigsize_as_in_bolt_1() {
    for (value, text) in [
        (0, "00"),
        (252, "fc"),
        (253, "fd00fd"),
        (65_535, "fdffff"),
        (65_536, "fe00010000"),
        (4_294_967_295, "feffffffff"),
        (4_294_967_296, "ff0000000100000000"),
        (u64::MAX, "ffffffffffffffffff"),
    ] {
        assert_eq!(BigSize(value).encoded(), hex(text));
        assert_eq!(BigSize::decoded(&hex(text)), Ok(BigSize(value)));
    }
    for text in ["fd00fc", "fe0000ffff", "ff00000000ffffffff"] {
        assert_eq!(fault::<BigSize>(&hex(text)), Malformed::NotMinimal, "{text}");
    }
    for text in ["", "fd", "fd00", "feffffff", "ffffffffffffffff"] {
        assert!(matches!(fault::<BigSize>(&hex(text)), Malformed::Truncated { .. }), "{text}");
    }
}

#[test]
fn struct_is_a_tlv_stream() {
    let bytes = hex("00 04 00000007  02 02 0008  05 06 01 01 0002 c3a9");
    assert_eq!(stream(&sample()), bytes);
    assert_eq!(Sample::read_stream(&bytes), Ok(sample()));
    let without = Sample { maybe: None, ..sample() };
    let bytes = hex("00 04 00000007  05 06 01 01 0002 c3a9");
    assert_eq!(stream(&without), bytes);
    assert_eq!(Sample::read_stream(&bytes), Ok(without));
}

#[test]
fn structs_nest() {
    let map = BTreeMap::from([(1, true), (9, false)]);
    let nest = Nest { inner: sample(), inners: vec![sample(), sample()], map };
    assert_eq!(Nest::read_stream(&stream(&nest)), Ok(nest.clone()));
    assert_eq!(Nest::decoded(&nest.encoded()), Ok(nest));
}

// S28: garbage gets a named error.
#[test]
fn bolt_1_rules_of_streams() {
    let ok = "00 04 00000007  05 01 00";
    assert!(Sample::read_stream(&hex(ok)).is_ok());
    // Unknown: odd ones are passed over, even ones are not.
    assert!(Sample::read_stream(&hex("00 04 00000007  01 03 abcdef  05 01 00  07 00")).is_ok());
    assert_eq!(refused("00 04 00000007  04 00  05 01 00"), "unknown even record 4");
    assert_eq!(refused("00 04 00000007  05 01 00  fd0100 00"), "unknown even record 256");
    // Order.
    assert_eq!(refused("05 01 00  00 04 00000007"), "record 0 stands after record 5");
    assert_eq!(refused("00 04 00000007  00 04 00000007"), "record 0 occurs twice");
    assert_eq!(refused("00 04 00000007  05 01 00  07 00  07 00"), "record 7 occurs twice");
    // Minimal numbers.
    assert_eq!(refused("fd0000 04 00000007"), "record type: a BigSize that isn't minimal");
    assert_eq!(refused("00 fd0004 00000007"), "record length: a BigSize that isn't minimal");
    // Sizes.
    assert_eq!(refused("00 05 00000007ff 05 01 00"), "number: 1 bytes too many");
    assert_eq!(refused("00 03 000007 05 01 00"), "number: truncated: 4 bytes needed, 3 left");
    assert_eq!(refused("00 04 0000"), "record value: truncated: 4 bytes needed, 2 left");
    assert_eq!(
        refused("00 ffffffffffffffffff 00"),
        "record value: truncated: 18446744073709551615 bytes needed, 1 left"
    );
    assert_eq!(refused("00"), "record length: truncated: 1 bytes needed, 0 left");
    // Absence.
    assert_eq!(refused("00 04 00000007"), "list: record 5 is missing");
    assert_eq!(refused(""), "number: record 0 is missing");
}

#[test]
fn errors_name_the_whole_path() {
    let mut bytes = stream(&Nest { inner: sample(), inners: vec![], map: BTreeMap::new() });
    // Type 1, its length, the stream's length, then record 0 of the inner struct.
    bytes[4] = 3;
    let error = Nest::read_stream(&bytes).expect_err("refused");
    assert_eq!(error.to_string(), "inner.number: truncated: 4 bytes needed, 3 left");
}

// S28: what is allocated is bounded by what arrived, not by what is announced.
#[test]
fn lists_can_not_announce_more_than_arrived() {
    for count in ["fd1000", "feffffffff", "ffffffffffffffffff"] {
        let bytes = hex(&format!("{count} 000102"));
        let Malformed::TooMany { left: 3, .. } = fault::<Vec<[u8; 64]>>(&bytes) else {
            panic!("{count} entries in three bytes")
        };
    }
    // A count that could be right for one-byte entries, but isn't for these.
    let mut bytes = BigSize(5000).encoded();
    bytes.resize(5003, 0);
    assert!(matches!(fault::<Vec<[u8; 64]>>(&bytes), Malformed::Truncated { .. }));
    // Entries that take no bytes can't make the loop long.
    assert!(matches!(fault::<Vec<[u8; 0]>>(&hex("ffffffffffffffffff")), Malformed::TooMany { .. }));
}

#[test]
fn a_shared_list_is_a_list() {
    let list: Vec<u32> = (0..300).collect();
    let shared = Shared::from(list.clone());
    assert_eq!(shared.encoded(), list.encoded());
    // Once written, and by a clone.
    assert_eq!(*shared.encoded_once(), list.encoded());
    assert_eq!(shared.clone().encoded(), list.encoded());
    assert!(std::sync::Arc::ptr_eq(&shared.encoded_once(), &shared.clone().encoded_once()));
    let read = Shared::<u32>::decoded(&list.encoded()).unwrap();
    assert_eq!((&read, &*read, read.encoded()), (&shared, &list[..], list.encoded()));
    assert_ne!(read, Shared::from(vec![1]));
    assert_eq!(fault::<Shared<u32>>(&[2, 0, 0, 0, 1]), fault::<Vec<u32>>(&[2, 0, 0, 0, 1]));
}

// S28
#[test]
fn a_list_takes_no_more_memory_at_first_than_what_arrived() {
    assert_eq!((affordable::<[u8; 64]>(640), affordable::<[u8; 64]>(63), affordable::<()>(5)), (10, 0, 5));
}

// S28
#[test]
fn absurd_number_of_capacities() {
    let mut bytes = vec![0x11; 65];
    // No levels, a static leaf of 2 × 2, and 2^40 capacities.
    bytes.extend(hex("00 00 0002 0002 ff0000010000000000 00000000000186a0"));
    let error = Terms::decoded(&bytes).expect_err("refused");
    assert_eq!(error.field(), "capacities");
    assert_eq!(error.fault, Malformed::TooMany { count: 1 << 40, left: 8 });
    // Levels likewise, one struct further in.
    bytes.splice(65.., hex("feffffffff 0002 00"));
    let error = Terms::decoded(&bytes).expect_err("refused");
    assert_eq!(error.to_string(), "shape.levels: 4294967295 entries announced, but only 3 bytes follow");
}

#[test]
fn amounts_end_at_21_million() {
    let most = 2_100_000_000_000_000_u64;
    assert_eq!(Amount::decoded(&most.encoded()), Ok(Amount::MAX_MONEY));
    assert_eq!(fault::<Amount>(&(most + 1).encoded()), Malformed::TooMuchMoney { sat: most + 1 });
    let signed = i64::try_from(most).unwrap();
    for (value, fine) in [(signed, true), (-signed, true), (signed + 1, false), (i64::MIN, false)] {
        assert_eq!(SignedAmount::decoded(&value.encoded()).is_ok(), fine, "{value}");
    }
}

#[cfg(not(modelled_signatures))]
#[test]
fn keys_are_points_of_the_curve() {
    use crate::tx::musig::{PublicKey, XOnlyPublicKey};
    let x = hex("79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798");
    let with = |prefix: u8| [&[prefix][..], &x].concat();
    assert!(PublicKey::decoded(&with(2)).is_ok());
    assert!(XOnlyPublicKey::decoded(&x).is_ok());
    assert_eq!(fault::<PublicKey>(&with(4)), Malformed::BadPoint);
    assert_eq!(fault::<PublicKey>(&[0; 33]), Malformed::BadPoint);
    assert_eq!(fault::<PublicKey>(&[2; 33].map(|_| 0xff)), Malformed::BadPoint);
    assert_eq!(fault::<XOnlyPublicKey>(&[0xff; 32]), Malformed::BadPoint);
}

#[test]
fn values_that_are_not_what_they_claim() {
    assert_eq!(fault::<String>(&hex("0002 c328")), Malformed::NotUtf8);
    assert!(matches!(fault::<bool>(&[2]), Malformed::BadValue { value: 2, .. }));
    assert_eq!(fault::<BTreeMap<u8, u8>>(&hex("02 0500 0500")), Malformed::UnsortedKeys);
    assert_eq!(fault::<BTreeMap<u8, u8>>(&hex("02 0500 0400")), Malformed::UnsortedKeys);
    assert_eq!(fault::<u16>(&[1, 2, 3]), Malformed::Trailing { bytes: 1 });
}

#[test]
fn text_and_scripts_at_their_limits() {
    let text = "é".repeat(40_000);
    assert_eq!(String::decoded(&text.encoded()), Ok("é".repeat(32_767)));
    assert_eq!(clip("aé", 2), "a");
    assert_eq!(clip("aé", 3), "aé");
    assert_eq!(clip("é", 0), "");
    for length in [0, 0xfc, 0xfd, 65_535, 65_536] {
        let script = ScriptBuf::from_bytes(vec![0x51; length]);
        assert!(ScriptBuf::decoded(&script.encoded()) == Ok(script), "{length} bytes");
    }
}

#[test]
fn random_values_come_back() {
    let mut random = Random(0x5eed);
    for _ in 0..2000 {
        let list = (0..random.below(20)).map(|_| {
            let text: String =
                (0..random.below(9)).map(|i| char::from(b'a' + u8::try_from(i).unwrap())).collect();
            (u8::try_from(random.below(256)).unwrap(), text)
        });
        let list = list.collect();
        let number = u32::try_from(random.next() >> 32).unwrap();
        let maybe = (random.below(2) == 0).then(|| u16::try_from(random.below(1 << 16)).unwrap());
        let value = Sample { number, maybe, list };
        let bytes = stream(&value);
        assert_eq!(Sample::read_stream(&bytes).as_ref(), Ok(&value));
        assert_eq!(Sample::decoded(&value.encoded()).as_ref(), Ok(&value));

        // Damage never panics, and what is still accepted has one encoding, bar unknown odd records.
        let mut damaged = bytes.clone();
        let at = random.below(damaged.len());
        damaged[at] = u8::try_from(random.below(256)).unwrap();
        damaged.truncate(1 + random.below(damaged.len()));
        if let Ok(read) = Sample::read_stream(&damaged) {
            assert_eq!(Sample::read_stream(&stream(&read)), Ok(read));
        }
    }
}

#[test]
fn random_bytes_never_panic() {
    let mut random = Random(0xfeed);
    for _ in 0..5000 {
        let bytes: Vec<u8> =
            (0..random.below(80)).map(|_| u8::try_from(random.next() >> 56).unwrap() % 8).collect();
        let _ = Nest::read_stream(&bytes);
        let _ = Terms::decoded(&bytes);
        let _ = BTreeMap::<u8, Vec<(u16, ScriptBuf)>>::decoded(&bytes);
    }
}

/// S28: a transaction that says that it has more than the bytes which arrived can hold is none, wherever it says so.
#[test]
fn a_transaction_is_not_believed() {
    let input =
        bitcoin::TxIn { witness: bitcoin::Witness::from_slice(&[[7; 3]]), ..bitcoin::TxIn::default() };
    let output =
        bitcoin::TxOut { value: Amount::from_sat(1), script_pubkey: ScriptBuf::from_bytes(vec![7; 2]) };
    let tx = |input: Vec<bitcoin::TxIn>| bitcoin::Transaction {
        version: bitcoin::transaction::Version::TWO,
        lock_time: bitcoin::absolute::LockTime::ZERO,
        input,
        output: vec![output.clone()],
    };
    for tx in [tx(vec![input]), tx(vec![bitcoin::TxIn::default()]), tx(vec![])] {
        let good = bitcoin::consensus::serialize(&tx);
        assert_eq!(transaction(&good), Some(tx));
        assert_eq!(transaction(&good[..good.len() - 1]), None);
    }
    // Marker and flag; inputs, script, outputs, script, elements of the witness, an element.
    for (place, count) in [(6, 1), (43, 0), (48, 1), (57, 2), (60, 1), (61, 3)] {
        let mut bytes = bitcoin::consensus::serialize(&tx(vec![bitcoin::TxIn {
            witness: bitcoin::Witness::from_slice(&[[7; 3]]),
            ..bitcoin::TxIn::default()
        }]));
        assert_eq!(bytes[place], count, "{place}");
        bytes.splice(place..=place, [0xfe, 0, 0, 0x30, 0]);
        assert_eq!(transaction(&bytes), None, "{place}");
    }
}
