//! One piece of work, small and always the same, for .ci/instructions.py to count its instructions: noise
//! on the machine doesn't matter to them.
//!
//! ```sh
//! .ci/instructions.py                    # needs valgrind; compares with benches/instructions.json
//! cargo bench --bench instructions       # every case, so that each is known to run
//! ```

#![allow(missing_docs, reason = "not a library")]
#![allow(clippy::unwrap_used, reason = "a benchmark that fails must fail the command")]

mod common;

use std::collections::BTreeMap;
use std::hint::black_box;

use bitcoin::hashes::Hash;
use bitcoin::{OutPoint, ScriptBuf, Txid};
use cln_factory::cln::chain::reduce;
use common::world::{Network, World};
use common::{engine, hash, key, terms, transaction};
use factory_engine::Watched;
use factory_engine::tx::layout::Layout;
use factory_engine::tx::plan::{Profile, shape_for};
use factory_engine::tx::tree::{Member, Roster, Scope, Tree};

type Work = Box<dyn FnOnce()>;
/// Name, and what makes the work: its own instructions are not counted.
type Case = (&'static str, fn() -> Work);

const CASES: [Case; 7] = [
    ("layout-1000", || {
        let terms = terms(1, 1000, shape_for(1000, Profile::Static).unwrap());
        Box::new(move || drop(black_box(Layout::new(&terms).unwrap())))
    }),
    ("tree-16", || tree(16)),
    ("tree-64", || tree(64)),
    ("ceremony-4", || ceremony(4)),
    ("ceremony-16", || ceremony(16)),
    ("load-8x16", || Box::new(|| drop(black_box(engine(8, 16, false))))),
    ("scan", scan),
];

fn tree(clients: u32) -> Work {
    let layout = Layout::new(&terms(1, clients, shape_for(clients, Profile::Static).unwrap())).unwrap();
    let payout = ScriptBuf::from([&[0, 20], &[7; 20][..]].concat());
    let member = |at| Member { key: key(at).public(), payout: payout.clone() };
    let roster = Roster { lsp_key: key(0).public(), clients: (1..=clients).map(member).collect() };
    let funding = OutPoint { txid: Txid::from_byte_array([9; 32]), vout: 0 };
    let script = ScriptBuf::from([&[0, 32], &[8; 32][..]].concat());
    let scripts: BTreeMap<u32, ScriptBuf> = (0..clients).map(|client| (client, script.clone())).collect();
    Box::new(move || {
        let tree = Tree::build(&layout, &roster, funding, Scope::All, &scripts, &BTreeMap::new());
        drop(black_box(tree.unwrap()));
    })
}

/// Everybody's part, operator and clients.
fn ceremony(clients: u32) -> Work {
    let mut world = World::new(clients as usize, Network::default());
    Box::new(move || {
        black_box(world.create(shape_for(clients, Profile::Static).unwrap()));
    })
}

/// A block of two thousand transactions against ten thousand outpoints.
fn scan() -> Work {
    let outpoint = |at: u32| OutPoint { txid: Txid::from_byte_array(hash(&[at])), vout: at % 4 };
    let watched = Watched { outpoints: (0..10_000).map(outpoint).collect(), ..Watched::default() };
    let mut block = bitcoin::constants::genesis_block(bitcoin::Network::Regtest);
    block.txdata = (20_000..22_000).map(|at| transaction(&[outpoint(at), outpoint(at + 2_000)], 2)).collect();
    Box::new(move || drop(black_box(reduce(1, block, &watched))))
}

/// What is counted: .ci/instructions.py knows it by its name.
#[inline(never)]
fn counted_work(work: Work) {
    work();
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    for (name, make) in CASES {
        if wanted.is_empty() || wanted.iter().any(|word| word == name) {
            counted_work(make());
            println!("{name}");
        }
    }
}
