//! What others call themselves, as gossip has it. Anybody may choose any name: it is shown escaped and cut, and nothing
//! rests on it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use factory_engine::wire::words::escaped;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::cln::client::Call;

/// Characters of a name.
const LONGEST: usize = 64;
/// Nodes whose names are looked for, and those that are asked for at one look.
const NODES: usize = 1_000;
const AT_ONCE: usize = 8;
/// A name is looked for again after so long.
const AGAIN: Duration = Duration::from_secs(3_600);

/// Names by node id: those that are known, and when each was asked for.
#[derive(Debug, Default)]
pub struct Names(BTreeMap<String, (Instant, Option<String>)>);

impl Names {
    /// Names of the members of these factories, as far as they are known by now.
    pub async fn look<C: Call>(&mut self, rpc: &C, factories: &[Value]) -> Map<String, Value> {
        let members = members(factories);
        self.0.retain(|id, _| members.contains(id));
        let is_due = |id: &&String| self.0.get(id.as_str()).is_none_or(|(asked, _)| asked.elapsed() >= AGAIN);
        let due: Vec<String> = members.iter().filter(is_due).take(AT_ONCE).cloned().collect();
        for id in due {
            let answer = rpc.call("listnodes", json!({"id": id})).await.unwrap_or_else(|error| {
                log::debug!("{id} stays without a name: {error}");
                Value::Null
            });
            let name = answer["nodes"][0]["alias"].as_str().map(shown).filter(|name| !name.is_empty());
            self.0.insert(id, (Instant::now(), name));
        }
        let known =
            self.0.iter().filter_map(|(id, (_, name))| Some((id.clone(), Value::from(name.clone()?))));
        known.collect()
    }
}

/// A name as it is shown.
pub fn shown(alias: &str) -> String {
    escaped(alias.as_bytes(), LONGEST)
}

fn members(factories: &[Value]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for factory in factories {
        let clients = factory["clients"].as_array().into_iter().flatten().map(|client| &client["id"]);
        let ids = clients.chain([&factory["lsp"]]).filter_map(Value::as_str);
        for id in ids {
            if found.len() < NODES {
                found.insert(id.to_owned());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cln::client::CallError;
    use std::sync::{Arc, Mutex};

    /// Every node is called by a bad name; it counts how often it is asked.
    #[derive(Clone, Default)]
    struct Gossip(Arc<Mutex<usize>>);

    impl Call for Gossip {
        async fn call(&self, _: &str, params: Value) -> Result<Value, CallError> {
            *self.0.lock().unwrap() += 1;
            if params["id"] == "02".repeat(33) {
                return Ok(json!({"nodes": []}));
            }
            let alias = format!("<b>\u{202e}{}", "x".repeat(500));
            Ok(json!({"nodes": [{"nodeid": params["id"], "alias": alias}]}))
        }
    }

    #[tokio::test]
    async fn names_come_in_little_by_little_and_harm_nobody() {
        let (gossip, mut names) = (Gossip::default(), Names::default());
        let clients: Vec<Value> = (0..20).map(|number| json!({"id": format!("03{number:064x}")})).collect();
        let factories =
            [json!({"lsp": "02".repeat(33), "clients": clients}), json!({"clients": [{"client": 0}]})];
        let first = names.look(&gossip, &factories).await;
        assert_eq!(first.len(), AT_ONCE - 1);
        for name in first.values() {
            let name = name.as_str().unwrap();
            assert!(name.starts_with("<b>\\u{202e}xx") && name.ends_with('…'), "{name}");
            assert!(name.chars().count() <= LONGEST, "{name}");
        }
        names.look(&gossip, &factories).await;
        assert_eq!(names.look(&gossip, &factories).await.len(), 20);
        // All of them were asked for.
        names.look(&gossip, &factories).await;
        assert_eq!(*gossip.0.lock().unwrap(), 21);
        assert_eq!(names.look(&gossip, &[]).await, Map::new());
    }
}
