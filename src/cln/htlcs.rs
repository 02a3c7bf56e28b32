//! Channels and HTLCs that are not settled yet, for the engine's deadlines (S16) and the cap on dust.

use std::collections::HashSet;

use bitcoin::hex::FromHex;
use factory_engine::admission::dust::InFlight;
use factory_engine::types::ChannelId;
use factory_engine::{Direction, PendingHtlc};
use serde_json::Value;

/// A received HTLC: its channel, and its number there.
pub type Incoming = (ChannelId, u64);

/// Every HTLC that lightningd hasn't done with. `channels`: of `listpeerchannels`; `nothing`: of those that
/// lightningd [removes](removing), of which [nothing is to be claimed](super::preimages::nothing_to_claim).
pub fn of_channels(channels: &[Value], nothing: &HashSet<Incoming>) -> Vec<PendingHtlc> {
    channels.iter().flat_map(|channel| of_channel(channel, nothing)).collect()
}

/// Those of `listpeerchannels` that have HTLCs.
pub fn with_htlcs(channels: &[Value]) -> Vec<Value> {
    channels.iter().filter(|channel| !list(channel).is_empty()).cloned().collect()
}

/// Received HTLCs that this node's lightningd has decided about: fulfilled or failed, `listpeerchannels`
/// doesn't say which.
pub fn removing(channels: &[Value]) -> Vec<Incoming> {
    let of_channel = |channel: &Value| {
        let channel_id = id(channel)?;
        let removed = list(channel).iter().filter(|htlc| is_incoming(htlc) && is_removed(htlc));
        Some(removed.filter_map(|htlc| Some((channel_id, htlc["id"].as_u64()?))).collect::<Vec<_>>())
    };
    channels.iter().filter_map(of_channel).flatten().collect()
}

fn id(channel: &Value) -> Option<ChannelId> {
    channel["channel_id"].as_str()?.parse().ok()
}

fn list(channel: &Value) -> &[Value] {
    channel["htlcs"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn is_incoming(htlc: &Value) -> bool {
    htlc["direction"] == "in"
}

/// Whether an HTLC is on its way out of the commitment transactions (lightningd's `htlc_state`).
fn is_removed(htlc: &Value) -> bool {
    htlc["state"].as_str().is_some_and(|state| state.contains("_REMOVE_"))
}

/// Whether neither side's commitment transaction has it any more.
fn is_over(htlc: &Value) -> bool {
    htlc["state"].as_str().is_some_and(|state| state.ends_with("_REMOVE_ACK_REVOCATION"))
}

/// Whether lightningd is only about to offer it. It has no number yet (`HTLC_INVALID_ID`), and if it comes to nothing
/// no index of `listhtlcs` says so.
fn is_planned(htlc: &Value) -> bool {
    htlc["id"] == u64::MAX
}

fn of_channel(channel: &Value, nothing: &HashSet<Incoming>) -> Vec<PendingHtlc> {
    let Some(channel_id) = id(channel) else { return vec![] };
    let one = |htlc: &Value| {
        let number = htlc["id"].as_u64();
        let direction = match (is_incoming(htlc), is_removed(htlc)) {
            (false, _) => Direction::Offered,
            (true, true) if !number.is_some_and(|id| nothing.contains(&(channel_id, id))) => {
                Direction::Fulfilled
            }
            (true, _) => Direction::Received,
        };
        Some(PendingHtlc {
            channel_id,
            direction,
            amount_msat: msat(&htlc["amount_msat"]),
            cltv_expiry: u32::try_from(htlc["expiry"].as_u64()?).ok()?,
            payment_hash: hash(htlc)?,
        })
    };
    list(channel).iter().filter(|htlc| !is_over(htlc) && !is_planned(htlc)).filter_map(one).collect()
}

fn hash(htlc: &Value) -> Option<[u8; 32]> {
    <[u8; 32]>::from_hex(htlc["payment_hash"].as_str()?).ok()
}

/// Every HTLC of every channel. `channels`: of `listpeerchannels`.
pub fn in_flight(channels: &[Value]) -> Vec<InFlight> {
    let of_channel = |channel: &Value| {
        let channel_id = id(channel)?;
        let htlcs = channel["htlcs"].as_array()?;
        Some(htlcs.iter().filter_map(|htlc| one(channel_id, htlc)).collect::<Vec<_>>())
    };
    channels.iter().filter_map(of_channel).flatten().collect()
}

fn one(channel: ChannelId, htlc: &Value) -> Option<InFlight> {
    Some(InFlight {
        channel,
        incoming: is_incoming(htlc),
        id: htlc["id"].as_u64()?,
        msat: msat(&htlc["amount_msat"]),
        hash: hash(htlc)?,
    })
}

/// lightningd's amounts are numbers; older versions wrote "1msat".
pub fn msat(value: &Value) -> u64 {
    let text = || value.as_str()?.strip_suffix("msat")?.parse().ok();
    value.as_u64().or_else(text).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    // S16
    #[test]
    fn every_htlc_counts() {
        let (id, hash) = ("11".repeat(32), "22".repeat(32));
        let channel_id = ChannelId([0x11; 32]);
        let htlc = |direction: &str, number: u64, state: &str| {
            json!({"direction": direction, "id": number, "expiry": 140 + number, "amount_msat": 5_000,
                   "payment_hash": hash, "state": state})
        };
        let channel = json!({
            "channel_id": id,
            "htlcs": [
                htlc("in", 0, "RCVD_ADD_ACK_REVOCATION"),
                htlc("in", 1, "SENT_REMOVE_HTLC"),
                htlc("in", 2, "RCVD_REMOVE_ACK_COMMIT"),
                htlc("in", 3, "SENT_REMOVE_COMMIT"),
                htlc("in", 4, "SENT_REMOVE_ACK_REVOCATION"),
                htlc("out", 3, "SENT_ADD_HTLC"),
                htlc("out", 5, "RCVD_REMOVE_COMMIT"),
                htlc("out", 6, "RCVD_REMOVE_ACK_REVOCATION"),
                {"direction": "out", "id": u64::MAX, "expiry": 150, "amount_msat": 5_000,
                    "payment_hash": hash, "state": "SENT_ADD_HTLC"},
            ],
        });
        let channels = [channel];
        assert_eq!(removing(&channels), [1, 2, 3, 4].map(|number| (channel_id, number)));
        let htlcs = of_channels(&channels, &HashSet::from([(channel_id, 3)]));
        let found: Vec<_> = htlcs.iter().map(|htlc| (htlc.direction, htlc.cltv_expiry)).collect();
        // What was failed is nothing to claim; what both have removed is over.
        let expected = [
            (Direction::Received, 140),
            (Direction::Fulfilled, 141),
            (Direction::Fulfilled, 142),
            (Direction::Received, 143),
            (Direction::Offered, 143),
            (Direction::Offered, 145),
        ];
        assert_eq!(found, expected);
        assert!(htlcs.iter().all(|htlc| htlc.amount_msat == 5_000 && htlc.payment_hash == [0x22; 32]));
        assert_eq!(of_channel(&json!({"channel_id": id}), &HashSet::new()), []);
        let uncommitted = json!({"htlcs": [{"expiry": 5, "payment_hash": hash}]});
        assert_eq!(of_channel(&uncommitted, &HashSet::new()), [], "not committed yet");
    }

    #[test]
    fn what_is_in_flight() {
        let (id, hash) = ("11".repeat(32), "22".repeat(32));
        let htlc = |direction, amount: Value| json!({"direction": direction, "id": 4, "amount_msat": amount, "payment_hash": hash, "expiry": 9});
        let channels = [
            json!({"channel_id": id, "htlcs": [htlc("in", json!(5)), htlc("out", json!("6msat"))]}),
            json!({"htlcs": [htlc("in", json!(1))]}),
            json!({"channel_id": id}),
        ];
        let one = |incoming, msat| InFlight {
            channel: ChannelId([0x11; 32]),
            incoming,
            id: 4,
            msat,
            hash: [0x22; 32],
        };
        assert_eq!(in_flight(&channels), [one(true, 5), one(false, 6)]);
    }
}
