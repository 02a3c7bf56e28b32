//! `rpc_command`: expiries of what this node itself starts leave time for an exit.
//!
//! - `invoice` asks payers for a longer final expiry (S17);
//! - `sendpay`, `sendonion` and `injectpaymentonion` give their first HTLC a longer one (S15). The
//!   onion stays as it is: the first hop merely sees more room than it needs.
//!
//! A larger value that somebody gave stays.

use serde_json::{Map, Value, json};

use crate::protocol::htlc::SLACK;
use crate::types::{ChannelId, Height};

use super::super::state::State;
use super::carry_on;

/// The commands that the hook is called for.
pub const COMMANDS: [&str; 4] = ["invoice", "sendpay", "sendonion", "injectpaymentonion"];

const INVOICE: &[&str] = &[
    "amount_msat",
    "label",
    "description",
    "expiry",
    "fallbacks",
    "preimage",
    "exposeprivatechannels",
    "cltv",
    "deschashonly",
];
const SENDPAY: &[&str] = &[
    "route",
    "payment_hash",
    "label",
    "amount_msat",
    "bolt11",
    "payment_secret",
    "partid",
    "localinvreqid",
    "groupid",
    "payment_metadata",
    "description",
];
const SENDONION: &[&str] = &[
    "onion",
    "first_hop",
    "payment_hash",
    "label",
    "shared_secrets",
    "partid",
    "bolt11",
    "amount_msat",
    "destination",
    "localinvreqid",
    "groupid",
    "description",
    "total_amount_msat",
];
const INJECT: &[&str] = &[
    "onion",
    "payment_hash",
    "amount_msat",
    "cltv_expiry",
    "partid",
    "groupid",
    "label",
    "invstring",
    "localinvreqid",
    "destination_msat",
    "destination",
];

/// Answers the hook.
pub async fn answer(state: &State, request: &Value) -> Value {
    let command = &request["rpc_command"];
    let changed = match command["method"].as_str() {
        Some("invoice") => invoice(state, &command["params"]),
        Some("sendpay") => sendpay(state, &command["params"]).await,
        Some("sendonion") => sendonion(state, &command["params"]).await,
        Some("injectpaymentonion") => injectpaymentonion(state, &command["params"]),
        _ => None,
    };
    match changed {
        None => carry_on(),
        Some(params) => {
            let mut replacement = command.clone();
            replacement["params"] = Value::Object(params);
            if replacement.get("jsonrpc").is_none() {
                replacement["jsonrpc"] = "2.0".into();
            }
            json!({"replace": replacement})
        }
    }
}

fn invoice(state: &State, params: &Value) -> Option<Map<String, Value>> {
    let early = largest_blocks_early(state)?;
    let least = state.cltv_final.saturating_add(early).saturating_add(SLACK);
    let mut params = named(INVOICE, params)?;
    raise(&mut params, "cltv", least).then_some(params)
}

async fn sendpay(state: &State, params: &Value) -> Option<Map<String, Value>> {
    largest_blocks_early(state)?;
    let mut params = named(SENDPAY, params)?;
    let first = params.get_mut("route")?.as_array_mut()?.first_mut()?.as_object_mut()?;
    raise_hop(state, first).await.then_some(params)
}

async fn sendonion(state: &State, params: &Value) -> Option<Map<String, Value>> {
    largest_blocks_early(state)?;
    let mut params = named(SENDONION, params)?;
    let first = params.get_mut("first_hop")?.as_object_mut()?;
    raise_hop(state, first).await.then_some(params)
}

fn injectpaymentonion(state: &State, params: &Value) -> Option<Map<String, Value>> {
    // The first channel is inside the onion, where we can't see it: so whichever it is.
    let early = largest_blocks_early(state)?;
    let height = state.runtime.view().htlc(|view| view.height)?;
    let height = height.max(*state.news.borrow());
    let least = height.saturating_add(early).saturating_add(SLACK);
    let mut params = named(INJECT, params)?;
    raise(&mut params, "cltv_expiry", least).then_some(params)
}

/// `delay` of a route's first hop, in blocks from now.
async fn raise_hop(state: &State, hop: &mut Map<String, Value>) -> bool {
    let early = match hop.get("channel").and_then(Value::as_str) {
        Some(scid) => match state.channels.find(&state.rpc, scid).await {
            Some(channel) => blocks_early(state, channel),
            None => None,
        },
        // lightningd will choose a channel: it may be any.
        None => largest_blocks_early(state),
    };
    early.is_some_and(|early| raise(hop, "delay", early.saturating_add(SLACK)))
}

fn blocks_early(state: &State, channel: ChannelId) -> Option<u32> {
    let view = state.runtime.view();
    view.htlc(|view| view.policies.get(&channel).map(|policy| u32::from(policy.blocks_early)))
}

/// `None` without usable factory channels: then nothing of this concerns us.
fn largest_blocks_early(state: &State) -> Option<u32> {
    let early = state.runtime.view().htlc(|view| view.largest_blocks_early);
    (early > 0).then(|| u32::from(early))
}

/// Parameters by name. `None` for what lightningd had better complain about itself.
fn named(names: &[&str], params: &Value) -> Option<Map<String, Value>> {
    match params {
        Value::Object(object) => Some(object.clone()),
        Value::Array(list) if list.len() <= names.len() => {
            let pairs = names.iter().zip(list).filter(|(_, value)| !value.is_null());
            Some(pairs.map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
        }
        _ => None,
    }
}

/// Makes a number at least `least`. False if it is already, or isn't a number.
fn raise(params: &mut Map<String, Value>, name: &str, least: Height) -> bool {
    let enough = match params.get(name) {
        None | Some(Value::Null) => false,
        Some(Value::Number(number)) => number.as_u64().is_none_or(|value| value >= u64::from(least)),
        Some(Value::String(text)) => text.parse::<u64>().map_or(true, |value| value >= u64::from(least)),
        Some(_) => true,
    };
    if !enough {
        params.insert(name.to_owned(), least.into());
    }
    !enough
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raised(value: Value) -> (bool, Value) {
        let mut params = Map::new();
        params.insert("cltv".to_owned(), value);
        let changed = raise(&mut params, "cltv", 100);
        (changed, params["cltv"].clone())
    }

    // S17
    #[test]
    fn only_what_is_too_small_is_raised() {
        assert_eq!(raised(json!(18)), (true, json!(100)));
        assert_eq!(raised(json!("18")), (true, json!(100)));
        assert_eq!(raised(Value::Null), (true, json!(100)));
        assert_eq!(raised(json!(144)), (false, json!(144)));
        assert_eq!(raised(json!("much")), (false, json!("much")));
        assert_eq!(raised(json!(-1)), (false, json!(-1)));
    }

    #[test]
    fn positions_become_names() {
        let params = named(INVOICE, &json!([1000, "label", "text", null, null, null, null, 9])).unwrap();
        assert_eq!(
            Value::Object(params),
            json!({"amount_msat": 1000, "label": "label", "description": "text", "cltv": 9})
        );
        assert_eq!(named(&["one"], &json!([1, 2])), None);
    }
}
