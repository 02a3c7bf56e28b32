//! Copies of what this node stores, elsewhere (S39): which are wanted, and what waits for them.
//!
//! What binds this node for good (that it has stored its path, that it pays for liquidity, that its key goes to
//! the operator, that the funding is sent) leaves once enough keepers have a copy of every record that it
//! follows from: the backup file, the operator, and peers that the node names ([`Keeper`]). Until then
//! [`Engine::apply`] holds it back: to everybody else that looks like a node that is slow, which is nothing new to them. A restart loses what was held, as it loses what was about to be sent.

mod compare;
mod peers;
mod serve;

use crate::engine::Engine;
use crate::io::{Keeper, Level};
use crate::memory::Volatile;
use crate::memory::keeping::VolatileKeeping;
use crate::step::builder::StepBuilder;
use crate::types::{InstanceId, NodeId};

pub use crate::record::copy::{self, Copy, CopyError, CopyKey, SealedCopy};
pub use compare::{Comparison, compare, outdated};
pub use serve::admit;

/// How the copies of one factory stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Records that are stored of it.
    pub records: u32,
    /// Keepers that have a copy of all of them.
    pub keepers: Vec<Keeper>,
    /// Whether something waits for copies.
    pub waits: bool,
}

impl Engine {
    /// A keeper has these copies; others that wait for it may go on.
    pub(crate) fn on_kept(&self, step: &mut StepBuilder<'_>, keeper: Keeper, list: Vec<(InstanceId, u32)>) {
        let mut of = std::iter::once(None).chain(list.iter().map(|(instance, _)| Some(*instance)));
        if let Some(why) = of.find_map(|of| self.keeping.trouble_with(keeper, of)) {
            step.log(Level::Info, format!("{keeper} takes copies again, after: {why}"));
        }
        step.volatile(Volatile::Keeping(VolatileKeeping::Kept(keeper, list)));
    }

    /// A keeper can't take copies now: of one factory, or of any.
    pub(crate) fn on_not_kept(
        &self,
        step: &mut StepBuilder<'_>,
        keeper: Keeper,
        instance: Option<InstanceId>,
        why: String,
    ) {
        if self.keeping.trouble(keeper) != Some(&why) {
            let waits = self.keeping.waiting().len();
            let then = match self.config.min_keepers {
                0 => "nothing waits for it".to_owned(),
                least => format!("{waits} factories wait until {least} have one (factory-min-keepers)"),
            };
            step.log(Level::Unusual, format!("{keeper} takes no copy: {why}; {then}"));
        }
        step.volatile(Volatile::Keeping(VolatileKeeping::Trouble(keeper, instance, why)));
    }

    /// How the copies of a factory stand; nothing if it isn't worth one.
    pub fn kept(&self, instance: InstanceId) -> Option<Kept> {
        if !self.is_worth_keeping(instance) {
            return None;
        }
        let records = self.keeping.records(instance);
        let keepers = self.keeping.keepers(instance, records).into_iter().collect();
        Some(Kept { records, keepers, waits: self.keeping.waiting().contains(&instance) })
    }

    /// Factories of which keepers should have a copy.
    pub fn worth_keeping(&self) -> Vec<InstanceId> {
        let all = self.factories().map(|factory| factory.instance);
        all.filter(|instance| self.is_worth_keeping(*instance)).collect()
    }

    /// Connected peers that keep copies for this node.
    pub fn keeping_peers(&self) -> impl Iterator<Item = NodeId> {
        let keeps = |peer: &NodeId| self.factories.keys().any(|instance| self.is_keeper(*instance, *peer));
        self.keeping.keepers.ready().filter(keeps)
    }

    /// Factories whose missing records a keeper has brought back since this node was started, and which keeper: the chain
    /// hasn't been read again for them yet.
    pub fn brought_back(&self) -> impl Iterator<Item = (InstanceId, Keeper)> {
        self.keeping.keepers.brought_back()
    }

    /// A keeper can take no copy, of any factory; `lost` if what it had isn't there any more, as far as is known.
    pub(crate) fn on_no_keeper(&self, step: &mut StepBuilder<'_>, keeper: Keeper, why: String, lost: bool) {
        self.on_not_kept(step, keeper, None, why);
        if lost {
            step.volatile(Volatile::Keeping(VolatileKeeping::Lost(keeper)));
        }
    }

    /// Why a keeper can't take copies now.
    pub fn keeper_trouble(&self, keeper: Keeper) -> Option<&str> {
        self.keeping.trouble(keeper)
    }
}
