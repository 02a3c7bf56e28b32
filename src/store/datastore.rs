//! The store in lightningd's own database, through its datastore: backed up with the node, on
//! whatever database the operator runs. A write answers once the database has committed it.
//!
//! A record's key is `["cln-factory", "factory", <instance>, <sequence, 8 digits>]`. A factory with a key
//! `["cln-factory", "archived", <instance>]` is left alone at a start.
//!
//! A step of one record is one write. One of several records is written as a whole to `["cln-factory",
//! "journal", <part, 4 digits>]` first: with its last part it has happened. Then it is *folded*, its records
//! go to their own keys, and its parts are deleted, the last one first. A start folds a whole journal (what
//! is there already must be the same), and deletes parts without a last one: they never happened. What can't
//! be folded or deleted right now is before the next write.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use crate::cln::client::{Call, CallError};
use crate::types::InstanceId;

use super::journal::{self, Entry};
use super::{History, Store, StoreError};

const ROOT: &str = "cln-factory";
const FACTORY: &str = "factory";
const ARCHIVED: &str = "archived";
const JOURNAL: &str = "journal";
/// Eight digits: no factory lives to see a hundred million events.
const MAX_SEQUENCE: u32 = 99_999_999;
/// Four digits: more than a gigabyte.
const MAX_PARTS: usize = 9_999;

/// lightningd's datastore.
#[derive(Debug)]
pub struct Datastore<C> {
    rpc: C,
    /// Of each factory that wasn't archived; nothing before [`Store::load_all`].
    next: Option<HashMap<InstanceId, u32>>,
    archived: HashSet<InstanceId>,
    /// Keys that may exist although they shouldn't (any more). They go before anything else is written, the
    /// last one first.
    doubtful: Vec<Value>,
    /// A step that has happened and is not folded yet, and how many parts it has.
    journal: Option<(Vec<Entry>, usize)>,
}

impl<C: Call> Datastore<C> {
    /// Through this connection. [`Store::load_all`] comes first: it learns the sequence numbers, and finishes
    /// what a crash has left. Without it there is only reading.
    pub fn new(rpc: C) -> Self {
        Self { rpc, next: None, archived: HashSet::new(), doubtful: Vec::new(), journal: None }
    }

    /// Does what the last step, or the last start, has left to do.
    async fn settle(&mut self) -> Result<(), StoreError> {
        self.clear_doubtful().await?;
        let Some((entries, parts)) = &self.journal else { return Ok(()) };
        for entry in entries {
            self.fold(entry).await?;
        }
        self.doubtful.extend((0..*parts).map(part_key));
        self.journal = None;
        self.clear_doubtful().await
    }

    async fn clear_doubtful(&mut self) -> Result<(), StoreError> {
        while let Some(key) = self.doubtful.last() {
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

    /// Brings a record of the journal to its place, if it isn't there.
    async fn fold(&self, entry: &Entry) -> Result<(), StoreError> {
        let key = record_key(entry.instance, entry.sequence);
        match self.create(&key, &entry.record).await {
            Ok(()) => Ok(()),
            Err(error) if error.code == Some(KEY_EXISTS) => {
                let there = self.list(key).await?;
                let same = there.first().and_then(|there| there["hex"].as_str()).and_then(unhex);
                if same.as_ref() == Some(&entry.record) { Ok(()) } else { Err(differs(entry)) }
            }
            Err(error) => Err(failed("writing", error)),
        }
    }

    async fn create(&self, key: &Value, bytes: &[u8]) -> Result<(), CallError> {
        let params = json!({"key": key, "hex": hex(bytes), "mode": "must-create"});
        self.rpc.call("datastore", params).await.map(drop)
    }

    /// What is in the journal, and how many parts that are.
    async fn read_journal(&self) -> Result<(Option<Vec<Entry>>, usize), StoreError> {
        let damaged = |why: &str| StoreError(format!("reading the journal: {why}"));
        let mut parts = Vec::new();
        for entry in self.list(json!([ROOT, JOURNAL])).await? {
            if entry["key"] != part_key(parts.len()) {
                return Err(damaged("a part is missing"));
            }
            let part = entry["hex"].as_str().and_then(unhex);
            parts.push(part.ok_or_else(|| damaged("a part is not hex"))?);
        }
        let entries = journal::decode(&parts).map_err(damaged)?;
        Ok((entries, parts.len()))
    }

    /// The records of a factory, with those that are still in the journal.
    async fn read(&self, instance: InstanceId, journal: &[Entry]) -> Result<Vec<Vec<u8>>, StoreError> {
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
            if self.doubtful.contains(&entry["key"]) {
                break;
            }
            let record = entry["hex"]
                .as_str()
                .and_then(unhex)
                .ok_or_else(|| StoreError(format!("reading factory {instance}: record {text} is not hex")))?;
            records.push(record);
        }
        for entry in journal.iter().filter(|entry| entry.instance == instance) {
            let at = usize::try_from(entry.sequence).unwrap_or(usize::MAX);
            match records.get(at) {
                Some(there) if *there == entry.record => {}
                None if at == records.len() => records.push(entry.record.clone()),
                _ => return Err(differs(entry)),
            }
        }
        Ok(records)
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

    /// Where each of these records goes.
    fn place(&self, records: &[(InstanceId, Vec<u8>)]) -> Result<Vec<Entry>, StoreError> {
        let known = self.next.as_ref();
        let known =
            known.ok_or_else(|| StoreError("nothing may be written before all is read".to_owned()))?;
        let mut next: HashMap<InstanceId, u32> = HashMap::new();
        let place = |(instance, record): &(InstanceId, Vec<u8>)| {
            if self.archived.contains(instance) {
                return Err(StoreError(format!("factory {instance} is archived")));
            }
            let next =
                next.entry(*instance).or_insert_with(|| known.get(instance).copied().unwrap_or_default());
            if *next > MAX_SEQUENCE {
                return Err(StoreError(format!("factory {instance} has too many records")));
            }
            let entry = Entry { instance: *instance, sequence: *next, record: record.clone() };
            *next = next.saturating_add(1);
            Ok(entry)
        };
        records.iter().map(place).collect()
    }

    /// Writes these, in this order. Doubtful until all are written: a call that got no answer may still have
    /// taken effect.
    async fn write_all(&mut self, values: Vec<(Value, &[u8])>) -> Result<(), StoreError> {
        for (key, bytes) in values {
            self.doubtful.push(key.clone());
            self.create(&key, bytes).await.map_err(|error| failed("writing", error))?;
        }
        self.doubtful.clear();
        Ok(())
    }
}

/// lightningd's `DATASTORE_DEL_DOES_NOT_EXIST`.
const NO_SUCH_KEY: i32 = 1200;
/// lightningd's `DATASTORE_UPDATE_ALREADY_EXISTS`.
const KEY_EXISTS: i32 = 1202;

impl<C: Call> Store for Datastore<C> {
    async fn load_all(&mut self) -> Result<Vec<History>, StoreError> {
        if self.next.is_some() {
            // Again: what was refused meanwhile must not be found.
            self.settle().await?;
        }
        self.archived = self.archived().await?.into_iter().collect();
        let (journal, parts) = self.read_journal().await?;
        let entries = journal.as_deref().unwrap_or_default();
        let stored = self.instances(FACTORY).await?;
        // In order, as lightningd lists them.
        let all: std::collections::BTreeSet<InstanceId> =
            stored.into_iter().chain(entries.iter().map(|entry| entry.instance)).collect();
        let mut next = HashMap::new();
        let mut histories = Vec::new();
        for instance in all {
            if self.archived.contains(&instance) {
                continue;
            }
            let records = self.read(instance, entries).await?;
            // The list was read from the datastore entry by entry: it can't exceed 8 digits.
            next.insert(instance, u32::try_from(records.len()).unwrap_or(MAX_SEQUENCE));
            histories.push((instance, records));
        }
        match journal {
            Some(entries) => self.journal = Some((entries, parts)),
            None => self.doubtful.extend((0..parts).map(part_key)),
        }
        self.next = Some(next);
        if let Err(error) = self.settle().await {
            log::warn!("what the last run has left is finished before the next write: {error}");
        }
        Ok(histories)
    }

    async fn archive(&mut self, instances: &[InstanceId]) -> Result<(), StoreError> {
        self.settle().await?;
        for instance in instances {
            // Only the key matters, but an entry has to have something.
            let key = json!([ROOT, ARCHIVED, instance.to_string()]);
            let params = json!({"key": key, "hex": "01", "mode": "create-or-replace"});
            // From now on, whatever the answer: it may be archived.
            self.archived.insert(*instance);
            let written = self.rpc.call("datastore", params).await;
            written.map_err(|error| failed("writing", error))?;
        }
        Ok(())
    }

    async fn archived(&mut self) -> Result<Vec<InstanceId>, StoreError> {
        self.instances(ARCHIVED).await
    }

    async fn load(&mut self, instance: InstanceId) -> Result<Vec<Vec<u8>>, StoreError> {
        match (&self.journal, &self.next) {
            (Some((entries, _)), _) => self.read(instance, entries).await,
            (None, Some(_)) => self.read(instance, &[]).await,
            // Only a reader: the journal first, so that what is folded meanwhile isn't missed.
            (None, None) => {
                let (entries, _) = self.read_journal().await?;
                self.read(instance, &entries.unwrap_or_default()).await
            }
        }
    }

    async fn append(&mut self, records: &[(InstanceId, Vec<u8>)]) -> Result<(), StoreError> {
        self.settle().await?;
        let entries = self.place(records)?;
        let parts = match entries.as_slice() {
            [] => return Ok(()),
            [entry] => {
                let key = record_key(entry.instance, entry.sequence);
                self.write_all(vec![(key, &entry.record)]).await?;
                None
            }
            entries => {
                let parts = journal::encode(entries).filter(|parts| parts.len() <= MAX_PARTS);
                let parts = parts.ok_or_else(|| StoreError("the step is too large".to_owned()))?;
                let keys = (0..).map(part_key);
                self.write_all(keys.zip(parts.iter().map(Vec::as_slice)).collect()).await?;
                Some(parts.len())
            }
        };
        if let Some(next) = &mut self.next {
            next.extend(entries.iter().map(|entry| (entry.instance, entry.sequence.saturating_add(1))));
        }
        if let Some(parts) = parts {
            // It has happened, whatever becomes of the rest.
            self.journal = Some((entries, parts));
            #[cfg(feature = "faults")]
            crate::runtime::faults::at_journal().await;
            if let Err(error) = self.settle().await {
                log::warn!("a stored step is brought to its place before the next write: {error}");
            }
        }
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

fn part_key(part: usize) -> Value {
    json!([ROOT, JOURNAL, format!("{part:0>4}")])
}

fn differs(entry: &Entry) -> StoreError {
    let Entry { instance, sequence, .. } = entry;
    StoreError(format!("factory {instance}: record {sequence} is not what the journal says"))
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
mod tests;
