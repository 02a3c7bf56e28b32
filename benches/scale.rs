//! A large node: a thousand factories of 64 members. Prints how long a full block takes to be searched,
//! what the factories take of memory, as operator and as client, and how long `factory-list` takes.
//!
//! ```sh
//! cargo bench --bench scale              # 1000 factories, 64 members
//! cargo bench --bench scale -- 200 64
//! ```
//!
//! Memory is what the process grows by (`/proc/self/statm`), so each number is taken in a process of its
//! own.

#![allow(missing_docs, reason = "not a library")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that fails must fail the command")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bitcoin::hashes::{Hash, sha256};
use bitcoin::{Amount, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid, Witness};
use cln_factory::cln::chain::reduce;
use cln_factory::cln::methods::factory_json;
use cln_factory::protocol::event::{
    Accepted, ChannelChecked, ChannelCommitted, Confirmed, Created, Event, FundingReleased, Invited, Signed,
    Signing,
};
use cln_factory::protocol::{Config, Engine, Watched};
use cln_factory::terms::Terms;
use cln_factory::tx::layout::Layout;
use cln_factory::tx::musig::{FactoryKey, MasterSecret};
use cln_factory::tx::plan::{Profile, shape_for};
use cln_factory::tx::tree::{Member, Roster, Scope, Tree};
use cln_factory::types::{ChannelId, InstanceId, NodeId};
use cln_factory::wire::message::Propose;

const HEIGHT: u32 = 1_000;

fn hash(numbers: &[u32]) -> [u8; 32] {
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
    sha256::Hash::hash(&bytes).to_byte_array()
}

fn node(client: u32) -> NodeId {
    let mut id = [2; 33];
    id[1..5].copy_from_slice(&client.to_be_bytes());
    NodeId(id)
}

fn terms(factory: u32, clients: u32) -> Terms {
    let config = Config::default();
    Terms {
        instance: InstanceId(hash(&[factory])),
        lsp: node(u32::MAX),
        shape: shape_for(clients, Profile::Static).unwrap(),
        capacities: vec![Amount::from_sat(1_000_000); clients as usize],
        stock: Amount::from_sat(500_000),
        push_msat: config.push_msat,
        state_step: config.state_step,
        state_count: config.state_count,
        stock_csv: config.stock_csv,
        tree_feerate: 253,
        timeout_height: HEIGHT + 8_640,
        dying_blocks: 1_008,
        confirm_blocks: config.confirm_blocks,
        margin_blocks: config.margin_blocks,
        funding_confirmations: config.funding_confirmations,
    }
}

/// What every factory of a size has in common, so that making a thousand takes no hour.
struct Mould {
    keys: Vec<FactoryKey>,
    clients: u32,
}

impl Mould {
    fn new(clients: u32) -> Self {
        let key = |at: u32| FactoryKey::derive(&MasterSecret::new(hash(&[at])), InstanceId([1; 32]), 1);
        Self { keys: (0..=clients).map(key).collect(), clients }
    }

    /// The stored history of a factory that is active: the operator's, or the first client's.
    fn events(&self, factory: u32, lsp: bool) -> (InstanceId, Vec<Event>) {
        let terms = terms(factory, self.clients);
        let layout = Layout::new(&terms).unwrap();
        let payout = |client: u32| {
            let program: &[u8] = &hash(&[factory, client, 1]);
            ScriptBuf::from([&[0x51, 32], program].concat())
        };
        let member = |client: u32| (self.keys[client as usize + 1].public(), payout(client));
        let members: Arc<[_]> = (0..self.clients).map(member).collect();
        let funding_tx =
            transaction(&[OutPoint { txid: Txid::from_byte_array(hash(&[factory, 2])), vout: 0 }], 2);
        let channel = |client: u32| ScriptBuf::from([&[0, 32][..], &hash(&[factory, client, 3])].concat());
        let roster = Roster {
            lsp_key: self.keys[0].public(),
            clients: members
                .iter()
                .map(|(key, payout)| Member { key: *key, payout: payout.clone() })
                .collect(),
        };
        let funding = OutPoint { txid: funding_tx.compute_txid(), vout: 0 };
        let scripts: BTreeMap<u32, ScriptBuf> = (0..self.clients).map(|c| (c, channel(c))).collect();
        let full = Tree::build(&layout, &roster, funding, Scope::All, &scripts, &BTreeMap::new()).unwrap();
        let sessions = if lsp { full.sessions().len() } else { layout.sessions(Some(0)).len() };
        let foreign = if lsp { vec![] } else { Tree::foreign_coins(&layout, 0) };
        let leaf = layout.path(0).last().and_then(|node| layout.node(*node)).unwrap().clients.clone();
        let own = if lsp { 0..self.clients } else { 0..1 };
        let proposal = Propose {
            instance: terms.instance,
            attempt: 1,
            lsp_key: roster.lsp_key,
            clients: members,
            funding_tx: funding_tx.clone(),
            funding_vout: 0,
            channel_scripts: if lsp { scripts } else { leaf.map(|c| (c, channel(c))).collect() }
                .into_iter()
                .collect(),
            foreign_keys: foreign.iter().map(|coin| (*coin, full.output_key(*coin).unwrap())).collect(),
            foreign_hashes: foreign.iter().map(|coin| (*coin, [0; 32])).collect(),
            nonces: vec![],
        };
        let mut events: Vec<Event> = if lsp {
            vec![Created { terms: terms.clone(), clients: (0..self.clients).map(node).collect() }.into()]
        } else {
            let invited =
                Invited { attempt: 1, terms: terms.clone(), client: 0, price_msat: 0, height: HEIGHT };
            vec![invited.into(), Accepted {}.into()]
        };
        events.push(Signing { attempt: 1, proposal, ledger: vec![], psbt: None, salt: None }.into());
        let signature =
            |at: u32| -> [u8; 64] { [hash(&[at]), hash(&[at, factory])].concat().try_into().unwrap() };
        events.push(Signed { signatures: (0..sessions as u32).map(signature).collect() }.into());
        for client in own {
            let channel_id = ChannelId::of(full.channel_outpoint(client).unwrap());
            events.push(ChannelCommitted { client, channel_id }.into());
            events.push(ChannelChecked { client, channel_id }.into());
        }
        if lsp {
            events.push(FundingReleased { height: HEIGHT }.into());
        }
        let spends = vec![funding_tx.input[0].previous_output];
        events.push(Confirmed { txid: funding.txid, height: HEIGHT, spends, pays: None }.into());
        (terms.instance, events)
    }
}

/// A transaction that spends these and has so many outputs.
fn transaction(spends: &[OutPoint], outputs: usize) -> Transaction {
    let witness = Witness::from_slice(&[[7u8; 64].as_slice()]);
    let input = |previous_output: &OutPoint| TxIn {
        previous_output: *previous_output,
        script_sig: ScriptBuf::new(),
        sequence: Sequence::MAX,
        witness: witness.clone(),
    };
    let output = TxOut {
        value: Amount::from_sat(100_000_000_000),
        script_pubkey: ScriptBuf::from([&[0x51, 32][..], &[5; 32]].concat()),
    };
    Transaction {
        version: bitcoin::transaction::Version::TWO,
        lock_time: bitcoin::absolute::LockTime::ZERO,
        input: spends.iter().map(input).collect(),
        output: vec![output; outputs],
    }
}

fn engine(factories: u32, clients: u32, lsp: bool) -> Engine {
    let me = if lsp { node(u32::MAX) } else { node(0) };
    let mut engine = Engine::new(me, MasterSecret::new([3; 32]), Config::default());
    let mould = Mould::new(clients);
    for factory in 0..factories {
        let (instance, events) = mould.events(factory, lsp);
        engine.load(instance, [events]).unwrap();
    }
    engine
}

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
    let started = cpu_time();
    let watched = engine.watched().outpoints.len();
    println!("watched     {watched} outpoints, collected in {:.1} ms", millis(started));
    let node = factory_json::Node { me: node(u32::MAX), channels: Default::default() };
    let started = cpu_time();
    let list: Vec<_> = engine.factories().map(|f| factory_json::factory(f, &node, HEIGHT + 100)).collect();
    let json = serde_json::to_string(&list).unwrap();
    println!("list        factory-list as {role}: {:.0} ms, {} KB", millis(started), json.len() / 1_000);
}

/// A block of 4 MB (all of it witness that the limit allows would be smaller work: this is the most
/// transactions and inputs), against 100,000 outpoints.
fn scan() {
    let watched = Watched {
        outpoints: (0..100_000u32)
            .map(|at| OutPoint { txid: Txid::from_byte_array(hash(&[at])), vout: at % 4 })
            .collect(),
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
        _ => {
            scan();
            let own = std::env::current_exe().unwrap();
            for role in ["operator", "client"] {
                let words = [factories.to_string(), clients.to_string(), role.to_owned()];
                assert!(std::process::Command::new(&own).args(words).status().unwrap().success());
            }
        }
    }
}
