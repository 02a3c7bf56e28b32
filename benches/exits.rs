//! Ten thousand channels that end within a few blocks: what the plugin's own bookkeeping of lightningd's channels, of
//! fees to be raised and of children takes. Fails if it grows with more than N log N.
//!
//! ```sh
//! cargo bench --bench exits              # 1,000 and 10,000 channels, a few seconds
//! cargo bench --bench exits -- 2000
//! ```

#![allow(missing_docs, reason = "not a library")]
#![allow(clippy::unwrap_used, reason = "a benchmark that fails must fail the command")]

mod common;

use std::sync::Arc;

use bitcoin::hashes::Hash;
use bitcoin::transaction::Version;
use bitcoin::{Amount, OutPoint, ScriptBuf, Transaction, TxOut, Txid, absolute::LockTime};
use cln_factory::cln::channel_state::ChannelState;
use cln_factory::cln::channels::Channels;
use cln_factory::cln::client::{Call, CallError};
use cln_factory::cln::mirror::Mirror;
use cln_factory::cln::raises::Raises;
use common::{HEIGHT, cpu_time, hash, node};
use factory_engine::io::fees::Raise;
use factory_engine::tx::child::{Bump, Children, Coin, Draft, Own, Purse};
use factory_engine::types::{ChannelId, InstanceId};
use serde_json::{Value, json};

/// Channels that end one by one between two looks at the mirror.
const LOOKS: u32 = 20;
/// What is measured in milliseconds is not exact.
const MARGIN: f64 = 2.0;

fn channel(number: u32) -> ChannelId {
    ChannelId(hash(&[number]))
}

fn shown(number: u32) -> Value {
    json!({
        "channel_id": channel(number).to_string(),
        "short_channel_id": format!("100x{number}x0"),
        "alias": {"local": format!("200x{number}x0")},
        "peer_id": node(number).to_string(),
        "total_msat": 1_000_000_000u64,
        "state": "CHANNELD_NORMAL",
    })
}

/// Hears of every channel that it ends.
fn notified(count: u32) {
    let channels = Channels::default();
    channels.take_some(&(0..count).map(shown).collect::<Vec<_>>());
    for state in [ChannelState::AwaitingUnilateral, ChannelState::Onchain, ChannelState::Closed] {
        (0..count).for_each(|number| assert!(channels.changed(channel(number), state)));
    }
    assert!(channels.list().is_empty());
}

/// A node with channels, of which those that are asked for one by one have ended.
#[derive(Clone)]
struct Ending(Arc<Vec<Value>>);

impl Call for Ending {
    async fn call(&self, method: &str, params: Value) -> Result<Value, CallError> {
        Ok(match (method, params["channel_id"].as_str()) {
            ("wait", _) => json!({"created": 0, "updated": 0}),
            ("listhtlcs", _) => json!({"htlcs": []}),
            (_, Some(_)) => json!({"channels": []}),
            _ => json!({"channels": self.0.as_slice()}),
        })
    }
}

/// Looks at them while one after the other ends.
fn looked_at(count: u32) {
    let node = Ending(Arc::new((0..count).map(shown).collect()));
    let (known, mirror) = (Channels::default(), Mirror::default());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for number in 0..=LOOKS {
        let left = runtime.block_on(mirror.look(&node, &known, |list, _| list.len())).unwrap();
        assert_eq!(left, (count - number) as usize);
        known.changed(channel(number), ChannelState::Closed);
    }
}

fn bump(parent: &Transaction) -> Bump {
    Bump {
        anchor: OutPoint { txid: parent.compute_txid(), vout: 0 },
        version: Version(3),
        parent_fee: Amount::ZERO,
        parent_weight: 600,
        feerate: 2_000,
        max_fee: Amount::from_sat(90_000),
    }
}

fn parent(number: u32) -> Transaction {
    Transaction {
        version: Version(3),
        lock_time: LockTime::from_consensus(number),
        input: vec![],
        output: vec![],
    }
}

/// All of their fees are to be raised at one block, and again at the next one, before any was.
fn raised(count: u32) {
    let raises = Raises::default();
    for block in 0..2 {
        for number in 0..count {
            let parent = parent(number);
            let deadline = HEIGHT + number * 7 % count + block;
            let (bump, what) = (bump(&parent), String::new());
            raises.push(Raise { instance: InstanceId([1; 32]), what, parent, bump, deadline });
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    (0..count).for_each(|_| drop(runtime.block_on(raises.next())));
    assert!(raises.is_empty());
}

fn script(byte: u8) -> ScriptBuf {
    ScriptBuf::from_bytes([vec![0x51, 0x20], vec![byte; 32]].concat())
}

/// To each a child with a coin of its own; the last tenth, which are the most urgent, find none left.
fn children(count: u32) {
    let coin = |number: u32| Coin {
        outpoint: OutPoint { txid: Txid::from_byte_array(hash(&[number])), vout: 0 },
        output: TxOut { value: Amount::from_sat(50_000 + u64::from(number)), script_pubkey: script(7) },
    };
    let mut free: Purse = (0..count - count / 10).map(coin).collect();
    let mut children = Children::default();
    for number in 0..count {
        let (parent, deadline) = (parent(number), HEIGHT + count - number);
        let bump = bump(&parent);
        children.note(parent.compute_txid(), deadline);
        let own = Own { old: None, stays: false, free: &free, change: script(8) };
        let draft = Draft::new(&bump, &children, deadline, own, |_| true);
        let (child, taken) = draft.child(&bump).unwrap();
        taken.into_iter().for_each(|other| drop(children.remove(other)));
        for coin in &child.coins {
            free.take(coin);
        }
        children.replace(parent.compute_txid(), child);
    }
    assert_eq!(children.spent().len(), (count - count / 10) as usize);
}

fn main() {
    let most = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(10_000);
    let (few, many) = (most / 10, most);
    let works = [
        ("notifications", notified as fn(u32)),
        ("looks at the mirror", looked_at),
        ("fees to be raised", raised),
        ("children", children),
    ];
    println!("{:<20} {few:>8} ms {many:>8} ms", "channels");
    for (what, work) in works {
        let took = |count| {
            let started = cpu_time();
            work(count);
            (cpu_time() - started).as_secs_f64() * 1e3
        };
        // What is done for the first time takes longer.
        work(few);
        let (small, large) = (took(few), took(many));
        println!("{what:<20} {small:>11.1} {large:>11.1}");
        let n_log_n = |count: u32| f64::from(count) * f64::from(count).log2();
        let allowed = n_log_n(many) / n_log_n(few) * MARGIN;
        assert!(large / small < allowed, "{what} grow by {:.1}, and {allowed:.1} are allowed", large / small);
    }
}
