//! A lightningd without memory, whose answers follow from what it is asked and never are a no: for worlds
//! that count what the engine costs (`benches`) or choose by themselves what goes wrong (`fuzz`). The model
//! with a wallet, channels and a chain is [`node`](super::node).

use bitcoin::absolute::LockTime;
use bitcoin::hashes::{Hash, sha256};
use bitcoin::transaction::Version;
use bitcoin::{OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid, Witness};
use factory_engine::terms::ClientIndex;
use factory_engine::tx::layout::RESERVE_MSAT;
use factory_engine::types::{ChannelId, InstanceId, NodeId};
use factory_engine::{Effect, Input, OpenChannel, OpenFailure, PreparedFunding};

/// What the lightningd of `me` answers to what its engine wants done while a factory is created or sold from;
/// nothing where it answers nothing, or only after others have: see [`open`].
pub fn answer(me: NodeId, effect: &Effect) -> Option<Input> {
    Some(match *effect {
        Effect::NewPayout { instance, attempt } => {
            let hash = sha256::Hash::hash(&me.0).to_byte_array();
            let script = ScriptBuf::from_bytes([&[0x00, 0x14], &hash[..20]].concat());
            Input::PayoutReady { instance, attempt, result: Ok(script) }
        }
        Effect::PrepareFunding { instance, attempt, ref script, amount, .. } => {
            let tx = funding(instance, attempt, TxOut { value: amount, script_pubkey: script.clone() });
            let prevout = TxOut { value: amount, script_pubkey: ScriptBuf::new() };
            let prepared = PreparedFunding { prevouts: vec![prevout], tx, vout: 0 };
            Input::FundingPrepared { instance, attempt, result: Ok(prepared) }
        }
        Effect::CompleteChannel { instance, attempt, client, sale, ref leaf, .. } => {
            let script = channel_script(instance, attempt, client);
            let vout = leaf.output.iter().position(|output| output.script_pubkey == script);
            let vout = vout.and_then(|vout| u32::try_from(vout).ok());
            let id = vout.map(|vout| ChannelId::of(OutPoint { txid: leaf.compute_txid(), vout }));
            let missing = || OpenFailure::Refused("Could not find output to fund channel".to_owned());
            let result = id.ok_or_else(missing);
            Input::ChannelCompleted { instance, attempt, client, sale, result }
        }
        Effect::CheckChannel { instance, attempt, sale, .. } => {
            Input::ChannelChecked { instance, attempt, sale, result: Ok(()) }
        }
        Effect::CheckUnspent { instance, attempt, height, .. } => {
            Input::Unspent { instance, attempt, height, result: Ok(true) }
        }
        _ => return None,
    })
}

/// An open that the lightningd of `me` begins, if it does: with whom, what the peer's hook is asked, and what
/// its own engine hears once the peer has accepted.
pub fn open(me: NodeId, effect: &Effect) -> Option<(NodeId, OpenChannel, Input)> {
    let Effect::StartChannel { instance, attempt, client, sale, peer, capacity, push_msat } = *effect else {
        return None;
    };
    let open = OpenChannel {
        peer: me,
        capacity,
        push_msat,
        reserve_msat: RESERVE_MSAT,
        zeroconf: true,
        channel_in_factory: None,
    };
    let script = channel_script(instance, attempt, client);
    let started = Input::ChannelStarted { instance, attempt, client, sale, result: Ok(script) };
    Some((peer, open, started))
}

/// One input, of an attempt's own.
fn funding(instance: InstanceId, attempt: u32, output: TxOut) -> Transaction {
    let coin = sha256::Hash::hash(&[&instance.0[..], &attempt.to_be_bytes()].concat());
    let previous_output = OutPoint { txid: Txid::from_byte_array(coin.to_byte_array()), vout: 1 };
    let sequence = Sequence::ENABLE_RBF_NO_LOCKTIME;
    Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: vec![TxIn {
            previous_output,
            script_sig: ScriptBuf::new(),
            sequence,
            witness: Witness::new(),
        }],
        output: vec![output],
    }
}

fn channel_script(instance: InstanceId, attempt: u32, client: ClientIndex) -> ScriptBuf {
    let text = format!("{instance} {attempt} {client}");
    let hash = sha256::Hash::hash(text.as_bytes());
    ScriptBuf::from_bytes([&[0x00, 0x20][..], hash.as_byte_array()].concat())
}
