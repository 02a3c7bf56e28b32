//! Blocks and transactions as lightningd's backend gives them, through the chain follower into an
//! engine whose factory they concern.

use std::sync::{Mutex, OnceLock, PoisonError};

use bitcoin::consensus::encode::{deserialize, serialize, serialize_hex};
use bitcoin::hashes::Hash;
use bitcoin::{Transaction, TxMerkleNode, block};
use cln_factory::cln::chain::{Follower, Interrupted, Sink, no_hash};
use cln_factory::cln::client::{Call, CallError};
use factory_engine::{Input, Watched};
use serde_json::{Value, json};

use crate::bytes::Bytes;
use crate::engine;
use crate::engine::node::Node;
use crate::engine::world::Snapshot;
use crate::json::request;
use crate::lightningd::{Answers, block_on};

/// Most blocks of one input.
const MOST_BLOCKS: usize = 12;
/// Three rounds, each of a few reorganisations.
const MOST_DELIVERED: u32 = 500;
/// Height of the first block of an input; the factory's funding is below it.
const START: u32 = 1_010;

/// The first byte says what the rest is: answers of lightningd as JSON, raw blocks, or transactions
/// that this puts into blocks. Nothing of it may panic, block the follower for good, or make an engine
/// store what it can't read.
pub fn chain(data: &[u8]) {
    let mut input = Bytes::new(data);
    let (kind, options) = (input.byte(), input.byte());
    match kind % 4 {
        0 => follow(options, |node| answers(&mut input.clone(), node)),
        1 => follow(options, |_| Backend::of(raw_blocks(&mut input.clone()), options)),
        2 => follow(options, |node| Backend::of(own_blocks(&mut input.clone(), node), options)),
        _ => {
            let bytes = input.rest();
            if let Ok(tx) = deserialize::<Transaction>(bytes) {
                assert_eq!(serialize(&tx), bytes);
            }
        }
    }
}

enum Backend {
    Json(Answers),
    /// By height from START; and how many are shown at first.
    Blocks(Vec<String>, Mutex<(usize, bool)>),
}

impl Backend {
    /// Shows some blocks at first; then, perhaps, a chain that is shorter than before.
    fn of(blocks: Vec<String>, options: u8) -> Self {
        Self::Blocks(blocks, Mutex::new((usize::from(options >> 4), false)))
    }
}

#[derive(Clone)]
struct Rpc(std::sync::Arc<Backend>);

impl Call for Rpc {
    async fn call(&self, method: &str, params: Value) -> Result<Value, CallError> {
        let (blocks, shown) = match &*self.0 {
            Backend::Json(answers) => return answers.call(method, params).await,
            Backend::Blocks(blocks, shown) => (blocks, shown),
        };
        let shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
        let count = if shown.1 { blocks.len() } else { shown.0.min(blocks.len()) };
        let tip = u64::from(START).saturating_add(count as u64).saturating_sub(1);
        if method == "getchaininfo" {
            return Ok(json!({"blockcount": tip}));
        }
        let height = params["height"].as_u64().unwrap_or(0);
        let block = height.checked_sub(START.into()).and_then(|at| blocks.get(at as usize));
        Ok(json!({"blockhash": null, "block": block.filter(|_| height <= tip)}))
    }
}

struct Taker<'a>(Mutex<(&'a mut Node, u32)>);

impl Sink for Taker<'_> {
    async fn watched(&self) -> Option<Watched> {
        Some(self.0.lock().unwrap_or_else(PoisonError::into_inner).0.engine.watched())
    }

    async fn deliver(&self, input: Input) -> Result<(), String> {
        let mut taker = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let height = match &input {
            Input::Block(block) => block.height,
            Input::Reorg { height } => *height,
            other => panic!("the follower delivers {other:?}"),
        };
        let height = height.max(1);
        taker.1 = taker.1.saturating_add(1);
        assert!(taker.1 < MOST_DELIVERED, "the follower never ends");
        let _ = taker.0.feed(input, 1_700_000_000_000, height);
        Ok(())
    }

    async fn at_tip(&self) {}

    fn health(&self, _: Option<String>) {}
}

fn follow(options: u8, backend: impl Fn(&Node) -> Backend) {
    static SNAPSHOTS: OnceLock<Vec<Snapshot>> = OnceLock::new();
    let snapshots = SNAPSHOTS.get_or_init(engine::snapshots);
    // Of a factory that is active; the operator's or a client's store.
    let active = &snapshots[1 + 2 * usize::from(options & 1)];
    let number = usize::from(options >> 1 & 1);
    let mut node = Node::new(number, active.records(number).clone());
    let rpc = Rpc(std::sync::Arc::new(backend(&node)));
    let mut follower = Follower::new(START, (options & 4 != 0).then(no_hash));
    let taker = Taker(Mutex::new((&mut node, 0)));
    block_on(async {
        for _ in 0..3 {
            match follower.advance(&rpc, &taker).await {
                Ok(()) => {}
                Err(error @ (Interrupted::Sink(_) | Interrupted::Closed)) => panic!("{error}"),
                Err(error) => assert!(!error.to_string().is_empty()),
            }
            if let Backend::Blocks(_, shown) = &*rpc.0 {
                shown.lock().unwrap_or_else(PoisonError::into_inner).1 = options & 8 == 0;
            }
        }
    });
    node.judge_store();
}

fn answers(input: &mut Bytes<'_>, node: &Node) -> Backend {
    let block = Bytes::new(&[1, 1, 2, 3]);
    let block = own_blocks(&mut block.clone(), node).pop();
    let templates = [
        json!({"blockcount": START, "chain": "regtest"}),
        json!({"blockhash": "00".repeat(32), "block": block}),
        json!({"blockhash": null, "block": null}),
    ];
    let mut answers = Vec::new();
    while !input.is_empty() && answers.len() < 12 {
        let bytes = input.chunk();
        answers.extend(request(&mut Bytes::new(bytes), &templates, &[json!(START + 1), json!("00000020")]));
    }
    Backend::Json(Answers::new(answers))
}

/// Bytes that may be blocks.
fn raw_blocks(input: &mut Bytes<'_>) -> Vec<String> {
    let mut blocks = Vec::new();
    while !input.is_empty() && blocks.len() < MOST_BLOCKS {
        blocks.push(bitcoin::hex::DisplayHex::to_lower_hex_string(input.chunk()));
    }
    blocks
}

/// Blocks of transactions that concern the factory: its own, others that spend what it watches, and
/// whatever decodes.
fn own_blocks(input: &mut Bytes<'_>, node: &Node) -> Vec<String> {
    let trees = || node.engine.factories().filter_map(|factory| factory.current.tree.as_ref());
    let own: Vec<Transaction> =
        trees().flat_map(|tree| tree.sessions().iter().map(|session| session.tx.clone())).collect();
    let mut watched: Vec<_> = node.engine.watched().outpoints.into_iter().collect();
    watched.sort();
    let mut blocks = Vec::new();
    let mut parent = no_hash();
    while !input.is_empty() && blocks.len() < MOST_BLOCKS {
        let header = input.byte();
        let mut txs = Vec::new();
        for _ in 0..header % 4 {
            let tx = match input.byte() % 3 {
                0 => input.choose(&own).cloned(),
                1 => input.choose(&own).cloned().map(|mut tx| {
                    if let (Some(coin), Some(spent)) = (input.choose(&watched), tx.input.first_mut()) {
                        spent.previous_output = *coin;
                    }
                    // No chain takes one that pays more than it spends.
                    tx.output.iter_mut().for_each(|output| output.value = bitcoin::Amount::from_sat(1));
                    tx.lock_time = bitcoin::absolute::LockTime::from_consensus(input.byte().into());
                    tx
                }),
                _ => deserialize(input.chunk()).ok(),
            };
            txs.extend(tx);
        }
        let mut header_of = block::Header {
            version: block::Version::TWO,
            prev_blockhash: parent,
            merkle_root: TxMerkleNode::all_zeros(),
            time: 0,
            bits: bitcoin::CompactTarget::from_consensus(0x207f_ffff),
            nonce: header.into(),
        };
        if header >= 240 {
            // Somebody else's parent.
            header_of.prev_blockhash = bitcoin::BlockHash::from_byte_array([header; 32]);
        }
        let block = bitcoin::Block { header: header_of, txdata: txs };
        parent = block.block_hash();
        blocks.push(serialize_hex(&block));
    }
    blocks
}
