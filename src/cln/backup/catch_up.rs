//! S9, S39: a start whose records are older than the backup file's. It is found out before anything is signed or
//! said: before the engine has a factory at all.

use std::collections::BTreeMap;

use factory_engine::Engine;
use factory_engine::backup::{Comparison, Copy, compare, outdated};
use factory_engine::io::Keeper;
use factory_engine::record::event::{Event, Restored};
use factory_engine::types::InstanceId;
use factory_runtime::store::{History, Store, StoreError};

/// Copies that aren't of the records that this node has of the same factory, nor of the first of them.
pub struct Newer {
    /// They begin with all that this node has: the rest is brought back, with the word that it is. And how many there
    /// were.
    more: Vec<(InstanceId, usize, Vec<Vec<u8>>)>,
    /// They don't: this node has gone on without the file since it was restored. How many records each has.
    other: Vec<(InstanceId, usize, usize)>,
}

/// What the file knows better. Factories of which there is no record at all are `factory-restore`'s.
pub fn newer(histories: &[History], copies: Vec<Copy>) -> Newer {
    let mut copies: BTreeMap<InstanceId, Vec<Vec<u8>>> =
        copies.into_iter().map(|copy| (copy.instance, copy.records)).collect();
    let mut newer = Newer { more: vec![], other: vec![] };
    for (instance, records) in histories {
        let Some(copied) = copies.remove(instance) else { continue };
        match compare(&copied, records, Keeper::File) {
            // What it has beside records that were restored comes back once the file is read to be kept: whether it fits
            // is the engine's to say. It is exit-only already.
            Comparison::Older | Comparison::Within | Comparison::Later(_) => {}
            Comparison::Newer(missing) => newer.more.push((*instance, records.len(), missing)),
            Comparison::Other => newer.other.push((*instance, records.len(), copied.len())),
        }
    }
    newer
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
        for (instance, _, missing) in &self.more {
            all.extend(missing.iter().map(|record| (*instance, record.clone())));
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
                missing.len().saturating_sub(1)
            );
        }
        Ok(())
    }

    /// Of those that can't be brought back, which are to be exit-only and aren't. What is damaged signs nothing (S33).
    pub fn to_be_told(&self, engine: &Engine) -> Vec<(InstanceId, Event)> {
        let not_yet = |instance: InstanceId| {
            let factory = engine.factory(instance);
            factory.is_some_and(|factory| factory.restored().is_none() && factory.damage().is_none())
        };
        let told = |had, copied| Event::Restored(Restored { reason: outdated(had, copied, Keeper::File) });
        let other = self.other.iter().filter(|(instance, ..)| not_yet(*instance));
        other.map(|(instance, had, copied)| (*instance, told(had, copied))).collect()
    }
}

#[cfg(test)]
mod tests {
    use factory_engine::record::encode_record;
    use factory_runtime::store::memory::MemoryStore;

    use super::*;

    fn history(number: u8, records: &[u8]) -> History {
        (InstanceId([number; 32]), records.iter().map(|byte| vec![*byte]).collect())
    }

    fn copy(number: u8, records: &[u8]) -> Copy {
        let (instance, records) = history(number, records);
        Copy { instance, records }
    }

    // S9: a copy that is longer, or of other records however many, says that this node is old; what it has more comes
    // back, and nothing goes.
    #[tokio::test]
    async fn what_the_file_has_more_comes_back() {
        let mut histories = vec![
            history(1, &[1, 2]),
            history(2, &[1, 2, 3]),
            history(3, &[1, 9]),
            history(4, &[1]),
            history(6, &[1, 2, 9]),
            history(7, &[1, 2, 9, 9]),
        ];
        let copies = vec![
            copy(1, &[1, 2, 3, 4]),
            copy(2, &[1, 2]),
            copy(3, &[1, 2, 3]),
            copy(5, &[1]),
            copy(6, &[1, 2, 3]),
            copy(7, &[1, 2, 3]),
        ];
        let newer = newer(&histories, copies);
        let mut store = MemoryStore::default();
        for (instance, records) in &histories {
            for record in records {
                store.append(&[(*instance, record.clone())]).await.unwrap();
            }
        }
        newer.bring_back(&mut store, &mut histories).await.unwrap();
        let told = Event::Restored(Restored { reason: outdated(2, 4, Keeper::File) });
        let told = encode_record(&[told]);
        let expected = [vec![1], vec![2], vec![3], vec![4], told];
        assert_eq!(histories[0].1, expected);
        assert_eq!(store.load(InstanceId([1; 32])).await.unwrap(), expected);
        assert_eq!(histories[1], history(2, &[1, 2, 3]), "its copy is older");
        let others = [(3, 2, 3), (6, 3, 3), (7, 4, 3)];
        let others = others.map(|(number, had, copied)| (InstanceId([number; 32]), had, copied));
        assert_eq!(newer.other, others, "their copies are of another course of things");
        assert_eq!(histories[3], history(4, &[1]));
    }
}
