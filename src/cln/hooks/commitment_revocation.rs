//! `commitment_revocation`: lightningd's penalty for a commitment that was revoked goes to this node's towers.

use std::time::Duration;

use bitcoin::Txid;
use factory_engine::Input;
use factory_engine::types::{ChannelId, Transaction};
use factory_runtime::store::tower::TowerStore;
use serde_json::Value;

use super::super::datastore;
use super::super::state::State;

/// The channel waits as long. After it the penalty is stored, whosever it is.
const PATIENCE: Duration = Duration::from_secs(2);

/// Stores the penalty before the channel goes on, so that no restart loses it: lightningd says it once. Of ordinary
/// channels nothing is kept.
pub async fn note(state: &State, request: &Value) {
    if state.config.towers.is_empty() {
        return;
    }
    let Some((channel_id, commitment, penalty)) = parse(request) else {
        return log::debug!("a revoked commitment without a penalty: {request}");
    };
    let tx = penalty.clone();
    let wanted = state.runtime.read(move |engine, _| engine.wants_penalty(channel_id, &tx));
    // Where nobody can say, it may be.
    let wanted = !matches!(tokio::time::timeout(PATIENCE, wanted).await, Ok(Ok(false)));
    let store = TowerStore::new(datastore::keys(state.rpc.clone()));
    if wanted && let Err(error) = store.revoked(channel_id, commitment, &penalty).await {
        // The towers get it all the same, until the next start.
        log::warn!("{channel_id}: the penalty for {commitment} is not stored: {error}");
    }
    state.runtime.input(Input::Revoked { channel_id, commitment, penalty });
}

fn parse(request: &Value) -> Option<(ChannelId, Txid, Transaction)> {
    let text = |name: &str| request[name].as_str();
    let penalty = bitcoin::consensus::encode::deserialize_hex(text("penalty_tx")?).ok()?;
    Some((text("channel_id")?.parse().ok()?, text("commitment_txid")?.parse().ok()?, penalty))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_penalty_is_read() {
        let tx = bitcoin::constants::genesis_block(bitcoin::Network::Regtest).txdata.remove(0);
        let request = json!({
            "commitment_txid": "01".repeat(32),
            "penalty_tx": bitcoin::consensus::encode::serialize_hex(&tx),
            "channel_id": "02".repeat(32),
            "commitnum": 21,
        });
        let (channel_id, commitment, penalty) = parse(&request).unwrap();
        assert_eq!((channel_id.0, commitment.to_string(), penalty), ([2; 32], "01".repeat(32), tx));
        for missing in ["commitment_txid", "penalty_tx", "channel_id"] {
            let mut request = request.clone();
            request[missing] = Value::Null;
            assert_eq!(parse(&request), None, "{missing}");
        }
    }
}
