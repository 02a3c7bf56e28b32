//! Takes note, once an hour, of which peers are online.

use std::time::Duration;

use bitcoin::hex::DisplayHex;
use factory_runtime::now;
use serde_json::json;

use super::client::Call;
use super::online::key;
use super::state::State;

/// Between two looks at the clock. After a start peers have so long to connect.
const PAUSE: Duration = Duration::from_secs(300);
const HOUR: u64 = 3_600_000;

/// Notes who is online, hour by hour, for as long as the plugin runs.
pub async fn record(state: State) {
    loop {
        tokio::time::sleep(PAUSE).await;
        let hour = now() / HOUR;
        if !state.online.get().is_due(hour) {
            continue;
        }
        let Ok(online) = state.runtime.read(|engine, _| engine.peers().collect()).await else { return };
        let habits = state.online.note(hour, &online);
        if habits.is_empty() {
            continue;
        }
        for (part, bytes) in habits.to_parts().iter().enumerate() {
            let params =
                json!({"key": key(part), "hex": bytes.to_lower_hex_string(), "mode": "create-or-replace"});
            if let Err(error) = state.rpc.call("datastore", params).await {
                log::warn!("cannot keep clients' online times: {error}");
            }
        }
    }
}
