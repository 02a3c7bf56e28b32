//! Which peers were online when. What was seen is kept in the datastore, one write an hour; losing it
//! costs statistics.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use bitcoin::hex::FromHex;
use factory_engine::Online;
use factory_engine::types::NodeId;
use serde_json::{Value, json};

use super::client::{Call, CallError, field};

/// What was seen so far, for whoever asks.
#[derive(Debug, Default)]
pub struct Habits(Mutex<Online>);

impl Habits {
    /// A copy of what was seen so far.
    pub fn get(&self) -> Online {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds who was online in an hour.
    pub fn note(&self, hour: u64, online: &BTreeSet<NodeId>) -> Online {
        let mut habits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        habits.note(hour, online);
        habits.clone()
    }
}

/// Its key in lightningd's datastore.
pub fn key() -> Value {
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
