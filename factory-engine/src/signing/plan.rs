//! What is signed, and by whom.

use std::collections::BTreeMap;
use std::ops::Range;
use std::slice;
use std::sync::Arc;

use crate::record::event::LedgerEntry;
use crate::terms::ClientIndex;
use crate::tx::layout::SessionId;
use crate::tx::musig::{KeyAgg, MusigError};
use crate::tx::tree::{Session, Tree};

/// Sessions that are signed together, in the order in which nonces and signatures travel. A member's own
/// sessions are in the same order.
///
/// Of a session it keeps just what the ledger does, so that what is signed is what was recorded (S8). Who
/// signs follows from the coin: whatever spends it needs L and every client of the coin.
pub struct Plan {
    /// Has the coins' key aggregates: they are expensive, and shared with the factory.
    keys: Arc<Tree>,
    parts: Vec<Part>,
}

/// One session of a plan.
pub(crate) struct Part {
    pub(crate) entry: LedgerEntry,
    /// Who signs it, besides L.
    clients: Range<ClientIndex>,
}

impl Plan {
    /// Of `sessions`, which spend coins of `keys`.
    pub fn new(keys: Arc<Tree>, sessions: &[Session]) -> Self {
        let part = |session: &Session| Part {
            entry: LedgerEntry { outpoint: session.outpoint, session: session.id, sighash: session.sighash },
            clients: keys.clients(session.id.coin),
        };
        let parts = sessions.iter().map(part).collect();
        Self { keys, parts }
    }

    /// What the ledger is asked and told before anybody signs (S8).
    pub fn ledger(&self) -> Vec<LedgerEntry> {
        self.parts.iter().map(|part| part.entry).collect()
    }

    /// How many sessions there are.
    pub fn sessions(&self) -> usize {
        self.parts.len()
    }

    pub(crate) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The key under which a part is signed.
    pub(crate) fn key(&self, part: &Part) -> Result<&KeyAgg, MusigError> {
        self.keys.key_agg(part.entry.session.coin).ok_or(MusigError::NotAMember)
    }

    /// Session ids with something for each.
    pub fn by_session<T: Clone>(&self, values: &[T]) -> BTreeMap<SessionId, T> {
        self.parts.iter().map(|part| part.entry.session).zip(values.iter().cloned()).collect()
    }

    /// Of something for each session what each client gets: that of its own sessions, in their order.
    pub fn shares<T: Clone>(&self, values: &[T]) -> BTreeMap<ClientIndex, Vec<T>> {
        let mut shares: BTreeMap<ClientIndex, Vec<T>> = BTreeMap::new();
        for (part, value) in self.parts.iter().zip(values) {
            for client in part.clients.clone() {
                shares.entry(client).or_default().push(value.clone());
            }
        }
        shares
    }

    /// The reverse of [`Plan::shares`]: for each session what its clients have for it, in client order.
    pub(crate) fn collate<'a, T>(
        &'a self,
        mut given: BTreeMap<ClientIndex, slice::Iter<'a, T>>,
    ) -> impl Iterator<Item = Vec<(ClientIndex, &'a T)>> {
        self.parts.iter().map(move |part| {
            let own = given.range_mut(part.clients.clone());
            own.filter_map(|(client, values)| Some((*client, values.next()?))).collect()
        })
    }
}
