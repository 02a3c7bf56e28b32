//! Channels and HTLCs that are not settled yet, for the engine's deadlines (S16).

use serde_json::Value;

use crate::protocol::PendingHtlc;
use crate::types::ChannelId;

/// Every channel that lightningd has not done with, and every HTLC of it, in whatever state: an offered
/// one can time out, a received one may have to be claimed. `channels`: of `listpeerchannels`.
pub fn of_channels(channels: &[Value]) -> (Vec<ChannelId>, Vec<PendingHtlc>) {
    (channels.iter().filter_map(id).collect(), channels.iter().flat_map(of_channel).collect())
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
}
