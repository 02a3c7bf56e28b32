//! A large node: a thousand factories of 64 members. Prints how long a full block takes to be searched,
//! what the factories take of memory, as operator and as client, how long `factory-list` takes, and how long
//! a start. Fails if one of them is beyond its goal.
//!
//! ```sh
//! cargo bench --bench scale              # 1000 factories, 64 members
//! cargo bench --bench scale -- 200 64
//! cargo bench --bench scale -- 1000 64 dump FILE   # the operator's records, for pytest/test_speed.py
//! cargo bench --bench scale -- 1 4096 write SOCKET # the same into a running lightningd, for pytest/test_records.py
//! ```
//!
//! Memory is what the process grows by (`/proc/self/statm`), so each number is taken in a process of its
//! own.

#![allow(missing_docs, reason = "not a library")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that fails must fail the command")]
#![allow(clippy::disallowed_methods, reason = "it measures time")]

mod common;
mod restart;

use std::io::Write;
use std::time::Duration;

use bitcoin::hashes::Hash;
use bitcoin::hex::DisplayHex;
use bitcoin::{OutPoint, Txid};
use cln_factory::cln::chain::reduce;
use cln_factory::cln::methods::factory_json;
use common::{HEIGHT, engine, hash, node, transaction};
use factory_engine::Watched;

/// Milliseconds of CPU to search a block.
const SCAN: f64 = 50.0;
/// Bytes of memory.
const MEMORY: u64 = 200_000_000;
/// Milliseconds of CPU for `factory-list`.
const LIST: f64 = 1_000.0;

/// Resident memory, bytes.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

fn memory(factories: u32, clients: u32, lsp: bool) {
    // What the allocator and the tables of curve points need anyway.
    drop(engine(1, clients, lsp));
    let before = resident();
    let engine = engine(factories, clients, lsp);
    let grown = resident() - before;
    let role = if lsp { "operator" } else { "client" };
    println!(
        "memory      {factories} factories of {clients} members, as {role}: {} MB, {} KB each",
        grown / 1_000_000,
        grown / u64::from(factories) / 1_000
    );
    assert!(grown < MEMORY, "{grown} bytes of memory, more than {MEMORY}");
    let started = cpu_time();
    let watched = engine.watched().outpoints.len();
    println!("watched     {watched} outpoints, collected in {:.1} ms", millis(started));
    let node = factory_json::Node { me: node(u32::MAX), channels: Default::default(), held: vec![] };
    let started = cpu_time();
    let list: Vec<_> = engine.factories().map(|f| factory_json::factory(f, &node, HEIGHT + 100)).collect();
    let json = serde_json::to_string(&list).unwrap();
    let took = millis(started);
    println!("list        factory-list as {role}: {took:.0} ms, {} KB", json.len() / 1_000);
    assert!(took < LIST, "factory-list takes {took:.0} ms, more than {LIST} ms");
}

/// A block of 4 MB (all of it witness that the limit allows would be smaller work: this is the most
/// transactions and inputs), against 100,000 outpoints.
fn scan() {
    let watched = Watched {
        outpoints: (0..100_000u32)
            .map(|at| OutPoint { txid: Txid::from_byte_array(hash(&[at])), vout: at % 4 })
            .collect(),
        ..Watched::default()
    };
    let mut block = bitcoin::constants::genesis_block(bitcoin::Network::Regtest);
    let ours = *watched.outpoints.iter().next().unwrap();
    let (mut bytes, mut number) = (0, 0u32);
    while bytes < 4_000_000 {
        let spends: Vec<OutPoint> = (0..2)
            .map(|at| OutPoint { txid: Txid::from_byte_array(hash(&[number, at, 9])), vout: 0 })
            .chain((number == 77).then_some(ours))
            .collect();
        let tx = transaction(&spends, 2);
        bytes += tx.total_size();
        number += 1;
        block.txdata.push(tx);
    }
    let inputs: usize = block.txdata.iter().map(|tx| tx.input.len()).sum();
    let started = cpu_time();
    let found = reduce(1, block, &watched);
    let took = millis(started);
    assert_eq!(found.txs.len(), 1);
    println!("scan        a block of {bytes} bytes, {inputs} inputs, against 100000 outpoints: {took:.1} ms");
    assert!(took < SCAN, "a block takes {took:.1} ms, more than {SCAN} ms");
}

fn in_own_process(words: &str) -> bool {
    let own = std::env::current_exe().unwrap();
    std::process::Command::new(own).args(words.split(' ')).status().unwrap().success()
}

/// A line for each record: instance, number and bytes, hex.
fn dump(factories: u32, clients: u32, file: &str) {
    let mut out = std::io::BufWriter::new(std::fs::File::create(file).unwrap());
    for (instance, records) in restart::histories(factories, clients, true) {
        for (at, record) in records.iter().enumerate() {
            writeln!(out, "{instance} {at:0>8} {}", record.to_lower_hex_string()).unwrap();
        }
    }
}

fn millis(started: Duration) -> f64 {
    (cpu_time() - started).as_secs_f64() * 1_000.0
}

/// This thread's CPU time: other work on the machine hardly matters.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let number = |at: usize, usual: u32| words.get(at).map_or(usual, |word| word.parse().unwrap());
    let (factories, clients) = (number(0, 1_000), number(1, 64));
    match words.get(2).map(String::as_str) {
        Some("operator") => memory(factories, clients, true),
        Some("client") => memory(factories, clients, false),
        Some("restart") => {
            restart::measure(factories, clients, words.get(3).is_some_and(|role| role == "operator"))
        }
        Some("dump") => dump(factories, clients, words.get(3).expect("a file")),
        Some("write") => restart::write(factories, clients, words.get(3).expect("lightningd's socket")),
        _ => {
            scan();
            let mut failed = false;
            for what in ["operator", "client", "restart operator", "restart client"] {
                failed |= !in_own_process(&format!("{factories} {clients} {what}"));
            }
            assert!(!failed, "beyond a goal");
        }
    }
}
