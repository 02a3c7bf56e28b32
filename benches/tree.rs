//! Parts of a ceremony, by criterion: layout and tree, for the operator and for one client.
//!
//! ```sh
//! cargo bench --bench tree
//! ```

#![allow(missing_docs, reason = "not a library")]
#![allow(clippy::unwrap_used, reason = "a benchmark that fails must fail the command")]

mod common;

use std::collections::BTreeMap;
use std::hint::black_box;

use bitcoin::hashes::Hash;
use bitcoin::{OutPoint, ScriptBuf, Txid};
use common::{key, terms};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use factory_engine::tx::layout::Layout;
use factory_engine::tx::plan::{Profile, shape_for};
use factory_engine::tx::tree::{Member, Roster, Scope, Tree};

fn roster(clients: u32) -> Roster {
    let payout = ScriptBuf::from([&[0, 20], &[7; 20][..]].concat());
    let client = |at| Member { key: key(at + 1).public(), payout: payout.clone() };
    Roster { lsp_key: key(0).public(), clients: (0..clients).map(client).collect() }
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tree");
    group.sample_size(10);
    for clients in [8, 32, 127, 1000] {
        let terms = terms(0, clients, shape_for(clients, Profile::Static).unwrap());
        let roster = roster(clients);
        let layout = Layout::new(&terms).unwrap();
        let funding = OutPoint { txid: Txid::from_byte_array([9; 32]), vout: 0 };
        let script = ScriptBuf::from([&[0, 32], &[8; 32][..]].concat());
        let scripts: BTreeMap<u32, ScriptBuf> = (0..clients).map(|client| (client, script.clone())).collect();
        let none = BTreeMap::new();
        let build =
            |scope, foreign| Tree::build(&layout, &roster, funding, scope, &scripts, foreign).unwrap();

        group.bench_function(BenchmarkId::new("layout", clients), |bencher| {
            bencher.iter(|| Layout::new(black_box(&terms)).unwrap());
        });
        group.bench_function(BenchmarkId::new("operator", clients), |bencher| {
            bencher.iter(|| build(Scope::All, &none));
        });
        let full = build(Scope::All, &none);
        let foreign: BTreeMap<u32, _> = Tree::foreign_coins(&layout, 0)
            .into_iter()
            .map(|coin| (coin, full.output_key(coin).unwrap()))
            .collect();
        group.bench_function(BenchmarkId::new("client", clients), |bencher| {
            bencher.iter(|| build(Scope::Client(0), &foreign));
        });
    }
    group.finish();
}

criterion_group!(tree, benches);
criterion_main!(tree);
