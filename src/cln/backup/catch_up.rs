//! S9, S39: a start whose records are older than the backup file's. It is found out before anything is signed or
//! said: before the engine has a factory at all.

use std::collections::BTreeMap;

use factory_engine::Engine;
use factory_engine::backup::{Copy, outdated};
use factory_engine::record::encode_record;
use factory_engine::record::event::{Event, Restored};
use factory_engine::types::InstanceId;
use factory_runtime::store::{History, Store, StoreError};

/// Where these copies are.
const IN_THE_FILE: &str = "in the backup file";

/// Copies with more records than this node has of the same factory.
pub struct Newer {
    /// They begin with all that this node has: the rest is brought back.
    more: Vec<(InstanceId, usize, Vec<Vec<u8>>)>,
    /// They don't: this node has gone on without the file since it was restored.
    other: Vec<(InstanceId, usize, usize)>,
}

/// What the file knows better. Factories of which there is no record at all are `factory-restore`'s.
pub fn newer(histories: &[History], copies: Vec<Copy>) -> Newer {
    let mut copies: BTreeMap<InstanceId, Vec<Vec<u8>>> =
        copies.into_iter().map(|copy| (copy.instance, copy.records)).collect();
    let mut newer = Newer { more: vec![], other: vec![] };
    for (instance, records) in histories {
        let Some(copied) = copies.remove(instance).filter(|copied| copied.len() > records.len()) else {
            continue;
        };
        match copied.strip_prefix(&records[..]) {
            Some(missing) => newer.more.push((*instance, records.len(), missing.to_vec())),
            None => newer.other.push((*instance, records.len(), copied.len())),
        }
    }
    newer
}

fn restored(had: usize, copied: usize) -> Event {
    Event::Restored(Restored { reason: outdated(had, copied, IN_THE_FILE) })
}

impl Newer {
    /// Brings back the records that are missing, with the word that the factory is exit-only, to the store and to
    /// what was read of it.
    ///
    /// # Errors
    /// What the store says: then nothing of it is there.
    pub async fn bring_back<S: Store>(
        &self,
        store: &mut S,
        histories: &mut [History],
    ) -> Result<(), StoreError> {
        let mut all = vec![];
        for (instance, had, missing) in &self.more {
            let told = restored(*had, had.saturating_add(missing.len()));
            let records = missing.iter().cloned().chain([encode_record(&[told])]);
            all.extend(records.map(|record| (*instance, record)));
        }
        if all.is_empty() {
            return Ok(());
        }
        store.append(&all).await?;
        for (instance, record) in all {
            let history = histories.iter_mut().find(|(of, _)| *of == instance);
            if let Some((_, records)) = history {
                records.push(record);
            }
        }
        for (instance, had, missing) in &self.more {
            log::warn!(
                "factory {instance}: {} records that this node had forgotten are back from the backup file; it had \
                 {had}, so it was restored from an older backup, and the factory is exit-only from now on",
                missing.len()
            );
        }
        Ok(())
    }

    /// Of those that can't be brought back, which are to be exit-only and aren't.
    pub fn to_be_told(&self, engine: &Engine) -> Vec<(InstanceId, Event)> {
        let not_yet = |instance: InstanceId| {
            engine.factory(instance).is_some_and(|factory| factory.restored().is_none())
        };
        let other = self.other.iter().filter(|(instance, ..)| not_yet(*instance));
        other.map(|(instance, had, copied)| (*instance, restored(*had, *copied))).collect()
    }
}

#[cfg(test)]
mod tests {
    use factory_runtime::store::memory::MemoryStore;

    use super::*;

    fn history(number: u8, records: &[u8]) -> History {
        (InstanceId([number; 32]), records.iter().map(|byte| vec![*byte]).collect())
    }

    fn copy(number: u8, records: &[u8]) -> Copy {
        let (instance, records) = history(number, records);
        Copy { instance, records }
    }

    // S9: a copy that is longer says that this node is old; what it has more comes back, and nothing goes.
    #[tokio::test]
    async fn what_the_file_has_more_comes_back() {
        let mut histories =
            vec![history(1, &[1, 2]), history(2, &[1, 2, 3]), history(3, &[1, 9]), history(4, &[1])];
        let copies = vec![copy(1, &[1, 2, 3, 4]), copy(2, &[1, 2]), copy(3, &[1, 2, 3]), copy(5, &[1])];
        let newer = newer(&histories, copies);
        let mut store = MemoryStore::default();
        for (instance, records) in &histories {
            for record in records {
                store.append(&[(*instance, record.clone())]).await.unwrap();
            }
        }
        newer.bring_back(&mut store, &mut histories).await.unwrap();
        let told = encode_record(&[restored(2, 4)]);
        let expected = [vec![1], vec![2], vec![3], vec![4], told];
        assert_eq!(histories[0].1, expected);
        assert_eq!(store.load(InstanceId([1; 32])).await.unwrap(), expected);
        assert_eq!(histories[1], history(2, &[1, 2, 3]), "its copy is older");
        assert_eq!(newer.other, [(InstanceId([3; 32]), 2, 3)], "its copy is of another course of things");
        assert_eq!(histories[3], history(4, &[1]));
    }
}
