//! Following the chain through lightningd's own backend: no bitcoind credentials needed.
//!
//! Every block goes to the engine once, in order, reduced to what the engine watches. A block whose
//! parent isn't the one before it means a reorganisation: we walk back to the last block that both
//! chains share and tell the engine.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bitcoin::BlockHash;
use bitcoin::hashes::Hash;
use factory_engine::types::{Height, Millis};
use factory_engine::{Block, Input, Watched};
use factory_runtime::clock::now;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::client::{Call, CallError, field};
use super::pruned;

/// Hashes remembered to find a fork; deeper reorganisations fall back to the oldest of them.
const REMEMBERED: usize = 300;
/// Reorganisations in one round. A backend whose blocks contradict each other would have us go back and
/// forth for ever, and store each turn.
const MOST_REWINDS: u32 = 8;
/// As many blocks at once are worth a line in the log.
const MANY: u32 = 100;
/// Looked at without a notification after this long, in case one was lost.
const POLL: Duration = Duration::from_secs(60);
/// After a failure of the backend or of the store.
const RETRY: Duration = Duration::from_secs(5);

const BLOCK_AT: &str = "getrawblockbyheight";

/// Who takes the blocks that a [`Follower`] brings.
pub trait Sink: Send + Sync {
    /// What to look for in the next block.
    fn watched(&self) -> impl Future<Output = Option<Watched>> + Send;
    /// Hands over a block or a reorganisation; an error means that it wasn't taken (the store
    /// failed) and must come again.
    fn deliver(&self, input: Input) -> impl Future<Output = Result<(), String>> + Send;
    /// Every block up to the tip was taken.
    fn at_tip(&self) -> impl Future<Output = ()> + Send;
    /// Whether the backend's node has a block by now that the backend didn't give; nothing if it can't be asked.
    fn has_block(&self, height: Height) -> impl Future<Output = Option<bool>> + Send {
        let _ = height;
        async { None }
    }
    /// Why blocks don't come, or that they do again.
    fn health(&self, problem: Option<String>);
}

/// Reads lightningd's chain, block by block, from where it was last.
#[derive(Debug)]
pub struct Follower {
    next: Height,
    recent: VecDeque<(Height, BlockHash)>,
    progress: Progress,
    /// How long the backend has taken for blocks.
    fetching: Millis,
}

/// How far a follower is, for `factory-status`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scan {
    /// Height of the first block of this start.
    pub first: Height,
    /// Height of the next block to be handled.
    pub next: Height,
    /// Height of the backend's last block.
    pub tip: Height,
    /// A block of its chain that the backend does not give.
    pub missing: Option<Height>,
}

impl Scan {
    /// Blocks that wait to be handled.
    pub fn behind(&self) -> u32 {
        self.tip.saturating_add(1).saturating_sub(self.next)
    }
}

/// A [`Scan`] that the follower keeps up to date.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Mutex<Scan>>);

impl Progress {
    /// How far the follower is now.
    pub fn get(&self) -> Scan {
        // Writers only assign: a poisoned lock still holds a whole value.
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The backend doesn't give a block of its chain, whose tip is at `tip`: nothing from there on is handled.
    pub fn lacks(&self, height: Height, tip: Height) {
        self.note(|scan| *scan = Scan { first: height, next: height, tip, missing: Some(height) });
    }

    fn note(&self, change: impl FnOnce(&mut Scan)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Why a round of [`Follower::advance`] ended early. The next round goes on where this one stopped.
#[derive(Debug)]
pub enum Interrupted {
    /// A call of lightningd, or of its backend, failed.
    Backend(CallError),
    /// The block was not taken, and this is why: it comes again.
    Sink(String),
    /// The backend does not give a block of its own chain: its node has pruned it.
    Missing(Height),
    /// The runtime has ended: nobody takes blocks any more.
    Closed,
}

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Backend(error) => error.fmt(f),
            Self::Sink(reason) => f.write_str(reason),
            Self::Missing(height) => write!(
                f,
                "the bitcoin backend does not give block {height}, which is part of its chain: its node is slow, or has \
                 pruned it, and nothing of ours is watched before it is there"
            ),
            Self::Closed => f.write_str("shutting down"),
        }
    }
}

impl From<CallError> for Interrupted {
    fn from(error: CallError) -> Self {
        Self::Backend(error)
    }
}

impl Follower {
    /// The first block handed over is the one at `next`. `before` is the block below it, when its
    /// hash is known: a reorganisation while the node was down is then noticed.
    pub fn new(next: Height, before: Option<BlockHash>) -> Self {
        let recent = before.map(|hash| (next.saturating_sub(1), hash)).into_iter().collect();
        let progress = Progress::default();
        progress.note(|scan| (scan.first, scan.next) = (next, next));
        Self { next, recent, progress, fetching: 0 }
    }

    /// The same, and `progress` shows how far it is.
    pub fn shown_by(mut self, progress: &Progress) -> Self {
        let scan = self.progress.get();
        progress.note(|shown| *shown = scan);
        self.progress = progress.clone();
        self
    }

    /// Hands over every block up to the tip.
    ///
    /// # Errors
    /// When something was in the way, or the backend's blocks make no chain. The next round goes on.
    pub async fn advance<C: Call, S: Sink>(&mut self, rpc: &C, sink: &S) -> Result<(), Interrupted> {
        let mut rewinds = 0;
        loop {
            let tip = tip_height(rpc).await?;
            self.progress.note(|scan| scan.tip = tip);
            if tip.saturating_add(1) < self.next {
                // Shorter than what we saw: the chain was rewound and has not grown past us yet.
                self.rewind(rpc, sink, tip).await?;
            }
            if self.next > tip {
                return Ok(());
            }
            while self.next <= tip {
                let asked = now();
                let block = block_at(rpc, self.next).await?;
                self.fetching = self.fetching.saturating_add(now().saturating_sub(asked));
                let Some(block) = block else {
                    return self.not_given(rpc).await;
                };
                let parent = self.recent.back().map(|(_, hash)| *hash);
                if parent.is_some_and(|hash| hash != block.header.prev_blockhash) {
                    if rewinds == MOST_REWINDS {
                        let text = format!("block {} is not on top of the one before it", self.next);
                        return Err(CallError::new("getrawblockbyheight", text).into());
                    }
                    self.rewind(rpc, sink, self.next.saturating_sub(2)).await?;
                    rewinds += 1;
                    break;
                }
                let hash = block.block_hash();
                let watched = sink.watched().await.ok_or(Interrupted::Closed)?;
                let input = Input::Block(reduce(self.next, block, &watched));
                sink.deliver(input).await.map_err(Interrupted::Sink)?;
                self.recent.push_back((self.next, hash));
                if self.recent.len() > REMEMBERED {
                    self.recent.pop_front();
                }
                self.next += 1;
                let next = self.next;
                self.progress.note(|scan| (scan.next, scan.missing) = (next, None));
            }
        }
    }

    /// The backend did not give the next block: it may have left the chain, or been pruned.
    async fn not_given<C: Call>(&mut self, rpc: &C) -> Result<(), Interrupted> {
        if self.next > tip_height(rpc).await? {
            return Ok(());
        }
        let missing = self.next;
        self.progress.note(|scan| scan.missing = Some(missing));
        Err(Interrupted::Missing(missing))
    }

    /// Finds the last block of ours, not above `highest`, that is still part of the chain.
    async fn rewind<C: Call, S: Sink>(
        &mut self,
        rpc: &C,
        sink: &S,
        highest: Height,
    ) -> Result<(), Interrupted> {
        let mut kept = self.recent.clone();
        let mut common = highest;
        while let Some((height, hash)) = kept.back().copied() {
            common = common.min(height);
            if height <= highest && hash_at(rpc, height).await? == Some(hash) {
                break;
            }
            common = height.saturating_sub(1);
            kept.pop_back();
        }
        sink.deliver(Input::Reorg { height: common }).await.map_err(Interrupted::Sink)?;
        self.recent = kept;
        self.next = common.saturating_add(1);
        let next = self.next;
        self.progress.note(|scan| scan.next = next);
        Ok(())
    }

    /// Advances at every change of `news`, for as long as somebody holds its sender.
    pub async fn run<C: Call, S: Sink>(mut self, rpc: C, sink: S, mut news: watch::Receiver<Height>) {
        loop {
            let (from, began) = (self.next, now());
            self.fetching = 0;
            #[cfg(feature = "faults")]
            factory_runtime::faults::panic_at("follower");
            #[cfg(feature = "faults")]
            if factory_runtime::faults::ends_follower() {
                return;
            }
            let pause = match self.advance(&rpc, &sink).await {
                Ok(()) => {
                    if self.next.saturating_sub(from) >= MANY {
                        let last = self.next.saturating_sub(1);
                        let (took, fetching) = (now().saturating_sub(began), self.fetching);
                        log::info!(
                            "caught up with the chain: blocks {from} to {last} in {took} ms, {fetching} of them for fetching"
                        );
                    }
                    sink.health(None);
                    sink.at_tip().await;
                    POLL
                }
                Err(Interrupted::Closed) => return,
                Err(error) => {
                    let problem = format!("block {} not handled yet: {error}", self.next);
                    log::warn!("{problem}");
                    sink.health(Some(problem));
                    let tip = self.progress.get().tip;
                    if let Interrupted::Missing(height) = error
                        && pruned::can_be(height, tip)
                    {
                        pruned::until_there(|| sink.has_block(height)).await;
                        continue;
                    }
                    RETRY
                }
            };
            if let Ok(Err(_)) = tokio::time::timeout(pause, news.changed()).await {
                return;
            }
        }
    }
}

/// The height of the backend's best block.
pub async fn tip_height<C: Call>(rpc: &C) -> Result<Height, CallError> {
    let info = rpc.call("getchaininfo", json!({"last_height": 0})).await?;
    field("getchaininfo", &info, "blockcount")
}

/// The hash of the block at `height`; `None` above the tip.
///
/// lightningd gives a block that its backend can't be asked for as one that doesn't exist: to take that
/// for a reorganisation would undo everything that is confirmed.
pub async fn hash_at<C: Call>(rpc: &C, height: Height) -> Result<Option<BlockHash>, Interrupted> {
    let answer = ask_for(rpc, height).await?;
    let hash: Option<BlockHash> = field(BLOCK_AT, &answer, "blockhash")?;
    if hash.is_none() && tip_height(rpc).await? >= height {
        return Err(Interrupted::Missing(height));
    }
    Ok(hash)
}

/// What the backend says of a block; without one also where its node has pruned that.
async fn ask_for<C: Call>(rpc: &C, height: Height) -> Result<Value, CallError> {
    match rpc.call(BLOCK_AT, json!({"height": height})).await {
        Err(error) if pruned::says(&error) => {
            log::debug!("{error}");
            Ok(json!({"blockhash": null, "block": null}))
        }
        answer => answer,
    }
}

/// The block at `height`; `None` above the tip.
pub async fn block_at<C: Call>(rpc: &C, height: Height) -> Result<Option<bitcoin::Block>, CallError> {
    let answer = ask_for(rpc, height).await?;
    let text: Option<String> = field(BLOCK_AT, &answer, "block")?;
    let Some(text) = text else { return Ok(None) };
    let wrong = |message: String| CallError::new(BLOCK_AT, message);
    let block: bitcoin::Block = bitcoin::consensus::encode::deserialize_hex(&text)
        .map_err(|error| wrong(format!("block {height} is unreadable: {error}")))?;
    let hash: Option<BlockHash> = field(BLOCK_AT, &answer, "blockhash")?;
    if hash != Some(block.block_hash()) {
        return Err(wrong(format!("block {height} has another hash than the backend says")));
    }
    Ok(Some(block))
}

/// Only what the engine asked for: transactions that spend a watched outpoint.
pub fn reduce(height: Height, block: bitcoin::Block, watched: &Watched) -> Block {
    let hash = block.block_hash();
    let txs = block.txdata.into_iter().filter(|tx| watched.concerns(tx)).collect();
    Block { height, hash, txs }
}

/// A hash that no block has: for chains whose last block we don't know.
pub fn no_hash() -> BlockHash {
    BlockHash::all_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A chain of empty blocks; `salt` makes branches differ.
    #[derive(Clone, Default)]
    struct FakeNode {
        blocks: Arc<Mutex<Vec<bitcoin::Block>>>,
        /// Blocks below are known by their hashes only.
        pruned: Arc<Mutex<u64>>,
        /// Whether the backend gives up on those with an error, as lightningd's does.
        gives_up: bool,
        /// After how many calls its bitcoind is away.
        away_after: Arc<Mutex<Option<u32>>>,
    }

    impl FakeNode {
        fn grow(&self, count: u32, salt: u32) {
            let mut blocks = self.blocks.lock().unwrap();
            for _ in 0..count {
                let parent = blocks.last().map_or(no_hash(), bitcoin::Block::block_hash);
                let mut block = bitcoin::constants::genesis_block(bitcoin::Network::Regtest);
                block.header.prev_blockhash = parent;
                block.header.nonce = salt;
                blocks.push(block);
            }
        }

        fn cut(&self, height: usize) {
            self.blocks.lock().unwrap().truncate(height + 1);
        }

        fn is_away(&self) -> bool {
            match self.away_after.lock().unwrap().as_mut() {
                Some(0) => true,
                Some(left) => {
                    *left -= 1;
                    false
                }
                None => false,
            }
        }
    }

    impl Call for FakeNode {
        async fn call(&self, method: &str, params: Value) -> Result<Value, CallError> {
            let blocks = self.blocks.lock().unwrap();
            match (method, self.is_away()) {
                ("getchaininfo", true) => Err(CallError::new(method, "its bitcoind is away")),
                (_, true) => Ok(json!({"blockhash": null, "block": null})),
                ("getchaininfo", false) => Ok(json!({"blockcount": blocks.len() - 1})),
                _ => {
                    let height = params["height"].as_u64().unwrap();
                    if height < *self.pruned.lock().unwrap() {
                        if self.gives_up {
                            let text = format!("getblock {:064x} timed out after 60 seconds", height);
                            return Err(CallError::new(method, text));
                        }
                        return Ok(json!({"blockhash": null, "block": null}));
                    }
                    let height = usize::try_from(height).unwrap();
                    Ok(blocks.get(height).map_or(json!({"blockhash": null, "block": null}), |block| {
                        json!({
                            "blockhash": block.block_hash(),
                            "block": bitcoin::consensus::encode::serialize_hex(block),
                        })
                    }))
                }
            }
        }
    }

    /// Notes "5" for block 5 and "<3" for a reorganisation back to block 3.
    #[derive(Default)]
    struct Notes {
        seen: Mutex<Vec<String>>,
        fails: Mutex<bool>,
    }

    impl Sink for Notes {
        async fn watched(&self) -> Option<Watched> {
            Some(Watched::default())
        }

        async fn at_tip(&self) {}

        fn health(&self, _: Option<String>) {}

        async fn deliver(&self, input: Input) -> Result<(), String> {
            if *self.fails.lock().unwrap() {
                return Err("the disk is full".to_owned());
            }
            self.seen.lock().unwrap().push(match input {
                Input::Block(block) => block.height.to_string(),
                Input::Reorg { height } => format!("<{height}"),
                other => panic!("{other:?}"),
            });
            Ok(())
        }
    }

    impl Notes {
        fn take(&self) -> String {
            std::mem::take(&mut *self.seen.lock().unwrap()).join(" ")
        }
    }

    #[tokio::test]
    async fn each_block_once_and_in_order() {
        let (node, notes) = (FakeNode::default(), Notes::default());
        node.grow(5, 0);
        let mut follower = Follower::new(2, None);
        follower.advance(&node, &notes).await.unwrap();
        assert_eq!(notes.take(), "2 3 4");
        follower.advance(&node, &notes).await.unwrap();
        assert_eq!(notes.take(), "");
        node.grow(1, 0);
        follower.advance(&node, &notes).await.unwrap();
        assert_eq!(notes.take(), "5");
    }

    // S25
    #[tokio::test]
    async fn a_reorganisation_goes_back_to_the_fork() {
        let (node, notes) = (FakeNode::default(), Notes::default());
        node.grow(6, 0);
        let mut follower = Follower::new(1, None);
        follower.advance(&node, &notes).await.unwrap();
        assert_eq!(notes.take(), "1 2 3 4 5");
        node.cut(3);
        node.grow(3, 1);
        follower.advance(&node, &notes).await.unwrap();
        assert_eq!(notes.take(), "<3 4 5 6");
    }

    // S25
    #[tokio::test]
    async fn a_backend_that_is_away_is_no_reorganisation() {
        for calls in 0..12 {
            let (node, notes) = (FakeNode::default(), Notes::default());
            node.grow(6, 0);
            let mut follower = Follower::new(1, None);
            follower.advance(&node, &notes).await.unwrap();
            notes.take();
            node.cut(3);
            node.grow(3, 1);
            *node.away_after.lock().unwrap() = Some(calls);
            // Nine calls are all it takes.
            let outcome = follower.advance(&node, &notes).await;
            assert!(matches!(outcome, Err(Interrupted::Backend(_))) || calls >= 9, "{calls}: {outcome:?}");
            *node.away_after.lock().unwrap() = None;
            follower.advance(&node, &notes).await.unwrap();
            assert_eq!(notes.take(), "<3 4 5 6", "{calls}");
        }
    }

    // S25
    #[tokio::test]
    async fn a_chain_that_shrinks_is_noticed_before_it_grows() {
        let (node, notes) = (FakeNode::default(), Notes::default());
        node.grow(6, 0);
        let mut follower = Follower::new(1, None);
        follower.advance(&node, &notes).await.unwrap();
        notes.take();
        node.cut(2);
        follower.advance(&node, &notes).await.unwrap();
        assert_eq!(notes.take(), "<2");
        node.grow(1, 1);
        follower.advance(&node, &notes).await.unwrap();
        assert_eq!(notes.take(), "3");
    }

    // S25, and found by fuzzing: this went on for ever.
    #[tokio::test]
    async fn blocks_that_make_no_chain_are_an_error() {
        let (node, notes) = (FakeNode::default(), Notes::default());
        node.grow(6, 0);
        node.blocks.lock().unwrap()[4].header.prev_blockhash = no_hash();
        let mut follower = Follower::new(2, None);
        let error = follower.advance(&node, &notes).await.unwrap_err();
        assert!(error.to_string().contains("block 4 is not on top"), "{error}");
        notes.take();
        // The backend has come to its senses.
        node.cut(3);
        node.grow(2, 0);
        follower.advance(&node, &notes).await.unwrap();
        assert!(notes.take().ends_with("4 5"));
    }

    // S25
    #[tokio::test]
    async fn a_reorganisation_while_the_node_was_down() {
        let (node, notes) = (FakeNode::default(), Notes::default());
        node.grow(6, 0);
        let mut follower = Follower::new(4, Some(no_hash()));
        follower.advance(&node, &notes).await.unwrap();
        assert_eq!(notes.take(), "<2 3 4 5");
    }

    // S25, S33
    #[tokio::test]
    async fn a_pruned_block_is_named_and_waited_for() {
        for gives_up in [false, true] {
            let node = FakeNode { gives_up, ..FakeNode::default() };
            let (notes, progress) = (Notes::default(), Progress::default());
            node.grow(6, 0);
            *node.pruned.lock().unwrap() = 4;
            let mut follower = Follower::new(2, None).shown_by(&progress);
            let interrupted = follower.advance(&node, &notes).await;
            assert!(matches!(interrupted, Err(Interrupted::Missing(2))), "{interrupted:?}");
            assert_eq!(progress.get(), Scan { first: 2, next: 2, tip: 5, missing: Some(2) });
            assert_eq!((notes.take(), progress.get().behind()), (String::new(), 4));
            let hash = hash_at(&node, 3).await;
            assert!(
                matches!(hash, Err(Interrupted::Missing(3))),
                "it is in the chain all the same: {hash:?}"
            );
            *node.pruned.lock().unwrap() = 0;
            follower.advance(&node, &notes).await.unwrap();
            assert_eq!(notes.take(), "2 3 4 5");
            assert_eq!(progress.get(), Scan { first: 2, next: 6, tip: 5, missing: None });
            assert_eq!(progress.get().behind(), 0);
        }
    }

    // S14, S27
    #[tokio::test]
    async fn a_block_that_was_not_taken_comes_again() {
        let (node, notes) = (FakeNode::default(), Notes::default());
        node.grow(3, 0);
        let mut follower = Follower::new(1, None);
        *notes.fails.lock().unwrap() = true;
        assert!(matches!(follower.advance(&node, &notes).await, Err(Interrupted::Sink(_))));
        *notes.fails.lock().unwrap() = false;
        follower.advance(&node, &notes).await.unwrap();
        assert_eq!(notes.take(), "1 2");
    }
}
