//! Takes note, once an hour, of which peers are online. What was seen is kept in the datastore, one write
//! an hour; losing it costs statistics.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bitcoin::hex::{DisplayHex, FromHex};
use factory_engine::Online;
use factory_engine::types::NodeId;
use factory_runtime::now;
use serde_json::{Value, json};

use super::client::{Call, CallError, field};
use super::state::State;

/// Between two looks at the clock. After a start peers have so long to connect.
const PAUSE: Duration = Duration::from_secs(300);
const HOUR: u64 = 3_600_000;

/// What was seen so far, for whoever asks.
#[derive(Debug, Default)]
pub struct Habits(Mutex<Online>);

impl Habits {
    /// A copy.
    pub fn get(&self) -> Online {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, hour: u64, online: &BTreeSet<NodeId>) -> Online {
        let mut habits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        habits.note(hour, online);
        habits.clone()
    }
}

fn key() -> Value {
    json!(["cln-factory", "online"])
}

/// What an earlier run has kept.
pub async fn load<C: Call>(rpc: &C) -> Result<Habits, CallError> {
    let answer = rpc.call("listdatastore", json!({"key": key()})).await?;
    let list: Vec<Value> = field("listdatastore", &answer, "datastore")?;
    let Some(text) = list.first().and_then(|entry| entry["hex"].as_str()) else {
        return Ok(Habits::default());
    };
    let online = Vec::from_hex(text).ok().and_then(|bytes| Online::from_bytes(&bytes));
    if online.is_none() {
        log::warn!("what was noted of clients' online times is not understood: begun anew");
    }
    Ok(Habits(Mutex::new(online.unwrap_or_default())))
}

/// For as long as the plugin runs.
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
        let hex = habits.to_bytes().to_lower_hex_string();
        let params = json!({"key": key(), "hex": hex, "mode": "create-or-replace"});
        if let Err(error) = state.rpc.call("datastore", params).await {
            log::warn!("cannot keep clients' online times: {error}");
        }
    }
}
