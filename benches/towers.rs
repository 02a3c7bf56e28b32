//! What a tower costs: what each client of a factory hands over to it, what of that is on its disk, and CPU on both
//! sides; then a commitment that is revoked, a block of 4,000 transactions, and a penalty that is published. The real
//! engine and the real link layer on both sides, one thread, whose CPU time is what is measured:
//!
//! ```sh
//! cargo bench --bench towers              # N = 127, 1000: writes the table of bytes in docs/speed.md, prints that of CPU
//! cargo bench --bench towers -- 8         # any other numbers: prints, writes nothing
//! cargo bench --bench towers -- --check   # writes nothing, and fails if the bytes that are written differ
//! ```
//!
//! All clients have one tower, which is in no factory, and meet it once the factory is there. Disks and lightningd are
//! not in it. Bytes don't depend on the machine.

#![allow(missing_docs, reason = "not a library")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that fails must fail the command")]

mod common;
#[path = "common/document.rs"]
mod document;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use bitcoin::hashes::Hash;
use bitcoin::{BlockHash, OutPoint, Transaction, Txid, Witness};
use cln_factory::cln::chain::reduce;
use common::world::{Beside, Network, World};
use common::{cpu_time, hash, median, transaction};
use document::{Mode, thousands};
use factory_engine::tower::Watcher;
use factory_engine::tx::plan::{Profile, shape_for};
use factory_engine::types::{ChannelId, NodeId};
use factory_engine::{Block, Input};

/// What docs/speed.md shows.
const SIZES: [usize; 2] = [127, 1_000];
/// Bytes that a tower keeps beside what is sealed (factory-runtime/src/store/tower): sum, bytes, until when, its client's
/// records, txid and height.
const BESIDE: usize = 32 + 4 + 4 + 4 + 32 + 4;
/// Of a block.
const TRANSACTIONS: u32 = 4_000;
/// How often what takes little is done; the one in the middle counts.
const TIMES: u32 = 9;
/// The client whose commitments are revoked.
const CLIENT: usize = 1;

/// What one number of clients comes to.
struct Costs {
    /// Of the client that has most: appointments, all that it sends and receives for them, what the tower keeps.
    client: (usize, usize, usize),
    /// Of one penalty: what its client sends and receives, what the tower keeps.
    penalty: (usize, usize),
    /// To make all of a client's once.
    make: f64,
    /// To hand them over.
    hand_over: f64,
    /// Tower, for each appointment.
    take: f64,
    /// To make a penalty's appointment and hand it over.
    revoke: f64,
    /// Tower.
    take_penalty: f64,
    /// Tower: to look into a block.
    look: f64,
    /// Tower: to open what a transaction has made due, up to where it is sent.
    publish: f64,
}

fn costs(clients: usize) -> Costs {
    let mut world = World::with(clients, Network::default(), Beside::Tower);
    let (instance, _) = world.create(shape_for(clients as u32, Profile::Static).unwrap());
    world.forget_costs();
    let tower = world.meet_tower();

    let own = &world.members[1..=clients];
    let start = cpu_time();
    let watchers = own.iter().flat_map(|client| client.engine.watchers(instance, world.height));
    let watchers: Vec<Watcher> = watchers.collect();
    let make = milliseconds(cpu_time() - start) / clients as f64;
    let has_all = |watcher: &Watcher| watcher.missing == 0 && watcher.refused.is_none();
    assert!(watchers.len() == clients && watchers.iter().all(has_all), "each client's tower has everything");
    let all: usize = watchers.iter().map(|watcher| watcher.appointments).sum();
    assert_eq!(world.members[tower].appointments.len(), all);
    let client = (
        watchers.iter().map(|watcher| watcher.appointments).max().unwrap(),
        own.iter().map(|client| client.sent + client.received).max().unwrap(),
        kept(&world, tower).into_values().max().unwrap(),
    );
    let hand_over: Duration = own.iter().map(|client| client.cpu).sum();
    let hand_over = milliseconds(hand_over) / clients as f64;
    let take = microseconds(world.members[tower].cpu) / all as f64;

    let block = block();
    let look = median((0..TIMES).map(|_| look(&mut world, tower, &block)).collect());

    let channel_id = world.members[CLIENT].engine.factory(instance).unwrap().current.channels[&0];
    let before: usize = kept(&world, tower).into_values().sum();
    let penalties: Vec<Penalty> =
        (0..TIMES).map(|number| punish(&mut world, tower, channel_id, number)).collect();
    let after: usize = kept(&world, tower).into_values().sum();
    let middle = |of: fn(&Penalty) -> f64| median(penalties.iter().map(of).collect());
    Costs {
        client,
        penalty: (
            penalties.iter().map(|penalty| penalty.bytes).max().unwrap(),
            (after - before) / TIMES as usize,
        ),
        make,
        hand_over,
        take,
        revoke: middle(|penalty| milliseconds(penalty.revoke)),
        take_penalty: middle(|penalty| microseconds(penalty.take)),
        look,
        publish: middle(|penalty| microseconds(penalty.publish)),
    }
}

/// Bytes on the tower's disk, of each client.
fn kept(world: &World, tower: usize) -> BTreeMap<NodeId, usize> {
    let mut kept = BTreeMap::new();
    for ((peer, ..), appointment) in &world.members[tower].appointments {
        *kept.entry(*peer).or_default() += appointment.sealed.len() + BESIDE;
    }
    kept
}

/// A full block, of which nobody waits for anything.
fn block() -> bitcoin::Block {
    let mut block = bitcoin::constants::genesis_block(bitcoin::Network::Regtest);
    let coin = |number, at| OutPoint { txid: Txid::from_byte_array(hash(&[number, at, 9])), vout: 0 };
    block.txdata =
        (0..TRANSACTIONS).map(|number| transaction(&[coin(number, 0), coin(number, 1)], 2)).collect();
    block
}

/// Milliseconds of the follower, which looks at each transaction, and of the engine.
fn look(world: &mut World, tower: usize, block: &bitcoin::Block) -> f64 {
    let block = block.clone();
    let start = cpu_time();
    let watched = world.members[tower].engine.watched();
    let found = reduce(world.height + 1, block, &watched);
    let follower = cpu_time() - start;
    assert!(!watched.locators.is_empty() && found.txs.is_empty(), "nobody waits for these");
    milliseconds(follower + mine(world, tower, vec![]))
}

/// A block that has these of what is waited for, and of which the tower alone hears: its CPU.
fn mine(world: &mut World, tower: usize, txs: Vec<Transaction>) -> Duration {
    world.forget_costs();
    world.height += 1;
    let hash = BlockHash::from_byte_array(hash(&[world.height]));
    world.input(tower, Input::Block(Block { height: world.height, hash, txs }));
    world.run();
    world.members[tower].cpu
}

/// What one penalty costs.
struct Penalty {
    /// Of its client, sent and received.
    bytes: usize,
    /// Its client's CPU.
    revoke: Duration,
    /// The tower's.
    take: Duration,
    /// The tower's, once the commitment is there.
    publish: Duration,
}

/// A commitment is revoked, and published all the same.
fn punish(world: &mut World, tower: usize, channel_id: ChannelId, number: u32) -> Penalty {
    let funding = OutPoint { txid: Txid::from_byte_array(hash(&[number, 3])), vout: 0 };
    let commitment = transaction(&[funding], 2);
    let txid = commitment.compute_txid();
    let mut penalty = transaction(&[OutPoint { txid, vout: 0 }], 1);
    // BOLT 3: a signature, a one, and the script of the delayed output.
    penalty.input[0].witness = Witness::from_slice(&[vec![7u8; 72], vec![1], vec![7; 77]]);
    world.forget_costs();
    world.input(CLIENT, Input::Revoked { channel_id, commitment: txid, penalty: penalty.clone() });
    world.run();
    let client = &world.members[CLIENT];
    let (bytes, revoke, take) = (client.sent + client.received, client.cpu, world.members[tower].cpu);
    let publish = mine(world, tower, vec![commitment]);
    let published = std::mem::take(&mut world.members[tower].published);
    assert_eq!(published, [penalty.clone()]);
    mine(world, tower, vec![penalty]);
    assert!(world.members[tower].published.is_empty(), "it is in a block");
    Penalty { bytes, revoke, take, publish }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn microseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

fn main() {
    let (mode, words) = Mode::from_arguments();
    let usual = words.is_empty();
    let asked = words.iter().map(|word| word.parse().expect("a number of clients"));
    let sizes: Vec<usize> = if usual { SIZES.to_vec() } else { asked.collect() };
    let mut bytes = String::from(
        "| N | appointments of a client | it sends and receives, B | the tower keeps, B | a penalty: sent and received, B \
         | kept, B |\n\
         | --: | --: | --: | --: | --: | --: |\n",
    );
    let mut cpu = String::from(
        "| N | to make a client's, ms | to hand them over, ms | tower: to take one, us | to look into a block, ms \
         | a penalty, its client, ms | tower: to take it, us | to publish it, us |\n\
         | --: | --: | --: | --: | --: | --: | --: | --: |\n",
    );
    for clients in sizes {
        let found = costs(clients);
        let number = |number: usize| thousands(number as u64);
        let (appointments, moved, kept) = found.client;
        writeln!(
            bytes,
            "| {} | {appointments} | {} | {} | {} | {} |",
            number(clients),
            number(moved),
            number(kept),
            number(found.penalty.0),
            number(found.penalty.1),
        )
        .unwrap();
        writeln!(
            cpu,
            "| {} | {:.2} | {:.2} | {:.0} | {:.1} | {:.2} | {:.0} | {:.0} |",
            number(clients),
            found.make,
            found.hand_over,
            found.take,
            found.look,
            found.revoke,
            found.take_penalty,
            found.publish,
        )
        .unwrap();
    }
    println!("{bytes}\n{cpu}");
    if usual {
        document::table("docs/speed.md", "towers", &bytes, mode);
    }
}
