//! What lightningd's backend says of fees, and what this node has in its channels.

use std::collections::BTreeMap;

use factory_engine::io::fees::{FeeNews, Feerates};
use factory_engine::types::{Amount, ChannelId};
use serde_json::{Value, json};

use super::bitcoind::Bitcoind;
use super::client::{Call, field};

/// Vbytes of a kiloweight unit, in thousandths: 1,000 weight units are 250 vB.
const WEIGHT_PER_VBYTE: u64 = 4;
/// Lowest feerate that relays after rounding, sat/kw (as lightningd's).
const LOWEST: u32 = 253;

/// Channels as `listpeerchannels` shows them, and what the engine has to know of fees.
///
/// Without an answer from any source the last feerates stay in force; that is logged here.
pub async fn look<C: Call>(rpc: &C, bitcoind: &Bitcoind) -> (Option<Vec<Value>>, FeeNews) {
    let feerates = rates(rpc, bitcoind).await;
    let channels: Result<Vec<Value>, _> = match rpc.call("listpeerchannels", json!({})).await {
        Ok(answer) => field("listpeerchannels", &answer, "channels"),
        Err(error) => Err(error),
    };
    match channels {
        Ok(channels) => {
            let stakes = stakes(&channels);
            (Some(channels), FeeNews { feerates, stakes })
        }
        Err(error) => {
            log::warn!("cannot look at channels and their HTLCs: {error}");
            (None, FeeNews { feerates, stakes: BTreeMap::new() })
        }
    }
}

/// The backend's estimates; where it has none, lightningd's own, which it remembers, and bitcoind's. The floor
/// is the highest that anybody names.
pub async fn rates<C: Call>(rpc: &C, bitcoind: &Bitcoind) -> Option<Feerates> {
    let backend = match rpc.call("estimatefees", json!({})).await {
        Ok(answer) => Some(read(&answer)),
        Err(error) => {
            log::warn!("cannot learn feerates from the backend: {error}");
            None
        }
    };
    let known = backend.as_ref().is_some_and(|feerates| !feerates.estimates.is_empty());
    let lightningd = if known { None } else { remembered(rpc).await };
    let bitcoind = bitcoind.feerates(!known).await;
    let all = [backend, lightningd, bitcoind].into_iter().flatten();
    all.reduce(|feerates, more| feerates.and(&more))
}

/// What lightningd remembers of earlier estimates.
async fn remembered<C: Call>(rpc: &C) -> Option<Feerates> {
    let answer = rpc.call("feerates", json!({"style": "perkw"})).await;
    let answer = answer.inspect_err(|error| log::debug!("nor from lightningd: {error}")).ok()?;
    let number = |value: &Value| u32::try_from(value.as_u64()?).ok();
    let one = |entry: &Value| Some((number(&entry["blockcount"])?, number(&entry["feerate"])?));
    let estimates = answer["perkw"]["estimates"].as_array().map(Vec::as_slice).unwrap_or_default();
    Some(Feerates {
        floor: number(&answer["perkw"]["floor"]).unwrap_or(LOWEST).max(LOWEST),
        estimates: estimates.iter().filter_map(one).collect(),
    })
}

/// What this node would lose with each channel.
pub fn stakes(channels: &[Value]) -> BTreeMap<ChannelId, Amount> {
    channels.iter().filter_map(stake).collect()
}

/// bcli's feerates are in sat/kvB. Without estimates the list is empty.
fn read(answer: &Value) -> Feerates {
    let perkw = |perkvb: &Value| {
        let perkw = perkvb.as_u64()?.div_ceil(WEIGHT_PER_VBYTE);
        Some(u32::try_from(perkw).unwrap_or(u32::MAX).max(LOWEST))
    };
    let one = |entry: &Value| {
        let blocks = u32::try_from(entry["blocks"].as_u64()?).ok()?;
        Some((blocks, perkw(&entry["feerate"])?))
    };
    let estimates = answer["feerates"].as_array().map(Vec::as_slice).unwrap_or_default();
    Feerates {
        floor: perkw(&answer["feerate_floor"]).unwrap_or(LOWEST),
        estimates: estimates.iter().filter_map(one).collect(),
    }
}

/// What this node would lose with a channel: its balance, and every HTLC on it.
fn stake(channel: &Value) -> Option<(ChannelId, Amount)> {
    let channel_id = channel["channel_id"].as_str()?.parse().ok()?;
    let htlcs = channel["htlcs"].as_array().map(Vec::as_slice).unwrap_or_default();
    let own = channel["to_us_msat"].as_u64()?;
    let msat = htlcs.iter().filter_map(|htlc| htlc["amount_msat"].as_u64()).fold(own, u64::saturating_add);
    Some((channel_id, Amount::from_sat(msat / 1000)))
}

#[cfg(test)]
mod tests {
    use super::super::client::CallError;
    use super::*;

    #[test]
    fn backends_answers() {
        let answer = json!({
            "feerates": [{"blocks": 2, "feerate": 60_000}, {"blocks": 100, "feerate": 1_001}],
            "feerate_floor": 1_000,
        });
        let feerates = read(&answer);
        assert_eq!(feerates.floor, 253);
        assert_eq!(feerates.estimates, BTreeMap::from([(2, 15_000), (100, 253)]));
        // A node that has seen too little: bcli then has no estimates, and perhaps no floor.
        let nothing = read(&json!({"feerates": [], "feerate_floor": null}));
        assert_eq!(nothing, Feerates { floor: 253, estimates: BTreeMap::new() });
    }

    /// A node whose backend has no estimates, or is away.
    #[derive(Clone)]
    struct Blind(Option<Value>);

    impl Call for Blind {
        async fn call(&self, method: &str, _: Value) -> Result<Value, CallError> {
            match method {
                "estimatefees" => self.0.clone().ok_or_else(|| CallError::new(method, "it is away")),
                _ => Ok(json!({"perkw": {"floor": 300, "estimates": [
                    {"blockcount": 2, "feerate": 9_000, "smoothed_feerate": 100},
                ]}})),
            }
        }
    }

    // S26
    #[tokio::test]
    async fn where_the_backend_knows_nothing_lightningd_is_asked() {
        let off = Bitcoind::default();
        let remembered = Feerates { floor: 300, estimates: BTreeMap::from([(2, 9_000)]) };
        assert_eq!(rates(&Blind(None), &off).await, Some(remembered.clone()));
        let nothing = json!({"feerates": [], "feerate_floor": 4_000});
        assert_eq!(rates(&Blind(Some(nothing)), &off).await, Some(Feerates { floor: 1_000, ..remembered }));
        let known = json!({"feerates": [{"blocks": 2, "feerate": 8_000}], "feerate_floor": 1_000});
        let own = Feerates { floor: 253, estimates: BTreeMap::from([(2, 2_000)]) };
        assert_eq!(rates(&Blind(Some(known)), &off).await, Some(own));
    }

    #[test]
    fn a_balance_with_its_htlcs() {
        let id = "22".repeat(32);
        let channel = json!({
            "channel_id": id, "to_us_msat": 5_000_000, "total_msat": 9_000_000,
            "htlcs": [{"amount_msat": 1_000_000, "expiry": 5}, {"amount_msat": 999, "expiry": 6}],
        });
        assert_eq!(stake(&channel), Some((id.parse().unwrap(), Amount::from_sat(6_000))));
        assert_eq!(stake(&json!({"to_us_msat": 5})), None);
    }
}
