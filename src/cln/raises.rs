//! Fees that are to be raised, the most urgent first: the wallet's coins may not do for all of them.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bitcoin::Txid;
use factory_engine::io::fees::Raise;
use factory_engine::types::Height;
use tokio::sync::Notify;

/// What waits. A cheap clone.
#[derive(Clone, Default)]
pub struct Raises(Arc<Inner>);

#[derive(Default)]
struct Inner {
    waiting: Mutex<Waiting>,
    more: Notify,
}

#[derive(Default)]
struct Waiting {
    raises: HashMap<Txid, Raise>,
    /// The most urgent first.
    order: BTreeSet<(Height, Txid)>,
}

impl Raises {
    /// Adds one. It takes the place of an older one for the same transaction: a slow backend must not have us
    /// carry out what was right some blocks ago.
    pub fn push(&self, raise: Raise) {
        let (txid, deadline) = (raise.parent.compute_txid(), raise.deadline);
        let mut waiting = self.waiting();
        // By its txid: thousands may come at one block.
        if let Some(older) = waiting.raises.insert(txid, raise) {
            waiting.order.remove(&(older.deadline, txid));
        }
        waiting.order.insert((deadline, txid));
        drop(waiting);
        self.0.more.notify_one();
    }

    /// Waits for the most urgent.
    pub async fn next(&self) -> Raise {
        loop {
            if let Some(raise) = self.pop() {
                return raise;
            }
            self.0.more.notified().await;
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting().order.is_empty()
    }

    fn pop(&self) -> Option<Raise> {
        let mut waiting = self.waiting();
        let (_, txid) = waiting.order.pop_first()?;
        waiting.raises.remove(&txid)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use bitcoin::hashes::Hash;
    use bitcoin::transaction::Version;
    use bitcoin::{Amount, OutPoint, Transaction, absolute::LockTime};
    use factory_engine::tx::child::Bump;
    use factory_engine::types::InstanceId;

    use super::*;

    fn raise(number: u32, deadline: Height, feerate: u32) -> Raise {
        let parent = Transaction {
            version: Version(3),
            lock_time: LockTime::from_consensus(number),
            input: vec![],
            output: vec![],
        };
        let bump = Bump {
            anchor: OutPoint { txid: Txid::all_zeros(), vout: 0 },
            version: Version(3),
            parent_fee: Amount::ZERO,
            parent_weight: 400,
            feerate,
            max_fee: Amount::ZERO,
        };
        Raise { instance: InstanceId([1; 32]), what: number.to_string(), parent, bump, deadline }
    }

    // S26
    #[tokio::test]
    async fn the_most_urgent_first_and_the_newest_only() {
        let raises = Raises::default();
        for (number, deadline, feerate) in [(1, 300, 1), (2, 200, 1), (3, 250, 1), (1, 150, 2), (2, 200, 2)] {
            raises.push(raise(number, deadline, feerate));
        }
        let mut seen = Vec::new();
        for _ in 0..3 {
            let next = raises.next().await;
            seen.push((next.what, next.deadline, next.bump.feerate));
        }
        assert_eq!(seen, [("1".into(), 150, 2), ("2".into(), 200, 2), ("3".into(), 250, 1)]);
        assert!(raises.is_empty());
        let waits = tokio::spawn({
            let raises = raises.clone();
            async move { raises.next().await.what }
        });
        raises.push(raise(4, 1, 1));
        assert_eq!(waits.await.unwrap(), "4");
    }
}
