//! From lightningd's `init` to a running engine.
//!
//! What hooks rest on is loaded before we answer `init`, so that no hook ever sees a plugin that
//! doesn't know its factories. Everything that needs the chain comes after, because lightningd's
//! backend may start only then.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bitcoin::BlockHash;
use bitcoin::hex::FromHex;
use cln_plugin::messages::Configuration;
use factory_engine::record::event::decode_record;
use factory_engine::tx::musig::MasterSecret;
use factory_engine::types::{Height, InstanceId, NodeId};
use factory_engine::{Config, Engine, Factory, Folded, Input, Watched};
use factory_runtime::store::{History, Store};
use factory_runtime::{Handle, Inbox, Runtime};
use serde_json::{Value, json};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::bitcoind::Bitcoind;
use super::bump::Bumper;
use super::chain::{self, Follower, Sink};
use super::channels::Channels;
use super::client::{Call, CallError, Rpc, field};
use super::dust::DustCap;
use super::executor::Executor;
use super::funding_script::Database;
use super::holding::Holding;
use super::kept::Kept;
use super::outbox::Outbox;
use super::state::{Shared, State};
use super::{datastore, feerates, htlcs, online, peers, watch_online};

/// Label of the secret that every factory key is derived from. Never changes.
const SECRET_LABEL: &str = "cln-factory";
/// lightningd's default `cltv-final`, should `listconfigs` not say.
const CLTV_FINAL: u32 = 18;
/// Between attempts to reach lightningd's backend.
const RETRY: Duration = Duration::from_secs(1);
/// How far a reorganisation is assumed to reach that happened while the node was down.
const DEEPEST_REORG: Height = 144;

/// Bytes of `sun_path` without the final zero.
const LONGEST_SOCKET_PATH: usize = 107;

/// What [`prepare`] leaves for [`follow`].
pub struct Prepared {
    /// For every hook, command and subscription.
    pub state: State,
    stored_tip: Option<(Height, BlockHash)>,
    scan_from: Option<Height>,
    news: watch::Receiver<Height>,
    bumper: Bumper<Rpc>,
}

/// Loads everything and starts the runtime.
pub async fn prepare(
    configuration: &Configuration,
    config: Config,
    bitcoin_rpc: String,
    outbox: Outbox,
) -> Result<Prepared, CallError> {
    let network_dir = Path::new(&configuration.lightning_dir);
    let rpc = Rpc::new(socket(network_dir, &configuration.rpc_file));
    let info = rpc.call("getinfo", json!({})).await?;
    let me: String = field("getinfo", &info, "id")?;
    let me: NodeId = me.parse().map_err(|error| unexpected("getinfo", error))?;
    let configs = rpc.call("listconfigs", json!({})).await?;
    let cltv_final = configs["configs"]["cltv-final"]["value_int"].as_u64();
    let database = Database::locate(&configs["configs"], network_dir);
    let home = std::env::home_dir();
    let bitcoind =
        Bitcoind::locate(&bitcoin_rpc, &configs["configs"], &configuration.network, home.as_deref())
            .map_err(|error| CallError::new("configuration", error))?;
    let kept = Kept::new(rpc.clone());
    let master = master_secret(&rpc).await?;

    let online = online::load(&rpc).await?;
    let (handle, inbox) = factory_runtime::channel();
    let bumper = Bumper::new(rpc.clone(), bitcoind.clone(), kept.clone());
    let executor = Executor::new(rpc.clone(), handle.clone(), database, outbox.clone(), bumper.clone());
    let engine = Engine::new(me, master, config.clone());
    let store = datastore::store(rpc.clone());
    let loaded = load(engine, store).await;
    let (news, news_receiver) = watch::channel(0);
    let (unavailable, stored_tip, scan_from) = match loaded {
        Ok(loaded) => {
            let rest = (None, loaded.stored_tip, loaded.engine.scan_from());
            tokio::spawn(Runtime::new(loaded.engine, loaded.store, executor, inbox).run());
            rest
        }
        Err(reason) => (Some(refuse_everything(inbox, reason)), None, None),
    };
    let state = State::new(Shared {
        rpc,
        runtime: handle,
        outbox,
        channels: Channels::default(),
        dust: DustCap::new(config.dust),
        holding: Holding::new(config.hold),
        online,
        bitcoind,
        kept,
        scan: chain::Progress::default(),
        config,
        me,
        cltv_final: cltv_final.and_then(|value| value.try_into().ok()).unwrap_or(CLTV_FINAL),
        news,
        chain_problem: watch::channel(None).0,
        unavailable,
    });
    Ok(Prepared { state, stored_tip, scan_from, news: news_receiver, bumper })
}

fn refuse_everything(inbox: Inbox, reason: String) -> String {
    log::error!("factories are left alone, commands are refused: {reason}");
    tokio::spawn(factory_runtime::run_unavailable(inbox, reason.clone()));
    reason
}

/// lightningd gives the socket's name relative to its directory, or as a path. It runs in that
/// directory and so do we, which helps where the whole path is longer than a socket's may be.
fn socket(network_dir: &Path, rpc_file: &str) -> PathBuf {
    let path = network_dir.join(rpc_file);
    let here = || std::env::current_dir().is_ok_and(|here| here.join(rpc_file) == path);
    if path.as_os_str().len() > LONGEST_SOCKET_PATH && here() { PathBuf::from(rpc_file) } else { path }
}

async fn master_secret(rpc: &Rpc) -> Result<MasterSecret, CallError> {
    let mut answer = rpc.call("makesecret", json!({"string": SECRET_LABEL})).await?;
    let text = match answer["secret"].take() {
        Value::String(text) => Zeroizing::new(text),
        _ => return Err(unexpected("makesecret", "no secret in its result")),
    };
    let bytes = <[u8; 32]>::from_hex(&text).map_err(|_| unexpected("makesecret", "not 32 bytes of hex"))?;
    let bytes = Zeroizing::new(bytes);
    Ok(MasterSecret::new(*bytes))
}

fn unexpected(method: &str, what: impl std::fmt::Display) -> CallError {
    CallError { method: method.to_owned(), code: None, message: format!("unexpected result: {what}") }
}

/// The engine as the store's records make it, and the store itself.
pub struct Loaded<S> {
    /// The engine with every factory that wasn't archived.
    pub engine: Engine,
    /// The store, ready for the next append.
    pub store: S,
    /// Height and hash of the last block that was handled; nothing before the first.
    pub stored_tip: Option<(Height, BlockHash)>,
}

/// Rebuilds every factory.
///
/// # Errors
/// Says which record was not understood: then nothing may be written, because what is there might be a
/// newer plugin's.
pub async fn load<S: Store>(mut engine: Engine, mut store: S) -> Result<Loaded<S>, String> {
    engine.archive(store.archived().await.map_err(|error| error.to_string())?);
    let histories = store.load_all().await.map_err(|error| error.to_string())?;
    for folded in fold_all(&histories)? {
        engine.adopt(folded);
    }
    let stored_tip = factory_runtime::stored_tip(&mut store).await.map_err(|error| error.to_string())?;
    if let Some((height, _)) = stored_tip {
        archive(&mut engine, &mut store, height).await;
    }
    if let Some(prices) =
        factory_runtime::stored_prices(&mut store).await.map_err(|error| error.to_string())?
    {
        engine.set_prices(prices);
    }
    Ok(Loaded { engine, store, stored_tip })
}

/// What is over is read once more at most: a start takes as long as there are factories alive.
async fn archive<S: Store>(engine: &mut Engine, store: &mut S, height: Height) {
    let over: Vec<_> = engine.archivable(height).collect();
    match store.archive(&over).await {
        Ok(()) => engine.archive(over),
        Err(error) => log::warn!("closed factories are kept in memory until the next start: {error}"),
    }
}

/// Of the store, without the engine: those of these factories that are still known there.
pub(super) async fn read_archived<S: Store>(
    store: &mut S,
    instances: Vec<InstanceId>,
) -> Result<Vec<Factory>, String> {
    let mut histories = Vec::with_capacity(instances.len());
    for instance in instances {
        let records = store.load(instance).await.map_err(|error| error.to_string())?;
        histories.push((instance, records));
    }
    let folded = tokio::task::spawn_blocking(move || fold_all(&histories)).await;
    let folded = folded.map_err(|error| error.to_string())??;
    Ok(folded.into_iter().filter_map(Folded::into_factory).collect())
}

/// On all cores: a thousand factories of 64 members take one of them many seconds, and lightningd waits.
fn fold_all(histories: &[History]) -> Result<Vec<Folded>, String> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let share = histories.len().div_ceil(cores).max(1);
    std::thread::scope(|scope| {
        let shares = histories.chunks(share);
        let threads: Vec<_> = shares
            .map(|share| scope.spawn(move || share.iter().map(fold).collect::<Result<Vec<_>, _>>()))
            .collect();
        let mut all = Vec::with_capacity(histories.len());
        for thread in threads {
            let folded = thread.join().map_err(|_| "rebuilding the factories failed".to_owned())?;
            all.extend(folded?);
        }
        Ok(all)
    })
}

fn fold((instance, records): &History) -> Result<Folded, String> {
    let decoded = (0u32..).zip(records).map(|(index, bytes)| {
        decode_record(bytes).map_err(|error| format!("factory {instance}, record {index}: {error}"))
    });
    let records: Vec<_> = decoded.collect::<Result<_, String>>()?;
    Folded::new(*instance, None, records).map_err(|error| format!("factory {instance}: {error}"))
}

/// What needs the chain: resumes what was under way, and then follows the blocks for as long as the plugin
/// runs. Peers hear from us once the last block is handled.
pub async fn follow(prepared: Prepared) {
    let Prepared { state, stored_tip, scan_from, news, bumper } = prepared;
    if state.unavailable.is_some() {
        return;
    }
    let tip = retry("the chain's height", || chain::tip_height(&state.rpc)).await;
    state.runtime.height(tip);
    let channels = retry("channels", || state.channels.refresh(&state.rpc)).await;
    // What a stop interrupted goes on from here.
    state.runtime.deliver_durably(Input::Started { channels }).await;
    for peer in retry("peers", || peers::connected(&state.rpc, None)).await {
        let number = state.runtime.listed(peer.id);
        state.runtime.features(peer.id, number, peer.supports);
    }
    let start = retry("the last known block", || first_block(&state, tip, stored_tip, scan_from)).await;
    tokio::spawn(watch_online::record(State::clone(&state)));
    log::debug!("following the chain from block {start}");
    let sink = EngineSink {
        state: State::clone(&state),
        runtime: state.runtime.clone(),
        rpc: state.rpc.clone(),
        bumper,
    };
    Follower::new(start, None).shown_by(&state.scan).run(state.rpc.clone(), sink, news).await;
}

/// Where to begin. Everything up to the stored tip was handled, if it is still part of the chain.
async fn first_block(
    state: &State,
    tip: Height,
    stored: Option<(Height, BlockHash)>,
    scan_from: Option<Height>,
) -> Result<Height, CallError> {
    // Without factories, the tip alone: so that its height is known.
    let Some(birth) = scan_from else { return Ok(tip) };
    let stored = stored.filter(|(height, _)| *height >= birth);
    // Handling a block again changes nothing, and tells the engine where it is.
    let (start, kept) = match stored {
        None => (birth.min(tip), birth.saturating_sub(1)),
        Some((height, hash)) if chain::hash_at(&state.rpc, height).await? == Some(hash) => (height, height),
        Some((height, _)) => {
            let start = height.min(tip).saturating_sub(DEEPEST_REORG).max(birth);
            log::warn!("block {height} is no longer part of the chain: reading it again from {start}");
            (start, start.saturating_sub(1))
        }
    };
    // S25: nobody knows any more whether what confirmed above is still in the chain. The last block may
    // have been stored, and not yet noted as handled.
    let confirmed = state.runtime.read(|engine, _| engine.confirmed_to()).await;
    let confirmed = confirmed.map_err(|refusal| unexpected("height", refusal))?;
    if confirmed.is_some_and(|confirmed| confirmed > kept) {
        let reorg = Input::Reorg { height: kept };
        state.runtime.ask(reorg).await.map_err(|refusal| unexpected("reorganisation", refusal))?;
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
        self.runtime.caught_up();
        let mark = self.state.dust.mark();
        let (channels, fees) = feerates::look(&self.rpc, &self.state.bitcoind).await;
        if let Some(channels) = channels {
            let (open, htlcs) = htlcs::of_channels(&channels);
            self.runtime.input(Input::Htlcs(htlcs));
            self.runtime.input(Input::Channels(open));
            self.state.dust.look(mark, &htlcs::in_flight(&channels), self.runtime.view());
        }
        self.runtime.input(Input::Fees(fees));
        let Ok(waiting) = self.runtime.read(|engine, height| engine.waiting(height)).await else { return };
        if let Err(error) = self.bumper.settle(&waiting).await {
            log::warn!("cannot give back coins of children that are over yet: {error}");
        }
    }

    fn health(&self, problem: Option<String>) {
        self.state.chain_problem.send_replace(problem);
    }

    async fn deliver(&self, input: Input) -> Result<(), String> {
        self.runtime.ask(input).await.map(drop).map_err(|refusal| refusal.to_string())
    }
}
