//! Applying what a step changes of a cooperative close: memory, and the signing itself.

use crate::engine::Engine;
use crate::io::Effect;
use crate::memory::closing::{ClosePhase, VolatileClose};
use crate::signing::{SignAs, SignJob};
use crate::tx::close::CLOSE;
use crate::tx::musig::FactoryKey;
use crate::types::InstanceId;
use crate::wire::message::ClosePropose;

use super::apply::{as_lsp, as_member};

impl Engine {
    pub(crate) fn apply_volatile_close(&mut self, change: VolatileClose, effects: &mut Vec<Effect>) {
        match change {
            VolatileClose::Sign(instance, job) => self.sign_close(instance, *job, effects),
            change @ (VolatileClose::StartLsp(..)
            | VolatileClose::Looked(..)
            | VolatileClose::Asking(..)
            | VolatileClose::JoinedLsp(..)
            | VolatileClose::Partials(..)
            | VolatileClose::StartClient(..)
            | VolatileClose::JoinedClient(..)
            | VolatileClose::End(_)
            | VolatileClose::Failed(..)) => self.closes.apply(change),
        }
    }

    /// Keys of the clients that have handed over, in their order: L signs a close in their place (S22).
    pub(crate) fn held_keys(&self, instance: InstanceId) -> Vec<FactoryKey> {
        let Some(factory) = self.factories.get(&instance) else { return vec![] };
        let clients = factory.current.tree.as_ref().map(|tree| tree.clients(CLOSE.coin)).unwrap_or_default();
        clients.filter_map(|client| self.handed_over_key(factory, client)).collect()
    }

    /// Makes this node's partial signature of a close. Its ledger entry is durable by now (S8, S10).
    fn sign_close(&mut self, instance: InstanceId, job: SignJob<ClosePropose>, effects: &mut Vec<Effect>) {
        let SignJob { transcript, role, deadline } = job;
        let Some(factory) = self.factories.get(&instance) else { return };
        match role {
            SignAs::Lsp(opened) => {
                let key = self.factory_key(instance, factory.current.number);
                let held = self.held_keys(instance);
                let Some(close) = self.closes.lsp.get_mut(&instance) else { return };
                close.phase = ClosePhase::Signing;
                close.deadline = deadline;
                // Otherwise the deadline ends this try; the next has fresh nonces.
                let signed = close.signing.sign_with(opened, transcript, &key, &held);
                effects.extend(as_lsp(instance, " of the close", signed));
            }
            SignAs::Member { plan, request } => {
                // Whoever holds a signed factory has signed with this.
                let (lsp, Some(salt)) = (factory.lsp(), factory.current.salt) else { return };
                let key = self.client_key(instance, factory.current.number, &salt);
                let Some(close) = self.closes.client.get_mut(&instance) else { return };
                close.deadline = deadline;
                let Some(joined) = close.joined.as_mut() else { return };
                let signed = joined.signing.sign(&plan, request, transcript, &key);
                effects.push(as_member(instance, " the close", lsp, signed));
            }
        }
    }
}
