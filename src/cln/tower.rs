//! Watching for others (S40), and what others need to watch for this node.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Display;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bitcoin::{Transaction, Txid};
use factory_engine::io::fees::Refused;
use factory_engine::io::{SignedReceipt, TowerAnswer, TowerRequest};
use factory_engine::record::appointment::{Locator, look_into};
use factory_engine::types::{ChannelId, Height, InstanceId, NodeId};
use factory_engine::wire::message::Receipt;
use factory_engine::{Engine, Input};
use factory_runtime::Handle;
use factory_runtime::store::tower::{Found, TowerStore};
use serde_json::json;
use tokio::sync::Semaphore;

use super::chain;
use super::client::{Call, Rpc};
use super::datastore::{self, Datastore};
use super::lanes::Lanes;
use super::sent;

/// Between two tries of what has to be done.
const PAUSE: Duration = Duration::from_secs(5);
/// Tries of what a start can do without.
const TRIES: u32 = 3;
/// Transactions that are sent at once.
const AT_ONCE: usize = 2;
/// Of so many transactions it is remembered why they were refused.
const MOST_REFUSED: usize = 1_000;

/// What a node does that watches for others.
#[derive(Clone)]
pub struct Tower {
    rpc: Rpc,
    runtime: Handle,
    store: TowerStore<Datastore<Rpc>>,
    /// One request about a peer's appointments after the other.
    lanes: Lanes,
    /// Transactions that are sent at once, whoever's they are: lightningd's own go the same way (S28).
    turns: Arc<Semaphore>,
    /// Why a transaction was refused last, so that it isn't said at each block.
    refused: Arc<Mutex<HashMap<Txid, String>>>,
    /// Transactions that are to be published, and whose turn hasn't come.
    waiting: Arc<Mutex<HashSet<(NodeId, Txid)>>>,
}

impl Tower {
    /// One whose outcomes go to `runtime`.
    pub fn new(rpc: Rpc, runtime: Handle) -> Self {
        let store = TowerStore::new(datastore::keys(rpc.clone()));
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        Self {
            rpc,
            runtime,
            store,
            lanes: Lanes::default(),
            turns,
            refused: Arc::default(),
            waiting: Arc::default(),
        }
    }

    /// What is stored, into the engine, which knows its factories by now and hears of nothing yet. This node's own
    /// factories don't wait for it (S33).
    pub async fn load_into(&self, engine: &mut Engine) {
        match tried("what this node watches for others", || self.store.load()).await {
            Some(Found { found, unreadable }) => {
                passed_over(&unreadable);
                engine.load_towers(found, []);
            }
            // No block is noted as handled: a start that can read it finds what confirms meanwhile.
            None => engine.towers_are_unread(),
        }
        let penalties = tried("penalties of this node's channels", || self.store.penalties()).await;
        let Found { found, unreadable } = penalties.unwrap_or_default();
        passed_over(&unreadable);
        let all: Vec<(ChannelId, Txid)> =
            found.iter().map(|(channel, commitment, _)| (*channel, *commitment)).collect();
        engine.load_towers([], found);
        // Of factories that are over, and what others have taken the place of.
        let over: Vec<_> =
            all.into_iter().filter(|(channel, txid)| !engine.needs_penalty(*channel, *txid)).collect();
        let readable = engine.factories().map(|factory| factory.instance);
        let known: BTreeSet<InstanceId> =
            readable.chain(engine.unreadable().map(|(instance, _)| instance)).collect();
        let store = self.store.clone();
        // Each takes a call to lightningd, and nothing waits for it.
        tokio::spawn(async move {
            for (channel, commitment) in over {
                if let Err(error) = store.forget_penalty(channel, commitment).await {
                    return log::debug!("a penalty that nobody needs is still there: {error}");
                }
            }
            if let Err(error) = store.forget_receipts(|instance| !known.contains(&instance)).await {
                log::debug!("receipts that nobody needs are still there: {error}");
            }
        });
    }

    /// What a tower of this node's has signed is kept, if it has.
    pub fn keep_receipt(&self, signed: SignedReceipt) {
        let tower = self.clone();
        self.lanes.push(signed.tower, async move {
            let SignedReceipt { tower: id, text, zbase, .. } = &signed;
            let params = json!({"message": text, "zbase": zbase, "pubkey": id.to_string()});
            match tower.rpc.call("checkmessage", params).await {
                Ok(checked) if checked["verified"] == true => {
                    if let Err(error) = tower.store.keep_receipt(&signed).await {
                        log::warn!("what tower {id} has signed is not kept: {error}");
                    }
                }
                Ok(_) => log::warn!("tower {id} says that it has signed what it has, and has not"),
                Err(error) => log::warn!("what tower {id} says that it has signed can't be checked: {error}"),
            }
        });
    }

    /// Something is to be done for a peer.
    pub fn serve(&self, peer: NodeId, request: TowerRequest) {
        let tower = self.clone();
        // S28: a node that catches up comes by many blocks in a moment; at the next one it is asked for again.
        if let TowerRequest::Publish { tx, .. } = &request
            && !self.waiting().insert((peer, tx.compute_txid()))
        {
            return;
        }
        self.lanes.push(peer, async move {
            if let Some(answer) = tower.answer(peer, request).await {
                tower.runtime.deliver_durably(Input::Tower { peer, answer }).await;
            }
        });
    }

    async fn answer(&self, peer: NodeId, request: TowerRequest) -> Option<TowerAnswer> {
        match request {
            TowerRequest::Put { tag, appointment, kept } => {
                let locator = appointment.locator;
                let put = self.store.put((peer, tag, locator), &kept, &appointment.sealed).await;
                let result = put.map_err(|error| {
                    log::warn!("{peer}: an appointment is not kept: {error}");
                    "this node can't write now".to_owned()
                });
                Some(TowerAnswer::Put { tag, locator, kept, result })
            }
            TowerRequest::Open { tag, locator, trigger } => {
                let name = (peer, tag, locator);
                let appointment = again(|| self.store.due(name, trigger)).await;
                let tasks = appointment.ok_or_else(|| "it isn't there any more".to_owned());
                let tasks = tasks.and_then(|one| one.open(trigger.0).map_err(|error| error.to_string()));
                Some(TowerAnswer::Opened { tag, locator, trigger, tasks })
            }
            TowerRequest::Look { from, to, locators } => {
                let mut found = vec![];
                for height in from..=to {
                    found.extend(again(|| self.look(height, &locators)).await);
                }
                Some(TowerAnswer::Looked(found))
            }
            TowerRequest::Sign { receipt, text } => {
                match self.rpc.call("signmessage", json!({"message": text})).await {
                    Ok(signed) => {
                        let signature = signed["zbase"].as_str().unwrap_or_default().as_bytes().to_vec();
                        Some(TowerAnswer::Signed(Receipt { signature, ..receipt }))
                    }
                    Err(error) => {
                        log::warn!("{peer}: nothing is signed of what is watched for it: {error}");
                        None
                    }
                }
            }
            TowerRequest::Forget { tag, locator } => {
                if let Err(error) = self.store.forget((peer, tag, locator)).await {
                    log::warn!("{peer}: an appointment that is over is still there: {error}");
                }
                None
            }
            TowerRequest::Publish { tag, locator, tx } => {
                self.waiting().remove(&(peer, tx.compute_txid()));
                let missing = self.publish(peer, &tx).await;
                missing.then(|| TowerAnswer::NotThere { tag, locator, txid: tx.compute_txid() })
            }
        }
    }

    /// What a block has of what is looked for.
    async fn look(
        &self,
        height: Height,
        wanted: &[Locator],
    ) -> Result<Vec<(Locator, (Txid, Height))>, String> {
        let block = chain::block_at(&self.rpc, height).await.map_err(|error| error.to_string())?;
        let block = block.ok_or_else(|| "it isn't there".to_owned())?;
        Ok(look_into(&block.txdata, height, wanted))
    }

    /// Whether it isn't taken, and not for its fee.
    async fn publish(&self, peer: NodeId, tx: &Transaction) -> bool {
        let txid = tx.compute_txid();
        // Nobody closes the semaphore, so there is always one.
        let _turn = self.turns.acquire().await;
        let Err(why) = sent::send(&self.rpc, tx).await else {
            if self.note(txid, "published") {
                log::info!("{txid} is published for {peer}");
            }
            return false;
        };
        let expected = matches!(why, Refused::Confirmed | Refused::NotFinal | Refused::MissingInputs);
        if !expected && self.note(txid, &why.to_string()) {
            log::warn!("{txid} is not published for {peer}: {why}");
        }
        matches!(why, Refused::MissingInputs | Refused::Confirmed | Refused::Other(_))
    }

    fn waiting(&self) -> MutexGuard<'_, HashSet<(NodeId, Txid)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether something else was said of it last.
    fn note(&self, txid: Txid, text: &str) -> bool {
        let mut known = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_REFUSED {
            known.clear();
        }
        known.insert(txid, text.to_owned()).as_deref() != Some(text)
    }
}

/// What a start reads; nothing if it can't.
async fn tried<T, E: Display, F: Future<Output = Result<T, E>>>(
    what: &str,
    read: impl Fn() -> F,
) -> Option<T> {
    for _ in 0..TRIES {
        match read().await {
            Ok(found) => return Some(found),
            Err(error) => log::error!("{what}: can't be read: {error}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
    log::error!("{what}: not known before the next start");
    None
}

fn passed_over(keys: &[String]) {
    for key in keys {
        log::error!("{key} is not as it was written: it is passed over");
    }
}

/// Until it is done: nobody asks for it once more.
async fn again<T, E: Display, F: Future<Output = Result<T, E>>>(call: impl Fn() -> F) -> T {
    loop {
        match call().await {
            Ok(value) => return value,
            Err(error) => log::warn!("what is watched for others: {error}; trying again"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}
