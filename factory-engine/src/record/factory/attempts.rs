//! Attempts of one factory: the current one, and those that were given up.

use crate::record::attempt::{Attempt, Role};
use crate::record::factory::{Factory, own_clients};
use crate::record::load_error::{LoadError, inconsistent};
use crate::record::sales::Sold;
use crate::record::state::State;
use crate::terms::{ClientIndex, Terms};
use crate::types::{ChannelId, Height, Txid};

impl Factory {
    /// Whether a channel is one of this factory's, of any attempt or sale, or was opened in place of one or for a
    /// client that leaves.
    pub(crate) fn names(&self, channel_id: ChannelId) -> bool {
        let of_tree = |attempt: &Attempt| {
            let outpoint = |client| attempt.tree.as_ref().and_then(|tree| tree.channel_outpoint(client));
            (0..attempt.terms.clients()).filter_map(outpoint).any(|leaf| ChannelId::of(leaf) == channel_id)
        };
        self.attempts().any(of_tree) || self.current.sales.names(channel_id) || self.leaves.names(channel_id)
    }

    /// Another attempt takes the place of the current one. Of that all is dropped, unless its signatures
    /// were finished.
    pub(crate) fn start_attempt(
        &mut self,
        event: &'static str,
        role: Role,
        number: u32,
        terms: &Terms,
    ) -> Result<(), LoadError> {
        if number <= self.current.number || terms.instance != self.instance {
            return Err(inconsistent(event, "its attempt or factory_instance is wrong"));
        }
        let new = Attempt::new(event, role, number, terms)?;
        let old = std::mem::replace(&mut self.current, new);
        if !old.signatures.is_empty() {
            self.past.push(old);
        }
        Ok(())
    }

    pub(crate) fn note_reliance(&mut self) {
        self.current.relied_on |= self.funding_height().is_some() && !self.current.checked.is_empty();
    }

    /// The funding of an attempt that was given up is on chain: that attempt is the factory, unless money
    /// may be in this one and it can still be (S16, S19).
    pub(crate) fn revive(&mut self, txid: Txid) {
        let of_past = |past: &Attempt| past.funding().is_some_and(|funding| funding.txid == txid);
        let current = &self.current;
        let lives = |past: &Attempt| !current.relied_on || past.relied_on || current.conflicts(past);
        if let Some(past) = self.past.iter_mut().find(|past| of_past(past))
            && lives(past)
        {
            std::mem::swap(&mut self.current, past);
        }
    }

    /// Whether nothing can come of it any more, whatever else is known of it: it is closed; its funding, buried
    /// by now, is the end of the attempts before it; and lightningd is done with every channel that was opened
    /// for it, so that no HTLC can ask for it (S18). One that a distribution has paid is still lightningd's.
    ///
    /// lightningd keeps a channel for ever that both sides have closed and whose leaf never comes: of a client
    /// that has handed over nothing stands on it (S22).
    pub(crate) fn is_archivable(&self, height: Height) -> bool {
        if self.has_left() {
            // Nothing can be said of a channel that was opened for an attempt that was given up.
            let known = own_clients(self).len().saturating_add(self.own_sales().count());
            return self.state(height) == State::Closed
                && self.past.iter().all(|past| self.current.conflicts(past))
                && self.opens_accepted.len() <= known;
        }
        // Of a sale that never was finished nothing is left but its price, which comes back first (S36).
        let own = || self.own_sales().filter(|sold| sold.void.is_none());
        // lightningd never settles a channel that was taken back (it waits for the funding output), but keeps
        // it closed: no HTLC can ask for that either. The same for what a close has paid.
        let closed = |channel| self.current.ended.contains_key(&channel);
        let gone = self.close_height().is_some();
        let resolved = |client: &ClientIndex| {
            let channel = self.current.channels.get(client).copied();
            self.current.resolved.contains(client)
                || ((gone || self.reclaimed(*client).is_some()) && channel.is_some_and(closed))
        };
        let sale_resolved = |sold: &&Sold| {
            self.current.sales.is_resolved(sold.channel_id())
                || ((gone || self.is_stock_taken_back(sold)) && closed(sold.channel_id()))
        };
        let sales = own().filter(sale_resolved).count();
        let channels = own_clients(self).filter(resolved).count();
        self.state(height) == State::Closed
            && self.past.iter().all(|past| self.current.conflicts(past))
            && own_clients(self).all(|client| resolved(&client))
            && sales == own().count()
            && self.attempts().all(|attempt| attempt.sales.owes_nothing())
            && self.moves.is_settled()
            && self.opens_accepted.len() <= channels.saturating_add(sales)
    }

    /// The current attempt, and those that were given up although their signatures were finished.
    pub fn attempts(&self) -> impl Iterator<Item = &Attempt> {
        self.past.iter().chain([&self.current])
    }

    /// Attempts that were given up although their signatures were finished.
    pub fn past(&self) -> &[Attempt] {
        &self.past
    }
}
