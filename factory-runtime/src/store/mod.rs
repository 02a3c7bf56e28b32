//! Durable state: an append-only list of records for each factory.
//!
//! What a record means is for [`record`](factory_engine::record) to say; here it is bytes. Whoever reads
//! them back gets exactly what was acknowledged, in order (S10).

pub mod fake;
mod journal;
pub mod key_value;
pub mod keyed;
pub mod memory;
pub mod shelf;
pub mod tower;

use std::fmt;
use std::future::Future;

use factory_engine::Remains;
use factory_engine::types::{Height, InstanceId};

/// Why something was not stored or read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreError {
    /// What keeps the records gave no answer: a node that stops ends its database before its plugins.
    Gone(String),
    /// Anything else.
    Failed(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone(why) | Self::Failed(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for StoreError {}

/// The records of one factory, in the order in which they were stored. One that is missing is empty, as none
/// is that was stored.
pub type History = (InstanceId, Vec<Vec<u8>>);

/// Where the records of factories are kept, durably.
pub trait Store: Send + 'static {
    /// Everything that is stored of factories that weren't archived. Read once, before the first append.
    fn load_all(&mut self) -> impl Future<Output = Result<Vec<History>, StoreError>> + Send;

    /// Has [`Store::load_all`] leave these out from now on, and notes the height. Their records stay as they are;
    /// nothing may be appended to them. Each stands for itself: a crash may leave some of them archived.
    fn archive(
        &mut self,
        instances: &[InstanceId],
        since: Height,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Deletes the records of factories of which none may be needed any more: nothing was signed for them, or
    /// they are archived, and stay so. A crash in between leaves all of them or none, as the next start sees it;
    /// no failure is worth more than a line in the log. What has failed can be asked for again.
    fn remove(&mut self, instances: &[InstanceId]) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The factories that were archived, and what is left of each.
    fn archived(&mut self) -> impl Future<Output = Result<Vec<(InstanceId, Remains)>, StoreError>> + Send;

    /// The records of one factory, archived or not; none of one that isn't there, or not any more.
    fn load(&mut self, instance: InstanceId)
    -> impl Future<Output = Result<Vec<Vec<u8>>, StoreError>> + Send;

    /// Appends all of these records, durably, or none, wherever a crash comes: when this fails, a later load
    /// does not show them, nor does the next append stumble over them. (Unless there was no answer, and the
    /// process ends before the next append: then the next start finds all of them or none.)
    fn append(
        &mut self,
        records: &[(InstanceId, Vec<u8>)],
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Why records of a step of several factories may be missing, if [`Store::load_all`] found that out: of
    /// which factories nobody can say. Nothing of several records can be stored before
    /// [`Store::set_lost_aside`].
    fn lost_step(&self) -> Option<&str> {
        None
    }

    /// Puts what is left of a lost step where it is in nobody's way.
    fn set_lost_aside(&mut self) -> impl Future<Output = Result<(), StoreError>> + Send {
        async { Ok(()) }
    }

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

        again.archive(&[a], 700).await.unwrap();
        let mut last = reopen();
        assert_eq!(last.archived().await.unwrap(), [(a, Remains::Records { since: 700 })]);
        let left: Vec<_> = last.load_all().await.unwrap().into_iter().map(|(instance, _)| instance).collect();
        assert_eq!(left, [b]);
        assert_eq!(last.load(a).await.unwrap(), loaded[0].1);
        assert_eq!(last.load(b).await.unwrap().len(), 13);
        assert_eq!(last.load(InstanceId([3; 32])).await.unwrap(), Vec::<Vec<u8>>::new());
        // Again, and with others: no fault.
        last.archive(&[b, a], 701).await.unwrap();
        let both = [a, b].map(|instance| (instance, Remains::Records { since: 701 }));
        assert_eq!(reopen().archived().await.unwrap(), both);
        assert_eq!(reopen().load_all().await.unwrap(), []);

        // S28: of what is deleted the mark stays, and nothing is appended to it (S8).
        last.remove(&[a]).await.unwrap();
        let mut deleted = reopen();
        assert_eq!(deleted.load_all().await.unwrap(), []);
        assert_eq!(deleted.archived().await.unwrap(), [(a, Remains::Nothing), both[1]]);
        assert_eq!(deleted.load(a).await.unwrap(), Vec::<Vec<u8>>::new());
        deleted.append(&[(a, vec![1])]).await.unwrap_err();
        assert_eq!(deleted.load(b).await.unwrap().len(), 13);
    }
}
