//! What the creation of a factory costs: CPU of the operator and of one client, bytes that a client
//! sends and receives, bytes that each stores. The real engine on both sides, real signatures, no
//! lightningd, one thread, whose CPU time is what is measured, so that other work on the machine hardly
//! matters:
//!
//! ```sh
//! cargo bench --bench ceremony            # N = 8, 32, 127, 1000
//! cargo bench --bench ceremony -- 16 64
//! ```
//!
//! Then what a sale costs each member of its sub-factory; more than a millisecond fails the command.
//!
//! The tree's part and the speed of one key aggregation are printed too, as a yardstick for the machine.

#![allow(missing_docs, reason = "not a library")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that fails must fail the command")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use bitcoin::hashes::Hash;
use bitcoin::{Amount, BlockHash};
use common::world::{Member, Network, World};
use common::{HEIGHT, cpu_time, hash, key, median};
use factory_engine::tx::layout::Layout;
use factory_engine::tx::musig::KeyAgg;
use factory_engine::tx::plan::{Profile, shape_for};
use factory_engine::types::InstanceId;
use factory_engine::{Answer, Block, Command, Input};

fn create(clients: usize) -> (World, InstanceId) {
    let mut world = World::new(clients, Network::default());
    let (instance, _) = world.create(shape_for(clients as u32, Profile::Static).unwrap());
    (world, instance)
}

/// What sales cost each member of the first sub-factory: median ms by member.
fn sell(world: &mut World, instance: InstanceId) -> BTreeMap<usize, f64> {
    let factory = world.members[0].engine.factory(instance).unwrap();
    let coin = factory.current.layout.stock_coin(0).unwrap();
    let members: Vec<usize> = [0]
        .into_iter()
        .chain(factory.current.layout.coin(coin).unwrap().clients.clone().map(|at| at as usize + 1))
        .collect();
    let funding = world.funding.clone().unwrap();
    for height in HEIGHT + 1..HEIGHT + 10 {
        world.height = height;
        let txs = if height == HEIGHT + 1 { vec![funding.clone()] } else { vec![] };
        let hash = BlockHash::from_byte_array(hash(&[height]));
        for at in &members {
            world.input(*at, Input::Block(Block { height, hash, txs: txs.clone() }));
        }
        world.run();
    }
    let mut columns: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for sale in 1..=9 {
        world.forget_costs();
        let amount = Amount::from_sat(20_000);
        let buy = Command::Buy { instance, amount, max_price_msat: 0 };
        assert_eq!(world.command(members[1], buy), Answer::Done);
        world.run();
        for at in &members {
            let sales = &world.members[*at].engine.factory(instance).unwrap().current.sales;
            assert!(sales.of(coin).len() == sale && sales.of(coin)[sale - 1].is_signed());
            columns.entry(*at).or_default().push(milliseconds(world.members[*at].cpu));
        }
    }
    columns.into_iter().map(|(at, column)| (at, median(column))).collect()
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn main() {
    let arguments: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let sizes = if arguments.is_empty() { vec![8, 32, 127, 1000] } else { arguments };

    let keys: Vec<_> = (0..128).map(|at| key(at).public()).collect();
    let aggregation = median(
        (0..21)
            .map(|_| {
                let start = cpu_time();
                std::hint::black_box(KeyAgg::new(&keys, None).unwrap());
                milliseconds(cpu_time() - start)
            })
            .collect(),
    );
    println!("yardstick: one BIP-327 key aggregation of 128 keys takes {aggregation:.2} ms here\n");
    println!(
        "{:>5} {:>6} {:>9} {:>10} {:>10} {:>9} {:>9} {:>8} {:>8} {:>10} {:>10}",
        "N",
        "nodes",
        "sessions",
        "layout ms",
        "L ms",
        "L/yard",
        "client ms",
        "sent B",
        "recv B",
        "client st.",
        "L stored"
    );
    for clients in sizes {
        let runs = if clients > 300 { 3 } else { 7 };
        let mut columns: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        let mut last = None;
        for _ in 0..runs {
            let (world, instance) = create(clients);
            columns.entry("lsp").or_default().push(milliseconds(world.members[0].cpu));
            let sum: Duration = world.members[1..].iter().map(|member| member.cpu).sum();
            columns.entry("client").or_default().push(milliseconds(sum) / clients as f64);
            let terms = &world.members[0].engine.factory(instance).unwrap().current.terms;
            let start = cpu_time();
            std::hint::black_box(Layout::new(terms).unwrap());
            columns.entry("layout").or_default().push(milliseconds(cpu_time() - start));
            last = Some((world, instance));
        }
        let (world, instance) = last.unwrap();
        let factory = world.members[0].engine.factory(instance).unwrap();
        let most = |of: fn(&Member) -> usize| world.members[1..].iter().map(of).max().unwrap();
        let lsp = median(columns.remove("lsp").unwrap());
        println!(
            "{:>5} {:>6} {:>9} {:>10.3} {:>10.1} {:>9.1} {:>9.2} {:>8} {:>8} {:>10} {:>10}",
            clients,
            factory.current.layout.nodes().len(),
            factory.current.layout.sessions(None).len(),
            median(columns.remove("layout").unwrap()),
            lsp,
            lsp / aggregation,
            median(columns.remove("client").unwrap()),
            most(|member| member.sent),
            most(|member| member.received),
            most(|member| member.stored),
            world.members[0].stored
        );
    }
    let (mut world, instance) = create(8);
    let costs = sell(&mut world, instance);
    let names = |at: usize| {
        if at == 0 {
            "L"
        } else if at == 1 {
            "buyer"
        } else {
            "neighbour"
        }
    };
    let text: Vec<String> = costs.iter().map(|(at, ms)| format!("{} {ms:.2} ms", names(*at))).collect();
    println!("\na sale, CPU of each member of its sub-factory: {}", text.join(", "));
    assert!(costs.values().all(|ms| *ms < 1.0), "a sale takes more than a millisecond");
}
