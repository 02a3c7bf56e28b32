//! Factories that are over: what is left of them, and for how long (S28).

use crate::engine::Engine;
use crate::io::Refusal;
use crate::record::event::Event;
use crate::record::factory::Factory;
use crate::types::{Height, InstanceId};

/// What is left of a factory that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remains {
    /// Its records.
    Records {
        /// Height at which it was archived.
        since: Height,
    },
    /// Its records; when it was archived can't be read.
    Undated,
    /// That there was one of its id, and no more.
    Nothing,
}

impl Engine {
    /// Factories that nothing can come of any more: they are closed, and no attempt at them that was given up
    /// can be funded.
    pub fn archivable(&self, height: Height) -> impl Iterator<Item = InstanceId> {
        let over = move |factory: &&Factory| factory.is_archivable(height);
        self.whole().filter(over).map(|factory| factory.instance)
    }

    /// Factories that are in the store alone, or not even there. All that is left of one here is that there can
    /// be no other of its id: what was signed for it isn't known any more (S8).
    pub fn archive(&mut self, remains: impl IntoIterator<Item = (InstanceId, Remains)>) {
        self.next_generation();
        for (instance, remains) in remains {
            self.factories.remove(&instance);
            self.end_all(instance);
            self.asked_back.retain(|(of, _), _| *of != instance);
            self.not_opened.retain(|(of, _), _| *of != instance);
            self.shown.remove(&instance);
            self.keeping.forget(instance);
            self.towers.forget(instance);
            self.archived.insert(instance, remains);
        }
    }

    /// Ends what is under way in a factory: ceremonies, sales, closes.
    pub(super) fn end_all(&mut self, instance: InstanceId) {
        self.lsp.remove(&instance);
        self.client.remove(&instance);
        self.lsp_sales.retain(|(of, _), _| *of != instance);
        self.client_sales.retain(|(of, _), _| *of != instance);
        self.withheld.retain(|(of, _), _| *of != instance);
        self.closes.forget(instance);
        self.purchases.remove(&instance);
        self.asked.remove(&instance);
    }

    /// Of every archived factory whose records are there the instance, in order.
    pub fn archived(&self) -> impl Iterator<Item = InstanceId> {
        let kept = self.archived.iter().filter(|(_, remains)| **remains != Remains::Nothing);
        kept.map(|(instance, _)| *instance)
    }

    /// Archived factories of which it isn't known when they were.
    pub fn undated(&self) -> impl Iterator<Item = InstanceId> {
        let undated = self.archived.iter().filter(|(_, remains)| **remains == Remains::Undated);
        undated.map(|(instance, _)| *instance)
    }

    /// Archived factories whose records have been kept for as long as they should be.
    pub fn deletable(&self, height: Height) -> impl Iterator<Item = InstanceId> {
        let keep = self.config.keep_finished_blocks;
        let old = move |remains: &Remains| match remains {
            Remains::Records { since } => keep > 0 && height >= since.saturating_add(keep),
            Remains::Undated | Remains::Nothing => false,
        };
        self.archived.iter().filter(move |(_, remains)| old(remains)).map(|(instance, _)| *instance)
    }

    /// Whether a factory was archived.
    pub fn is_archived(&self, instance: InstanceId) -> bool {
        self.archived.contains_key(&instance)
    }

    /// Why there is no factory of this instance.
    pub fn missing(&self, instance: InstanceId) -> Refusal {
        match self.archived.get(&instance) {
            Some(Remains::Nothing) => Refusal::Deleted(instance),
            Some(Remains::Records { .. } | Remains::Undated) | None => Refusal::Unknown(instance),
        }
    }

    /// Of a step that forgets factories: those that nothing was signed for (S12), so that nothing has to be known
    /// of them any more, and the others, whose signatures nobody can use.
    pub fn forgotten_by(&self, events: &[(InstanceId, Vec<Event>)]) -> (Vec<InstanceId>, Vec<InstanceId>) {
        let forgets = |events: &[Event]| events.iter().any(|event| matches!(event, Event::Forgotten(_)));
        let forgotten = events.iter().filter(|(_, events)| forgets(events)).map(|(instance, _)| *instance);
        let known = forgotten.filter_map(|instance| Some((instance, self.factories.get(&instance)?)));
        let (unsigned, signed): (Vec<_>, Vec<_>) =
            known.partition(|(_, factory)| factory.signed_for().is_empty());
        let instances =
            |list: Vec<(InstanceId, &Factory)>| list.into_iter().map(|(instance, _)| instance).collect();
        (instances(unsigned), instances(signed))
    }
}
