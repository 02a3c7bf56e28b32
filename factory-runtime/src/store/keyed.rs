//! The store over a [`KeyValue`]: in the plugin lightningd's own datastore, backed up with the node, on
//! whatever database the operator runs.
//!
//! A record's key is `["cln-factory", "factory", <instance>, <sequence, 8 digits>]`. A factory with a key
//! `["cln-factory", "archived", <instance>]` is left alone at a start. The value is the height at which it was
//! archived, big-endian, or one zero byte once its records are deleted.
//!
//! A record that is too large for one value (lightningd dies of one of 4 MB) has several, `[…, <sequence>,
//! <piece, 4 digits>]`.
//!
//! Whoever is removed has a key `["cln-factory", "removed", <instance>]` first, which goes last: a start goes on
//! with what it finds there.
//!
//! A step of one record that isn't is one write. Any other is written as a whole to `["cln-factory",
//! "journal", <part, 4 digits>]` first: with its last part it has happened. Then it is *folded*, its records
//! go to their own keys, and its parts are deleted, the last one first. A start folds a whole journal (what
//! is there already must be the same), and deletes parts without a last one: they never happened. What can't
//! be folded or deleted right now is before the next write.
//!
//! What isn't as it was written takes as little with it as it can (S33). In the place of a record that is
//! missing stands an empty one, which nobody wrote. A journal that makes no sense, or that contradicts what is
//! in its place, is a [lost step](Store::lost_step); its parts are kept below `["cln-factory",
//! "damaged-journal"]`. One that a newer plugin wrote is no damage: nothing is read, nor written, before that one is
//! back.

use std::collections::{HashMap, HashSet};

use factory_engine::Remains;
use factory_engine::types::{Height, InstanceId};

use super::journal::{self, Entry, Unreadable};
use super::key_value::{Key, KeyError, KeyValue, Listed};
use super::{History, Store, StoreError};

const ROOT: &str = "cln-factory";
const FACTORY: &str = "factory";
const ARCHIVED: &str = "archived";
const REMOVED: &str = "removed";
const JOURNAL: &str = "journal";
const DAMAGED_JOURNAL: &str = "damaged-journal";
/// Most records in a row that may be missing; what is further off is no record's key.
const MAX_MISSING: usize = 1_000;
/// Value of the mark of an archived factory whose records are deleted.
const DELETED: &[u8] = &[0];
/// Eight digits: no factory lives to see a hundred million events.
const MAX_SEQUENCE: u32 = 99_999_999;
/// Most parts of a journal: four digits, more than a gigabyte.
const MAX_PARTS: usize = 9_999;

/// A [`Store`] that keeps each record under a key of its own.
#[derive(Debug)]
pub struct Keyed<K> {
    keys: K,
    /// Of each factory that wasn't archived; nothing before [`Store::load_all`].
    next: Option<HashMap<InstanceId, u32>>,
    archived: HashSet<InstanceId>,
    /// Keys that may exist although they shouldn't (any more). They go before anything else is written, the
    /// last one first.
    doubtful: Vec<Key>,
    /// A step that has happened and is not folded yet, and how many parts it has.
    journal: Option<(Vec<Entry>, usize)>,
    /// Why a step that has happened can't be folded.
    lost: Option<String>,
}

/// What a crash has left of a step.
enum Left {
    /// So many parts, without the last: the step never happened.
    Begun(usize),
    /// A step that has happened, and its parts.
    Step(Vec<Entry>, usize),
    /// A step that can't be read, and why.
    Damaged(String),
}

/// Records of one factory.
struct Found {
    records: Vec<Vec<u8>>,
    /// Where the next goes.
    next: usize,
    /// A record of the journal that isn't what is in its place.
    conflict: Option<StoreError>,
}

impl<K: KeyValue> Keyed<K> {
    /// Over these keys. [`Store::load_all`] comes first: it learns the sequence numbers, and finishes
    /// what a crash has left. Without it there is only reading.
    pub fn new(keys: K) -> Self {
        Self { keys, next: None, archived: HashSet::new(), doubtful: Vec::new(), journal: None, lost: None }
    }

    /// Does what the last step, or the last start, has left to do.
    async fn settle(&mut self) -> Result<(), StoreError> {
        self.clear_doubtful().await?;
        let Some((entries, parts)) = &self.journal else { return Ok(()) };
        for entry in entries {
            self.fold(entry).await?;
            #[cfg(feature = "faults")]
            crate::faults::at_folded().await;
        }
        self.doubtful.extend((0..*parts).map(part_key));
        self.journal = None;
        self.clear_doubtful().await
    }

    async fn clear_doubtful(&mut self) -> Result<(), StoreError> {
        while let Some(key) = self.doubtful.last() {
            let deleted = self.keys.delete(key).await;
            deleted.map_err(|error| failed("clearing an unfinished write", error))?;
            self.doubtful.pop();
        }
        Ok(())
    }

    /// Brings a record of the journal to its place, if it isn't there.
    async fn fold(&self, entry: &Entry) -> Result<(), StoreError> {
        let key = record_key(entry.instance, entry.sequence);
        if is_small(&entry.record) {
            return self.fold_value(entry, key, &entry.record).await;
        }
        for (piece, bytes) in entry.record.chunks(journal::PART).enumerate() {
            self.fold_value(entry, piece_key(key.clone(), piece), bytes).await?;
        }
        Ok(())
    }

    async fn fold_value(&self, entry: &Entry, key: Key, value: &[u8]) -> Result<(), StoreError> {
        match self.keys.create(&key, value).await {
            Ok(()) => Ok(()),
            Err(KeyError::Exists) => {
                let there = self.list(&key).await?;
                let same = there.first().and_then(|there| there.value.as_deref());
                if same == Some(value) { Ok(()) } else { Err(differs(entry)) }
            }
            Err(error) => Err(failed("writing", error)),
        }
    }

    /// What is under a record's key: its value, or its pieces together, up to the first that is missing.
    async fn whole(&self, key: &Key, value: Option<Vec<u8>>) -> Result<Vec<u8>, StoreError> {
        if let Some(value) = value {
            return Ok(value);
        }
        let mut whole = Vec::new();
        for (piece, listed) in self.list(key).await?.into_iter().enumerate() {
            match listed.value.filter(|_| listed.key == piece_key(key.clone(), piece)) {
                Some(bytes) => whole.extend(bytes),
                None => break,
            }
        }
        Ok(whole)
    }

    /// What is in the journal.
    async fn read_journal(&self) -> Result<Left, StoreError> {
        let mut parts = Vec::new();
        for Listed { key, value } in self.list(&below(JOURNAL)).await? {
            match value.filter(|_| key == part_key(parts.len())) {
                Some(value) => parts.push(value),
                None => return Ok(Left::Damaged("a part of the journal is missing".to_owned())),
            }
        }
        match journal::decode(&parts) {
            Ok(Some(entries)) => Ok(Left::Step(entries, parts.len())),
            Ok(None) => Ok(Left::Begun(parts.len())),
            Err(Unreadable::Damaged(why)) => Ok(Left::Damaged(format!("the journal can't be read: {why}"))),
            // No step is lost: whoever wrote it finishes it, if nobody has touched anything until then.
            Err(Unreadable::Newer(version)) => Err(StoreError::Failed(format!(
                "the journal's version {version} is newer than this plugin's {}: start the newer plugin again",
                journal::VERSION
            ))),
        }
    }

    /// The records of a factory, with those that are still in the journal.
    async fn read(&self, instance: InstanceId, journal: &[Entry]) -> Result<Found, StoreError> {
        let mut records: Vec<Vec<u8>> = Vec::new();
        let mut foreign = None;
        for Listed { key, value } in self.list(&factory_key(instance)).await? {
            if self.doubtful.contains(&key) {
                break;
            }
            let text = key.get(3).map_or("", String::as_str);
            let is_next = |place: &usize| {
                let missing = place.checked_sub(records.len());
                missing.is_some_and(|missing| missing <= MAX_MISSING) && text == sequence_text(place)
            };
            match text.parse().ok().filter(is_next) {
                Some(place) => {
                    records.resize(place, Vec::new());
                    records.push(self.whole(&key, value).await?);
                }
                None => foreign = Some(text.to_owned()),
            }
        }
        let mut conflict = None;
        for entry in journal.iter().filter(|entry| entry.instance == instance) {
            let at = usize::try_from(entry.sequence).unwrap_or(usize::MAX);
            let count = records.len();
            match records.get_mut(at) {
                Some(there) if *there == entry.record => {}
                // Its first pieces are in their place.
                Some(there) if !is_small(&entry.record) && entry.record.starts_with(there) => {
                    there.clone_from(&entry.record);
                }
                None if at == count => records.push(entry.record.clone()),
                _ => conflict = Some(differs(entry)),
            }
        }
        let next = records.len();
        if let Some(text) = foreign {
            log::error!("factory {instance}: '{text}' is no record's number, but something is stored there");
            records.push(Vec::new());
        }
        Ok(Found { records, next, conflict })
    }

    /// The factories below one of our keys.
    async fn instances(&self, name: &str) -> Result<Vec<InstanceId>, StoreError> {
        Ok(self.list(&below(name)).await?.iter().filter_map(|listed| instance_of(&listed.key)).collect())
    }

    async fn list(&self, key: &Key) -> Result<Vec<Listed>, StoreError> {
        self.keys.list(key).await.map_err(|error| failed("reading", error))
    }

    /// The keys of a factory that goes; last, so that it is deleted first, its last record.
    async fn removal(&self, instance: InstanceId) -> Result<Vec<Key>, StoreError> {
        let mut keys = vec![removed_key(instance)];
        for Listed { key, value } in self.list(&factory_key(instance)).await? {
            match value {
                Some(_) => keys.push(key),
                None => keys.extend(self.list(&key).await?.into_iter().map(|piece| piece.key)),
            }
        }
        Ok(keys)
    }

    /// Where each of these records goes.
    fn place(&self, records: &[(InstanceId, Vec<u8>)]) -> Result<Vec<Entry>, StoreError> {
        let known = self.next.as_ref();
        let known = known
            .ok_or_else(|| StoreError::Failed("nothing may be written before all is read".to_owned()))?;
        let mut next: HashMap<InstanceId, u32> = HashMap::new();
        let place = |(instance, record): &(InstanceId, Vec<u8>)| {
            if self.archived.contains(instance) {
                return Err(StoreError::Failed(format!("factory {instance} is archived")));
            }
            let next =
                next.entry(*instance).or_insert_with(|| known.get(instance).copied().unwrap_or_default());
            if *next > MAX_SEQUENCE {
                return Err(StoreError::Failed(format!("factory {instance} has too many records")));
            }
            let entry = Entry { instance: *instance, sequence: *next, record: record.clone() };
            *next = next.saturating_add(1);
            Ok(entry)
        };
        records.iter().map(place).collect()
    }

    /// Writes these, in this order. Doubtful until all are written: a call that got no answer may still have
    /// taken effect.
    async fn write_all(&mut self, values: Vec<(Key, &[u8])>) -> Result<(), StoreError> {
        for (key, bytes) in values {
            self.doubtful.push(key.clone());
            self.keys.create(&key, bytes).await.map_err(|error| failed("writing", error))?;
        }
        self.doubtful.clear();
        Ok(())
    }
}

impl<K: KeyValue> Store for Keyed<K> {
    async fn load_all(&mut self) -> Result<Vec<History>, StoreError> {
        if self.next.is_some() {
            // Again: what was refused meanwhile must not be found.
            self.settle().await?;
        }
        self.archived = self.archived().await?.into_iter().map(|(instance, _)| instance).collect();
        let left = self.read_journal().await?;
        let entries: &[Entry] = if let Left::Step(entries, _) = &left { entries } else { &[] };
        let removed = self.instances(REMOVED).await?;
        let stored = self.instances(FACTORY).await?;
        // In order, as they are listed.
        let all: std::collections::BTreeSet<InstanceId> =
            stored.into_iter().chain(entries.iter().map(|entry| entry.instance)).collect();
        let mut next = HashMap::new();
        let mut histories = Vec::new();
        self.lost = None;
        for instance in all {
            if self.archived.contains(&instance) || removed.contains(&instance) {
                continue;
            }
            let found = self.read(instance, entries).await?;
            if let Some(conflict) = found.conflict {
                self.lost.get_or_insert(conflict.to_string());
            }
            // The list was read entry by entry: it can't exceed 8 digits.
            next.insert(instance, u32::try_from(found.next).unwrap_or(MAX_SEQUENCE));
            histories.push((instance, found.records));
        }
        for instance in removed {
            self.doubtful.extend(self.removal(instance).await?);
        }
        match left {
            Left::Step(..) if self.lost.is_some() => {}
            Left::Step(entries, parts) => self.journal = Some((entries, parts)),
            Left::Begun(parts) => self.doubtful.extend((0..parts).map(part_key)),
            Left::Damaged(why) => self.lost = Some(why),
        }
        self.next = Some(next);
        if let Err(error) = self.settle().await {
            log::warn!("what the last run has left is finished before the next write: {error}");
        }
        Ok(histories)
    }

    async fn archive(&mut self, instances: &[InstanceId], since: Height) -> Result<(), StoreError> {
        self.settle().await?;
        for instance in instances {
            // From now on, whatever the answer: it may be archived.
            self.archived.insert(*instance);
            let key = archived_key(*instance);
            let marked = self.keys.replace(&key, &since.to_be_bytes()).await;
            marked.map_err(|error| failed("writing", error))?;
        }
        Ok(())
    }

    async fn remove(&mut self, instances: &[InstanceId]) -> Result<(), StoreError> {
        self.settle().await?;
        for instance in instances {
            let mark = removed_key(*instance);
            self.doubtful.push(mark.clone());
            self.keys.replace(&mark, &[1]).await.map_err(|error| failed("writing", error))?;
            // Decided: what is cut off goes on before the next write, or at the next start.
            self.doubtful = self.removal(*instance).await?;
            if self.archived.contains(instance) {
                let marked = self.keys.replace(&archived_key(*instance), DELETED).await;
                marked.map_err(|error| failed("writing", error))?;
            }
            if let Some(next) = &mut self.next {
                next.remove(instance);
            }
            self.clear_doubtful().await?;
        }
        Ok(())
    }

    async fn archived(&mut self) -> Result<Vec<(InstanceId, Remains)>, StoreError> {
        let listed = self.list(&below(ARCHIVED)).await?;
        Ok(listed
            .into_iter()
            .filter_map(|Listed { key, value }| Some((instance_of(&key)?, left(value))))
            .collect())
    }

    async fn load(&mut self, instance: InstanceId) -> Result<Vec<Vec<u8>>, StoreError> {
        let found = match (&self.journal, &self.next) {
            (Some((entries, _)), _) => self.read(instance, entries).await,
            (None, Some(_)) => self.read(instance, &[]).await,
            // Only a reader: the journal first, so that what is folded meanwhile isn't missed.
            (None, None) => match self.read_journal().await? {
                Left::Step(entries, _) => self.read(instance, &entries).await,
                Left::Begun(_) | Left::Damaged(_) => self.read(instance, &[]).await,
            },
        };
        Ok(found?.records)
    }

    fn lost_step(&self) -> Option<&str> {
        self.lost.as_deref()
    }

    async fn set_lost_aside(&mut self) -> Result<(), StoreError> {
        let number = self.list(&below(DAMAGED_JOURNAL)).await?.len();
        let mut parts = self.list(&below(JOURNAL)).await?;
        for Listed { key, value } in &parts {
            let mut copy = below(DAMAGED_JOURNAL);
            copy.push(format!("{number:0>4}"));
            copy.extend(key.last().cloned());
            let value = value.as_deref().unwrap_or_default();
            self.keys.replace(&copy, value).await.map_err(|error| failed("writing", error))?;
        }
        // The last one first: what is left of them after a crash never counts.
        while let Some(Listed { key, .. }) = parts.pop() {
            let deleted = self.keys.delete(&key).await;
            deleted.map_err(|error| failed("clearing a journal that can't be read", error))?;
        }
        self.lost = None;
        Ok(())
    }

    async fn append(&mut self, records: &[(InstanceId, Vec<u8>)]) -> Result<(), StoreError> {
        self.settle().await?;
        let entries = self.place(records)?;
        let parts = match entries.as_slice() {
            [] => return Ok(()),
            [entry] if is_small(&entry.record) => {
                let key = record_key(entry.instance, entry.sequence);
                self.write_all(vec![(key, &entry.record)]).await?;
                None
            }
            entries => {
                let parts = journal::encode(entries).filter(|parts| parts.len() <= MAX_PARTS);
                let parts = parts.ok_or_else(|| StoreError::Failed("the step is too large".to_owned()))?;
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
            crate::faults::at_journal().await;
            if let Err(error) = self.settle().await {
                log::warn!("a stored step is brought to its place before the next write: {error}");
            }
        }
        Ok(())
    }

    async fn put(&mut self, name: &str, value: Vec<u8>) -> Result<(), StoreError> {
        if value.len() > journal::PART {
            return Err(StoreError::Failed(format!(
                "{name}: {} bytes are too many for one value",
                value.len()
            )));
        }
        self.keys.replace(&below(name), &value).await.map_err(|error| failed("writing", error))
    }

    async fn get(&mut self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.list(&below(name)).await?.into_iter().next().and_then(|listed| listed.value))
    }
}

fn failed(what: &str, error: KeyError) -> StoreError {
    let why = format!("{what}: {error}");
    match error {
        KeyError::Unanswered(_) => StoreError::Gone(why),
        KeyError::Exists | KeyError::Failed(_) => StoreError::Failed(why),
    }
}

fn below(name: &str) -> Key {
    vec![ROOT.to_owned(), name.to_owned()]
}

fn factory_key(instance: InstanceId) -> Key {
    let mut key = below(FACTORY);
    key.push(instance.to_string());
    key
}

fn archived_key(instance: InstanceId) -> Key {
    let mut key = below(ARCHIVED);
    key.push(instance.to_string());
    key
}

/// The factory whose key this is.
fn instance_of(key: &Key) -> Option<InstanceId> {
    let instance = key.get(2).and_then(|text| text.parse().ok());
    if instance.is_none() {
        log::error!("something is stored under {}, which is no factory's key", key.join("/"));
    }
    instance
}

/// What the mark of an archived factory says is left of it.
fn left(value: Option<Vec<u8>>) -> Remains {
    match value.as_deref() {
        Some(DELETED) => Remains::Nothing,
        Some(bytes) => match <[u8; 4]>::try_from(bytes) {
            Ok(height) => Remains::Records { since: Height::from_be_bytes(height) },
            Err(_) => Remains::Undated,
        },
        None => Remains::Undated,
    }
}

fn removed_key(instance: InstanceId) -> Key {
    let mut key = below(REMOVED);
    key.push(instance.to_string());
    key
}

fn record_key(instance: InstanceId, sequence: u32) -> Key {
    let mut key = factory_key(instance);
    key.push(sequence_text(sequence));
    key
}

/// Whether a record has a value of its own.
fn is_small(record: &[u8]) -> bool {
    record.len() <= journal::PART
}

fn piece_key(mut record: Key, piece: usize) -> Key {
    record.push(format!("{piece:0>4}"));
    record
}

fn part_key(part: usize) -> Key {
    let mut key = below(JOURNAL);
    key.push(format!("{part:0>4}"));
    key
}

fn differs(entry: &Entry) -> StoreError {
    let Entry { instance, sequence, .. } = entry;
    StoreError::Failed(format!("factory {instance}: record {sequence} is not what the journal says"))
}

fn sequence_text(sequence: impl std::fmt::Display) -> String {
    format!("{sequence:0>8}")
}

#[cfg(test)]
mod tests;
