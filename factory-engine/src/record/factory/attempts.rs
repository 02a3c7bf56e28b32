//! Attempts of one factory: the current one, and those that were given up.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::record::factory::{Factory, Sales, own_clients};
use crate::record::load_error::{LoadError, inconsistent};
use crate::record::state::State;
use crate::terms::Terms;
use crate::tx::layout::Layout;
use crate::types::{Height, Txid};

impl Factory {
    pub(crate) fn start_attempt(
        &mut self,
        event: &'static str,
        attempt: u32,
        terms: &Terms,
    ) -> Result<(), LoadError> {
        if attempt <= self.attempt || terms.instance != self.instance {
            return Err(inconsistent(event, "its attempt or factory_instance is wrong"));
        }
        let layout = Layout::new(terms).map_err(|error| inconsistent(event, error))?;
        if !self.signatures.is_empty() {
            self.past.push(Self { past: vec![], ..self.clone() });
        }
        self.layout = Arc::new(layout);
        self.terms = terms.clone();
        self.attempt = attempt;
        self.tree = None;
        self.proposal = None;
        self.reserved = None;
        self.signatures.clear();
        self.channels.clear();
        self.checked.clear();
        self.relied_on = false;
        self.sales = Sales::default();
        self.salt = None;
        self.failure = None;
        Ok(())
    }

    pub(crate) fn note_reliance(&mut self) {
        self.relied_on |= self.funding_height().is_some() && !self.checked.is_empty();
    }

    /// The funding of an attempt that was given up is on chain: that attempt is the factory, unless money
    /// may be in this one and it can still be (S16, S19).
    pub(crate) fn revive(&mut self, txid: Txid) {
        let of_past = |past: &Self| past.funding().is_some_and(|funding| funding.txid == txid);
        let place = self.past.iter().position(of_past);
        let place = place.filter(|place| {
            let past = self.past.get(*place);
            !self.relied_on || past.is_some_and(|past| past.relied_on || self.conflicts(past))
        });
        if let Some(place) = place {
            let past = self.past.swap_remove(place);
            let newer = std::mem::replace(self, past);
            self.restored = newer.restored.clone();
            self.signed_for = newer.signed_for.clone();
            self.opens_accepted = newer.opens_accepted.clone();
            self.confirmed = newer.confirmed.clone();
            self.spent = newer.spent.clone();
            self.pays = newer.pays.clone();
            self.past = newer.past.clone();
            self.past.push(Self { past: vec![], ..newer });
        }
    }

    /// Whether two attempts' fundings spend a common input, so that one of them is the end of the other.
    fn conflicts(&self, other: &Self) -> bool {
        let inputs = |attempt: &Self| {
            let proposal = attempt.proposal.as_ref();
            let inputs = proposal.into_iter().flat_map(|proposal| &proposal.funding_tx.input);
            inputs.map(|input| input.previous_output).collect::<BTreeSet<_>>()
        };
        !inputs(self).is_disjoint(&inputs(other))
    }

    /// Whether nothing can come of it any more, whatever else is known of it: it is closed; its funding, buried
    /// by now, is the end of the attempts before it; and lightningd is done with every channel that was opened
    /// for it, so that no HTLC can ask for it (S18). One that a distribution has paid is still lightningd's.
    pub(crate) fn is_archivable(&self, height: Height) -> bool {
        let sales = self.own_sales().filter(|sold| self.sales.is_resolved(sold.channel_id())).count();
        self.state(height) == State::Closed
            && self.past.iter().all(|past| self.conflicts(past))
            && own_clients(self).all(|client| self.resolved.contains(&client))
            && sales == self.own_sales().count()
            && self.opens_accepted.len() <= self.resolved.len().saturating_add(sales)
    }

    /// Attempts that were given up although their signatures were finished.
    pub fn past(&self) -> &[Factory] {
        &self.past
    }
}
