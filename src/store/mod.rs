//! Durable state: an append-only list of records for each factory.
//!
//! What a record means is for [`protocol`](crate::protocol) to say; here it is bytes. Whoever reads
//! them back gets exactly what was acknowledged, in order (S10).

pub mod datastore;
pub mod memory;

use std::fmt;
use std::future::Future;

use crate::types::InstanceId;

/// Why something was not stored or read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreError(pub String);

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StoreError {}

/// The records of one factory, in the order in which they were stored.
pub type History = (InstanceId, Vec<Vec<u8>>);

/// Where records are kept.
pub trait Store: Send + 'static {
    /// Everything that is stored. Read once, before the first append.
    fn load_all(&mut self) -> impl Future<Output = Result<Vec<History>, StoreError>> + Send;

    /// Appends all of these records, durably, or none: when this fails, a later load does not show
    /// them, nor does the next append stumble over them.
    fn append(
        &mut self,
        records: &[(InstanceId, Vec<u8>)],
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Keeps a small value that each call replaces; losing it costs time or a setting, not safety.
    fn put(&mut self, name: &str, value: Vec<u8>) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The last value that [`Store::put`] kept under this name.
    fn get(&mut self, name: &str) -> impl Future<Output = Result<Option<Vec<u8>>, StoreError>> + Send;
}

#[cfg(test)]
pub(crate) mod suite {
    //! What every backend must do. `reopen` gives a store as a restarted plugin would see it.

    use super::*;

    pub(crate) async fn run<S: Store>(reopen: impl Fn() -> S) {
        let (a, b) = (InstanceId([1; 32]), InstanceId([2; 32]));
        let mut store = reopen();
        assert_eq!(store.load_all().await.unwrap(), []);
        store.append(&[(a, vec![1]), (b, vec![2; 300])]).await.unwrap();
        store.append(&[(a, vec![])]).await.unwrap();
        for index in 0..12 {
            store.append(&[(b, vec![index])]).await.unwrap();
        }
        assert_eq!(store.get("tip").await.unwrap(), None);
        store.put("tip", vec![3]).await.unwrap();
        store.put("tip", vec![4]).await.unwrap();

        let mut again = reopen();
        let mut expected = vec![vec![2; 300]];
        expected.extend((0..12).map(|index| vec![index]));
        assert_eq!(again.load_all().await.unwrap(), [(a, vec![vec![1], vec![]]), (b, expected)]);
        assert_eq!(again.get("tip").await.unwrap(), Some(vec![4]));
        again.append(&[(a, vec![9])]).await.unwrap();
        let loaded = reopen().load_all().await.unwrap();
        assert_eq!(loaded[0].1, [vec![1], vec![], vec![9]]);
    }
}
