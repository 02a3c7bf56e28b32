//! A store whose writes are timed, for `factory-metrics-bind`: each step waits for its own.

use factory_engine::Remains;
use factory_engine::types::{Height, InstanceId};
use factory_runtime::store::{History, Store, StoreError};
use tokio::time::Instant;

use super::tally::Tally;

/// Another store, and where its times are noted.
#[derive(Debug)]
pub struct Timed<S> {
    store: S,
    tally: Tally,
}

impl<S> Timed<S> {
    /// That store, with its times going to `tally`.
    pub fn new(store: S, tally: Tally) -> Self {
        Self { store, tally }
    }
}

impl<S: Store> Store for Timed<S> {
    async fn load_all(&mut self) -> Result<Vec<History>, StoreError> {
        self.store.load_all().await
    }

    async fn archive(&mut self, instances: &[InstanceId], since: Height) -> Result<(), StoreError> {
        self.store.archive(instances, since).await
    }

    async fn remove(&mut self, instances: &[InstanceId]) -> Result<(), StoreError> {
        self.store.remove(instances).await
    }

    async fn archived(&mut self) -> Result<Vec<(InstanceId, Remains)>, StoreError> {
        self.store.archived().await
    }

    async fn load(&mut self, instance: InstanceId) -> Result<Vec<Vec<u8>>, StoreError> {
        self.store.load(instance).await
    }

    async fn append(&mut self, records: &[(InstanceId, Vec<u8>)]) -> Result<(), StoreError> {
        let began = Instant::now();
        let stored = self.store.append(records).await;
        self.tally.stored(began.elapsed(), stored.is_ok());
        stored
    }

    fn lost_step(&self) -> Option<&str> {
        self.store.lost_step()
    }

    async fn set_lost_aside(&mut self) -> Result<(), StoreError> {
        self.store.set_lost_aside().await
    }

    async fn put(&mut self, name: &str, value: Vec<u8>) -> Result<(), StoreError> {
        self.store.put(name, value).await
    }

    async fn get(&mut self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.get(name).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use factory_runtime::store::memory::MemoryStore;
    use prometheus_client::registry::Registry;

    #[tokio::test]
    async fn each_write_is_timed_once() {
        let (tally, memory) = (Tally::default(), MemoryStore::default());
        let mut store = Timed::new(memory.clone(), tally.clone());
        let instance = InstanceId([1; 32]);
        store.append(&[(instance, vec![1])]).await.unwrap();
        memory.fail_next(1);
        store.append(&[(instance, vec![9])]).await.unwrap_err();
        store.append(&[(instance, vec![2])]).await.unwrap();
        assert_eq!(store.load(instance).await.unwrap(), [vec![1], vec![2]]);
        let (mut registry, mut text) = (Registry::default(), String::new());
        tally.register(&mut registry);
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains("\nstore_seconds_count 3\n"), "{text}");
        assert!(text.contains("\nstore_failures_total 1\n"), "{text}");
    }
}
