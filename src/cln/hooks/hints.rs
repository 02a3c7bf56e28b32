//! Route hints: an invoice of a client whose operator has no public channel would have none, because lightningd
//! takes the operator for a dead end. Where the user says nothing about it, the factory's channel is exposed.

use std::collections::HashMap;

use factory_engine::types::ChannelId;
use serde_json::{Value, json};

use super::super::client::{Call, CallError, field};
use super::super::state::State;

/// `exposeprivatechannels` for an invoice whose user gave none; nothing where lightningd does as well alone.
pub async fn exposed(state: &State) -> Option<Value> {
    let usable = |channel: ChannelId| {
        let view = state.runtime.view();
        view.htlc(|view| view.policies.get(&channel).is_some_and(|policy| policy.usable.is_ok()))
    };
    let found = find(&state.rpc, |scid| state.channels.get(scid).is_some_and(usable)).await;
    found.unwrap_or_else(|error| {
        log::warn!("no route hint is added to an invoice: {error}");
        None
    })
}

async fn find<C: Call>(rpc: &C, ours: impl Fn(&str) -> bool) -> Result<Option<Value>, CallError> {
    let answer = rpc.call("listincoming", json!({})).await?;
    let incoming: Vec<Value> = field("listincoming", &answer, "incoming")?;
    let dead_end = |channel: &&Value| {
        channel["incoming_capacity_msat"] == 0 && channel["short_channel_id"].as_str().is_some_and(&ours)
    };
    // With a public channel the node can be found, and lightningd keeps the others to itself.
    if incoming.iter().any(|channel| channel["public"] == true) || !incoming.iter().any(|c| dead_end(&c)) {
        return Ok(None);
    }
    let mut peers: HashMap<&str, Vec<Value>> = HashMap::new();
    for channel in incoming.iter().filter(dead_end) {
        let Some(peer) = channel["id"].as_str() else { continue };
        if !peers.contains_key(peer) {
            let answer = rpc.call("listpeerchannels", json!({"id": peer})).await?;
            peers.insert(peer, field("listpeerchannels", &answer, "channels")?);
        }
    }
    // lightningd refuses hints of which none can be used just now.
    let ready = |scid: &str| {
        let all = peers.values().flatten();
        let mut same =
            all.filter(|channel| channel["short_channel_id"] == scid || channel["alias"]["local"] == scid);
        same.any(|channel| {
            channel["peer_connected"] == true
                && channel["state"] == "CHANNELD_NORMAL"
                && channel["alias"]["remote"].is_string()
        })
    };
    let scid = |channel: &Value| channel["short_channel_id"].as_str().map(str::to_owned);
    let mut hints: Vec<String> =
        incoming.iter().filter(dead_end).filter_map(scid).filter(|scid| ready(scid)).collect();
    if hints.is_empty() {
        return Ok(None);
    }
    // Those that lightningd would have taken by itself stay.
    let own = |channel: &&Value| channel["incoming_capacity_msat"] != 0;
    hints.extend(incoming.iter().filter(own).filter_map(scid));
    Ok(Some(json!(hints)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone)]
    struct Node(Value, Value);

    impl Call for Node {
        async fn call(&self, method: &str, _: Value) -> Result<Value, CallError> {
            Ok(if method == "listincoming" { self.0.clone() } else { self.1.clone() })
        }
    }

    fn incoming(list: &[(&str, u64, bool)]) -> Value {
        let one = |(scid, capacity, public): &(&str, u64, bool)| json!({"id": "02aa", "short_channel_id": scid, "incoming_capacity_msat": capacity, "public": public});
        json!({"incoming": list.iter().map(one).collect::<Vec<_>>()})
    }

    fn channels(connected: bool) -> Value {
        let channel = json!({
            "state": "CHANNELD_NORMAL", "peer_connected": connected,
            "alias": {"local": "7x1x1", "remote": "8x1x1"},
        });
        json!({"channels": [channel]})
    }

    #[tokio::test]
    async fn a_factorys_channel_is_exposed_where_lightningd_would_not() {
        let ours = |scid: &str| scid == "7x1x1";
        let cases = [
            (incoming(&[("7x1x1", 0, false)]), true, Some(json!(["7x1x1"]))),
            (incoming(&[("7x1x1", 0, false), ("9x1x1", 5, false)]), true, Some(json!(["7x1x1", "9x1x1"]))),
            // lightningd would refuse it, or do it by itself, or keep it private as its user wants it.
            (incoming(&[("7x1x1", 0, false)]), false, None),
            (incoming(&[("7x1x1", 9, false)]), true, None),
            (incoming(&[("7x1x1", 0, false), ("9x1x1", 5, true)]), true, None),
            (incoming(&[("9x1x1", 0, false)]), true, None),
            (incoming(&[]), true, None),
        ];
        for (list, connected, expected) in cases {
            let node = Node(list.clone(), channels(connected));
            assert_eq!(find(&node, ours).await.unwrap(), expected, "{list} {connected}");
        }
    }
}
