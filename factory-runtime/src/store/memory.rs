//! A store in memory, for tests and the simulator. It can be told to fail.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use factory_engine::Remains;
use factory_engine::types::{Height, InstanceId};

use super::{History, Store, StoreError};

/// Clones share their contents: a clone made before a "crash" is what the restarted node reads.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    records: BTreeMap<InstanceId, Vec<Vec<u8>>>,
    archived: BTreeMap<InstanceId, Remains>,
    values: BTreeMap<String, Vec<u8>>,
    failures: u32,
}

impl MemoryStore {
    /// A store with no records.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next `count` writes fail and change nothing.
    pub fn fail_next(&self, count: u32) {
        self.lock().failures = count;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No holder can panic halfway through a change.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> Result<MutexGuard<'_, Inner>, StoreError> {
        let mut inner = self.lock();
        if inner.failures > 0 {
            inner.failures -= 1;
            return Err(StoreError::Failed("told to fail".to_owned()));
        }
        Ok(inner)
    }
}

impl Store for MemoryStore {
    async fn load_all(&mut self) -> Result<Vec<History>, StoreError> {
        let inner = self.lock();
        let kept = inner.records.iter().filter(|(instance, _)| !inner.archived.contains_key(instance));
        Ok(kept.map(|(instance, records)| (*instance, records.clone())).collect())
    }

    async fn archive(&mut self, instances: &[InstanceId], since: Height) -> Result<(), StoreError> {
        let marks = instances.iter().map(|instance| (*instance, Remains::Records { since }));
        self.write()?.archived.extend(marks);
        Ok(())
    }

    async fn remove(&mut self, instances: &[InstanceId]) -> Result<(), StoreError> {
        let mut inner = self.write()?;
        for instance in instances {
            inner.records.remove(instance);
            inner.archived.entry(*instance).and_modify(|remains| *remains = Remains::Nothing);
        }
        Ok(())
    }

    async fn archived(&mut self) -> Result<Vec<(InstanceId, Remains)>, StoreError> {
        Ok(self.lock().archived.iter().map(|(instance, remains)| (*instance, *remains)).collect())
    }

    async fn load(&mut self, instance: InstanceId) -> Result<Vec<Vec<u8>>, StoreError> {
        Ok(self.lock().records.get(&instance).cloned().unwrap_or_default())
    }

    async fn append(&mut self, records: &[(InstanceId, Vec<u8>)]) -> Result<(), StoreError> {
        let mut inner = self.write()?;
        if let Some((instance, _)) =
            records.iter().find(|(instance, _)| inner.archived.contains_key(instance))
        {
            return Err(StoreError::Failed(format!("factory {instance} is archived")));
        }
        for (instance, record) in records {
            inner.records.entry(*instance).or_default().push(record.clone());
        }
        Ok(())
    }

    async fn put(&mut self, name: &str, value: Vec<u8>) -> Result<(), StoreError> {
        self.write()?.values.insert(name.to_owned(), value);
        Ok(())
    }

    async fn get(&mut self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.lock().values.get(name).cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn suite() {
        let store = MemoryStore::new();
        super::super::suite::run(|| store.clone()).await;
    }

    // S14
    #[tokio::test]
    async fn a_failed_append_leaves_nothing() {
        let mut store = MemoryStore::new();
        store.fail_next(1);
        let records = [(InstanceId([1; 32]), vec![1])];
        store.append(&records).await.unwrap_err();
        assert_eq!(store.load_all().await.unwrap(), []);
        store.append(&records).await.unwrap();
    }
}
