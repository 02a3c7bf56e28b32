//! What the factories' channels hold, of `listpeerchannels`. A large node's list has megabytes: it is read again only if
//! something has changed, and takes a small part of lightningd's time at most.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::cln::client::{Call, CallError};
use crate::cln::htlcs::msat;

/// After a reading none follows for so many times as long as it took.
const REST: u32 = 9;
/// And never for longer than this.
const LONGEST_REST: Duration = Duration::from_secs(30);

/// Balances as they were told last.
#[derive(Debug, Default)]
pub struct Balances {
    told: Map<String, Value>,
    /// What was so then.
    then: Option<Then>,
    /// Until when nothing is read again.
    rests: Option<Instant>,
}

/// What balances follow from: as long as it is the same so are they.
#[derive(Debug, PartialEq)]
struct Then {
    /// lightningd's counts of HTLCs that were made and that have changed.
    htlcs: [u64; 2],
    /// Who is connected.
    peers: Value,
    /// The channels that are shown, and their states.
    channels: BTreeMap<String, Value>,
}

impl Balances {
    /// Of the channels that these factories name, by channel_id; what was told before if lightningd doesn't answer.
    pub async fn look<C: Call>(&mut self, rpc: &C, peers: &Value, factories: &[Value]) -> Map<String, Value> {
        let channels = named(factories);
        if channels.is_empty() {
            return Map::new();
        }
        if let Err(error) = self.renew(rpc, peers, channels).await {
            log::debug!("the page shows balances as they were: {error}");
        }
        self.told.clone()
    }

    async fn renew<C: Call>(
        &mut self,
        rpc: &C,
        peers: &Value,
        channels: BTreeMap<String, Value>,
    ) -> Result<(), CallError> {
        if self.rests.is_some_and(|until| Instant::now() < until) {
            return Ok(());
        }
        let mut htlcs = [0; 2];
        for (index, count) in ["created", "updated"].into_iter().zip(&mut htlcs) {
            let params = json!({"subsystem": "htlcs", "indexname": index, "nextvalue": 0});
            *count = rpc.call("wait", params).await?[index].as_u64().unwrap_or(0);
        }
        let now = Then { htlcs, peers: peers.clone(), channels };
        if self.then.as_ref() == Some(&now) {
            return Ok(());
        }
        let began = Instant::now();
        let answer = rpc.call("listpeerchannels", json!({})).await?;
        self.rests = Some(Instant::now() + began.elapsed().saturating_mul(REST).min(LONGEST_REST));
        let all = answer["channels"].as_array().map(Vec::as_slice).unwrap_or_default();
        self.told = all
            .iter()
            .filter_map(|channel| {
                let (id, _) = now.channels.get_key_value(channel["channel_id"].as_str()?)?;
                Some((id.clone(), one(channel)))
            })
            .collect();
        self.then = Some(now);
        Ok(())
    }
}

/// Every channel that these factories name, with lightningd's state of it.
fn named(factories: &[Value]) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    for factory in factories {
        let lists =
            ["clients", "sales", "jit_channels"].into_iter().filter_map(|list| factory[list].as_array());
        for channel in lists.flatten() {
            if let Some(id) = channel["channel_id"].as_str() {
                found.insert(id.to_owned(), channel["channel_state"].clone());
            }
        }
    }
    found
}

fn one(channel: &Value) -> Value {
    json!({
        "state": channel["state"],
        "peer_connected": channel["peer_connected"],
        "total_msat": msat(&channel["total_msat"]),
        "to_us_msat": msat(&channel["to_us_msat"]),
        "spendable_msat": msat(&channel["spendable_msat"]),
        "receivable_msat": msat(&channel["receivable_msat"]),
        "htlcs": channel["htlcs"].as_array().map_or(0, Vec::len),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// A node of one channel, whose balance and HTLCs change; it counts how often its channels are read.
    #[derive(Clone, Default)]
    struct Node(Arc<Mutex<(u64, u64, usize)>>);

    impl Call for Node {
        async fn call(&self, method: &str, _: Value) -> Result<Value, CallError> {
            let (balance, htlcs, read) = &mut *self.0.lock().unwrap();
            Ok(match method {
                "wait" => json!({"created": *htlcs, "updated": *htlcs}),
                "listpeerchannels" => {
                    *read += 1;
                    let other = json!({"channel_id": "ee".repeat(32), "state": "CHANNELD_NORMAL"});
                    json!({"channels": [other, {"channel_id": "aa".repeat(32), "state": "CHANNELD_NORMAL",
                        "peer_connected": true, "total_msat": 9_000, "to_us_msat": *balance, "htlcs": [{}]}]})
                }
                _ => return Err(CallError::new(method, "unknown command")),
            })
        }
    }

    /// What a look tells, without a rest before it, and how often the channels were read so far.
    async fn look(
        balances: &mut Balances,
        node: &Node,
        peers: &Value,
        factories: &[Value],
    ) -> (Map<String, Value>, usize) {
        balances.rests = None;
        let told = balances.look(node, peers, factories).await;
        (told, node.0.lock().unwrap().2)
    }

    #[tokio::test]
    async fn channels_are_read_again_when_something_has_changed() {
        let (node, mut balances) = (Node::default(), Balances::default());
        let factories = [
            json!({"clients": [{"channel_id": "aa".repeat(32), "channel_state": "CHANNELD_NORMAL"}, {"client": 1}]}),
        ];
        let mut peers = json!([]);
        node.0.lock().unwrap().0 = 5;
        let (told, read) = look(&mut balances, &node, &peers, &factories).await;
        assert_eq!(told.len(), 1);
        let channel = &told["aa".repeat(32).as_str()];
        assert_eq!((&channel["to_us_msat"], &channel["htlcs"], read), (&json!(5), &json!(1), 1));
        // Nothing has changed that lightningd says.
        assert_eq!(look(&mut balances, &node, &peers, &factories).await, (told.clone(), 1));
        *node.0.lock().unwrap() = (6, 1, 1);
        let (told, read) = look(&mut balances, &node, &peers, &factories).await;
        assert_eq!((&told["aa".repeat(32).as_str()]["to_us_msat"], read), (&json!(6), 2));
        peers = json!([{"id": "02"}]);
        assert_eq!(look(&mut balances, &node, &peers, &factories).await.1, 3);
        assert_eq!(look(&mut balances, &node, &peers, &[]).await, (Map::new(), 3));
    }

    #[tokio::test]
    async fn a_reading_is_followed_by_a_rest() {
        let (node, mut balances) = (Node::default(), Balances::default());
        let factories = [json!({"sales": [{"channel_id": "aa".repeat(32)}]})];
        assert_eq!(balances.look(&node, &Value::Null, &factories).await.len(), 1);
        balances.rests = Some(Instant::now() + LONGEST_REST);
        *node.0.lock().unwrap() = (6, 1, 1);
        assert_eq!(balances.look(&node, &Value::Null, &factories).await.len(), 1);
        assert_eq!(node.0.lock().unwrap().2, 1);
    }
}
