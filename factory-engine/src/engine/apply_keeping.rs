//! What binds this node leaves once enough keepers have a copy of what it follows from (S39).

use std::collections::BTreeSet;

use crate::engine::Engine;
use crate::io::{Effect, Keeper};
use crate::record::factory::Factory;
use crate::types::InstanceId;

impl Engine {
    /// Those that this node has.
    fn keepers(&self) -> Vec<Keeper> {
        self.config.backup_file.then_some(Keeper::File).into_iter().collect()
    }

    fn min_keepers(&self) -> usize {
        self.config.min_keepers.into()
    }

    /// The effects of a step that needn't wait for copies, and what has copies made of what was `written`.
    pub(super) fn hold_back(&mut self, effects: Vec<Effect>, written: &BTreeSet<InstanceId>) -> Vec<Effect> {
        let (keepers, least) = (self.keepers(), self.min_keepers());
        if keepers.is_empty() && least == 0 {
            return effects;
        }
        let (mut effects, needed) = self.keeping.hold_back(effects, &keepers, least);
        // Whatever was stored since: these follow from what keepers have.
        effects.extend(self.keeping.release(&keepers, least));
        if keepers.is_empty() {
            return effects;
        }
        let wanted: BTreeSet<InstanceId> = written.union(&needed).copied().collect();
        for instance in wanted.into_iter().filter(|instance| self.is_worth_keeping(*instance)) {
            effects.push(Effect::Copy { instance, urgent: needed.contains(&instance) });
        }
        effects
    }

    /// Whether money of this node's may be in a factory.
    pub(crate) fn is_worth_keeping(&self, instance: InstanceId) -> bool {
        self.factories.get(&instance).is_some_and(Factory::is_bound)
    }
}
