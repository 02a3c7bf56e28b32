//! L's side of a handover: a key that isn't its member's is worth nothing, and nothing of it is stored.

use std::collections::BTreeSet;

use crate::engine::Engine;
use crate::handover::{Context, close_channels};
use crate::io::{ChannelBalance, Effect, Level};
use crate::record::attempt::Role;
use crate::record::event::{KeyReceived, RenewalPaid};
use crate::record::factory::{Factory, member_key};
use crate::step::builder::StepBuilder;
use crate::step::fault::Fault;
use crate::terms::ClientIndex;
use crate::tx::layout::RESERVE_MSAT;
use crate::tx::musig::{FactoryKey, MusigError, SealedKey, open};
use crate::types::{Height, NodeId};
use crate::wire::message::{Handover, HandoverRefused, HandoverStored};
use crate::wire::words::Words;

/// Blocks after a handover in which it is looked what was left behind.
const LOOK_BLOCKS: u32 = 12;

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

    /// The factory that a client has left another one for, the client's place there, and what it was asked for: nothing
    /// if it was asked for nothing, or what it paid is known.
    fn owed(&self, left: &Factory, client: ClientIndex) -> Option<(&Factory, ClientIndex, u64)> {
        let since = *left.current.handed_over.get(&client)?;
        let node = left.node_of(client)?;
        let is_next = |next: &&Factory| {
            next.current.role == Role::Lsp
                && ends(next) > ends(left)
                && next.funding_height().is_some_and(|height| height <= since)
        };
        let places = self.whole().filter(is_next).filter_map(|next| Some((next, next.client_of(node)?)));
        // A client goes to the one that ends last.
        let (next, place) = places.max_by_key(|(next, _)| ends(next))?;
        let known = next.current.paid_msat.contains_key(&(place, left.instance));
        let asked = next.current.price_of(place).saturating_sub(next.current.paid_by(place).unwrap_or(0));
        (!known && asked > 0 && left.leaves.opened(client).is_none()).then_some((next, place, asked))
    }

    /// Factories of this node that ask somebody for a renewal.
    fn asks_for_renewals(&self) -> bool {
        self.whole().any(|factory| !factory.current.prices_msat.is_empty())
    }

    /// At every block: what was left behind for renewals is looked at until it is known, for a while.
    pub(crate) fn look_what_was_paid(&self, step: &mut StepBuilder<'_>, factory: &Factory) {
        let soon = |since: &Height| step.height < since.saturating_add(LOOK_BLOCKS);
        let left = factory.current.handed_over.iter().filter(|(_, since)| soon(since));
        let clients: Vec<ClientIndex> = left.map(|(client, _)| *client).collect();
        if factory.current.role != Role::Lsp || clients.is_empty() || !self.asks_for_renewals() {
            return;
        }
        let owing = clients.into_iter().filter(|client| self.owed(factory, *client).is_some());
        for peer in owing.filter_map(|client| factory.node_of(client)) {
            step.effect(Effect::ReadBalances { peer });
        }
    }

    /// What a client that has handed its key over has left behind beyond its reserves is what it pays for its renewal.
    pub(crate) fn note_what_was_paid(&self, step: &mut StepBuilder<'_>, list: &[ChannelBalance]) {
        if !self.asks_for_renewals() {
            return;
        }
        let peers: BTreeSet<NodeId> = list.iter().map(|known| known.peer).collect();
        for left in self.whole().filter(|factory| factory.current.role == Role::Lsp) {
            for peer in &peers {
                let Some(client) = left.client_of(*peer) else { continue };
                let Some((next, place, asked_msat)) = self.owed(left, client) else { continue };
                let own = left.own_channels().filter(|channel| channel.client == client);
                let behind = own.map(|channel| {
                    let known = list.iter().find(|known| known.channel_id == channel.channel_id)?;
                    let all = channel.capacity.to_sat().saturating_mul(1_000);
                    Some(all.saturating_sub(known.to_us_msat).saturating_sub(RESERVE_MSAT))
                });
                let Some(behind) = behind.collect::<Option<Vec<u64>>>() else { continue };
                let msat = behind.into_iter().fold(0, u64::saturating_add).min(asked_msat);
                let text = format!(
                    "{}: client {place} pays {msat} of the {asked_msat} msat that its renewal costs, in factory {}",
                    next.instance, left.instance
                );
                step.log(if msat < asked_msat { Level::Unusual } else { Level::Info }, text);
                step.event(next.instance, RenewalPaid { client: place, of: left.instance, msat });
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
