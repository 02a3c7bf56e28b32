//! Which short channel id is which channel. Hooks name channels by scid, factories by channel_id.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use serde_json::{Value, json};

use crate::types::ChannelId;

use super::client::{Call, CallError, field};

/// A map that follows `listpeerchannels`.
#[derive(Debug, Clone, Default)]
pub struct Channels(Arc<RwLock<HashMap<String, ChannelId>>>);

impl Channels {
    /// The channel of this scid or local alias, if it is known.
    pub fn get(&self, scid: &str) -> Option<ChannelId> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(scid).copied()
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

    /// Reads all channels again, and gives their ids.
    pub async fn refresh<C: Call>(&self, rpc: &C) -> Result<Vec<ChannelId>, CallError> {
        let answer = rpc.call("listpeerchannels", json!({})).await?;
        let list: Vec<Value> = field("listpeerchannels", &answer, "channels")?;
        let mut scids = HashMap::new();
        let mut ids = Vec::new();
        for channel in &list {
            let Some(id) = channel["channel_id"].as_str().and_then(|text| text.parse().ok()) else {
                // Not committed yet.
                continue;
            };
            ids.push(id);
            // Not the remote alias: the peer chose it, and could choose another channel's.
            for scid in [&channel["short_channel_id"], &channel["alias"]["local"]] {
                if let Some(scid) = scid.as_str() {
                    scids.insert(scid.to_owned(), id);
                }
            }
        }
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = scids;
        Ok(ids)
    }
}
