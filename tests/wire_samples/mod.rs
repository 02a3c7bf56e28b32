//! One fixed value for every message and every submessage of the envelope, and one more for each way in which
//! what is optional may be there. Their bytes are frozen in `tests/golden/wire.txt`, and most, by another encoder, in
//! `tests/vectors/wire.json`, so nothing here may change either; new ones may be added.

mod creation;
mod later;

use bitcoin::absolute::LockTime;
use bitcoin::hashes::Hash;
use bitcoin::secp256k1::{PublicKey, XOnlyPublicKey};
use bitcoin::transaction::Version;
use bitcoin::{Sequence, SignedAmount, TxIn, TxOut, Witness};
use factory_engine::terms::{Kind, Leaf, Level, Shape, Terms};
use factory_engine::types::{
    Amount, ChannelId, InstanceId, NodeId, OutPoint, ProtocolId, ScriptBuf, Transaction, Txid,
};
use factory_engine::wire::envelope::{
    Ack, Envelope, FactoryChange, FactoryChangeFunding, FactoryChangeLocked, Frame,
};
use factory_engine::wire::message::{ChannelInFactory, Message, PROTOCOL_ID};

const INSTANCE: InstanceId = InstanceId([0xa1; 32]);
const ATTEMPT: u32 = 3;

/// The points G, 2G and 3G.
fn point(times: usize) -> PublicKey {
    let text = [
        "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798",
        "02c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee5",
        "02f9308a019258c31049344f85f89d5229b531c845836f99b08601f113bce036f9",
    ][times - 1];
    text.parse().unwrap()
}

fn x_only(times: usize) -> XOnlyPublicKey {
    point(times).x_only_public_key().0
}

fn node(byte: u8) -> NodeId {
    let mut id = [byte; 33];
    id[0] = 2;
    NodeId(id)
}

fn p2wpkh(byte: u8) -> ScriptBuf {
    ScriptBuf::from_bytes([&[0x00, 0x14][..], &[byte; 20]].concat())
}

fn p2wsh(byte: u8) -> ScriptBuf {
    ScriptBuf::from_bytes([&[0x00, 0x20][..], &[byte; 32]].concat())
}

fn counting<const N: usize>(from: u8) -> [u8; N] {
    std::array::from_fn(|i| from.wrapping_add(u8::try_from(i).unwrap()))
}

fn txid() -> Txid {
    Txid::from_byte_array(counting(0x40))
}

/// Unsigned: one input, the change, and the factory's output.
fn funding_tx() -> Transaction {
    Transaction {
        version: Version::TWO,
        lock_time: LockTime::from_consensus(899_999),
        input: vec![TxIn {
            previous_output: OutPoint { txid: txid(), vout: 3 },
            script_sig: ScriptBuf::new(),
            sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
            witness: Witness::new(),
        }],
        output: vec![
            TxOut { value: Amount::from_sat(7_654_321), script_pubkey: p2wpkh(0xdd) },
            TxOut { value: Amount::from_sat(1_000_000), script_pubkey: p2wsh(0xee) },
        ],
    }
}

/// The record that stands in `open_channel`.
pub fn channel_in_factory() -> ChannelInFactory {
    ChannelInFactory { factory_protocol: PROTOCOL_ID, factory_instance: INSTANCE, blocks_early: 432 }
}

/// Terms with every field different.
pub fn terms() -> Terms {
    Terms {
        instance: INSTANCE,
        lsp: node(0x10),
        shape: Shape {
            levels: vec![Level { arity: 4, kind: Kind::Static }, Level { arity: 3, kind: Kind::Stateful }],
            leaf: Leaf { kind: Kind::Static, sub_factories: 2, clients_per_sub: 5 },
        },
        capacities: [100_000, 2_100_000_000_000_000, 20_000].map(Amount::from_sat).to_vec(),
        stock: Amount::from_sat(50_000),
        push_msat: 1_000,
        state_step: 144,
        state_count: 6,
        stock_csv: 2_016,
        tree_feerate: 1_250,
        timeout_height: 950_000,
        dying_blocks: 4_320,
        confirm_blocks: 7,
        margin_blocks: 12,
        funding_confirmations: 8,
    }
}

/// Every message, by the name of its vector.
pub fn messages() -> Vec<(&'static str, Message)> {
    [creation::messages(), later::messages()].concat()
}

/// Every submessage of the envelope, by the name of its vector.
pub fn envelopes() -> Vec<(&'static str, Envelope)> {
    let protocol = PROTOCOL_ID;
    let channel_id = ChannelId([0xcc; 32]);
    let piggyback = |payload, frame, ack| Envelope::Piggyback { protocol, payload, frame, ack };
    let frame = Frame { sequence: 6, fragment: 0, count: 1 };
    let ack = Ack { sequence: 5, fragment: 9 };
    let change = FactoryChange {
        payload: Some(vec![1, 2, 3]),
        channel_id,
        funding_contribution_satoshis: SignedAmount::from_sat(-20_000),
        funding_pubkey: point(2),
    };
    let without = FactoryChange {
        payload: None,
        funding_contribution_satoshis: SignedAmount::from_sat(20_000),
        ..change.clone()
    };
    let funding = FactoryChangeFunding { channel_id, txid: txid(), output_index: 2 };
    let locked = FactoryChangeLocked { channel_id, txid: txid() };
    vec![
        (
            "supported_factory_protocols",
            Envelope::SupportedFactoryProtocols(vec![protocol, ProtocolId([0x99; 32])]),
        ),
        ("supported_factory_protocols_none", Envelope::SupportedFactoryProtocols(vec![])),
        ("factory_piggyback", piggyback(vec![0, 18, 0, 0], None, None)),
        ("factory_piggyback_framed", piggyback(vec![0, 18], Some(frame), None)),
        ("factory_piggyback_framed_with_ack", piggyback(vec![0, 18], Some(frame), Some(ack))),
        ("factory_piggyback_ack_alone", piggyback(vec![], None, Some(ack))),
        ("factory_change_init", Envelope::FactoryChangeInit(change)),
        ("factory_change_ack", Envelope::FactoryChangeAck(without)),
        ("factory_change_funding", Envelope::FactoryChangeFunding(funding)),
        ("factory_change_continue", Envelope::FactoryChangeContinue(funding)),
        ("factory_change_locked", Envelope::FactoryChangeLocked(locked)),
    ]
}
