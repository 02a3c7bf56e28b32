//! Writes first inputs for each target into `fuzz/corpus`: the frozen vectors, the records of factories,
//! requests that are right. `cargo run -p cln-factory-fuzz --example seeds`, then `fuzz/run`.

#![allow(clippy::unwrap_used, reason = "a tool for developers")]

use std::fs;
use std::path::Path;

use bitcoin::hex::FromHex;
use cln_factory_fuzz::TARGETS;
use serde_json::Value;

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let vectors = fs::read_to_string(root.join("../tests/vectors/wire.json")).unwrap();
    let vectors: Value = serde_json::from_str(&vectors).unwrap();
    let hex =
        |value: &Value| value["hex"].as_str().or(value.as_str()).map(|text| Vec::from_hex(text).unwrap());
    let list =
        |name: &str| -> Vec<Vec<u8>> { vectors[name].as_array().unwrap().iter().filter_map(hex).collect() };

    for target in TARGETS {
        let folder = root.join("corpus").join(target.name);
        fs::create_dir_all(&folder).unwrap();
        let inputs: Vec<Vec<u8>> = match target.name {
            "envelope" => {
                let mut inputs = list("envelopes");
                inputs.extend(hex(&vectors["channel_in_factory"]));
                inputs
            }
            "message" => list("messages"),
            "tlv" => tlv(&hex(&vectors["terms"]).unwrap(), &list("messages")),
            "link" => link(),
            "record" => histories(&root.join("../tests/golden/histories")),
            "params" => {
                (0..10).flat_map(|command| (0..8).map(move |template| vec![command, template])).collect()
            }
            "hooks" => hooks(),
            "chain" => chain(),
            "lightningd" => (0..6)
                .flat_map(|kind| (0..5).map(move |at| vec![kind, 0, 1, at, 0, 1, at, 0, 1, 4]))
                .collect(),
            _ => engine(),
        };
        for (number, input) in inputs.iter().enumerate() {
            fs::write(folder.join(format!("seed-{number:02}")), input).unwrap();
        }
        println!("{}: {} inputs", target.name, inputs.len());
    }
}

/// The frozen histories: whole factories, of operators and clients.
fn histories(folder: &Path) -> Vec<Vec<u8>> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let record = |line: &str| line.strip_prefix("record ").map(|hex| Vec::<u8>::from_hex(hex).unwrap());
    let input = |text: String| {
        let records: Vec<Vec<u8>> = text.lines().filter_map(record).collect();
        let framed =
            |record: &Vec<u8>| [&u16::try_from(record.len()).unwrap().to_be_bytes()[..], record].concat();
        records.iter().map(framed).collect::<Vec<_>>().concat()
    };
    files.iter().map(|file| input(fs::read_to_string(file).unwrap())).collect()
}

/// Each kind of value once.
fn tlv(terms: &[u8], messages: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut inputs: Vec<Vec<u8>> = messages.iter().map(|message| [&[0], &message[2..]].concat()).collect();
    inputs.push([&[19], terms].concat());
    let values: [(u8, &[u8]); 14] = [
        (1, &[0xfd, 0x01, 0x00]),
        (5, &[1]),
        (6, &[0, 2, b'h', b'i']),
        (7, &[3, 1, 2, 3]),
        (8, &[1, 2, 0, 1, 0, 2]),
        (9, &[1, 0, 0, 0, 1, 0, 1, b'x']),
        (10, &[2, 0, 1, 1, 5, 0, 2, 0]),
        (11, &[0, 0, 0, 0, 0, 0, 1, 0]),
        (12, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0]),
        (14, &[7; 36]),
        (18, &[0, 3, 0x51, 0x02, 0x4e]),
        (21, &[0]),
        (22, &[3; 66]),
        (23, &[0]),
    ];
    inputs.extend(values.map(|(kind, bytes)| [&[kind], bytes].concat()));
    let point = bitcoin::key::Secp256k1::new();
    let key = bitcoin::secp256k1::SecretKey::from_slice(&[5; 32]).unwrap().public_key(&point);
    inputs.push([&[16], &key.serialize()[..]].concat());
    inputs.push([&[17], &key.x_only_public_key().0.serialize()[..]].concat());
    inputs.push([&[20, 1], &key.serialize()[..], &[0, 1, 0x51]].concat());
    inputs
}

fn link() -> Vec<Vec<u8>> {
    let list = [0, 0x80];
    let send = [4, 0x00, 0x40, 7, 0x84, 0x00, 0x20, 9];
    let large = [4, 0x60, 0x00, 1, 0, 0x80, 0, 0x80, 0, 0x80, 0];
    let bad = [12, 0, 5, 0x80, 0x20, 0, 4, 0, 0x80, 7, 30, 1, 10, 11, 14, 50];
    vec![
        list.to_vec(),
        [&list[..], &send, &[0, 0x80, 0, 0x80]].concat(),
        [&list[..], &large].concat(),
        [&list[..], &large, &send, &large].concat(),
        [&list[..], &send, &bad, &send].concat(),
    ]
}

fn hooks() -> Vec<Vec<u8>> {
    let mut inputs: Vec<Vec<u8>> = [(0, 1), (1, 2), (2, 5), (3, 1)]
        .iter()
        .flat_map(|(hook, templates)| (0..*templates).map(|template| vec![*hook, template]))
        .collect();
    let requests = "{\"method\":\"factory-list\",\"id\":\"a\",\"params\":[]}\n\n{\"method\":\"x\"}\n\n";
    inputs.push([&[4, 3], requests.as_bytes()].concat());
    inputs.push(
        [&[1, 200], &br#"{"htlc":{"short_channel_id":"103x1x0","cltv_expiry":1200},"onion":{}}"#[..]]
            .concat(),
    );
    inputs
}

fn chain() -> Vec<Vec<u8>> {
    let own = [2, 0, 3, 0, 0, 0, 1, 2, 1, 0, 1, 5, 1, 0, 2, 4, 1, 0, 3];
    let with = |options: u8| [&[2, options], &own[2..]].concat();
    let raw = bitcoin::consensus::serialize(&bitcoin::constants::genesis_block(bitcoin::Network::Regtest));
    let length = u16::try_from(raw.len()).unwrap().to_be_bytes();
    vec![
        with(0),
        with(2),
        with(0x23),
        with(0x36),
        [&[1, 0], &length[..], &raw, &length, &raw].concat(),
        vec![0, 0, 0, 1, 0, 0, 1, 1, 0, 1, 2, 0, 1, 0],
        [
            &[3, 0],
            &bitcoin::consensus::serialize(
                &bitcoin::constants::genesis_block(bitcoin::Network::Regtest).txdata[0],
            )[..],
        ]
        .concat(),
    ]
}

/// From nothing to an active factory and out again, in each kind of world; and single steps of it.
fn engine() -> Vec<Vec<u8>> {
    let create = [21, 0xe3, 0x96, 0, 0xe3, 0xe3, 12, 0, 31, 3];
    let mut inputs = vec![
        [&[5][..], &create].concat(),
        [&[5][..], &[21, 0, 0, 0x96, 0, 0, 0, 1, 2, 3, 8, 0, 0, 0, 1, 4, 2, 5, 0, 16, 11, 3]].concat(),
        [&[5][..], &create, &[0x58, 0, 12, 0, 31, 12, 0, 25, 1, 0, 8, 14, 31]].concat(),
        [&[5][..], &create[..2], &[19, 0, 0xe3, 16, 0xe3]].concat(),
    ];
    for start in 0..4 {
        inputs.push(vec![start, 12, 0, 31, 0x58, 0, 12, 0, 12, 0, 31, 3]);
        inputs.push(vec![start, 0x4e, 12, 0, 15, 3, 1, 25, 0, 0, 9, 31]);
        inputs.push(vec![start, 29, 0x10, 0x68, 31, 31, 0x53, 1, 31]);
        inputs.push(vec![start, 27, 0, 2, 28, 1, 1, 0, 2, 0x51, 0x52, 26, 0, 0, 0, 0, 0, 24, 0, 20, 31]);
    }
    // Fees, reports and evictions, on the way out.
    for start in 0..4 {
        inputs.push(vec![
            start, 12, 0, 31, 0x3e, 0, 2, 1, 0, 0, 1, 0, 5, 2, 0, 0, 4, 0, 1, 0, 0x38, 1, 0, 0, 31, 12, 0,
        ]);
        inputs.push(vec![
            start, 12, 0, 31, 0x58, 0, 0x7e, 2, 0, 4, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 9, 0, 12, 0, 0x7e, 1, 1,
            31,
        ]);
    }
    inputs
}
