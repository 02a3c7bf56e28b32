//! This node's channels as lightningd has them: which short channel id is which, and what becomes of them. Hooks
//! name channels by scid, factories by channel_id.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use factory_engine::types::{Amount, ChannelId, NodeId};
use factory_engine::{ChannelNow, KnownChannel};
use serde_json::{Value, json};

use super::channel_state::ChannelState;
use super::client::{Call, CallError, field};

/// A map that follows `listpeerchannels` and `channel_state_changed`.
#[derive(Debug, Clone, Default)]
pub struct Channels(Arc<RwLock<Maps>>);

#[derive(Debug, Default)]
struct Maps {
    /// Channels by short channel id or local alias.
    ids: HashMap<String, ChannelId>,
    /// Committed channels.
    known: HashMap<ChannelId, Known>,
    /// Those whose peers know nothing of them any more, and can't go on.
    lost: HashSet<ChannelId>,
}

/// A channel as lightningd showed it last.
#[derive(Debug, Clone)]
struct Known {
    /// Under which it stands in `ids`.
    names: Vec<String>,
    /// Its short_channel_id, once its funding is on chain.
    scid: Option<String>,
    /// Nothing for a state that a newer lightningd may have.
    state: Option<ChannelState>,
    about: Option<KnownChannel>,
}

/// What lightningd notes of a peer that begins at nothing: it has its seed and a static backup (`emergencyrecover`).
/// What that peer says next, an error for which lightningd would close the channel, is dropped with the process
/// that has stumbled over this (v26.06), unless nothing was ever paid.
const BEGINS_AT_NOTHING: &str = "bad reestablish revocation_number: 0 vs ";

impl Maps {
    fn add(&mut self, channel: &Value) -> Option<KnownChannel> {
        // What isn't committed yet has no id.
        let channel_id: ChannelId = channel["channel_id"].as_str()?.parse().ok()?;
        let mut names = self.known.remove(&channel_id).map(|before| before.names).unwrap_or_default();
        // Not the remote alias: the peer chose it, and could choose another channel's.
        for scid in [&channel["short_channel_id"], &channel["alias"]["local"]] {
            if let Some(scid) = scid.as_str() {
                self.ids.insert(scid.to_owned(), channel_id);
                if names.iter().all(|name| name != scid) {
                    names.push(scid.to_owned());
                }
            }
        }
        let about = describe(channel_id, channel);
        let scid = channel["short_channel_id"].as_str().map(str::to_owned);
        let state = channel["state"].as_str().and_then(|state| state.parse().ok());
        let lost = channel["status"].as_array().is_some_and(|notes| {
            notes.iter().filter_map(Value::as_str).any(|note| note.contains(BEGINS_AT_NOTHING))
        });
        match lost {
            true => self.lost.insert(channel_id),
            false => self.lost.remove(&channel_id),
        };
        self.known.insert(channel_id, Known { names, scid, state, about });
        about
    }

    /// Forgets a channel, without a look at any other: when all of a factory's end, this comes for each of them.
    fn forget(&mut self, channel: ChannelId) {
        self.lost.remove(&channel);
        for name in self.known.remove(&channel).into_iter().flat_map(|gone| gone.names) {
            // Another may have it by now.
            if self.ids.get(&name) == Some(&channel) {
                self.ids.remove(&name);
            }
        }
    }
}

impl Channels {
    fn read(&self) -> RwLockReadGuard<'_, Maps> {
        // At worst it is out of date until the next look.
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Maps> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The channel of this scid or local alias, if it is known.
    pub fn get(&self, scid: &str) -> Option<ChannelId> {
        self.read().ids.get(scid).copied()
    }

    /// A channel's short_channel_id, once it has one, as of the last look.
    pub fn scid(&self, channel: ChannelId) -> Option<String> {
        self.read().known.get(&channel)?.scid.clone()
    }

    /// lightningd's state of a channel.
    pub fn state(&self, channel: ChannelId) -> Option<ChannelState> {
        self.read().known.get(&channel)?.state
    }

    /// Whether HTLCs on this channel are settled off chain, as of the last look.
    pub fn is_live(&self, channel: ChannelId) -> bool {
        self.state(channel).is_some_and(ChannelState::settles_off_chain)
    }

    /// Whether all channels that we have heard of are such.
    pub fn all(&self, test: impl Fn(ChannelId) -> bool) -> bool {
        self.read().known.keys().all(|channel| test(*channel))
    }

    /// The channel, if its funding isn't on chain as far as we have heard: lightningd knows no scid of its own
    /// for it.
    pub fn unconfirmed(&self, id: ChannelId) -> Option<KnownChannel> {
        self.read().known.get(&id).filter(|known| known.scid.is_none())?.about
    }

    /// Every channel whose funding isn't on chain as far as we have heard, with its description, if lightningd has
    /// given one.
    pub fn all_unconfirmed(&self) -> Vec<(ChannelId, Option<KnownChannel>)> {
        let maps = self.read();
        let off_chain = maps.known.iter().filter(|(_, known)| known.scid.is_none());
        off_chain.map(|(id, known)| (*id, known.about)).collect()
    }

    /// Channels that have ended, as far as we have heard (S34).
    pub fn ended(&self) -> Vec<ChannelNow> {
        let maps = self.read();
        let all = maps.known.iter().filter_map(|(id, known)| {
            Some(ChannelNow { channel_id: *id, ended: Some(known.state?.ended()?) })
        });
        all.collect()
    }

    /// Channels in use whose peers have lost them, as of the last look (S34).
    pub fn lost(&self) -> Vec<ChannelId> {
        let maps = self.read();
        let state = |channel: &ChannelId| maps.known.get(channel)?.state;
        let in_use = |channel: &&ChannelId| state(channel).is_some_and(|state| state.ended().is_none());
        maps.lost.iter().filter(in_use).copied().collect()
    }

    /// Every channel, as of the last look and what was said since.
    pub fn list(&self) -> Vec<ChannelNow> {
        let now = |(id, known): (&ChannelId, &Known)| ChannelNow {
            channel_id: *id,
            ended: known.state.and_then(ChannelState::ended),
        };
        self.read().known.iter().map(now).collect()
    }

    /// `channel_state_changed`. False for a channel that isn't known yet.
    pub fn changed(&self, channel: ChannelId, state: ChannelState) -> bool {
        let mut maps = self.write();
        if state == ChannelState::Closed {
            maps.forget(channel);
            return true;
        }
        let known = maps.known.get_mut(&channel);
        known.map(|known| known.state = Some(state)).is_some()
    }

    /// Whether the channel's funding is on chain, as far as we have heard: then it is no factory's (S33).
    pub fn is_confirmed(&self, id: ChannelId) -> bool {
        self.read().known.get(&id).is_some_and(|known| known.scid.is_some())
    }

    /// The channel of this scid; asks lightningd if it isn't known.
    pub async fn find<C: Call>(&self, rpc: &C, scid: &str) -> Option<ChannelId> {
        if let Some(known) = self.get(scid) {
            return Some(known);
        }
        if let Err(error) = self.refresh(rpc).await {
            log::warn!("looking for channel {scid}: {error}");
        }
        self.get(scid)
    }

    /// Reads all channels again, and gives those that are committed.
    pub async fn refresh<C: Call>(&self, rpc: &C) -> Result<Vec<KnownChannel>, CallError> {
        Ok(self.take(&list(rpc, json!({})).await?))
    }

    /// Reads the channels with one peer.
    pub async fn refresh_peer<C: Call>(&self, rpc: &C, peer: NodeId) -> Result<(), CallError> {
        self.take_some(&list(rpc, json!({"id": peer.to_string()})).await?);
        Ok(())
    }

    /// Takes over some channels as `listpeerchannels` has just shown them.
    pub fn take_some(&self, list: &[Value]) {
        let mut maps = self.write();
        for channel in list {
            maps.add(channel);
        }
    }

    /// Takes over all channels as `listpeerchannels` has just shown them, and gives those that are committed.
    pub fn take(&self, list: &[Value]) -> Vec<KnownChannel> {
        let mut maps = Maps::default();
        let known = list.iter().filter_map(|channel| maps.add(channel)).collect();
        *self.write() = maps;
        known
    }
}

/// Changes that gather.
#[derive(Debug, Default)]
pub struct Changes(Mutex<Vec<ChannelNow>>);

impl Changes {
    /// One more. Whether it is the first, so that somebody has to come for them.
    pub fn add(&self, change: ChannelNow) -> bool {
        let mut changes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        changes.push(change);
        changes.len() == 1
    }

    /// All that have gathered.
    pub fn take(&self) -> Vec<ChannelNow> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn list<C: Call>(rpc: &C, params: Value) -> Result<Vec<Value>, CallError> {
    let answer = rpc.call("listpeerchannels", params).await?;
    field("listpeerchannels", &answer, "channels")
}

fn describe(channel_id: ChannelId, channel: &Value) -> Option<KnownChannel> {
    let peer: NodeId = channel["peer_id"].as_str()?.parse().ok()?;
    let capacity = Amount::from_sat(channel["total_msat"].as_u64()? / 1000);
    let block = channel["short_channel_id"].as_str().and_then(|scid| scid.split('x').next());
    let confirmed = block.and_then(|block| block.parse().ok());
    Some(KnownChannel { channel_id, peer, capacity, confirmed })
}

#[cfg(test)]
mod tests {
    use super::*;

    // S34
    #[test]
    fn whose_peer_has_lost_it() {
        let channel = |number: u8, state: &str, note: &str| {
            let channel_id = ChannelId([number; 32]).to_string();
            json!({"channel_id": channel_id, "state": state, "status": ["", note]})
        };
        let channels = Channels::default();
        channels.take_some(&[
            channel(1, "CHANNELD_NORMAL", "bad reestablish revocation_number: 0 vs 3"),
            // An older copy: it may have the newer one, too.
            channel(2, "CHANNELD_NORMAL", "bad reestablish revocation_number: 2 vs 4"),
            channel(3, "CHANNELD_NORMAL", "Reconnected, and reestablished."),
            channel(4, "AWAITING_UNILATERAL", "bad reestablish revocation_number: 0 vs 3"),
        ]);
        assert_eq!(channels.lost(), [ChannelId([1; 32])]);
        // It found an older copy after all; and one that is over is lost no more.
        channels.take_some(&[channel(1, "CHANNELD_NORMAL", "bad reestablish revocation_number: 2 vs 4")]);
        channels.take_some(&[channel(2, "CHANNELD_NORMAL", "bad reestablish revocation_number: 0 vs 4")]);
        assert_eq!(channels.lost(), [ChannelId([2; 32])]);
        channels.changed(ChannelId([2; 32]), ChannelState::Closed);
        assert!(channels.lost().is_empty());
    }

    /// What ends takes its own names along, those of before too, and no other's.
    #[test]
    fn whose_names_go_with_it() {
        let channel = |number: u8, scid: &str, alias: &str| {
            let channel_id = ChannelId([number; 32]).to_string();
            json!({"channel_id": channel_id, "short_channel_id": scid, "alias": {"local": alias}})
        };
        let channels = Channels::default();
        channels.take_some(&[channel(1, "1x1x1", "9x1x1"), channel(2, "1x2x1", "9x2x1")]);
        // A splice, after which another channel has the old name.
        channels.take_some(&[channel(1, "5x1x1", "9x1x1"), channel(3, "1x1x1", "9x3x1")]);
        assert!(channels.changed(ChannelId([1; 32]), ChannelState::Closed));
        let left = ["1x1x1", "5x1x1", "9x1x1", "1x2x1", "9x2x1"].map(|name| channels.get(name));
        let (two, three) = (Some(ChannelId([2; 32])), Some(ChannelId([3; 32])));
        assert_eq!(left, [three, None, None, two, two]);
        // Known of before, and not any more.
        assert!(channels.changed(ChannelId([1; 32]), ChannelState::Closed));
        assert!(!channels.changed(ChannelId([1; 32]), ChannelState::Normal));
    }
}
