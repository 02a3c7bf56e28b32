//! How long the decision about an HTLC takes on a node with ten thousand factory channels, while blocks
//! come in. Fails if one in a hundred takes longer than a millisecond.
//!
//! ```sh
//! cargo bench --bench htlc               # 10,000 channels, 100,000 HTLCs
//! cargo bench --bench htlc -- 1000 5000
//! ```
//!
//! A decision is what `htlc_accepted` does from the parsed request to its answer.

#![allow(missing_docs, reason = "not a library")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a benchmark that fails must fail the command")]
#![allow(clippy::disallowed_methods, reason = "it measures time")]

mod common;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bitcoin::BlockHash;
use bitcoin::hashes::Hash;
use cln_factory::cln::channels::Channels;
use cln_factory::cln::client::{Call, CallError, Rpc};
use cln_factory::cln::hooks::htlc_accepted;
use cln_factory::cln::outbox::Outbox;
use cln_factory::cln::state::{Shared, State};
use common::{HEIGHT, engine, hash, node};
use factory_engine::types::{ChannelId, NodeId};
use factory_engine::{Block, Config, Effect, Input};
use factory_runtime::Runtime;
use factory_runtime::store::memory::MemoryStore;
use serde_json::{Value, json};

const CLIENTS: u32 = 64;
/// One in a hundred may take longer.
const LIMIT: Duration = Duration::from_millis(1);

struct Nobody;

impl factory_runtime::Node for Nobody {
    fn execute(&self, _: Effect) {}
    fn transmit(&self, _: NodeId, _: Vec<u8>) {}
    fn disconnect(&self, _: NodeId) {}
}

/// Answers `listpeerchannels`.
#[derive(Clone)]
struct Listing(Arc<Value>);

impl Call for Listing {
    async fn call(&self, _: &str, _: Value) -> Result<Value, CallError> {
        Ok((*self.0).clone())
    }
}

fn block(height: u32) -> Input {
    Input::Block(Block { height, hash: BlockHash::from_byte_array(hash(&[height])), txs: vec![] })
}

fn scid(channel: usize) -> String {
    format!("100x{channel}x0")
}

async fn plugin(factories: u32) -> (State, Vec<ChannelId>) {
    let engine = engine(factories, CLIENTS, true);
    let (handle, inbox) = factory_runtime::channel();
    tokio::spawn(Runtime::new(engine, MemoryStore::new(), Nobody, inbox).run());
    handle.input(block(HEIGHT + 1));
    let policies = handle.read(|engine, _| engine.channel_policies()).await.unwrap();
    assert!(policies.iter().all(|(_, policy)| policy.usable.is_ok()));
    let ids: Vec<ChannelId> = policies.into_iter().map(|(id, _)| id).collect();
    let one = |(place, id): (usize, &ChannelId)| {
        json!({
            "channel_id": id.to_string(),
            "alias": {"local": scid(place)},
            "peer_id": node(place as u32).to_string(),
            "total_msat": 1_000_000_000u64,
        })
    };
    let listing = json!({"channels": ids.iter().enumerate().map(one).collect::<Vec<_>>()});
    let channels = Channels::default();
    channels.refresh(&Listing(Arc::new(listing))).await.unwrap();
    let rpc = Rpc::new(PathBuf::from("/nonexistent/lightning-rpc"));
    let shared = Shared::new(rpc, handle, Outbox::new().0, Config::default());
    let news = tokio::sync::watch::Sender::new(HEIGHT + 1);
    let me = node(u32::MAX);
    let state = State::new(Shared { channels, me, cltv_final: 18, news, important: true, ..shared });
    (state, ids)
}

/// From one client to another or to this node, some of it dust, some too late.
fn request(number: usize, ids: &[ChannelId]) -> Value {
    let (from, to) = (number * 7 % ids.len(), number * 13 % ids.len());
    let expiry = HEIGHT + 400 - u32::from(number % 10 == 9) * 300;
    let msat = if number.is_multiple_of(4) { 1_000 } else { 10_000_000 };
    let mut request = json!({
        "onion": {"forward_msat": msat, "outgoing_cltv_value": expiry - 40, "type": "tlv"},
        "htlc": {
            "short_channel_id": scid(from),
            "id": number,
            "amount_msat": msat + 1_000,
            "cltv_expiry": expiry,
            "cltv_expiry_relative": expiry - HEIGHT - 10,
            "payment_hash": "11".repeat(32),
        },
    });
    if !number.is_multiple_of(3) {
        request["forward_to"] = ids[to].to_string().into();
    }
    request
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let number = |at: usize, usual: usize| words.get(at).map_or(usual, |word| word.parse().unwrap());
    let (channels, htlcs) = (number(0, 10_000), number(1, 100_000));
    let factories = u32::try_from(channels).unwrap().div_ceil(CLIENTS);
    let (state, ids) = plugin(factories).await;
    let done = Arc::new(AtomicBool::new(false));
    let blocks = tokio::spawn({
        let (done, runtime) = (Arc::clone(&done), state.runtime.clone());
        async move {
            let mut blocks = 0;
            while !done.load(Ordering::Relaxed) {
                // The same height again and again: whatever can be decided stays so.
                runtime.ask(block(HEIGHT + 1)).await.unwrap();
                blocks += 1;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            blocks
        }
    });
    let mut times = Vec::with_capacity(htlcs);
    let mut failed = 0usize;
    for number in 0..htlcs {
        let request = request(number, &ids);
        let started = Instant::now();
        let answer = htlc_accepted::answer(&state, &request).await;
        times.push(started.elapsed());
        failed += usize::from(answer["result"] != "continue");
    }
    done.store(true, Ordering::Relaxed);
    let blocks = blocks.await.unwrap();
    // Every tenth is too late: if none were, this would measure nothing.
    assert!(failed >= htlcs / 10 && failed < htlcs, "{failed} of {htlcs} failed");
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    let (p50, p99, max) = (at(0.5), at(0.99), at(1.0));
    println!(
        "htlc_accepted  {} channels, {htlcs} HTLCs ({failed} failed), {blocks} blocks meanwhile: p50 {p50:.1?}, \
         p99 {p99:.1?}, max {max:.1?}",
        ids.len()
    );
    if p99 > LIMIT {
        eprintln!("p99 is above {LIMIT:?}");
        std::process::exit(1);
    }
}
