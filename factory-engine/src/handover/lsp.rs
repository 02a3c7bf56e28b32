//! L's side of a handover: a key that isn't its member's is worth nothing, and nothing of it is stored.

use crate::engine::Engine;
use crate::handover::{Context, close_channels};
use crate::io::Level;
use crate::record::attempt::Role;
use crate::record::event::KeyReceived;
use crate::record::factory::{Factory, member_key};
use crate::step::builder::StepBuilder;
use crate::step::fault::Fault;
use crate::terms::ClientIndex;
use crate::tx::musig::{FactoryKey, MusigError, SealedKey, open};
use crate::types::NodeId;
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
        Ok(())
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
