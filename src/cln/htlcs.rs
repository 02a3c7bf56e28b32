//! Channels and HTLCs that are not settled yet, for the engine's deadlines (S16) and the cap on dust.

use bitcoin::hex::FromHex;
use factory_engine::PendingHtlc;
use factory_engine::admission::dust::InFlight;
use factory_engine::types::ChannelId;
use serde_json::Value;

/// Every HTLC, in whatever state: an offered one can time out, a received one may have to be claimed.
/// `channels`: of `listpeerchannels`.
pub fn of_channels(channels: &[Value]) -> Vec<PendingHtlc> {
    channels.iter().flat_map(of_channel).collect()
}

fn id(channel: &Value) -> Option<ChannelId> {
    channel["channel_id"].as_str()?.parse().ok()
}

fn of_channel(channel: &Value) -> Vec<PendingHtlc> {
    let Some(channel_id) = id(channel) else { return vec![] };
    let expiry = |htlc: &Value| htlc["expiry"].as_u64().and_then(|expiry| u32::try_from(expiry).ok());
    let htlcs = channel["htlcs"].as_array().map(Vec::as_slice).unwrap_or_default();
    htlcs.iter().filter_map(expiry).map(|cltv_expiry| PendingHtlc { channel_id, cltv_expiry }).collect()
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
        incoming: htlc["direction"] == "in",
        id: htlc["id"].as_u64()?,
        msat: msat(&htlc["amount_msat"]),
        hash: <[u8; 32]>::from_hex(htlc["payment_hash"].as_str()?).ok()?,
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
        let id = "11".repeat(32);
        let channel = json!({
            "channel_id": id,
            "htlcs": [
                {"direction": "in", "id": 0, "expiry": 140, "state": "RCVD_ADD_ACK_REVOCATION"},
                {"direction": "out", "id": 3, "expiry": 130, "state": "SENT_ADD_HTLC"},
            ],
        });
        let expiries: Vec<u32> = of_channel(&channel).iter().map(|htlc| htlc.cltv_expiry).collect();
        assert_eq!(expiries, [140, 130]);
        assert_eq!(of_channel(&json!({"channel_id": id})), []);
        assert_eq!(of_channel(&json!({"htlcs": [{"expiry": 5}]})), [], "not committed yet");
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
