//! From lightningd's `init` to a running engine.
//!
//! What hooks rest on is loaded before we answer `init`, so that no hook ever sees a plugin that
//! doesn't know its factories. Everything that needs the chain comes after, because lightningd's
//! backend may start only then.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bitcoin::BlockHash;
use bitcoin::hex::FromHex;
use cln_plugin::messages::Configuration;
use factory_engine::backup::CopyKey;
use factory_engine::record::event::{Event, Restored};
use factory_engine::record::{decode_record, encode_record};
use factory_engine::tx::musig::MasterSecret;
use factory_engine::types::{Height, InstanceId, NodeId};
use factory_engine::{Config, Engine, Factory, Folded, Remains, State as FactoryState};
use factory_runtime::store::{History, Store, StoreError};
use factory_runtime::{Inbox, Runtime};
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};
use zeroize::Zeroizing;

use crate::config::Settings;

use super::backup::{self, Backup, catch_up};
use super::bitcoind::Bitcoind;
use super::bump::Bumper;
use super::client::{Call, CallError, Rpc, field};
use super::executor::Executor;
use super::kept::Kept;
use super::outbox::Outbox;
use super::state::{Shared, State};
use super::tally::Tally;
use super::timed::Timed;
use super::vital::Vital;
use super::waker::Waker;
use super::wallet_db::WalletDb;
use super::{datastore, guard, online};

/// Label of the secret that every factory key is derived from. Never changes.
const SECRET_LABEL: &str = "cln-factory";
/// Between attempts to read what is stored.
const READ_AGAIN: Duration = Duration::from_secs(5);

/// Bytes of `sun_path` without the final zero.
const LONGEST_SOCKET_PATH: usize = 107;

/// What [`prepare`] leaves for whoever follows the chain.
pub struct Prepared {
    /// For every hook, command and subscription.
    pub state: State,
    pub(super) begin: oneshot::Receiver<Begin>,
    pub(super) news: watch::Receiver<Height>,
    pub(super) bumper: Bumper<Rpc>,
}

/// What is known of the chain once everything is loaded.
pub(super) struct Begin {
    pub(super) stored_tip: Tip,
    /// Where something of a factory may be, the first.
    pub(super) scan_from: Option<Height>,
    /// Whether this node watches for others.
    pub(super) is_tower: bool,
    /// Whether what confirmed may be in a record that isn't understood: blocks are read again.
    pub(super) read_again: bool,
}

/// The way to lightningd.
pub fn rpc(configuration: &Configuration) -> Rpc {
    Rpc::new(socket(Path::new(&configuration.lightning_dir), &configuration.rpc_file))
}

/// Loads everything and starts the runtime.
pub async fn prepare(
    configuration: &Configuration,
    settings: Settings,
    outbox: Outbox,
    vital: Vital,
) -> Result<Prepared, CallError> {
    let Settings { config, bitcoin_rpc, wake_command, backup_file, .. } = settings;
    let network_dir = Path::new(&configuration.lightning_dir);
    let rpc = rpc(configuration);
    let info = rpc.call("getinfo", json!({})).await?;
    let me: String = field("getinfo", &info, "id")?;
    let me: NodeId = me.parse().map_err(|error| unexpected("getinfo", error))?;
    let configs = rpc.call("listconfigs", json!({})).await?;
    let cltv_final = configs["configs"]["cltv-final"]["value_int"].as_u64();
    let cltv_delta = configs["configs"]["cltv-delta"]["value_int"].as_u64();
    let cltv_delta = cltv_delta.and_then(|blocks| blocks.try_into().ok()).unwrap_or(config.cltv_delta);
    let cltv_final = cltv_final.and_then(|blocks| blocks.try_into().ok());
    let config = Config { cltv_delta, cltv_final: cltv_final.unwrap_or(config.cltv_final), ..config };
    let database = WalletDb::locate(&configs["configs"], network_dir);
    // S18: what can't be read is said before anybody is invited.
    let looked = database.clone();
    tokio::spawn(async move { looked.look().await });
    let home = std::env::home_dir();
    let bitcoind =
        Bitcoind::locate(&bitcoin_rpc, &configs["configs"], &configuration.network, home.as_deref())
            .map_err(|error| CallError::new("configuration", error))?;
    let kept = Kept::new(rpc.clone());
    let master = master_secret(&rpc).await?;
    let copy_key = Arc::new(CopyKey::derive(&master));
    let backup = (!backup_file.is_empty()).then(|| Backup::new(backup_file.into(), Arc::clone(&copy_key)));
    let (wanted, wishes) = backup::channel();

    // Statistics.
    let online = online::load(&rpc).await.unwrap_or_else(|error| {
        log::warn!("what was noted of clients' online times can't be read: {error}");
        online::Habits::default()
    });
    let (handle, inbox) = factory_runtime::channel();
    let tally = Tally::default();
    let bumper = Bumper::new(rpc.clone(), bitcoind.clone(), kept.clone()).counted_by(tally.clone());
    let executor = Executor::new(
        rpc.clone(),
        handle.clone(),
        database.clone(),
        outbox.clone(),
        kept.clone(),
        bumper.clone(),
        (Waker::new(wake_command, outbox.clone()), wanted),
    );
    let mut engine = Engine::new(me, master, config.clone());
    let mut store = Timed::new(datastore::store(rpc.clone()), tally.clone());
    let (news, news_receiver) = watch::channel(0);
    let (unavailable, begin) = (watch::Sender::new(None), oneshot::channel());
    // What hooks rest on: before we answer `init`, if it can be read.
    let first = load_into(&mut engine, &mut store, backup.as_ref()).await;
    let owner =
        Owner { engine, store, executor, inbox, backup: backup.clone(), unavailable: unavailable.clone() };
    if let Err(reason) = &first {
        owner.refuse_everything(reason);
    }
    vital.spawn("owns the engine", owner.run(first, begin.0));
    let (noted, runtime) = (datastore::store(rpc.clone()), handle.clone());
    vital.spawn("makes copies", backup::keep(backup.clone(), rpc.clone(), noted, runtime, wishes));
    let mut shared = Shared {
        online,
        bitcoind,
        kept,
        me,
        news,
        unavailable,
        important: guard::is_important(&configs["configs"], &guard::own_path()),
        vital,
        tally,
        database,
        backup,
        copy_key: Some(copy_key),
        ..Shared::new(rpc, handle, outbox, config)
    };
    if let Some(blocks) = cltv_final {
        shared.cltv_final = blocks;
    }
    let state = State::new(shared);
    Ok(Prepared { state, begin: begin.1, news: news_receiver, bumper })
}

/// Of a plugin that can't start, for this reason: hooks take every channel that isn't on chain for one that may
/// be a factory's (S33), and commands are refused.
pub fn refusing(rpc: Rpc, outbox: Outbox, reason: String) -> State {
    let (runtime, mut inbox) = factory_runtime::channel();
    let unavailable = watch::Sender::new(Some(reason.clone()));
    // Nothing that is known by the node's id is done.
    let state = State::new(Shared { unavailable, ..Shared::new(rpc, runtime, outbox, Config::default()) });
    tokio::spawn(
        async move { factory_runtime::run_unavailable(&mut inbox, &reason, None::<&Executor>).await },
    );
    state
}

/// What the task has that owns the engine.
struct Owner<S> {
    engine: Engine,
    store: S,
    executor: Executor,
    inbox: Inbox,
    backup: Option<Backup>,
    unavailable: watch::Sender<Option<String>>,
}

impl<S: Store> Owner<S> {
    /// A store that can't be read is tried again and again; as long as it can't, every channel that isn't on
    /// chain may be a factory's (S33).
    async fn run(mut self, first: Result<Tip, String>, begin: oneshot::Sender<Begin>) {
        let mut loaded = first;
        let stored_tip = loop {
            let reason = match loaded {
                Ok(tip) => break tip,
                Err(reason) => reason,
            };
            self.refuse_everything(&reason);
            let refusing = factory_runtime::run_unavailable(&mut self.inbox, &reason, Some(&self.executor));
            if tokio::time::timeout(READ_AGAIN, refusing).await.is_ok() {
                return;
            }
            loaded = load_into(&mut self.engine, &mut self.store, self.backup.as_ref()).await;
        };
        self.executor.tower().load_into(&mut self.engine).await;
        if self.unavailable.send_replace(None).is_some() {
            log::info!("what is stored can be read now: factories are guarded");
        }
        // Whoever follows the chain may be gone; then the process ends.
        let read_again = self.engine.factories().any(|factory| factory.damage().is_some());
        let (scan_from, is_tower) = (self.engine.scan_from(), self.engine.is_tower());
        let _ = begin.send(Begin { stored_tip, scan_from, is_tower, read_again });
        Runtime::new(self.engine, self.store, self.executor, self.inbox).run().await;
    }

    fn refuse_everything(&self, reason: &str) {
        let known = self.unavailable.send_replace(Some(reason.to_owned()));
        if known.as_deref() != Some(reason) {
            log::error!(
                "factories are left alone, commands are refused, and channels that are not on chain take no \
                 HTLC: {reason}"
            );
        }
    }
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
    CallError::new(method, format!("unexpected result: {what}"))
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

/// Height and hash of the last block that was handled; nothing before the first.
type Tip = Option<(Height, BlockHash)>;

/// Rebuilds every factory.
///
/// # Errors
/// What can't be read at all. A record that isn't understood is no error: it puts its factory out of use
/// (S33).
pub async fn load<S: Store>(mut engine: Engine, mut store: S) -> Result<Loaded<S>, String> {
    let stored_tip = load_into(&mut engine, &mut store, None).await?;
    Ok(Loaded { engine, store, stored_tip })
}

async fn load_into<S: Store>(
    engine: &mut Engine,
    store: &mut S,
    backup: Option<&Backup>,
) -> Result<Tip, String> {
    let said = |error: StoreError| error.to_string();
    engine.archive(store.archived().await.map_err(said)?);
    let mut histories = store.load_all().await.map_err(said)?;
    let copies = backup::copies(backup, store).await.map_err(said)?;
    let newer = catch_up::newer(&histories, copies);
    newer.bring_back(store, &mut histories).await.map_err(said)?;
    for folded in fold_all(&histories)? {
        engine.adopt(folded);
    }
    for (instance, event) in newer.to_be_told(engine) {
        tell_now(engine, store, instance, event).await.map_err(said)?;
    }
    // What was signed for, and forgotten (S12).
    let unknown =
        |instance: &InstanceId| engine.factory(*instance).is_none() && engine.damage(*instance).is_none();
    let forgotten: Vec<InstanceId> =
        histories.iter().map(|(instance, _)| *instance).filter(unknown).collect();
    let out_of_use = histories.iter().filter_map(|(instance, _)| Some((instance, engine.damage(*instance)?)));
    for (instance, why) in out_of_use {
        log::error!("factory {instance} is out of use: no HTLC on its channels, nothing is signed: {why}");
    }
    if let Some(why) = store.lost_step().map(str::to_owned) {
        survive_lost_step(engine, store, &why).await.map_err(said)?;
    }
    let stored_tip = factory_runtime::stored_tip(store).await.map_err(said)?;
    if let Some((height, _)) = stored_tip {
        archive(engine, store, forgotten, height).await;
    }
    match factory_runtime::stored_prices(store).await.map_err(said)? {
        None => {}
        Some(Ok(prices)) => engine.set_prices(prices),
        // No factory's guard depends on them.
        Some(Err(error)) => {
            log::error!("the price list is damaged, nothing is sold before factory-price sets it: {error}");
            engine.forget_prices();
        }
    }
    match factory_runtime::stored_ladder(store).await.map_err(said)? {
        None => {}
        Some(Ok(ladder)) => engine.set_ladder(Some(ladder)),
        Some(Err(error)) => {
            log::error!("the ladder is damaged, no rung begins before factory-ladder sets it: {error}");
        }
    }
    Ok(stored_tip)
}

/// Which factories lack a record of it nobody knows, nor what was signed in it: all of them are exit-only (S9),
/// and read the chain again.
async fn survive_lost_step<S: Store>(
    engine: &mut Engine,
    store: &mut S,
    why: &str,
) -> Result<(), StoreError> {
    log::error!("a step of several factories is lost, so nothing more is signed in any of them: {why}");
    let whole = |factory: &&Factory| factory.restored().is_none() && factory.damage().is_none();
    let instances: Vec<InstanceId> =
        engine.factories().filter(whole).map(|factory| factory.instance).collect();
    for instance in instances {
        tell_now(engine, store, instance, Event::Restored(Restored { reason: why.to_owned() })).await?;
    }
    factory_runtime::forget_tip(store).await?;
    // From here on nothing tells the next start of it.
    store.set_lost_aside().await
}

/// A record that isn't a step's, before there are any.
async fn tell_now<S: Store>(
    engine: &mut Engine,
    store: &mut S,
    instance: InstanceId,
    event: Event,
) -> Result<(), StoreError> {
    let events = vec![event];
    store.append(&[(instance, encode_record(&events))]).await?;
    engine.load(instance, [events]).map_err(|error| StoreError::Failed(error.to_string()))
}

/// What is over is read once more at most: a start takes as long as there are factories alive.
async fn archive<S: Store>(engine: &mut Engine, store: &mut S, forgotten: Vec<InstanceId>, height: Height) {
    let over: Vec<_> = engine.archivable(height).chain(engine.undated()).chain(forgotten).collect();
    let remains = Remains::Records { since: height };
    match store.archive(&over, height).await {
        Ok(()) => engine.archive(over.into_iter().map(|instance| (instance, remains))),
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
    let (_, folded) = fold_elsewhere(histories).await?;
    Ok(folded.into_iter().filter_map(Folded::into_factory).collect())
}

/// Factories in which money of this node may be.
///
/// # Errors
/// What the store says when it can't be read.
pub async fn living<S: Store>(mut store: S) -> Result<Vec<InstanceId>, String> {
    let histories = store.load_all().await.map_err(|error| error.to_string())?;
    let tip = factory_runtime::stored_tip(&mut store).await.map_err(|error| error.to_string())?;
    let height = tip.map_or(0, |(height, _)| height);
    let (histories, folded) = fold_elsewhere(histories).await?;
    let lives = folded.into_iter().map(|folded| folded.into_factory());
    let lives = histories.into_iter().zip(lives).filter(|(_, factory)| {
        // Of what can't be read at all nobody knows.
        factory.as_ref().is_none_or(|factory| may_hold_money(factory, height))
    });
    Ok(lives.map(|((instance, _), _)| instance).collect())
}

fn may_hold_money(factory: &Factory, height: Height) -> bool {
    factory.damage().is_some() || factory.is_bound() && factory.state(height) != FactoryState::Closed
}

/// What can be read of each, beside these; while it takes, others go on.
pub(super) async fn fold_elsewhere(histories: Vec<History>) -> Result<(Vec<History>, Vec<Folded>), String> {
    let fold = move || fold_all(&histories).map(|folded| (histories, folded));
    tokio::task::spawn_blocking(fold).await.map_err(|error| error.to_string())?
}

/// What can be read of each. On all cores: a thousand factories of 64 members take one of them many seconds, and
/// lightningd waits.
pub(super) fn fold_all(histories: &[History]) -> Result<Vec<Folded>, String> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let share = histories.len().div_ceil(cores).max(1);
    std::thread::scope(|scope| {
        let shares = histories.chunks(share);
        let threads: Vec<_> =
            shares.map(|share| scope.spawn(move || share.iter().map(fold).collect::<Vec<_>>())).collect();
        let mut all = Vec::with_capacity(histories.len());
        for thread in threads {
            all.extend(thread.join().map_err(|_| "rebuilding the factories failed".to_owned())?);
        }
        Ok(all)
    })
}

fn fold((instance, records): &History) -> Folded {
    // A record that breaks the fold itself is one that isn't understood.
    let folded = std::panic::catch_unwind(|| {
        Folded::readable(*instance, records.iter().map(|bytes| decode_record(bytes)))
    });
    folded.unwrap_or_else(|_| {
        Folded::unreadable(*instance, "its records break the plugin: please report it as a bug".to_owned())
    })
}
