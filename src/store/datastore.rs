//! The store in lightningd's own database, through its datastore: backed up with the node, on
//! whatever database the operator runs. A write answers once the database has committed it.
//!
//! A record's key is `["cln-factory", "factory", <instance>, <sequence, 8 digits>]`. A factory with a key
//! `["cln-factory", "archived", <instance>]` is left alone at a start.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use crate::cln::client::{Call, CallError};
use crate::types::InstanceId;

use super::{History, Store, StoreError};

const ROOT: &str = "cln-factory";
const FACTORY: &str = "factory";
const ARCHIVED: &str = "archived";
/// Eight digits: no factory lives to see a hundred million events.
const MAX_SEQUENCE: u32 = 99_999_999;

/// lightningd's datastore.
#[derive(Debug)]
pub struct Datastore<C> {
    rpc: C,
    next: HashMap<InstanceId, u32>,
    /// Keys that may exist although their append failed. They go before anything else is written.
    doubtful: Vec<(InstanceId, u32)>,
}

impl<C: Call> Datastore<C> {
    /// Through this connection. [`Store::load_all`] comes first: it learns the sequence numbers.
    pub fn new(rpc: C) -> Self {
        Self { rpc, next: HashMap::new(), doubtful: Vec::new() }
    }

    async fn clear_doubtful(&mut self) -> Result<(), StoreError> {
        while let Some((instance, sequence)) = self.doubtful.last().copied() {
            let key = record_key(instance, sequence);
            let answer = self.rpc.call("deldatastore", json!({"key": key})).await;
            match answer {
                Ok(_) => {}
                Err(error) if error.code == Some(NO_SUCH_KEY) => {}
                Err(error) => return Err(failed("clearing an unfinished write", error)),
            }
            self.doubtful.pop();
        }
        Ok(())
    }

    /// The factories below one of our keys.
    async fn instances(&self, below: &str) -> Result<Vec<InstanceId>, StoreError> {
        let instance = |entry: Value| {
            let key: Vec<String> = serde_json::from_value(entry["key"].clone())
                .map_err(|error| StoreError(format!("reading: a key that is not a list: {error}")))?;
            let instance = key.get(2).and_then(|text| text.parse().ok());
            instance.ok_or_else(|| StoreError(format!("reading: unexpected key {}", key.join("/"))))
        };
        self.list(json!([ROOT, below])).await?.into_iter().map(instance).collect()
    }

    async fn list(&self, key: Value) -> Result<Vec<Value>, StoreError> {
        let answer = self.rpc.call("listdatastore", json!({"key": key})).await;
        let mut answer = answer.map_err(|error| failed("reading", error))?;
        match answer["datastore"].take() {
            Value::Array(entries) => Ok(entries),
            _ => Err(StoreError("reading: listdatastore gave no list".to_owned())),
        }
    }
}

/// lightningd's `DATASTORE_DEL_DOES_NOT_EXIST`.
const NO_SUCH_KEY: i32 = 1200;

impl<C: Call> Store for Datastore<C> {
    async fn load_all(&mut self) -> Result<Vec<History>, StoreError> {
        let archived: HashSet<InstanceId> = self.archived().await?.into_iter().collect();
        let mut histories = Vec::new();
        for instance in self.instances(FACTORY).await? {
            if archived.contains(&instance) {
                continue;
            }
            let records = self.load(instance).await?;
            // The list was read from the datastore entry by entry: it can't exceed 8 digits.
            let next = u32::try_from(records.len()).unwrap_or(MAX_SEQUENCE);
            self.next.insert(instance, next);
            histories.push((instance, records));
        }
        Ok(histories)
    }

    async fn archive(&mut self, instances: &[InstanceId]) -> Result<(), StoreError> {
        for instance in instances {
            // Only the key matters, but an entry has to have something.
            let key = json!([ROOT, ARCHIVED, instance.to_string()]);
            let params = json!({"key": key, "hex": "01", "mode": "create-or-replace"});
            let written = self.rpc.call("datastore", params).await;
            written.map_err(|error| failed("writing", error))?;
        }
        Ok(())
    }

    async fn archived(&mut self) -> Result<Vec<InstanceId>, StoreError> {
        self.instances(ARCHIVED).await
    }

    async fn load(&mut self, instance: InstanceId) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut records = Vec::new();
        for entry in self.list(json!([ROOT, FACTORY, instance.to_string()])).await? {
            let text = entry["key"][3].as_str().unwrap_or_default();
            // lightningd lists keys in order, so a gap shows as a wrong number here.
            if text != sequence_text(records.len()) {
                return Err(StoreError(format!(
                    "reading factory {instance}: found record '{text}' where {} should be",
                    sequence_text(records.len())
                )));
            }
            let record = entry["hex"]
                .as_str()
                .and_then(unhex)
                .ok_or_else(|| StoreError(format!("reading factory {instance}: record {text} is not hex")))?;
            records.push(record);
        }
        Ok(records)
    }

    async fn append(&mut self, records: &[(InstanceId, Vec<u8>)]) -> Result<(), StoreError> {
        self.clear_doubtful().await?;
        let mut next: HashMap<InstanceId, u32> = HashMap::new();
        for (instance, record) in records {
            let sequence =
                next.get(instance).or_else(|| self.next.get(instance)).copied().unwrap_or_default();
            if sequence > MAX_SEQUENCE {
                return Err(StoreError(format!("factory {instance} has too many records")));
            }
            // Doubtful until the whole batch is written: a call that got no answer may still have
            // taken effect.
            self.doubtful.push((*instance, sequence));
            let written = self
                .rpc
                .call(
                    "datastore",
                    json!({
                        "key": record_key(*instance, sequence),
                        "hex": hex(record),
                        "mode": "must-create",
                    }),
                )
                .await;
            written.map_err(|error| failed("writing", error))?;
            next.insert(*instance, sequence + 1);
        }
        self.next.extend(next);
        self.doubtful.clear();
        Ok(())
    }

    async fn put(&mut self, name: &str, value: Vec<u8>) -> Result<(), StoreError> {
        let params = json!({"key": [ROOT, name], "hex": hex(&value), "mode": "create-or-replace"});
        let written = self.rpc.call("datastore", params).await;
        written.map(drop).map_err(|error| failed("writing", error))
    }

    async fn get(&mut self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let entries = self.list(json!([ROOT, name])).await?;
        Ok(entries.first().and_then(|entry| entry["hex"].as_str()).and_then(unhex))
    }
}

fn failed(what: &str, error: CallError) -> StoreError {
    StoreError(format!("{what}: {error}"))
}

fn record_key(instance: InstanceId, sequence: u32) -> Value {
    json!([ROOT, FACTORY, instance.to_string(), sequence_text(sequence)])
}

fn sequence_text(sequence: impl std::fmt::Display) -> String {
    format!("{sequence:0>8}")
}

fn hex(bytes: &[u8]) -> String {
    use bitcoin::hex::DisplayHex;
    bytes.to_lower_hex_string()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    bitcoin::hex::FromHex::from_hex(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    /// lightningd's datastore, as far as we use it.
    #[derive(Clone, Default)]
    struct FakeNode {
        entries: Arc<Mutex<BTreeMap<Vec<String>, String>>>,
        /// Which call from now on fails, and whether it takes effect all the same.
        fault: Arc<Mutex<Option<(u32, bool)>>>,
    }

    impl FakeNode {
        fn fail_at(&self, call: u32, takes_effect: bool) {
            *self.fault.lock().unwrap() = Some((call, takes_effect));
        }

        fn error(method: &str, code: Option<i32>) -> CallError {
            CallError { method: method.to_owned(), code, message: "failed".to_owned() }
        }
    }

    impl Call for FakeNode {
        async fn call(&self, method: &str, params: Value) -> Result<Value, CallError> {
            let mut lost = false;
            {
                let mut fault = self.fault.lock().unwrap();
                match *fault {
                    Some((0, false)) => {
                        *fault = None;
                        return Err(Self::error(method, None));
                    }
                    Some((0, true)) => {
                        *fault = None;
                        lost = true;
                    }
                    Some((left, effect)) => *fault = Some((left - 1, effect)),
                    None => {}
                }
            }
            let key: Vec<String> = serde_json::from_value(params["key"].clone()).unwrap();
            let mut entries = self.entries.lock().unwrap();
            let result = match method {
                "datastore" => {
                    if params["mode"] == "must-create" && entries.contains_key(&key) {
                        return Err(Self::error(method, Some(1202)));
                    }
                    entries.insert(key, params["hex"].as_str().unwrap().to_owned());
                    json!({})
                }
                "deldatastore" => match entries.remove(&key) {
                    Some(_) => json!({}),
                    None => return Err(Self::error(method, Some(NO_SUCH_KEY))),
                },
                _ => {
                    // An exact match, or the next level of keys; values only where there are any.
                    let mut list: Vec<Value> = Vec::new();
                    for (have, hex) in entries.iter().filter(|(have, _)| have.starts_with(&key)) {
                        let shown = &have[..have.len().min(key.len() + 1)];
                        let entry = if shown.len() == have.len() {
                            json!({"key": shown, "hex": hex})
                        } else {
                            json!({"key": shown})
                        };
                        if list.last() != Some(&entry) {
                            list.push(entry);
                        }
                    }
                    json!({"datastore": list})
                }
            };
            if lost { Err(Self::error(method, None)) } else { Ok(result) }
        }
    }

    #[tokio::test]
    async fn suite() {
        let node = FakeNode::default();
        super::super::suite::run(|| Datastore::new(node.clone())).await;
    }

    // S14
    #[tokio::test]
    async fn a_failed_batch_leaves_nothing_wherever_it_failed() {
        let (a, b) = (InstanceId([1; 32]), InstanceId([2; 32]));
        for call in 0..3 {
            for takes_effect in [false, true] {
                let node = FakeNode::default();
                let mut store = Datastore::new(node.clone());
                store.load_all().await.unwrap();
                store.append(&[(a, vec![1])]).await.unwrap();
                node.fail_at(call, takes_effect);
                store.append(&[(a, vec![2]), (b, vec![3]), (a, vec![4])]).await.unwrap_err();
                store.append(&[(a, vec![5])]).await.unwrap();
                let loaded = Datastore::new(node).load_all().await.unwrap();
                assert_eq!(loaded, [(a, vec![vec![1], vec![5]])], "call {call} {takes_effect}");
            }
        }
    }

    #[tokio::test]
    async fn a_missing_or_foreign_record_is_named() {
        let node = FakeNode::default();
        let mut store = Datastore::new(node.clone());
        let a = InstanceId([1; 32]);
        store.append(&[(a, vec![1]), (a, vec![2])]).await.unwrap();
        let key: Vec<String> = serde_json::from_value(record_key(a, 0)).unwrap();
        node.entries.lock().unwrap().remove(&key);
        let error = Datastore::new(node).load_all().await.unwrap_err();
        assert!(error.0.contains("found record '00000001' where 00000000 should be"), "{error}");
    }
}
