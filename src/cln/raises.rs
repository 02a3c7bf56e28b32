//! Fees that are to be raised, the most urgent first: the wallet's coins may not do for all of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bitcoin::Txid;
use factory_engine::io::fees::Raise;
use factory_engine::types::Height;
use tokio::sync::Notify;

/// What waits. A cheap clone.
#[derive(Clone, Default)]
pub struct Raises(Arc<Inner>);

#[derive(Default)]
struct Inner {
    waiting: Mutex<BTreeMap<(Height, Txid), Raise>>,
    more: Notify,
}

impl Raises {
    /// Adds one. It takes the place of an older one for the same transaction: a slow backend must not have us
    /// carry out what was right some blocks ago.
    pub fn push(&self, raise: Raise) {
        let txid = raise.parent.compute_txid();
        let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|(_, other), _| *other != txid);
        waiting.insert((raise.deadline, txid), raise);
        self.0.more.notify_one();
    }

    /// Waits for the most urgent.
    pub async fn next(&self) -> Raise {
        loop {
            let first = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_first();
            if let Some((_, raise)) = first {
                return raise;
            }
            self.0.more.notified().await;
        }
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
        let waits = tokio::spawn({
            let raises = raises.clone();
            async move { raises.next().await.what }
        });
        raises.push(raise(4, 1, 1));
        assert_eq!(waits.await.unwrap(), "4");
    }
}
