//! A client's side of a handover.

use crate::engine::Engine;
use crate::handover::ready::{Successor, kept_behind};
use crate::handover::{Context, close_channels};
use crate::io::{ChannelBalance, Effect, Level, NodeError};
use crate::memory::Volatile;
use crate::memory::leaving::{Failure, VolatileLeaving};
use crate::policy::Policy;
use crate::record::attempt::Role;
use crate::record::event::{HandedOver, HandoverStored, Renewed};
use crate::record::factory::Factory;
use crate::step::builder::{StepBuilder, short};
use crate::step::fault::Fault;
use crate::tx::musig::seal;
use crate::types::{InstanceId, NodeId};
use crate::wire::message::{Handover, HandoverRefused, HandoverStored as StoredMessage};

impl Engine {
    /// Whether a client leaves this factory as soon as it is empty: by itself, or because a person said so.
    pub(crate) fn wants_to_leave(&self, factory: &Factory, height: u32) -> bool {
        factory.leaves.wish().is_some() || self.config.renew != Policy::Never && factory.is_due(height)
    }

    /// A factory that this node is to leave: looks what its channels hold, at every block.
    pub(crate) fn look_to_leave(&self, step: &mut StepBuilder<'_>, factory: &Factory) {
        if factory.has_left() {
            return;
        }
        let ready = self.wants_to_leave(factory, step.height)
            && self.peers.contains(&factory.lsp())
            && self.may_leave(factory, step.height).is_ok();
        match (ready, self.leaving.frozen(factory.instance)) {
            // The answer may be lost.
            (true, Some(freeze)) => check_empty(step, factory, freeze),
            (false, Some(_)) => thaw(step, factory.instance),
            // Also while it can't leave yet: what it holds is what the next factory has to make up for.
            (_, None) if self.wants_to_leave(factory, step.height) => {
                step.effect(Effect::ReadBalances { peer: factory.lsp() });
            }
            (_, None) => {}
        }
    }

    /// What channels hold: of a factory that this node leaves, whether that is nothing more. Then no HTLC is let onto
    /// its channels, and only what is there after that counts: one may be on its way.
    pub(crate) fn on_balances(&self, step: &mut StepBuilder<'_>, list: Vec<ChannelBalance>) {
        for factory in self.whole() {
            let frozen = self.leaving.frozen(factory.instance).is_some();
            let named = list.iter().any(|balance| balance.peer == factory.lsp());
            if frozen || !named || !self.wants_to_leave(factory, step.height) {
                continue;
            }
            let Ok(next) = self.may_leave(factory, step.height) else { continue };
            if self.peers.contains(&factory.lsp()) && self.is_empty(factory, next, &list).is_ok() {
                let freeze = self.generation;
                step.volatile(Volatile::Leaving(VolatileLeaving::Freeze(factory.instance, freeze)));
                check_empty(step, factory, freeze);
            }
        }
        step.volatile(Volatile::Balances(list));
    }

    /// The look at channels that nothing moves on: if they are empty the key is handed over, stored first (S10, S22).
    pub(crate) fn on_emptied(
        &self,
        step: &mut StepBuilder<'_>,
        instance: InstanceId,
        freeze: u64,
        result: Result<Vec<ChannelBalance>, NodeError>,
    ) {
        let factory = self.factories.get(&instance);
        let Some(factory) = factory.filter(|_| self.leaving.frozen(instance) == Some(freeze)) else { return };
        let empty = |list: &Vec<ChannelBalance>| {
            let next = self.may_leave(factory, step.height).map_err(|why| why.to_string())?;
            self.is_empty(factory, next, list).map_err(|why| why.to_string())?;
            let find = |id| list.iter().find(|known| known.channel_id == id);
            let left = kept_behind(factory, self.price_behind(factory, next), find);
            Ok((next, left.fold(0, |sum: u64, kept| sum.saturating_add(kept.stays_msat))))
        };
        let looked = result.as_ref().map_err(ToString::to_string).and_then(empty);
        thaw(step, instance);
        if let Ok(list) = result {
            step.volatile(Volatile::Balances(list));
        }
        let (next, msat) = match looked {
            Ok(looked) => looked,
            Err(why) => return step.log(Level::Debug, format!("{instance}: not handed over yet: {why}")),
        };
        let Some(handover) = self.sealed(step, factory) else {
            return fail(step, instance, "its key could not be sealed");
        };
        let text = format!("{instance}: empty; its key goes to the operator, and its money is in {next}");
        step.log(Level::Info, text);
        step.event(instance, HandedOver { height: step.height });
        if let Successor::Factory(next) = next {
            step.event(next.instance, Renewed { of: instance, msat });
        }
        step.send(factory.lsp(), handover);
    }

    /// This client's key for the operator. Another seal each time, of the same key.
    fn sealed(&self, step: &mut StepBuilder<'_>, factory: &Factory) -> Option<Handover> {
        let Role::Client { index, .. } = factory.current.role else { return None };
        let (instance, attempt) = (factory.instance, factory.current.number);
        let key = self.client_key(instance, attempt, factory.current.salt.as_ref()?);
        let receiver = factory.current.proposal.as_ref()?.lsp_key;
        let context = Context::new(instance, attempt, index);
        let key = seal(&key, receiver, &context.parts(), step.rng.bytes32()).ok()?;
        Some(Handover { instance, attempt, key })
    }

    /// Until the operator has stored it.
    pub(crate) fn hand_over_again(&self, step: &mut StepBuilder<'_>, factory: &Factory) {
        if !factory.has_left() || factory.current.handover_stored {
            return;
        }
        match self.sealed(step, factory) {
            Some(handover) => step.send(factory.lsp(), handover),
            None => fail(step, factory.instance, "its key could not be sealed"),
        }
    }

    /// The operator has it. What follows for the channels is lightningd's.
    pub(crate) fn on_handover_stored(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        message: &StoredMessage,
    ) -> Result<(), Fault> {
        let factory = self.left_to(peer, message.instance, message.attempt)?;
        if factory.current.handover_stored {
            return Err(Fault::stale("it is known"));
        }
        step.event(factory.instance, HandoverStored {});
        step.log(Level::Info, format!("{}: the operator has its key; it is left", factory.instance));
        close_channels(step, factory, true, |_| true);
        Ok(())
    }

    /// The operator has not stored it: said again at the next block, since nothing else would be better.
    pub(crate) fn on_handover_refused(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        message: &HandoverRefused,
    ) -> Result<(), Fault> {
        let factory = self.left_to(peer, message.instance, message.attempt)?;
        if factory.current.handover_stored {
            return Err(Fault::stale("it was stored before"));
        }
        let what = format!("the operator does not take its key: {}", message.reason);
        step.log(Level::Unusual, format!("{}: {what}", factory.instance));
        fail(step, factory.instance, &what);
        Ok(())
    }

    /// A factory that this node has left, and whose operator this is.
    fn left_to(&self, peer: NodeId, instance: InstanceId, attempt: u32) -> Result<&Factory, Fault> {
        let factory = self.known(instance)?;
        if !matches!(factory.current.role, Role::Client { lsp, .. } if lsp == peer) {
            return Err(Fault::stale("it is not from the operator"));
        }
        if attempt != factory.current.number || !factory.has_left() {
            return Err(Fault::stale("no key was handed over"));
        }
        Ok(factory)
    }
}

fn check_empty(step: &mut StepBuilder<'_>, factory: &Factory, freeze: u64) {
    step.effect(Effect::CheckEmpty { instance: factory.instance, peer: factory.lsp(), freeze });
}

fn thaw(step: &mut StepBuilder<'_>, instance: InstanceId) {
    step.volatile(Volatile::Leaving(VolatileLeaving::Thaw(instance)));
}

/// Whatever failed is said where somebody looks.
pub(crate) fn fail(step: &mut StepBuilder<'_>, instance: InstanceId, what: &str) {
    let failure = Failure { height: step.height, what: short(what) };
    step.volatile(Volatile::Leaving(VolatileLeaving::Failed(instance, failure)));
}
