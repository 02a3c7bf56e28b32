//! Who is connected, and who runs a plugin like ours.

use std::collections::BTreeSet;

use bitcoin::hex::FromHex;
use factory_engine::types::NodeId;
use factory_engine::wire::envelope::FEATURE_BIT;
use serde_json::{Value, json};

use super::channel_state::ChannelState;
use super::client::{Call, CallError, field};
use super::state::State;

/// A connected peer as `listpeers` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Node id of the peer.
    pub id: NodeId,
    /// Whether its `init` set feature bit 270 or 271.
    pub supports: bool,
}

/// All connected peers, or the one.
pub async fn connected<C: Call>(rpc: &C, only: Option<NodeId>) -> Result<Vec<Peer>, CallError> {
    let params = only.map_or(json!({}), |id| json!({"id": id.to_string()}));
    let answer = rpc.call("listpeers", params).await?;
    let list: Vec<Value> = field("listpeers", &answer, "peers")?;
    let up = list.iter().filter(|peer| peer["connected"] == true);
    let read = |peer: &Value| {
        let id = peer["id"].as_str()?.parse().ok()?;
        let supports = supports(peer["features"].as_str().unwrap_or_default());
        Some(Peer { id, supports })
    };
    Ok(up.filter_map(read).collect())
}

/// Peers that this node has a channel with, of all peers or the one.
///
/// `listpeers` counts channels that were never funded and those that are over as well: nobody has to pay for these,
/// and they make nobody less of a stranger (S28).
pub async fn with_channels<C: Call>(rpc: &C, only: Option<NodeId>) -> Result<BTreeSet<NodeId>, CallError> {
    let params = only.map_or(json!({}), |id| json!({"id": id.to_string()}));
    let answer = rpc.call("listpeerchannels", params).await?;
    let list: Vec<Value> = field("listpeerchannels", &answer, "channels")?;
    Ok(list
        .iter()
        .filter(|channel| stands(channel))
        .filter_map(|of| of["peer_id"].as_str()?.parse().ok())
        .collect())
}

/// Whether a channel is funded on chain, and has not ended.
fn stands(channel: &Value) -> bool {
    let state = channel["state"].as_str().and_then(|state| state.parse::<ChannelState>().ok());
    channel["short_channel_id"].is_string() && state.is_some_and(|state| state.ended().is_none())
}

/// Takes note of a connection, and finds out in a task of its own whether it matters to us.
pub fn greet(state: &State, peer: NodeId) {
    let number = state.runtime.connected(peer);
    let state = State::clone(state);
    tokio::spawn(async move {
        let (found, known) =
            tokio::join!(connected(&state.rpc, Some(peer)), with_channels(&state.rpc, Some(peer)));
        match found {
            Ok(found) => {
                let supports = found.iter().any(|found| found.id == peer && found.supports);
                // Whoever can't be looked up is a stranger: a person is asked.
                let known = known.is_ok_and(|known| known.contains(&peer));
                state.runtime.features(peer, number, supports, known);
            }
            Err(error) => log::warn!("{peer}: {error}"),
        }
    });
}

/// Whether bit 270 or 271 is set in a feature field, hex with the lowest bits last.
fn supports(features: &str) -> bool {
    let bytes = Vec::from_hex(features).unwrap_or_default();
    let byte = usize::from(FEATURE_BIT / 8);
    // 270 and 271 are the two highest bits of one byte.
    bytes.iter().rev().nth(byte).is_some_and(|byte| byte & 0xc0 != 0)
}

/// The feature field with our bit alone.
pub fn our_features() -> String {
    format!("80{}", "00".repeat(usize::from(FEATURE_BIT / 8)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// S28: a channel that costs nobody anything makes no peer known.
    #[test]
    fn what_is_a_channel_with_somebody() {
        let channel = |state: &str, scid: Value| json!({"state": state, "short_channel_id": scid});
        assert!(stands(&channel("CHANNELD_NORMAL", json!("1x2x3"))));
        for (state, scid) in [
            ("CHANNELD_AWAITING_LOCKIN", Value::Null),
            ("DUALOPEND_AWAITING_LOCKIN", Value::Null),
            ("CHANNELD_NORMAL", Value::Null),
            ("CHANNELD_SHUTTING_DOWN", json!("1x2x3")),
            ("CLOSINGD_COMPLETE", json!("1x2x3")),
            ("AWAITING_UNILATERAL", json!("1x2x3")),
            ("ONCHAIN", json!("1x2x3")),
            ("A_STATE_TO_COME", json!("1x2x3")),
        ] {
            assert!(!stands(&channel(state, scid)), "{state}");
        }
    }

    #[test]
    fn the_bit() {
        assert_eq!(our_features().len(), 2 * 34);
        assert!(supports(&our_features()));
        assert!(supports(&our_features().replacen("80", "40", 1)));
        assert!(supports(&format!("ff{}", our_features())));
        assert!(!supports("800898880a8a59a1"));
        assert!(!supports(&our_features().replacen("80", "3f", 1)));
        assert!(!supports(""));
    }
}
