//! Who is connected, and who runs a plugin like ours.

use bitcoin::hex::FromHex;
use factory_engine::types::NodeId;
use factory_engine::wire::envelope::FEATURE_BIT;
use serde_json::{Value, json};

use super::client::{Call, CallError, field};
use super::state::State;

/// A connected peer as `listpeers` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Node id of the peer.
    pub id: NodeId,
    /// Whether its `init` set feature bit 270 or 271.
    pub supports: bool,
    /// Whether this node has a channel with it.
    pub channels: bool,
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
        Some(Peer { id, supports, channels: peer["num_channels"].as_u64().unwrap_or(0) > 0 })
    };
    Ok(up.filter_map(read).collect())
}

/// Takes note of a connection, and finds out in a task of its own whether it matters to us.
pub fn greet(state: &State, peer: NodeId) {
    let number = state.runtime.connected(peer);
    let state = State::clone(state);
    tokio::spawn(async move {
        match connected(&state.rpc, Some(peer)).await {
            Ok(found) => {
                let found = found.iter().find(|found| found.id == peer);
                let supports = found.is_some_and(|found| found.supports);
                state.runtime.features(peer, number, supports, found.is_some_and(|found| found.channels));
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
