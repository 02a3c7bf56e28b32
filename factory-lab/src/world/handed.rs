//! A client's key, on its way to the operator: as if both had agreed on it.

use factory_engine::record::decode_record;
use factory_engine::record::event::{Event, HandedOver, HandoverStored, KeyReceived};
use factory_engine::tx::layout::CoinIndex;
use factory_engine::tx::musig::{FactoryKey, MasterSecret, seal};
use factory_engine::types::InstanceId;
use factory_engine::{Factory, Role};

use crate::{LabError, error};

use super::{LSP, World};

impl World {
    /// A client hands its key of a factory over, and both sides store it (S22).
    ///
    /// # Errors
    /// When one of them is down, or has nothing to hand over.
    pub fn hand_over(&mut self, at: usize, instance: InstanceId) -> Result<(), LabError> {
        let height = self.chain.height();
        self.note(at, instance, HandedOver { height }.into())?;
        self.deliver_key(at, instance)?;
        self.note(at, instance, HandoverStored {}.into())
    }

    /// The operator gets a client's key, whatever the client thinks of it.
    ///
    /// # Errors
    /// When one of them is down, or has no such key.
    pub fn deliver_key(&mut self, at: usize, instance: InstanceId) -> Result<(), LabError> {
        let height = self.chain.height();
        let factory = self.factory(at, instance)?;
        let Role::Client { index, .. } = factory.current.role else { return Err(error("it is no client")) };
        let attempt = factory.current.number;
        let proposal = factory.current.proposal.as_ref().ok_or_else(|| error("nothing was proposed"))?;
        let lsp_key = proposal.lsp_key;
        let mut salt = None;
        for record in self.members[at].store.records(instance) {
            for event in decode_record(record).map_err(error)? {
                if let Event::Signing(signing) = event {
                    salt = signing.salt;
                }
            }
        }
        let salt = salt.ok_or_else(|| error("its key has no salt"))?;
        let master = MasterSecret::new(self.members[at].master);
        let key = FactoryKey::derive_salted(&master, instance, attempt, &salt);
        let context: [&[u8]; 3] = [&instance.0, &attempt.to_be_bytes(), &index.to_be_bytes()];
        let mut seed = [7; 32];
        seed[..8].copy_from_slice(&self.now.to_be_bytes());
        seed[8..12].copy_from_slice(&index.to_be_bytes());
        let key = seal(&key, lsp_key, &context, seed).map_err(error)?;
        self.note(LSP, instance, KeyReceived { client: index, key, height }.into())
    }

    /// One event that no input has led to.
    fn note(&mut self, at: usize, instance: InstanceId, event: Event) -> Result<(), LabError> {
        let events = [(instance, vec![event])];
        self.members[at].store.append(&events).map_err(|_| error("its store fails"))?;
        self.judge.stored(at, &events);
        // As if agreed: whether it may is not asked.
        if let Some(Event::HandedOver(_)) = events.first().and_then(|(_, events)| events.first()) {
            self.note_handed(at, instance).map_err(error)?;
        }
        self.follow(at, &events)?;
        let [(_, events)] = events;
        let engine = self.members[at].engine.as_mut().ok_or_else(|| error(format!("member {at} is down")))?;
        engine.load(instance, [events]).map_err(error)
    }
}

/// Whether the operator has the key of every client of a coin: what it may take back, and has to.
pub(super) fn has_every_key(factory: &Factory, coin: CoinIndex) -> bool {
    let clients = factory.current.layout.coin(coin).map(|coin| coin.clients.clone()).unwrap_or_default();
    let mut clients = clients.into_iter().peekable();
    clients.peek().is_some() && clients.all(|client| factory.has_handed_over(client))
}
