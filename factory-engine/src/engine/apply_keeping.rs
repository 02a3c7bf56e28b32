//! What binds this node leaves once enough keepers have a copy of what it follows from (S39), and what would have it sign
//! waits until it is known that no keeper knows more (S9).

use std::collections::BTreeSet;

use crate::engine::Engine;
use crate::io::{Effect, Keeper};
use crate::memory::keeping::{ByFactory, KeepersOf, binding};
use crate::memory::sale::Purchase;
use crate::record::factory::Factory;
use crate::types::{InstanceId, NodeId};

impl Engine {
    /// Whether a peer should have a copy of a factory: its operator, or one that this node names.
    pub(crate) fn is_keeper(&self, instance: InstanceId, peer: NodeId) -> bool {
        let is_lsp = || self.factories.get(&instance).is_some_and(|factory| factory.lsp() == peer);
        self.config.keepers.contains(&peer) || is_lsp()
    }

    /// Whether a keeper may know more of a factory than this node (S9).
    pub(crate) fn may_be_outdated(&self, instance: InstanceId) -> bool {
        self.keeping.keepers.is_pending(instance, |peer| self.is_keeper(instance, peer))
    }

    /// L: why it proposes nothing to be signed in a factory now, if a keeper says, or has shown, that it has more of it
    /// (S9). Members wait by themselves.
    pub(crate) fn waits_to_know(&self, instance: InstanceId) -> Option<&'static str> {
        let checked = self.keeping.keepers.is_checked(instance);
        checked.then_some("one of the operator's copies is looked at: it may know more")
    }

    /// Those that a factory has now: peers that have said that they keep copies, and have none of other records.
    fn keepers_of(&self, instance: InstanceId) -> KeepersOf {
        let keeps = |peer: &NodeId| {
            self.is_keeper(instance, *peer) && !self.keeping.keepers.has_other(*peer, instance)
        };
        let peers = self.keeping.keepers.ready().filter(keeps).map(Keeper::Peer);
        let now = self.config.backup_file.then_some(Keeper::File).into_iter().chain(peers).collect();
        KeepersOf { now, pending: self.may_be_outdated(instance) }
    }

    fn min_keepers(&self) -> usize {
        self.config.min_keepers.into()
    }

    /// The effects of a step that needn't wait for copies, and what has copies made of what was `written`.
    pub(super) fn hold_back(&mut self, effects: Vec<Effect>, written: &BTreeSet<InstanceId>) -> Vec<Effect> {
        let least = self.min_keepers();
        let waiting = self.keeping.waiting();
        let nobody = !self.config.backup_file && self.keeping.keepers.is_idle();
        if nobody && least == 0 && waiting.is_empty() {
            return effects;
        }
        let binds = effects.iter().filter_map(binding).map(|(instance, _)| instance);
        let looked_at: BTreeSet<InstanceId> = binds.chain(waiting).chain(written.iter().copied()).collect();
        let keepers: ByFactory =
            looked_at.into_iter().map(|instance| (instance, self.keepers_of(instance))).collect();
        let (mut effects, needed) = self.keeping.hold_back(effects, &keepers, least);
        // Whatever was stored since: these follow from what keepers have.
        let released = self.keeping.release(&keepers, least);
        effects.extend(released.into_iter().map(|effect| self.if_wanted(effect)));
        let wanted: BTreeSet<InstanceId> = written.union(&needed).copied().collect();
        for instance in wanted.into_iter().filter(|instance| self.is_worth_keeping(*instance)) {
            let of = keepers.get(&instance).map_or(&[][..], |of| &of.now);
            let peers = of.iter().any(|keeper| *keeper != Keeper::File);
            if !of.is_empty() {
                effects.push(Effect::Copy { instance, urgent: needed.contains(&instance), peers });
            }
        }
        self.read_again(&mut effects);
        effects
    }

    /// A purchase may be over by the time that it may be paid: then it never was, as at a start.
    fn if_wanted(&self, effect: Effect) -> Effect {
        if let Effect::PayInvoice { instance, invoice, .. } = &effect
            && self.factories.get(instance).is_some_and(|factory| factory.lsp() != self.me)
            && !self.purchases.get(instance).is_some_and(Purchase::is_open)
        {
            return Effect::LookPayment { instance: *instance, payment_hash: invoice.payment_hash };
        }
        effect
    }

    /// Messages that waited until it was known what keepers have.
    fn read_again(&mut self, effects: &mut Vec<Effect>) {
        let deferred = self.keeping.keepers.deferred();
        let known: Vec<InstanceId> = deferred.filter(|instance| !self.may_be_outdated(*instance)).collect();
        for instance in known {
            let waited = self.keeping.keepers.take_deferred(instance);
            effects.extend(waited.into_iter().map(|(peer, payload)| Effect::ReadAgain { peer, payload }));
        }
    }

    /// Whether money of this node's may be in a factory.
    pub(crate) fn is_worth_keeping(&self, instance: InstanceId) -> bool {
        self.factories.get(&instance).is_some_and(Factory::is_bound)
    }
}
