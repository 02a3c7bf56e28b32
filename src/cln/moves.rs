//! Moves, as lightningd makes them: a payment to oneself over the operator, and fees of channels.

use std::time::Duration;

use factory_engine::SendMove;
use factory_engine::types::{ChannelId, NodeId, PaymentHash};
use serde_json::{Value, json};

use super::client::{Call, CallError, field};
use super::{fees_before, payments};

/// Between two looks at channels that an HTLC is leaving.
const PAUSE: Duration = Duration::from_millis(20);
/// So many looks at most: what comes next looks again anyway.
const LOOKS: u32 = 500;
/// How long the invoice of a move can be paid, seconds: HTLCs that come later are failed.
const EXPIRY_SECONDS: u64 = 86_400;

/// One HTLC over both channels. Returns when it is known for good what became of it, and neither channel has it any
/// more; the error says why it failed.
pub async fn send<C: Call>(rpc: &C, send: &SendMove) -> Result<(), String> {
    let sent = try_send(rpc, send).await;
    match &sent {
        Ok(()) => quiet(rpc, json!({"id": send.peer.to_string()}), send.payment_hash).await,
        Err(_) => end(rpc, &send.label).await,
    }
    sent
}

async fn try_send<C: Call>(rpc: &C, send: &SendMove) -> Result<(), String> {
    let text = |error: CallError| error.to_string();
    let info = rpc.call("getinfo", json!({})).await.map_err(text)?;
    let me: String = field("getinfo", &info, "id").map_err(text)?;
    let params = json!({
        "amount_msat": send.amount_msat,
        "label": send.label,
        "description": "cln-factory: a balance moves between this node's own channels",
        "preimage": send.preimage.to_string(),
        "expiry": EXPIRY_SECONDS,
    });
    let made = rpc.call("invoice", params).await.map_err(text)?;
    let payment_secret: String = field("invoice", &made, "payment_secret").map_err(text)?;
    let list = channels(rpc, send.peer).await.map_err(text)?;
    let (from, to) = names(&list, send)?;
    let hop = |id: &str, channel: &str, delay: u32| json!({"id": id, "channel": channel, "delay": delay, "amount_msat": send.amount_msat});
    let peer = send.peer.to_string();
    let params = json!({
        "route": [hop(&peer, &from, send.first_blocks), hop(&me, &to, send.last_blocks)],
        "payment_hash": send.payment_hash.to_string(),
        "payment_secret": payment_secret,
        "label": send.label,
    });
    match rpc.call("sendpay", params).await {
        Ok(_) => payments::wait(rpc, send.payment_hash).await,
        // lightningd refused it.
        Err(error) if error.code.is_some() => Err(error.to_string()),
        Err(_) => payments::look(rpc, send.payment_hash).await,
    }
}

/// What became of a payment that a stop interrupted. One that never left can't arrive any more.
pub async fn look<C: Call>(rpc: &C, payment_hash: PaymentHash, label: &str) -> Result<(), String> {
    let found = payments::look(rpc, payment_hash).await;
    match &found {
        // With whomever its channels are.
        Ok(()) => quiet(rpc, json!({}), payment_hash).await,
        Err(_) => end(rpc, label).await,
    }
    found
}

/// Nobody pays this invoice any more.
async fn end<C: Call>(rpc: &C, label: &str) {
    if let Err(error) = payments::end_invoice(rpc, label).await {
        log::debug!("taking invoice {label} back: {error}");
    }
}

async fn channels<C: Call>(rpc: &C, peer: NodeId) -> Result<Vec<Value>, CallError> {
    list(rpc, json!({"id": peer.to_string()})).await
}

async fn list<C: Call>(rpc: &C, params: Value) -> Result<Vec<Value>, CallError> {
    let method = "listpeerchannels";
    let answer = rpc.call(method, params).await?;
    field(method, &answer, "channels")
}

fn find(list: &[Value], id: ChannelId) -> Option<&Value> {
    list.iter().find(|channel| channel["channel_id"] == id.to_string().as_str())
}

/// What both nodes call the channels: this one the first, the operator the second.
fn names(list: &[Value], send: &SendMove) -> Result<(String, String), String> {
    let name = |id: ChannelId, names: [&[&str]; 2]| {
        let channel = find(list, id).ok_or_else(|| format!("lightningd has no channel {id}"))?;
        let text = names.iter().find_map(|path| {
            path.iter().try_fold(channel, |value, part| value.get(part)).and_then(Value::as_str)
        });
        text.map(str::to_owned).ok_or_else(|| format!("channel {id} has no short_channel_id and no alias"))
    };
    let from = name(send.from, [&["short_channel_id"], &["alias", "local"]])?;
    let to = name(send.to, [&["alias", "remote"], &["short_channel_id"]])?;
    Ok((from, to))
}

/// Until none of these channels has the HTLC any more: what they can carry next is known then.
async fn quiet<C: Call>(rpc: &C, which: Value, payment_hash: PaymentHash) {
    let hash = payment_hash.to_string();
    for _ in 0..LOOKS {
        let stands = |channel: &Value| {
            let htlcs = channel["htlcs"].as_array().map(Vec::as_slice).unwrap_or_default();
            htlcs.iter().any(|htlc| htlc["payment_hash"] == hash.as_str())
        };
        match list(rpc, which.clone()).await {
            Ok(list) if !list.iter().any(stands) => return,
            Ok(_) => {}
            Err(error) => log::debug!("looking at what has moved: {error}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What this node asks for where nobody says otherwise: base in msat, and millionths.
async fn default_fees<C: Call>(rpc: &C) -> Result<(u64, u64), CallError> {
    let configs = rpc.call("listconfigs", json!({})).await?;
    let value = |name: &str| configs["configs"][name]["value_int"].as_u64();
    // lightningd's own defaults.
    Ok((value("fee-base").unwrap_or(1), value("fee-per-satoshi").unwrap_or(10)))
}

async fn setchannel<C: Call>(
    rpc: &C,
    id: &str,
    (base, millionths): (u64, u64),
    more: Value,
) -> Result<(), CallError> {
    let mut params = json!({"id": id, "feebase": base, "feeppm": millionths});
    if let (Some(params), Value::Object(more)) = (params.as_object_mut(), more) {
        params.extend(more);
    }
    rpc.call("setchannel", params).await.map(drop)
}

/// Whether a channel of `listpeerchannels` forwards for nothing.
pub fn is_free(channel: &Value) -> bool {
    channel["fee_base_msat"].as_u64() == Some(0) && channel["fee_proportional_millionths"].as_u64() == Some(0)
}

/// What forwarding over a channel of `listpeerchannels` costs: base in msat, and millionths.
fn fees_of(channel: &Value) -> Option<(u64, u64)> {
    Some((channel["fee_base_msat"].as_u64()?, channel["fee_proportional_millionths"].as_u64()?))
}

/// As before a move made it free: what was noted then, or else what this node asks for by default.
async fn charge_again<C: Call>(rpc: &C, id: ChannelId, default: (u64, u64)) -> Result<(), CallError> {
    let before = fees_before::read(rpc, id).await?;
    setchannel(rpc, &id.to_string(), before.unwrap_or(default), json!({})).await?;
    match before {
        Some(_) => fees_before::remove(rpc, id).await,
        None => Ok(()),
    }
}

/// Lets a channel with a peer forward for nothing, and no other one with it; or for what it cost before.
pub async fn set_fees<C: Call>(
    rpc: &C,
    peer: NodeId,
    channel_id: ChannelId,
    free: bool,
) -> Result<(), CallError> {
    let list = channels(rpc, peer).await?;
    let known = find(&list, channel_id)
        .ok_or_else(|| CallError::new("setchannel", format!("{peer} has no channel {channel_id}")))?;
    let default = default_fees(rpc).await?;
    let id = channel_id.to_string();
    if !free {
        return charge_again(rpc, channel_id, default).await;
    }
    // Noted before it is changed. What is free already was noted then, or is so by its operator's wish.
    if let Some(before) = fees_of(known).filter(|fees| *fees != default && !is_free(known)) {
        fees_before::put(rpc, channel_id, before).await?;
    }
    // At equal fees lightningd forwards over whichever has most to spend. Where the default is nothing too, the
    // others cost the least that there is.
    let other_fees = if default == (0, 0) { (1, 0) } else { default };
    for other in list.iter().filter(|other| is_free(other) && other["state"] == "CHANNELD_NORMAL") {
        match other["channel_id"].as_str().and_then(|other| other.parse::<ChannelId>().ok()) {
            Some(other) if other != channel_id => charge_again(rpc, other, other_fees).await?,
            Some(_) | None => {}
        }
    }
    setchannel(rpc, &id, (0, 0), json!({"enforcedelay": 0})).await
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use factory_engine::types::{InstanceId, Preimage};

    fn id(of: u8) -> ChannelId {
        ChannelId([of; 32])
    }

    fn channel(of: u8, base: u64) -> Value {
        json!({
            "channel_id": id(of).to_string(), "state": "CHANNELD_NORMAL", "fee_base_msat": base,
            "fee_proportional_millionths": 0, "alias": {"local": format!("{of}x1x1"), "remote": format!("{of}x2x2")},
            "htlcs": [],
        })
    }

    /// A node that notes what it is told.
    #[derive(Clone)]
    struct Node {
        base: u64,
        channels: Vec<Value>,
        told: Arc<Mutex<Vec<Value>>>,
        noted: Arc<Mutex<Vec<(Value, Value)>>>,
    }

    impl Call for Node {
        async fn call(&self, method: &str, params: Value) -> Result<Value, CallError> {
            match method {
                "listpeerchannels" => Ok(json!({"channels": self.channels})),
                "listdatastore" => {
                    let noted = self.noted.lock().unwrap();
                    let found = noted.iter().filter(|(key, _)| *key == params["key"]);
                    let entries = found.map(|(_, text)| json!({"string": text})).collect::<Vec<_>>();
                    Ok(json!({"datastore": entries}))
                }
                "datastore" => {
                    self.noted.lock().unwrap().push((params["key"].clone(), params["string"].clone()));
                    Ok(json!({}))
                }
                "deldatastore" => {
                    self.noted.lock().unwrap().retain(|(key, _)| *key != params["key"]);
                    Ok(json!({}))
                }
                "listconfigs" => Ok(json!({"configs": {
                    "fee-base": {"value_int": self.base}, "fee-per-satoshi": {"value_int": 0}}})),
                _ => {
                    self.told.lock().unwrap().push(params);
                    Ok(json!({}))
                }
            }
        }
    }

    #[tokio::test]
    async fn one_channel_with_a_peer_is_free() {
        let peer = NodeId([2; 33]);
        for (base, others) in [(5, 5), (0, 1)] {
            let channels = vec![channel(1, 0), channel(2, 7), channel(3, 0)];
            let node = Node { base, channels, told: Arc::default(), noted: Arc::default() };
            set_fees(&node, peer, id(3), true).await.unwrap();
            let told = std::mem::take(&mut *node.told.lock().unwrap());
            let expected = [
                json!({"id": id(1).to_string(), "feebase": others, "feeppm": 0}),
                json!({"id": id(3).to_string(), "feebase": 0, "feeppm": 0, "enforcedelay": 0}),
            ];
            assert_eq!(told, expected);
            set_fees(&node, peer, id(3), false).await.unwrap();
            let told = std::mem::take(&mut *node.told.lock().unwrap());
            assert_eq!(told, [json!({"id": id(3).to_string(), "feebase": base, "feeppm": 0})]);
            set_fees(&node, peer, id(4), true).await.unwrap_err();
        }
    }

    #[tokio::test]
    async fn it_costs_again_what_it_did_before() {
        let peer = NodeId([2; 33]);
        let channels = vec![channel(1, 777), channel(2, 5)];
        let mut node = Node { base: 5, channels, told: Arc::default(), noted: Arc::default() };
        set_fees(&node, peer, id(1), true).await.unwrap();
        node.channels = vec![channel(1, 0), channel(2, 5)];
        // Free for longer, also after a restart: what was noted first counts.
        set_fees(&node, peer, id(1), true).await.unwrap();
        node.told.lock().unwrap().clear();
        // Another one is free now, or none any more.
        set_fees(&node, peer, id(2), true).await.unwrap();
        let told = std::mem::take(&mut *node.told.lock().unwrap());
        assert_eq!(told[0], json!({"id": id(1).to_string(), "feebase": 777, "feeppm": 0}));
        assert!(node.noted.lock().unwrap().is_empty());
        set_fees(&node, peer, id(1), false).await.unwrap();
        let told = std::mem::take(&mut *node.told.lock().unwrap());
        assert_eq!(told, [json!({"id": id(1).to_string(), "feebase": 5, "feeppm": 0})]);
    }

    #[test]
    fn each_side_has_its_own_name_for_a_channel() {
        let send = SendMove {
            instance: InstanceId([1; 32]),
            peer: NodeId([2; 33]),
            from: id(1),
            to: id(2),
            amount_msat: 5,
            payment_hash: PaymentHash([3; 32]),
            preimage: Preimage([4; 32]),
            label: "a".to_owned(),
            first_blocks: 9,
            last_blocks: 6,
        };
        let mut confirmed = channel(1, 0);
        confirmed["short_channel_id"] = "103x1x0".into();
        let pair = |from: &str, to: &str| Ok((from.to_owned(), to.to_owned()));
        assert_eq!(names(&[channel(1, 0), channel(2, 0)], &send), pair("1x1x1", "2x2x2"));
        assert_eq!(names(&[confirmed, channel(2, 0)], &send), pair("103x1x0", "2x2x2"));
        names(&[channel(1, 0)], &send).unwrap_err();
    }
}
