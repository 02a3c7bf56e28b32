//! All of a ceremony's cryptography in one process and one thread: the tree, everybody's nonces, partial
//! signatures, their verification, aggregation. What a factory costs the world, whoever pays for it.
//!
//! ```sh
//! cargo bench --bench signing            # N = 127 and 1000, profile static; N = 127, 147 nodes
//! cargo bench --bench signing -- 16 64
//! ```
//!
//! CPU time of the thread, median of several runs. Nonces don't travel, so nobody has to find their points
//! again; in benches/ceremony they do. "verify" is every partial signature by itself
//! (BIP-327 PartialSigVerify), as only a ceremony with a liar in it needs; what every ceremony needs is
//! the finished signatures' verification, which is in "aggregate".

#![allow(missing_docs, reason = "not a library")]
#![allow(clippy::unwrap_used, reason = "a benchmark that fails must fail the command")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use bitcoin::{OutPoint, ScriptBuf, Txid, hashes::Hash};
use common::{cpu_time, hash, key, median, terms};
use factory_engine::terms::{Kind, Leaf, Level, Shape};
use factory_engine::tx::layout::Layout;
use factory_engine::tx::musig::{CheckedNonce, FactoryKey, PartialSig, Round, SecNonce, new_checked_nonce};
use factory_engine::tx::plan::{Profile, shape_for};
use factory_engine::tx::tree::{Member, Roster, Scope, Tree};

const PHASES: [&str; 5] = ["tree", "nonces", "sign", "aggregate", "verify"];

/// Milliseconds of each phase, and how many partial signatures there were.
fn ceremony(shape: &Shape, clients: u32) -> ([f64; 5], usize) {
    let mut times = [Duration::ZERO; 5];
    let keys: Vec<FactoryKey> = (0..=clients).map(key).collect();
    let payout = ScriptBuf::from([&[0, 20], &[7; 20][..]].concat());
    let roster = Roster {
        lsp_key: keys[0].public(),
        clients: keys[1..].iter().map(|key| Member { key: key.public(), payout: payout.clone() }).collect(),
    };
    let mut phase = 0;
    let mut start = cpu_time();
    let mut next = |times: &mut [Duration; 5]| {
        times[phase] += cpu_time() - start;
        phase += 1;
        start = cpu_time();
    };

    let layout = Layout::new(&terms(1, clients, shape.clone())).unwrap();
    let funding = OutPoint { txid: Txid::from_byte_array([9; 32]), vout: 0 };
    let script = ScriptBuf::from([&[0, 32], &[8; 32][..]].concat());
    let scripts: BTreeMap<u32, ScriptBuf> = (0..clients).map(|client| (client, script.clone())).collect();
    let tree = Tree::build(&layout, &roster, funding, Scope::All, &scripts, &BTreeMap::new()).unwrap();
    next(&mut times);

    let member = |signer: &Option<u32>| signer.map_or(0, |client| client as usize + 1);
    let signers: Vec<Vec<usize>> = tree
        .sessions()
        .iter()
        .map(|session| tree.signers(session.id.coin).iter().map(member).collect())
        .collect();
    let mut seed = 0;
    let mut nonce = |signer: &usize| {
        seed += 1;
        new_checked_nonce(hash(&[seed, 5]), &keys[*signer])
    };
    let nonces: Vec<(Vec<SecNonce>, Vec<CheckedNonce>)> =
        signers.iter().map(|signers| signers.iter().map(&mut nonce).unzip()).collect();
    let (secret, public): (Vec<_>, Vec<_>) = nonces.into_iter().unzip();
    next(&mut times);

    let sessions = || tree.sessions().iter().map(|session| (session, tree.key_agg(session.id.coin).unwrap()));
    let rounds: Vec<Round> = sessions()
        .zip(&public)
        .map(|((session, agg), nonces)| Round::start(agg, nonces, &session.sighash).unwrap().1)
        .collect();
    let partials: Vec<Vec<PartialSig>> = sessions()
        .zip(&rounds)
        .zip(signers.iter().zip(secret))
        .map(|(((_, agg), round), (signers, nonces))| {
            let sign = |(signer, nonce): (&usize, SecNonce)| round.sign(&keys[*signer], nonce, agg).unwrap();
            signers.iter().zip(nonces).map(sign).collect()
        })
        .collect();
    next(&mut times);

    for (((_, agg), round), partials) in sessions().zip(&rounds).zip(&partials) {
        round.finish(agg, partials).unwrap();
    }
    next(&mut times);

    for ((((_, agg), round), signers), (nonces, partials)) in
        sessions().zip(&rounds).zip(&signers).zip(public.iter().zip(&partials))
    {
        for ((signer, nonce), partial) in signers.iter().zip(nonces).zip(partials) {
            round.verify(agg, keys[*signer].public(), &nonce.serialize(), partial).unwrap();
        }
    }
    next(&mut times);
    (times.map(|time| time.as_secs_f64() * 1e3), partials.iter().map(Vec::len).sum())
}

fn report(name: &str, shape: &Shape, clients: u32) {
    let runs: Vec<_> = (0..if clients > 300 { 3 } else { 7 }).map(|_| ceremony(shape, clients)).collect();
    let phases: Vec<f64> =
        (0..5).map(|at| median(runs.iter().map(|(times, _)| times[at]).collect())).collect();
    let layout = Layout::new(&terms(1, clients, shape.clone())).unwrap();
    let without: f64 = phases[..4].iter().sum();
    let columns: Vec<String> = phases.iter().map(|phase| format!("{phase:>10.1}")).collect();
    println!(
        "{name:>10} {clients:>5} {:>6} {:>9} {:>9}{} {without:>10.1} {:>10.1}",
        layout.nodes().len(),
        layout.sessions(None).len(),
        runs[0].1,
        columns.concat(),
        without + phases[4]
    );
}

fn main() {
    let arguments: Vec<u32> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let sizes = if arguments.is_empty() { vec![127, 1000] } else { arguments.clone() };
    println!(
        "{:>10} {:>5} {:>6} {:>9} {:>9}{} {:>10} {:>10}",
        "shape",
        "N",
        "nodes",
        "sessions",
        "partials",
        PHASES.map(|phase| format!("{phase:>10}")).concat(),
        "sum",
        "+ verify"
    );
    for clients in sizes {
        report("static", &shape_for(clients, Profile::Static).unwrap(), clients);
    }
    if arguments.is_empty() {
        // As many transactions as the best tree of the C implementation has for 127.
        let level = |arity| Level { arity, kind: Kind::Static };
        let shape = Shape {
            levels: vec![level(19), level(7)],
            leaf: Leaf { kind: Kind::Static, sub_factories: 1, clients_per_sub: 1 },
        };
        report("147 nodes", &shape, 127);
    }
}
