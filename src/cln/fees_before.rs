//! What forwarding over a channel cost before a move made it free, in lightningd's datastore: afterwards it costs that
//! again, also after a restart. Losing a record costs nothing but that: the node's default holds then.

use factory_engine::types::ChannelId;
use serde_json::{Value, json};

use super::client::{Call, CallError, field};

/// Keys are `["cln-factory", "fees", <channel_id>]`.
const ROOT: &str = "cln-factory";
const FEES: &str = "fees";
/// lightningd's code for a key that isn't there.
const NO_SUCH_KEY: i32 = 1200;

fn key(channel: ChannelId) -> Value {
    json!([ROOT, FEES, channel.to_string()])
}

/// Base in msat, and millionths; nothing if nothing was noted, or it isn't understood.
pub async fn read<C: Call>(rpc: &C, channel: ChannelId) -> Result<Option<(u64, u64)>, CallError> {
    let method = "listdatastore";
    let answer = rpc.call(method, json!({"key": key(channel)})).await?;
    let entries: Vec<Value> = field(method, &answer, "datastore")?;
    let text = entries.first().and_then(|entry| entry["string"].as_str());
    let noted: Option<Value> = text.and_then(|text| serde_json::from_str(text).ok());
    Ok(noted.and_then(|noted| Some((noted["base_msat"].as_u64()?, noted["ppm"].as_u64()?))))
}

/// Before anything is changed.
pub async fn put<C: Call>(rpc: &C, channel: ChannelId, (base, ppm): (u64, u64)) -> Result<(), CallError> {
    let text = json!({"base_msat": base, "ppm": ppm}).to_string();
    let params = json!({"key": key(channel), "string": text, "mode": "create-or-replace"});
    rpc.call("datastore", params).await.map(drop)
}

/// Once it costs that again; that there is none is no error.
pub async fn remove<C: Call>(rpc: &C, channel: ChannelId) -> Result<(), CallError> {
    match rpc.call("deldatastore", json!({"key": key(channel)})).await {
        Err(error) if error.code != Some(NO_SUCH_KEY) => Err(error),
        _ => Ok(()),
    }
}
