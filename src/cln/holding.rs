//! HTLCs for clients that aren't connected wait here, each in its hook's own task.
//!
//! lightningd says who connects, but not when a channel can be used again: so whoever is waited for is
//! looked at by one task, often while it is coming and seldom while it is away.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use factory_engine::admission::hold::{Full, Held, Holds};
use factory_engine::admission::htlc::{Failure, Verdict};
use factory_engine::policy::HoldLimits;
use factory_engine::types::{ChannelId, Height, NodeId};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

use super::client::{Call, CallError, field};

/// Between looks at a client that is connected and whose channel isn't ready.
const COMING: Duration = Duration::from_millis(100);
/// Between looks at one that is away, in case a notification was lost.
const AWAY: Duration = Duration::from_secs(30);
/// Pause after lightningd gave no answer.
const RETRY: Duration = Duration::from_secs(1);

/// Whether a channel can take an HTLC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    Away,
    /// Connected, but the channel isn't re-established.
    Coming,
    /// It can; or it never will, and lightningd knows best what to answer.
    Ready,
}

/// What is held, and what is known of those for whom.
#[derive(Debug)]
pub struct Holding {
    limits: HoldLimits,
    waiting: Mutex<Waiting>,
    /// A client was looked at.
    pub(super) seen: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Waiting {
    holds: Holds,
    /// Channels of clients that were looked at since they last connected or disconnected.
    seen: HashMap<NodeId, HashMap<ChannelId, Presence>>,
    /// Clients that a task looks after, and how to wake it.
    watched: HashMap<NodeId, Arc<Notify>>,
    /// Counts connections and disconnections: a look that one of them overtook says nothing.
    moves: u64,
}

/// A place among what is held; dropping it gives it back.
pub(super) struct Place<'a>(&'a Holding, u64);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.lock().holds.release(self.1);
    }
}

impl Holding {
    /// Nothing is held, with these limits.
    pub fn new(limits: HoldLimits) -> Self {
        Self { limits, waiting: Mutex::default(), seen: watch::Sender::new(()) }
    }

    /// How long HTLCs are held; nothing if they aren't.
    pub fn patience(&self) -> Option<u64> {
        (self.limits.time > 0).then_some(self.limits.time)
    }

    /// A peer connected or disconnected.
    pub fn moved(&self, peer: NodeId) {
        if self.patience().is_none() {
            return;
        }
        let mut waiting = self.lock();
        waiting.moves = waiting.moves.wrapping_add(1);
        waiting.seen.remove(&peer);
        if let Some(watch) = waiting.watched.get(&peer) {
            watch.notify_one();
        }
    }

    /// Every HTLC that is held now.
    pub fn all(&self) -> Vec<Held> {
        self.lock().holds.all().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing that is done under the lock can be left half done.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn hold(&self, held: &Held, height: Height) -> Result<Place<'_>, Full> {
        let number = self.lock().holds.hold(&self.limits, held.clone(), height)?;
        Ok(Place(self, number))
    }

    /// What is known without asking lightningd.
    pub(super) fn known(&self, client: NodeId, channel: ChannelId) -> Option<Presence> {
        let waiting = self.lock();
        let seen = waiting.seen.get(&client)?;
        // A channel that lightningd doesn't list is one that it has done with.
        let presence = seen.get(&channel).copied().unwrap_or(Presence::Ready);
        // What isn't ready changes without a word: it is known only while somebody looks.
        (presence == Presence::Ready || waiting.watched.contains_key(&client)).then_some(presence)
    }

    pub(super) async fn presence<C: Call>(
        &self,
        rpc: &C,
        client: NodeId,
        channel: ChannelId,
    ) -> Option<Presence> {
        if let Some(known) = self.known(client, channel) {
            return Some(known);
        }
        match self.look(rpc, client).await {
            Ok(seen) => Some(seen.get(&channel).copied().unwrap_or(Presence::Ready)),
            Err(error) => {
                log::warn!("{client}: whether it is connected is not known: {error}");
                None
            }
        }
    }

    /// Asks lightningd how this client's channels are, and takes note of it.
    async fn look<C: Call>(
        &self,
        rpc: &C,
        client: NodeId,
    ) -> Result<HashMap<ChannelId, Presence>, CallError> {
        let moves = self.lock().moves;
        let answer = rpc.call("listpeerchannels", json!({"id": client.to_string()})).await?;
        let channels: Vec<Value> = field("listpeerchannels", &answer, "channels")?;
        let seen: HashMap<ChannelId, Presence> = channels.iter().filter_map(read).collect();
        let mut waiting = self.lock();
        if waiting.moves == moves {
            waiting.seen.insert(client, seen.clone());
            drop(waiting);
            self.seen.send_replace(());
        }
        Ok(seen)
    }

    /// Whether a task should go on looking after a client.
    fn goes_on(&self, client: NodeId) -> bool {
        let mut waiting = self.lock();
        let goes_on = waiting.holds.waits_for(client);
        if !goes_on {
            waiting.watched.remove(&client);
        }
        goes_on
    }

    /// What wakes the task that looks after a client; nothing if there is one already.
    pub(super) fn begin_watch(&self, client: NodeId) -> Option<Arc<Notify>> {
        match self.lock().watched.entry(client) {
            Entry::Occupied(_) => None,
            Entry::Vacant(place) => Some(Arc::clone(place.insert(Arc::default()))),
        }
    }

    pub(super) async fn watch_over<C: Call>(&self, rpc: &C, client: NodeId, moved: Arc<Notify>) {
        while self.goes_on(client) {
            let pause = match self.look(rpc, client).await {
                Ok(seen) if seen.values().any(|presence| *presence == Presence::Coming) => COMING,
                Ok(_) => AWAY,
                Err(error) => {
                    log::debug!("{client}: {error}");
                    RETRY
                }
            };
            // Either way it is time for another look.
            let _ = tokio::time::timeout(pause, moved.notified()).await;
        }
    }
}

/// A channel of `listpeerchannels`: its id, and whether it can take an HTLC.
fn read(channel: &Value) -> Option<(ChannelId, Presence)> {
    let id = channel["channel_id"].as_str()?.parse().ok()?;
    let presence = match (channel["peer_connected"] == true, channel["reestablished"] == true) {
        _ if channel["state"] != "CHANNELD_NORMAL" => Presence::Ready,
        (true, true) => Presence::Ready,
        (true, false) => Presence::Coming,
        (false, _) => Presence::Away,
    };
    Some((id, presence))
}

/// Why an HTLC is not held, or not any more.
pub fn fail(held: &Held, reason: &str) -> Verdict {
    Verdict::Fail {
        failure: Failure::TemporaryChannel,
        reason: format!("factory {}: {} is not connected: {reason}", held.instance, held.client),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANNEL: ChannelId = ChannelId([5; 32]);
    const CLIENT: NodeId = NodeId([2; 33]);

    fn channel(connected: bool, reestablished: bool) -> Value {
        json!({
            "channel_id": CHANNEL.to_string(),
            "state": "CHANNELD_NORMAL",
            "peer_connected": connected,
            "reestablished": reestablished,
        })
    }

    /// lightningd with one channel.
    #[derive(Clone)]
    struct Fake(Arc<Mutex<(Value, u32)>>);

    impl Call for Fake {
        async fn call(&self, _: &str, _: Value) -> Result<Value, CallError> {
            let mut fake = self.0.lock().unwrap();
            fake.1 += 1;
            Ok(json!({"channels": [fake.0]}))
        }
    }

    pub(super) fn holding() -> Holding {
        Holding::new(HoldLimits { time: 1_000, number: 10, msat: 10_000 })
    }

    #[tokio::test]
    async fn a_client_that_is_ready_is_asked_for_once() {
        let (holding, fake) = (holding(), Fake(Arc::new(Mutex::new((channel(true, true), 0)))));
        for _ in 0..3 {
            assert_eq!(holding.presence(&fake, CLIENT, CHANNEL).await, Some(Presence::Ready));
        }
        assert_eq!(fake.0.lock().unwrap().1, 1);
        // What lightningd doesn't list is its own affair.
        assert_eq!(holding.presence(&fake, CLIENT, ChannelId([6; 32])).await, Some(Presence::Ready));
        fake.0.lock().unwrap().0 = channel(false, false);
        holding.moved(CLIENT);
        assert_eq!(holding.presence(&fake, CLIENT, CHANNEL).await, Some(Presence::Away));
        fake.0.lock().unwrap().0 = channel(true, false);
        assert_eq!(holding.presence(&fake, CLIENT, CHANNEL).await, Some(Presence::Coming));
        fake.0.lock().unwrap().0["state"] = "AWAITING_UNILATERAL".into();
        assert_eq!(holding.presence(&fake, CLIENT, CHANNEL).await, Some(Presence::Ready));
    }

    #[tokio::test]
    async fn a_watch_sees_a_client_come_and_ends_with_what_is_held() {
        let fake = Fake(Arc::new(Mutex::new((channel(false, false), 0))));
        let holding = Arc::new(holding());
        let held = Held {
            instance: factory_engine::types::InstanceId([1; 32]),
            client: CLIENT,
            channel: CHANNEL,
            amount_msat: 5,
            cltv_expiry: 200,
            until: 0,
            last_height: 100,
        };
        let number = holding.lock().holds.hold(&holding.limits, held, 50).unwrap();
        let moved = holding.begin_watch(CLIENT).unwrap();
        assert!(holding.begin_watch(CLIENT).is_none());
        let mut seen = holding.seen.subscribe();
        let watch = tokio::spawn({
            let (holding, fake) = (Arc::clone(&holding), fake.clone());
            async move { holding.watch_over(&fake, CLIENT, moved).await }
        });
        seen.changed().await.unwrap();
        assert_eq!(holding.known(CLIENT, CHANNEL), Some(Presence::Away));
        fake.0.lock().unwrap().0 = channel(true, false);
        holding.moved(CLIENT);
        seen.changed().await.unwrap();
        fake.0.lock().unwrap().0 = channel(true, true);
        while holding.known(CLIENT, CHANNEL) != Some(Presence::Ready) {
            seen.changed().await.unwrap();
        }
        holding.lock().holds.release(number);
        holding.moved(CLIENT);
        watch.await.unwrap();
        assert!(holding.lock().watched.is_empty());
    }
}
