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

/// The key of one part of it in lightningd's datastore, which takes no large values.
pub fn key(part: usize) -> Value {
    json!(["cln-factory", "habits", format!("{part:0>4}")])
}

/// What an earlier run has kept.
pub async fn load<C: Call>(rpc: &C) -> Result<Habits, CallError> {
    let answer = rpc.call("listdatastore", json!({"key": ["cln-factory", "habits"]})).await?;
    let list: Vec<Value> = field("listdatastore", &answer, "datastore")?;
    let mut online = Online::default();
    for entry in &list {
        let bytes = entry["hex"].as_str().and_then(|text| Vec::from_hex(text).ok());
        match bytes.and_then(|bytes| Online::from_bytes(&bytes)) {
            Some(part) => online = online.and(part),
            None => log::warn!("what was noted of clients' online times is not understood: {}", entry["key"]),
        }
    }
    Ok(Habits(Mutex::new(online)))
}
