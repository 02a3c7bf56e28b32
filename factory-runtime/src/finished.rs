//! What is over leaves memory after a while, and the store after a longer one (S28).

use std::collections::BTreeMap;

use factory_engine::types::{Height, InstanceId};
use factory_engine::{Engine, Remains};

use crate::store::Store;

/// Blocks that a factory which nothing can come of any more stays in memory, unless there is a start before.
const LINGERS: Height = 144;
/// Factories whose records are deleted after one block: each record is a call to lightningd.
const AT_ONCE: usize = 4;

/// Factories that nothing can come of any more and that aren't archived yet.
#[derive(Debug, Default)]
pub(super) struct Finished {
    /// With the height at which that was seen first.
    seen: BTreeMap<InstanceId, Height>,
}

impl Finished {
    /// Of the factories that are over at this height, those that have been so for long enough.
    fn due(&mut self, over: &[InstanceId], height: Height) -> Vec<InstanceId> {
        self.seen.retain(|instance, _| over.contains(instance));
        let lingered = |instance: &InstanceId| {
            let since = *self.seen.entry(*instance).or_insert(height);
            height >= since.saturating_add(LINGERS)
        };
        over.iter().copied().filter(lingered).collect()
    }

    /// Whenever there is nothing more to handle. Says whether memory is without one that it had.
    pub(super) async fn tidy<S: Store>(
        &mut self,
        engine: &mut Engine,
        store: &mut S,
        height: Height,
    ) -> bool {
        let over: Vec<InstanceId> = engine.archivable(height).collect();
        let due = self.due(&over, height);
        let archived = archive(engine, store, &due, height).await;
        let old: Vec<InstanceId> = engine.deletable(height).take(AT_ONCE).collect();
        if old.is_empty() {
            return archived;
        }
        match store.remove(&old).await {
            Ok(()) => {
                for instance in &old {
                    log::info!("factory {instance} was settled long ago: its records are deleted");
                }
                engine.archive(old.into_iter().map(|instance| (instance, Remains::Nothing)));
            }
            // At the next block.
            Err(error) => log::warn!("records of old factories are still there: {error}"),
        }
        archived
    }
}

/// After a step has forgotten these: what nothing was signed for isn't needed to know what was (S8, S12); what was
/// is kept as long as other factories that are over.
pub(super) async fn forgotten<S: Store>(
    engine: &mut Engine,
    store: &mut S,
    (unsigned, signed): &(Vec<InstanceId>, Vec<InstanceId>),
    height: Height,
) {
    // Where some are left another of its id would go on behind them: there is none, as after a start (S39).
    let remains = |instance: &InstanceId| (*instance, Remains::Records { since: height });
    if !unsigned.is_empty()
        && let Err(error) = store.remove(unsigned).await
    {
        log::warn!("records that nobody needs are still there: {error}");
        engine.archive(unsigned.iter().map(remains));
    }
    if !signed.is_empty() && !archive(engine, store, signed, height).await {
        engine.archive(signed.iter().map(remains));
    }
}

/// Whether memory is without these from now on.
async fn archive<S: Store>(
    engine: &mut Engine,
    store: &mut S,
    instances: &[InstanceId],
    since: Height,
) -> bool {
    if instances.is_empty() {
        return false;
    }
    match store.archive(instances, since).await {
        Ok(()) => {
            engine.archive(instances.iter().map(|instance| (*instance, Remains::Records { since })));
            true
        }
        Err(error) => {
            log::warn!("closed factories are kept in memory until the next start: {error}");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use factory_engine::Config;
    use factory_engine::tx::musig::MasterSecret;
    use factory_engine::types::NodeId;

    use crate::store::memory::MemoryStore;

    use super::*;

    /// S39: of what is forgotten and still stored there is no other, whose records would be counted wrongly.
    #[tokio::test]
    async fn what_cannot_be_removed_does_not_come_again() {
        let (a, b) = (InstanceId([1; 32]), InstanceId([2; 32]));
        for fails in [true, false] {
            let mut engine = Engine::new(NodeId([2; 33]), MasterSecret::new([7; 32]), Config::default());
            let mut store = MemoryStore::new();
            store.append(&[(a, vec![1]), (b, vec![1])]).await.unwrap();
            store.fail_next(if fails { 2 } else { 0 });
            forgotten(&mut engine, &mut store, &(vec![a], vec![b]), 700).await;
            assert_eq!(engine.is_archived(a), fails);
            assert!(engine.is_archived(b));
        }
    }

    /// S28: all the time, and not only now and then.
    #[test]
    fn what_is_over_for_long_enough() {
        let (a, b) = (InstanceId([1; 32]), InstanceId([2; 32]));
        let mut finished = Finished::default();
        assert_eq!(finished.due(&[a], 100), []);
        assert_eq!(finished.due(&[a, b], 100 + LINGERS - 1), []);
        assert_eq!(finished.due(&[a, b], 100 + LINGERS), [a]);
        assert_eq!(finished.due(&[a], 100 + LINGERS), [a], "again, should it have failed");
        assert_eq!(finished.due(&[b], 1_000), [], "it was open again in between");
        assert_eq!(finished.due(&[a, b], 1_000 + LINGERS), [b]);
    }
}
