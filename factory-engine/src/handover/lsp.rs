//! L's side of a handover: a key that isn't its member's is worth nothing, and nothing of it is stored.

use crate::engine::Engine;
use crate::handover::{Context, close_channels};
use crate::io::{ChannelBalance, Effect, Level};
use crate::record::attempt::Role;
use crate::record::event::{KeyReceived, RenewalPaid};
use crate::record::factory::{Factory, member_key};
use crate::record::state::State;
use crate::step::builder::StepBuilder;
use crate::step::fault::Fault;
use crate::terms::ClientIndex;
use crate::tx::layout::RESERVE_MSAT;
use crate::tx::musig::{FactoryKey, MusigError, SealedKey, open};
use crate::types::{Height, NodeId};
use crate::wire::message::{Handover, HandoverRefused, HandoverStored};
use crate::wire::words::Words;

impl Engine {
    /// A client's key (S22): checked against the key that everybody knows, stored, and then acknowledged.
    pub(crate) fn on_handover(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        message: &Handover,
    ) -> Result<(), Fault> {
        let factory = self.known(message.instance)?;
        if factory.current.role != Role::Lsp {
            return Err(Fault::peer("this node is not the operator"));
        }
        let client =
            factory.client_of(peer).ok_or_else(|| Fault::stale("it is not a client of this factory"))?;
        if message.attempt != factory.current.number {
            return Err(Fault::stale("it is of another attempt"));
        }
        if factory.funding_height().is_none() {
            return Err(Fault::peer("a key of a factory that is not on chain"));
        }
        let (instance, attempt) = (factory.instance, factory.current.number);
        if factory.restored().is_some() {
            let reason = Words::new("nothing is agreed in this factory any more");
            step.send(peer, HandoverRefused { instance, attempt, reason });
            return Ok(());
        }
        let known = factory.has_handed_over(client);
        if self.opened(factory, client, &message.key).is_err() {
            if known {
                return Err(Fault::peer("a second key that contradicts the first"));
            }
            let text =
                format!("{instance}: {peer} hands over a key that is not client {client}'s: not stored");
            step.log(Level::Unusual, text);
            let reason = Words::new("it is not the key of this client in this factory");
            step.send(peer, HandoverRefused { instance, attempt, reason });
            return Ok(());
        }
        if !known {
            step.log(Level::Info, format!("{instance}: client {client} has handed its key over"));
            step.event(instance, KeyReceived { client, key: message.key, height: step.height });
        }
        step.send(peer, HandoverStored { instance, attempt });
        close_channels(step, factory, true, |other| other == client);
        // What it has left behind is what it pays.
        step.effect(Effect::ReadBalances { peer });
        Ok(())
    }

    /// What a client that has left a factory was asked for its renewal, msat; nothing if that was nothing, another
    /// factory's channels hold it, or it is known what was paid.
    fn owed(&self, factory: &Factory, client: ClientIndex) -> Option<u64> {
        let left = *factory.current.handed_over.get(&client)?;
        let node = *factory.current.clients.get(usize::try_from(client).ok()?)?;
        if factory.current.paid_msat.contains_key(&client) || factory.leaves.opened(client).is_some() {
            return None;
        }
        let operated = || self.whole().filter(|other| other.current.role == Role::Lsp);
        let is_next = |next: &&Factory| {
            ends(next) > ends(factory) && next.funding_height().is_some() && next.client_of(node).is_some()
        };
        // A client goes to the one that ends last.
        let next = operated().filter(is_next).max_by_key(|next| ends(next))?;
        // One renewal takes the place of several, and costs once.
        let before = |other: &Factory| {
            let other_left = other.client_of(node).and_then(|client| other.current.handed_over.get(&client));
            let since = next.funding_height().unwrap_or(Height::MAX)..=left;
            other_left
                .is_some_and(|at| since.contains(at) && (*at, other.instance) < (left, factory.instance))
        };
        if operated().any(before) {
            return None;
        }
        Some(next.current.price_of(next.client_of(node)?)).filter(|msat| *msat > 0)
    }

    /// At every block: what was left behind for renewals is looked at until it is known.
    pub(crate) fn look_what_was_paid(&self, step: &mut StepBuilder<'_>, factory: &Factory) {
        if factory.current.role != Role::Lsp || factory.state(step.height) == State::Closed {
            return;
        }
        for client in factory.current.handed_over.keys().copied() {
            let node = usize::try_from(client).ok().and_then(|place| factory.current.clients.get(place));
            if let Some(peer) = node.filter(|_| self.owed(factory, client).is_some()) {
                step.effect(Effect::ReadBalances { peer: *peer });
            }
        }
    }

    /// What a client that has handed its key over has left behind beyond its reserves is what it pays for its renewal.
    pub(crate) fn note_what_was_paid(&self, step: &mut StepBuilder<'_>, list: &[ChannelBalance]) {
        for factory in self.whole().filter(|factory| factory.current.role == Role::Lsp) {
            for client in factory.current.handed_over.keys().copied() {
                let Some(price_msat) = self.owed(factory, client) else { continue };
                let own = factory.own_channels().filter(|channel| channel.client == client);
                let left = own.map(|channel| {
                    let known = list.iter().find(|known| known.channel_id == channel.channel_id)?;
                    let all = channel.capacity.to_sat().saturating_mul(1_000);
                    Some(all.saturating_sub(known.to_us_msat).saturating_sub(RESERVE_MSAT))
                });
                let Some(left) = left.collect::<Option<Vec<u64>>>() else { continue };
                let msat = left.into_iter().fold(0, u64::saturating_add).min(price_msat);
                let text = format!(
                    "{}: client {client} pays {msat} of the {price_msat} msat that its renewal costs",
                    factory.instance
                );
                step.log(if msat < price_msat { Level::Unusual } else { Level::Info }, text);
                step.event(factory.instance, RenewalPaid { client, msat });
            }
        }
    }

    /// The key of a client that has handed it over; nothing if it hasn't.
    pub fn handed_over_key(&self, factory: &Factory, client: ClientIndex) -> Option<FactoryKey> {
        self.opened(factory, client, factory.current.keys.get(&client)?).ok()
    }

    fn opened(
        &self,
        factory: &Factory,
        client: ClientIndex,
        key: &SealedKey,
    ) -> Result<FactoryKey, MusigError> {
        let (instance, attempt) = (factory.instance, factory.current.number);
        let member = member_key(factory, client).ok_or(MusigError::BadSeal)?;
        let context = Context::new(instance, attempt, client);
        open(key, &self.factory_key(instance, attempt), &context.parts(), member)
    }
}

fn ends(factory: &Factory) -> Height {
    factory.current.terms.timeout_height
}
