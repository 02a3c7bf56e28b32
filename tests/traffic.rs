//! What a ceremony of a thousand clients sends over each connection, against the limits that everybody
//! holds its peers to: our own link's, and lightningd's million bytes a second, which channel messages share.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::collections::VecDeque;

use bitcoin::hashes::Hash;
use bitcoin::{Amount, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid, Witness};
use factory_engine::Config;
use factory_engine::terms::{ClientIndex, Terms};
use factory_engine::tx::layout::Layout;
use factory_engine::tx::musig::{AggNonce, FactoryKey, MasterSecret, PartialSig, PubNonce, PublicKey};
use factory_engine::tx::plan::{Profile, shape_for};
use factory_engine::tx::tree::Tree;
use factory_engine::types::{ChannelId, InstanceId};
use factory_engine::wire::codec::Shared;
use factory_engine::wire::link::{Incoming, Link, LinkLimits};
use factory_engine::wire::message::{
    ChannelChecked, ChannelCommitted, ChannelInFactory, ExpectChannel, Expecting, FundingBroadcast, Invite,
    Join, Message, PartialSignatures, Propose, Ready, Stored, protocol_id,
};
use factory_lab::offer::Offer;

const CLIENTS: u32 = 1_000;
const NOW: u64 = 1_700_000_000_000;
/// lightningd reads no more from a peer in a second.
const BYTES_PER_SECOND: usize = 1_000_000;
const INSTANCE: InstanceId = InstanceId([1; 32]);

fn key() -> PublicKey {
    FactoryKey::derive(&MasterSecret::new([2; 32]), INSTANCE, 1).public()
}

fn layout() -> Layout {
    let offer = Offer {
        capacity: Amount::from_sat(1_000_000),
        stock: Amount::from_sat(500_000),
        lifetime_blocks: 9_000,
        dying_blocks: 1_008,
        tree_feerate: 500,
        ..Offer::default()
    };
    let shape = shape_for(CLIENTS, Profile::Static).unwrap();
    let terms = offer.terms(CLIENTS as usize, shape, &Config::default());
    Layout::new(&Terms { instance: INSTANCE, ..terms }).unwrap()
}

/// A funding with many inputs: an operator with small coins.
fn funding() -> Transaction {
    let input = TxIn {
        previous_output: OutPoint { txid: Txid::all_zeros(), vout: 0 },
        script_sig: ScriptBuf::new(),
        sequence: Sequence::MAX,
        witness: Witness::new(),
    };
    let output = TxOut { value: Amount::from_sat(1), script_pubkey: script() };
    Transaction {
        version: bitcoin::transaction::Version::TWO,
        lock_time: bitcoin::absolute::LockTime::ZERO,
        input: vec![input; 100],
        output: vec![output; 2],
    }
}

fn script() -> ScriptBuf {
    ScriptBuf::from([&[0, 32][..], &[9; 32]].concat())
}

fn channel_in_factory() -> ChannelInFactory {
    let (factory_protocol, factory_instance) = (protocol_id(), INSTANCE);
    ChannelInFactory { factory_protocol, factory_instance, blocks_early: 200 }
}

/// Everything that L says to a client, and the client's answers.
fn messages(layout: &Layout, client: ClientIndex) -> [Vec<Message>; 2] {
    let (instance, attempt) = (INSTANCE, 1);
    let (terms, sessions) = (layout.terms().clone(), layout.sessions(Some(client)).len());
    let (capacity, channel_id) = (terms.capacities[0], ChannelId([3; 32]));
    let record = channel_in_factory();
    let foreign = Tree::foreign_coins(layout, client);
    let leaf = layout.node(*layout.path(client).last().unwrap()).unwrap().clients.clone();
    let x_only = key().x_only_public_key().0;
    let clients: Shared<_> = (0..CLIENTS).map(|_| (key(), script())).collect();
    let propose = Propose {
        instance,
        attempt,
        lsp_key: key(),
        clients,
        funding_tx: funding(),
        funding_vout: 0,
        channel_scripts: leaf.map(|other| (other, script())).collect(),
        foreign_keys: foreign.iter().map(|coin| (*coin, x_only)).collect(),
        foreign_hashes: foreign.iter().map(|coin| (*coin, [4; 32])).collect(),
        nonces: vec![AggNonce([5; 66]); sessions],
    };
    let (push_msat, price_msat) = (terms.push_msat, 0);
    let from_l = vec![
        Invite { instance, attempt, terms, client, price_msat, channel_in_factory: record }.into(),
        ExpectChannel { instance, attempt, client, capacity, push_msat, channel_in_factory: record }.into(),
        propose.into(),
        Ready { instance, attempt, signatures: vec![[6; 64]; sessions] }.into(),
        ChannelCommitted { instance, attempt, channel_id }.into(),
        FundingBroadcast { instance, attempt, txid: Txid::all_zeros() }.into(),
    ];
    let nonces = vec![PubNonce([7; 66]); sessions];
    let signatures = vec![PartialSig([8; 32]); sessions];
    let to_l = vec![
        Join { instance, attempt, factory_key: key(), payout: script(), nonces }.into(),
        Expecting { instance, attempt }.into(),
        PartialSignatures { instance, attempt, transcript: [9; 32], signatures }.into(),
        Stored { instance, attempt }.into(),
        ChannelChecked { instance, attempt, channel_id }.into(),
    ];
    [from_l, to_l]
}

/// One end of a connection.
struct End {
    link: Link,
    /// What is on its way to it.
    wire: VecDeque<Vec<u8>>,
    received: Vec<Message>,
    bytes: usize,
    lightning_messages: u32,
}

impl End {
    fn new() -> Self {
        let link = Link::new(LinkLimits::default());
        Self { link, wire: VecDeque::new(), received: vec![], bytes: 0, lightning_messages: 0 }
    }

    /// Takes one lightning message. It is an error to be too fast.
    fn take(&mut self) {
        let Some(raw) = self.wire.pop_front() else { return };
        self.bytes += raw.len();
        self.lightning_messages += 1;
        if let Some(Incoming::Message(message)) = self.link.receive(&raw, NOW).unwrap() {
            self.received.push(Message::decode(&message).unwrap());
        }
    }
}

fn transmit(from: &mut End, to: &mut End) {
    to.wire.extend(std::iter::from_fn(|| from.link.poll_transmit()));
    // S28: what can stand before a channel message.
    assert!(from.link.in_flight_bytes() <= LinkLimits::default().in_flight_bytes);
}

/// Everything of a ceremony is said at one instant: no second of a real one can have more.
// S28
#[test]
fn a_ceremony_of_a_thousand_stays_within_every_cap() {
    let layout = layout();
    for client in [0, 1, CLIENTS / 2, CLIENTS - 1] {
        let [from_l, to_l] = messages(&layout, client);
        let (mut l, mut c) = (End::new(), End::new());
        transmit(&mut l, &mut c);
        transmit(&mut c, &mut l);
        l.take();
        c.take();
        from_l.iter().for_each(|message| l.link.send(message).unwrap());
        to_l.iter().for_each(|message| c.link.send(message).unwrap());
        while l.received.len() < to_l.len() || c.received.len() < from_l.len() {
            transmit(&mut l, &mut c);
            transmit(&mut c, &mut l);
            l.take();
            c.take();
        }
        assert_eq!((&l.received, &c.received), (&to_l, &from_l));
        for end in [&l, &c] {
            assert!(end.bytes < BYTES_PER_SECOND / 4, "client {client}: {} bytes", end.bytes);
            // A peer that retries at once, many times, is still none that is too fast.
            assert!(end.lightning_messages < LinkLimits::default().burst / 20, "{}", end.lightning_messages);
        }
    }
}
