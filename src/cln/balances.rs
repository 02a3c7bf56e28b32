//! What channels hold, as `listpeerchannels` shows it.

use std::collections::HashSet;

use factory_engine::ChannelBalance;
use factory_engine::types::{ChannelId, NodeId};
use serde_json::{Value, json};

use super::channel_state::ChannelState;
use super::client::{Call, CallError, field};
use super::moves;

/// Of every committed channel with a peer.
pub async fn read<C: Call>(rpc: &C, peer: NodeId) -> Result<Vec<ChannelBalance>, CallError> {
    let method = "listpeerchannels";
    let answer = rpc.call(method, json!({"id": peer.to_string()})).await?;
    let list: Vec<Value> = field(method, &answer, "channels")?;
    Ok(list.iter().filter_map(one).collect())
}

/// The peer of a channel, if there is such a channel.
pub async fn peer_of<C: Call>(rpc: &C, channel: ChannelId) -> Result<Option<NodeId>, CallError> {
    let method = "listpeerchannels";
    let answer = rpc.call(method, json!({"channel_id": channel.to_string()})).await?;
    let list: Vec<Value> = field(method, &answer, "channels")?;
    Ok(list.first().and_then(|channel| channel["peer_id"].as_str()?.parse().ok()))
}

/// All channels with those peers with which one is free, of the whole `listpeerchannels`: this node may have made it
/// so for a move, and forgotten that at a restart.
pub fn beside_free(channels: &[Value]) -> Vec<ChannelBalance> {
    let free = channels.iter().filter(|channel| moves::is_free(channel));
    let peers: HashSet<&str> = free.filter_map(|channel| channel["peer_id"].as_str()).collect();
    let with = |channel: &&Value| channel["peer_id"].as_str().is_some_and(|peer| peers.contains(peer));
    channels.iter().filter(with).filter_map(one).collect()
}

/// Nothing for a channel that isn't committed yet. An amount that is missing is the one that keeps a channel from
/// being taken for an empty one, or for one that can carry something.
pub fn one(channel: &Value) -> Option<ChannelBalance> {
    let amount = |name: &str| channel[name].as_u64();
    let state: Option<ChannelState> = channel["state"].as_str()?.parse().ok();
    let block = channel["short_channel_id"].as_str().and_then(|scid| scid.split('x').next());
    Some(ChannelBalance {
        channel_id: channel["channel_id"].as_str()?.parse().ok()?,
        peer: channel["peer_id"].as_str()?.parse().ok()?,
        to_us_msat: amount("to_us_msat").unwrap_or(u64::MAX),
        reserve_msat: amount("our_reserve_msat").unwrap_or(0),
        spendable_msat: amount("spendable_msat").unwrap_or(0),
        receivable_msat: amount("receivable_msat").unwrap_or(0),
        minimum_htlc_out_msat: amount("minimum_htlc_out_msat").unwrap_or(u64::MAX),
        maximum_htlc_out_msat: amount("maximum_htlc_out_msat").unwrap_or(0),
        minimum_htlc_in_msat: channel["updates"]["remote"]["htlc_minimum_msat"].as_u64().unwrap_or(0),
        maximum_htlc_in_msat: channel["updates"]["remote"]["htlc_maximum_msat"].as_u64().unwrap_or(u64::MAX),
        opener: channel["opener"] == "local",
        free: moves::is_free(channel),
        htlcs: channel["htlcs"].as_array().is_none_or(|htlcs| !htlcs.is_empty()),
        live: state == Some(ChannelState::Normal),
        confirmed: block.and_then(|block| block.parse().ok()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel() -> Value {
        json!({
            "peer_id": "02".repeat(33), "channel_id": "31".repeat(32), "state": "CHANNELD_NORMAL",
            "to_us_msat": 547_000, "our_reserve_msat": 546_000, "spendable_msat": 1_000,
            "receivable_msat": 9_000_000, "minimum_htlc_out_msat": 1, "maximum_htlc_out_msat": 9_000_000,
            "htlcs": [], "short_channel_id": "120x1x0",
        })
    }

    #[test]
    fn a_channel_as_lightningd_shows_it() {
        let read = one(&channel()).unwrap();
        assert_eq!((read.to_us_msat, read.reserve_msat, read.spendable_msat), (547_000, 546_000, 1_000));
        assert_eq!((read.htlcs, read.live, read.confirmed), (false, true, Some(120)));
    }

    // S22
    #[test]
    fn what_is_missing_makes_no_channel_empty() {
        for name in ["to_us_msat", "our_reserve_msat", "htlcs", "state"] {
            let mut less = channel();
            less.as_object_mut().unwrap().remove(name);
            let seems_empty = |read: ChannelBalance| !read.htlcs && read.to_us_msat <= read.reserve_msat;
            assert!(!one(&less).is_some_and(seems_empty), "{name}");
        }
    }
}
