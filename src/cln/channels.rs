//! Which short channel id is which channel. Hooks name channels by scid, factories by channel_id.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use factory_engine::KnownChannel;
use factory_engine::types::{Amount, ChannelId, NodeId};
use serde_json::{Value, json};

use super::client::{Call, CallError, field};

/// lightningd's states of a channel whose HTLCs its peers settle between them (`channel_state.h`).
const LIVE: [&str; 6] = [
    "CHANNELD_AWAITING_LOCKIN",
    "CHANNELD_NORMAL",
    "CHANNELD_AWAITING_SPLICE",
    "CHANNELD_SHUTTING_DOWN",
    "DUALOPEND_AWAITING_LOCKIN",
    "CLOSINGD_SIGEXCHANGE",
];

/// A map that follows `listpeerchannels`.
#[derive(Debug, Clone, Default)]
pub struct Channels(Arc<RwLock<Maps>>);

#[derive(Debug, Default)]
struct Maps {
    /// Channels by short channel id or local alias.
    ids: HashMap<String, ChannelId>,
    /// Short channel id of each channel that is on chain.
    scids: HashMap<ChannelId, String>,
    /// Those on which lightningd has not given up: HTLCs are settled off chain.
    live: HashSet<ChannelId>,
    /// Those whose funding lightningd hasn't seen on chain.
    unconfirmed: HashMap<ChannelId, KnownChannel>,
}

impl Channels {
    /// The channel of this scid or local alias, if it is known.
    pub fn get(&self, scid: &str) -> Option<ChannelId> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).ids.get(scid).copied()
    }

    /// A channel's short_channel_id, once it has one, as of the last look.
    pub fn scid(&self, channel: ChannelId) -> Option<String> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).scids.get(&channel).cloned()
    }

    /// Whether HTLCs on this channel are settled off chain, as of the last look.
    pub fn is_live(&self, channel: ChannelId) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).live.contains(&channel)
    }

    /// Whether all channels that we have heard of are such.
    pub fn all(&self, test: impl Fn(ChannelId) -> bool) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).ids.values().all(|channel| test(*channel))
    }

    /// The channel, if its funding isn't on chain as far as we have heard.
    pub fn unconfirmed(&self, id: ChannelId) -> Option<KnownChannel> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).unconfirmed.get(&id).copied()
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
        let answer = rpc.call("listpeerchannels", json!({})).await?;
        let list: Vec<Value> = field("listpeerchannels", &answer, "channels")?;
        let mut maps = Maps::default();
        let mut known = Vec::new();
        for channel in &list {
            // What isn't committed yet has no id.
            let Some(channel_id) = channel["channel_id"].as_str().and_then(|text| text.parse().ok()) else {
                continue;
            };
            let described = describe(channel_id, channel);
            if channel["state"].as_str().is_some_and(|state| LIVE.contains(&state)) {
                maps.live.insert(channel_id);
            }
            known.extend(described);
            // lightningd knows no scid of its own for a funding that it hasn't seen.
            if channel.get("short_channel_id").is_none() {
                maps.unconfirmed.extend(described.map(|channel| (channel_id, channel)));
            }
            // Not the remote alias: the peer chose it, and could choose another channel's.
            for scid in [&channel["short_channel_id"], &channel["alias"]["local"]] {
                if let Some(scid) = scid.as_str() {
                    maps.ids.insert(scid.to_owned(), channel_id);
                }
            }
            if let Some(scid) = channel["short_channel_id"].as_str() {
                maps.scids.insert(channel_id, scid.to_owned());
            }
        }
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = maps;
        Ok(known)
    }
}

fn describe(channel_id: ChannelId, channel: &Value) -> Option<KnownChannel> {
    let peer: NodeId = channel["peer_id"].as_str()?.parse().ok()?;
    let capacity = Amount::from_sat(channel["total_msat"].as_u64()? / 1000);
    let block = channel["short_channel_id"].as_str().and_then(|scid| scid.split('x').next());
    let confirmed = block.and_then(|block| block.parse().ok());
    Some(KnownChannel { channel_id, peer, capacity, confirmed })
}
