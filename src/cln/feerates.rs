//! What lightningd's backend and others say of fees, and what this node has in its channels.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use factory_engine::io::fees::{FeeNews, Feerates};
use factory_engine::io::sources::{Decided, Estimate, LOWEST, Source, decide};
use factory_engine::types::{Amount, ChannelId};
use factory_runtime::now;
use serde_json::{Value, json};

use super::bitcoind::Bitcoind;
use super::client::{Call, field};

/// Vbytes of a kiloweight unit, in thousandths: 1,000 weight units are 250 vB.
const WEIGHT_PER_VBYTE: u64 = 4;

/// What was decided last: for `factory-status`, and for when nobody says anything.
#[derive(Debug, Clone, Default)]
pub struct Known(Arc<Mutex<Option<Decided>>>);

impl Known {
    /// Nothing before the first block.
    pub fn get(&self) -> Option<Decided> {
        // Writers only assign: a poisoned lock still holds a whole value.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, decided: Decided) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(decided);
    }
}

/// Channels as `listpeerchannels` shows them, and what the engine has to know of fees.
pub async fn look<C: Call>(rpc: &C, bitcoind: &Bitcoind, known: &Known) -> (Option<Vec<Value>>, FeeNews) {
    let feerates = Some(rates(rpc, bitcoind, known).await);
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

/// Whatever the sources say comes to: the backend, where it has no estimates lightningd, which remembers them, and
/// bitcoind. Which of them counts is the engine's ([`decide`]).
pub async fn rates<C: Call>(rpc: &C, bitcoind: &Bitcoind, known: &Known) -> Feerates {
    let backend = match rpc.call("estimatefees", json!({})).await {
        Ok(answer) => Some(read(&answer)),
        Err(error) => {
            log::warn!("cannot learn feerates from the backend: {error}");
            None
        }
    };
    let has_estimates = backend.as_ref().is_some_and(|feerates| !feerates.estimates.is_empty());
    let lightningd = if has_estimates { None } else { remembered(rpc).await };
    let own = [(Source::Backend, backend), (Source::Lightningd, lightningd)];
    let own = own.into_iter().filter_map(|(source, feerates)| Some((source, feerates?)));
    let said: Vec<_> = own.chain(bitcoind.feerates().await).collect();
    let decided = decide(&said, known.get().as_ref(), now());
    warn_of_what_nobody_bears_out(&decided);
    let feerates = decided.feerates();
    known.set(decided);
    feerates
}

fn warn_of_what_nobody_bears_out(decided: &Decided) {
    for (blocks, estimate) in &decided.estimates {
        if estimate.feerate < estimate.said {
            log::warn!(
                "{} says {} sat/kw for {blocks} blocks, and nobody else anything like it: {} sat/kw count",
                estimate.source.name(),
                estimate.said,
                estimate.feerate
            );
        }
    }
}

/// As `factory-status` shows it.
pub fn shown(decided: &Decided) -> Value {
    let one = |(blocks, estimate): (&u32, &Estimate)| {
        let mut object = json!({
            "blocks": blocks,
            "feerate_perkw": estimate.feerate,
            "source": estimate.source.name(),
        });
        if estimate.feerate < estimate.said {
            object["said_perkw"] = estimate.said.into();
        }
        object
    };
    json!({
        "floor_perkw": decided.floor,
        "floor_source": decided.floor_source.name(),
        "estimates": decided.estimates.iter().map(one).collect::<Vec<_>>(),
        "seconds_old": now().saturating_sub(decided.since) / 1000,
    })
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
        let known = Known::default();
        let remembered = Feerates { floor: 300, estimates: BTreeMap::from([(2, 9_000)]) };
        assert_eq!(rates(&Blind(None), &off, &known).await, remembered);
        let nothing = json!({"feerates": [], "feerate_floor": 4_000});
        let blind = Blind(Some(nothing));
        assert_eq!(rates(&blind, &off, &known).await, Feerates { floor: 1_000, ..remembered });
        let shown = shown(&known.get().unwrap());
        assert_eq!(shown["floor_source"], "backend");
        let estimate = json!({"blocks": 2, "feerate_perkw": 9_000, "source": "lightningd"});
        assert_eq!(shown["estimates"], json!([estimate]));
        let answer = json!({"feerates": [{"blocks": 2, "feerate": 8_000}], "feerate_floor": 1_000});
        let own = Feerates { floor: 253, estimates: BTreeMap::from([(2, 2_000)]) };
        assert_eq!(rates(&Blind(Some(answer)), &off, &known).await, own);
    }

    /// Everything is away.
    #[derive(Clone)]
    struct Away;

    impl Call for Away {
        async fn call(&self, method: &str, _: Value) -> Result<Value, CallError> {
            Err(CallError::new(method, "it is away"))
        }
    }

    // S26
    #[tokio::test]
    async fn where_nobody_answers_the_last_count() {
        let (off, known) = (Bitcoind::default(), Known::default());
        let nothing = Feerates { floor: LOWEST, estimates: BTreeMap::new() };
        assert_eq!(rates(&Away, &off, &known).await, nothing);
        let said = rates(&Blind(None), &off, &known).await;
        assert_eq!(rates(&Away, &off, &known).await, said);
        let shown = shown(&known.get().unwrap());
        assert_eq!((&shown["floor_perkw"], &shown["floor_source"]), (&json!(300), &json!("lightningd")));
        assert_eq!(shown["estimates"].as_array().unwrap().len(), 1);
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
