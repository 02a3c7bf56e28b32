//! What the benchmarks share: large nodes. Their thousand factories are not played, as in a scenario of the lab,
//! but made from stored events that only look like those of real ones: signatures are anything, everything else
//! is as it would be.

#![allow(dead_code, reason = "no benchmark uses all of it")]

pub mod factory;
pub mod plot;
pub mod world;

use std::collections::BTreeMap;
use std::time::Duration;

use bitcoin::hashes::{Hash, sha256};
use bitcoin::{Amount, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid, Witness};
use factory_engine::record::Proposal;
use factory_engine::record::event::{
    Accepted, AllStored, ChannelChecked, ChannelCommitted, Confirmed, Created, Event, FundingReleased,
    FundingReserved, Invited, LedgerEntry, OpenAccepted, Signed, Signing,
};
use factory_engine::terms::{Shape, Terms};
use factory_engine::tx::layout::Layout;
use factory_engine::tx::musig::{FactoryKey, MasterSecret};
use factory_engine::tx::plan::{Profile, shape_for};
use factory_engine::tx::tree::{Member, Roster, Scope, Session, Tree};
use factory_engine::types::{ChannelId, InstanceId, NodeId, PROTOCOL_ID};
use factory_engine::wire::codec::Shared;
use factory_engine::{Config, Engine};

/// Height at which the factories were funded.
pub const HEIGHT: u32 = 1_000;

/// 32 bytes that belong to some numbers.
pub fn hash(numbers: &[u32]) -> [u8; 32] {
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
    sha256::Hash::hash(&bytes).to_byte_array()
}

/// A client's node; `u32::MAX` is the operator.
pub fn node(client: u32) -> NodeId {
    let mut id = [2; 33];
    id[1..5].copy_from_slice(&client.to_be_bytes());
    NodeId(id)
}

/// Terms as [`factory::planned`] makes them, in any shape, of one of many factories.
pub fn terms(factory: u32, clients: u32, shape: Shape) -> Terms {
    Terms {
        instance: InstanceId(hash(&[factory])),
        lsp: node(u32::MAX),
        capacities: vec![Amount::from_sat(1_000_000); clients as usize],
        stock: Amount::from_sat(500_000),
        tree_feerate: 253,
        ..factory::with(clients, shape)
    }
}

/// A member's key: 0 is the operator.
pub fn key(at: u32) -> FactoryKey {
    FactoryKey::derive(&MasterSecret::new(hash(&[at])), InstanceId([1; 32]), 1)
}

/// CPU time of this thread: other work on the machine hardly matters.
pub fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

/// The one in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What every factory of a size has in common, so that making a thousand takes no hour.
pub struct Mould {
    keys: Vec<FactoryKey>,
    clients: u32,
}

impl Mould {
    /// For factories of so many clients.
    pub fn new(clients: u32) -> Self {
        Self { keys: (0..=clients).map(key).collect(), clients }
    }

    /// The stored history of a factory that is active: the operator's, or the first client's. The events of
    /// each record, as the engine stores them.
    pub fn records(&self, factory: u32, lsp: bool) -> (InstanceId, Vec<Vec<Event>>) {
        let terms = terms(factory, self.clients, shape_for(self.clients, Profile::Static).unwrap());
        let layout = Layout::new(&terms).unwrap();
        let payout = |client: u32| {
            let program: &[u8] = &hash(&[factory, client, 1]);
            ScriptBuf::from([&[0x51, 32], program].concat())
        };
        let member = |client: u32| (self.keys[client as usize + 1].public(), payout(client));
        let members: Shared<_> = (0..self.clients).map(member).collect();
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
        let foreign = if lsp { vec![] } else { Tree::foreign_coins(&layout, 0) };
        let foreign_keys: BTreeMap<_, _> =
            foreign.iter().map(|coin| (*coin, full.output_key(*coin).unwrap())).collect();
        let leaf = layout.path(0).last().and_then(|node| layout.node(*node)).unwrap().clients.clone();
        let scope = if lsp { Scope::All } else { Scope::Client(0) };
        let kept = if lsp { scripts } else { leaf.map(|c| (c, channel(c))).collect() };
        let proposal = Proposal {
            lsp_key: roster.lsp_key,
            clients: members,
            funding_tx: funding_tx.clone(),
            funding_vout: 0,
            channel_scripts: kept.clone().into_iter().collect(),
            foreign_keys: foreign_keys.clone().into_iter().collect(),
        };
        let signs = Tree::build(&layout, &roster, funding, scope, &kept, &foreign_keys).unwrap();
        let entry = |session: &Session| LedgerEntry {
            outpoint: session.outpoint,
            session: session.id,
            sighash: session.sighash,
        };
        let ledger: Vec<_> = signs.sessions().iter().map(entry).collect();
        let mut records: Vec<Vec<Event>> = if lsp {
            let created = Created {
                terms: terms.clone(),
                clients: (0..self.clients).map(node).collect(),
                protocol: PROTOCOL_ID,
                prices_msat: None,
            };
            let coin = TxOut { value: layout.funding_value(), script_pubkey: channel(0) };
            let prevouts = vec![coin; funding_tx.input.len()];
            let reserved = FundingReserved { attempt: 1, tx: funding_tx.clone(), prevouts, reclaims: None };
            vec![vec![created.into()], vec![reserved.into()]]
        } else {
            let invited = Invited {
                attempt: 1,
                terms: terms.clone(),
                client: 0,
                price_msat: 0,
                height: HEIGHT,
                protocol: PROTOCOL_ID,
            };
            vec![
                vec![invited.into()],
                vec![Accepted { from: None }.into()],
                vec![OpenAccepted { attempt: 1 }.into()],
            ]
        };
        let salt = (!lsp).then_some([7; 32]);
        records.push(vec![Signing { attempt: 1, proposal, ledger, salt }.into()]);
        let signature =
            |at: u32| -> [u8; 64] { [hash(&[at]), hash(&[at, factory])].concat().try_into().unwrap() };
        let signatures = (0..signs.sessions().len() as u32).map(signature).collect();
        records.push(vec![Signed { signatures }.into()]);
        let channel_id = |client| ChannelId::of(full.channel_outpoint(client).unwrap());
        let checked = |client| ChannelChecked { client, channel_id: channel_id(client) };
        if lsp {
            records.push(vec![AllStored {}.into()]);
            let committed = |client| ChannelCommitted { client, channel_id: channel_id(client) };
            records.extend((0..self.clients).map(|client| vec![committed(client).into()]));
            records.extend((0..self.clients).map(|client| vec![checked(client).into()]));
            records.last_mut().unwrap().push(FundingReleased { height: HEIGHT }.into());
        } else {
            records.push(vec![checked(0).into()]);
        }
        let spends = vec![funding_tx.input[0].previous_output];
        records.push(vec![Confirmed { txid: funding.txid, height: HEIGHT, spends, pays: None }.into()]);
        (terms.instance, records)
    }
}

/// A transaction that spends these and has so many outputs.
pub fn transaction(spends: &[OutPoint], outputs: usize) -> Transaction {
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

/// So many active factories of so many clients, as their operator or their first client has them.
pub fn engine(factories: u32, clients: u32, lsp: bool) -> Engine {
    let me = if lsp { node(u32::MAX) } else { node(0) };
    let mut engine = Engine::new(me, MasterSecret::new([3; 32]), Config::default());
    let mould = Mould::new(clients);
    for factory in 0..factories {
        let (instance, records) = mould.records(factory, lsp);
        engine.load(instance, records).unwrap();
    }
    engine
}
