//! Following the chain, and what is done at its tip: for as long as the plugin runs.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use factory_engine::io::fees::FeeNews;
use factory_engine::types::Height;
use factory_engine::{Input, Watched};
use factory_runtime::Handle;
use serde_json::Value;

use super::boot::{Begin, Prepared};
use super::bump::Bumper;
use super::chain::{self, Follower, Interrupted, Sink};
use super::client::{Call, CallError};
use super::state::State;
use super::watch::{close_lost, tell};
use super::{abandoned, balances, feerates, htlcs, peers, preimages, pruned, reread, watch_online};

/// Between attempts to reach lightningd's backend.
const RETRY: Duration = Duration::from_secs(1);
/// How far a reorganisation is assumed to reach that happened while the node was down.
const DEEPEST_REORG: Height = 144;

/// What needs the chain: resumes what was under way, and then follows the blocks for as long as the plugin
/// runs. Peers hear from us once the last block is handled.
pub async fn follow(prepared: Prepared) {
    let Prepared { state, begin, news, bumper } = prepared;
    let Ok(begin) = begin.await else { return };
    let tip = retry("the chain's height", || chain::tip_height(&state.rpc)).await;
    state.runtime.height(tip);
    let channels = retry("channels", || state.channels.refresh(&state.rpc)).await;
    // What a stop interrupted goes on from here.
    state.runtime.deliver_durably(Input::Started { channels }).await;
    let known = retry("channels", || peers::with_channels(&state.rpc, None)).await;
    for peer in retry("peers", || peers::connected(&state.rpc, None)).await {
        let number = state.runtime.listed(peer.id);
        state.runtime.features(peer.id, number, peer.supports, known.contains(&peer.id));
    }
    state.vital.spawn("notes who is online", watch_online::record(State::clone(&state)));
    let sink = EngineSink {
        state: State::clone(&state),
        runtime: state.runtime.clone(),
        rpc: state.rpc.clone(),
        bumper,
    };
    let start = loop {
        match first_block(&state, tip, &begin).await {
            Ok(start) => break start,
            Err(error) => not_yet(&sink, tip, &error).await,
        }
    };
    log::debug!("following the chain from block {start}");
    Follower::new(start, None).shown_by(&state.scan).run(state.rpc.clone(), sink, news).await;
}

/// Why it isn't known yet where to begin, and waits until it is worth another try.
async fn not_yet<C: Call>(sink: &EngineSink<C>, tip: Height, error: &Interrupted) {
    sink.health(Some(error.to_string()));
    match error {
        Interrupted::Missing(height) => {
            log::warn!("the chain is not followed yet: {error}");
            sink.state.scan.lacks(*height, tip);
            pruned::until_there(|| sink.has_block(*height)).await;
        }
        Interrupted::Backend(_) | Interrupted::Sink(_) | Interrupted::Closed => {
            log::debug!("cannot learn the last known block yet: {error}");
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Where to begin. Everything up to the stored tip was handled, if it is still part of the chain.
async fn first_block(state: &State, tip: Height, begin: &Begin) -> Result<Height, Interrupted> {
    let last = begin.stored_tip.filter(|_| begin.is_tower);
    let birth = match (begin.scan_from, last) {
        (Some(birth), None) => birth,
        // For others all is looked through up to there.
        (birth, Some((height, _))) => birth.unwrap_or(height).min(height.saturating_sub(DEEPEST_REORG)),
        // The tip alone: so that its height is known.
        (None, None) => return Ok(tip),
    };
    let stored = begin.stored_tip.filter(|(height, _)| *height >= birth);
    // Handling a block again changes nothing, and tells the engine where it is.
    let (start, kept) = match stored {
        None => (birth.min(tip), birth.saturating_sub(1)),
        Some((height, hash)) if chain::hash_at(&state.rpc, height).await? == Some(hash) => {
            (if begin.read_again { reread::from_birth(state, birth, height).await? } else { height }, height)
        }
        Some((height, _)) => {
            let reorged = height.min(tip).saturating_sub(DEEPEST_REORG).max(birth);
            let start =
                if begin.read_again { reread::from_birth(state, birth, reorged).await? } else { reorged };
            log::warn!("block {height} is no longer part of the chain: reading it again from {start}");
            (start, start.saturating_sub(1))
        }
    };
    // S25: nobody knows any more whether what confirmed above is still in the chain. The last block may
    // have been stored, and not yet noted as handled.
    let confirmed = state.runtime.read(|engine, _| engine.confirmed_to()).await;
    let confirmed = confirmed.map_err(|refusal| CallError::new("height", refusal.to_string()))?;
    if confirmed.is_some_and(|confirmed| confirmed > kept) {
        let reorg = Input::Reorg { height: kept };
        state
            .runtime
            .ask(reorg)
            .await
            .map_err(|refusal| CallError::new("reorganisation", refusal.to_string()))?;
    }
    Ok(start)
}

async fn retry<T, F: Future<Output = Result<T, CallError>>>(what: &str, call: impl Fn() -> F) -> T {
    loop {
        match call().await {
            Ok(value) => return value,
            Err(error) => log::debug!("cannot learn {what} yet: {error}"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

struct EngineSink<C> {
    state: State,
    runtime: Handle,
    rpc: C,
    bumper: Bumper<C>,
}

impl<C: Call> Sink for EngineSink<C> {
    async fn watched(&self) -> Option<Watched> {
        self.runtime.read(|engine, _| engine.watched()).await.ok()
    }

    /// S16, S26: deadlines of HTLCs and fees, at every block, and at once after a pause of any length.
    async fn at_tip(&self) {
        let _took = self.state.tally.tip();
        self.runtime.caught_up();
        let mark = self.state.dust.mark();
        let feerates = Some(feerates::rates(&self.rpc, &self.state.bitcoind, &self.state.feerates).await);
        let (known, mirror) = (&self.state.channels, &self.state.mirror);
        let look = |channels: &[Value], whole: bool| {
            self.state.dust.look(mark, &htlcs::in_flight(channels), self.runtime.view());
            // Of one moment: an HTLC that fails while the database is asked must not look fulfilled.
            let free = if whole { balances::beside_free(channels) } else { vec![] };
            (feerates::stakes(channels), htlcs::with_htlcs(channels), free, whole)
        };
        let seen = mirror.look(&self.rpc, known, look).await;
        let looked = seen.is_ok();
        let (stakes, pending, free, whole) = seen.unwrap_or_else(|error| {
            log::warn!("cannot look at channels and their HTLCs: {error}");
            (BTreeMap::new(), vec![], vec![], false)
        });
        if !free.is_empty() {
            self.runtime.input(Input::Balances(free));
        }
        let fees = FeeNews { feerates, stakes };
        if looked {
            // S35: after a start, before it is said what is worth its fees.
            if self.runtime.read(|engine, _| engine.feerates().is_none()).await.unwrap_or(false) {
                self.runtime.input(Input::Fees(fees.clone()));
            }
            let removing = htlcs::removing(&pending);
            let nothing = preimages::nothing_to_claim(&self.state.database, &removing).await;
            self.runtime.input(Input::Htlcs(htlcs::of_channels(&pending, &nothing)));
        }
        // Each takes a second and more.
        let state = State::clone(&self.state);
        tokio::spawn(async move {
            close_lost(&state).await;
            let height = *state.news.borrow();
            abandoned::tidy(&state, height).await;
        });
        // S34: what a notification's step couldn't store, and what it never said.
        if whole {
            self.runtime.input(Input::Channels { list: known.list(), whole });
        } else {
            tell(&self.runtime, &known.ended());
        }
        self.runtime.input(Input::Fees(fees));
        let Ok(waiting) = self.runtime.read(|engine, height| engine.waiting(height)).await else { return };
        if let Err(error) = self.bumper.settle(&waiting).await {
            log::warn!("cannot give back coins of children that are over yet: {error}");
        }
    }

    async fn has_block(&self, height: Height) -> Option<bool> {
        self.state.bitcoind.has_block(height).await
    }

    fn health(&self, problem: Option<String>) {
        self.state.chain_problem.send_replace(problem);
    }

    async fn deliver(&self, input: Input) -> Result<(), String> {
        let _took = matches!(input, Input::Block(_)).then(|| self.state.tally.block());
        self.runtime.ask(input).await.map(drop).map_err(|refusal| refusal.to_string())
    }
}
