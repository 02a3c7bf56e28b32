//! Which channels may carry HTLCs (S18).

use std::cell::OnceCell;

use crate::record::sales::Sold;
use crate::record::state::State;
use crate::record::unusable::Unusable;
use crate::terms::ClientIndex;
use crate::types::Height;

use super::Factory;

/// Which channels of a factory may carry HTLCs at one height. Whoever asks of many asks one of these: the
/// factory's state, which looks at every client, is looked up once.
pub(crate) struct Usability<'a> {
    factory: &'a Factory,
    height: Height,
    state: OnceCell<State>,
}

impl<'a> Usability<'a> {
    pub(crate) fn new(factory: &'a Factory, height: Height) -> Self {
        Self { factory, height, state: OnceCell::new() }
    }

    fn state(&self) -> State {
        *self.state.get_or_init(|| self.factory.state(self.height))
    }

    /// Whether a client's first channel may, and otherwise why not.
    pub(crate) fn channel(&self, client: ClientIndex) -> Result<(), Unusable> {
        if !self.factory.current.checked.contains(&client) {
            return Err(Unusable::NotChecked);
        }
        if let Some(how) = self.factory.current.ended_of(client) {
            return Err(Unusable::Ended(how));
        }
        // S22: whatever moved there now would be the operator's.
        if self.factory.has_handed_over(client) {
            return Err(Unusable::HandedOver);
        }
        // What a close pays is fixed, and it may confirm yet.
        if self.factory.is_closing(self.height) {
            return Err(Unusable::Closing);
        }
        if self.factory.leaf_height(client).is_some() {
            return Ok(());
        }
        if self.factory.damage.is_some() {
            return Err(Unusable::Damaged);
        }
        if self.factory.current.exiting.contains(&client) {
            return Err(Unusable::Leaving);
        }
        match self.state() {
            State::Active | State::Dying => Ok(()),
            // Others leave, or L gets everybody out; a reorganisation may have taken the funding with it.
            State::Exiting | State::Exited if self.factory.is_deep(self.height) => Ok(()),
            State::Funding | State::Exiting | State::Exited => {
                Err(Unusable::NotDeep { confirmations: self.factory.current.terms.funding_confirmations })
            }
            state @ (State::Invited
            | State::Joining
            | State::Signing
            | State::Storing
            | State::Opening
            | State::Distributed
            | State::Reclaimed
            | State::Closing
            | State::Left
            | State::Declined
            | State::Aborted
            | State::Closed) => Err(Unusable::State(state)),
        }
    }

    /// Whether a bought channel may, and otherwise why not. Its script was checked before the sale was signed.
    pub(crate) fn sale(&self, sold: &Sold) -> Result<(), Unusable> {
        if !sold.is_signed() {
            return Err(Unusable::NotSigned);
        }
        if let Some(how) = self.factory.current.ended.get(&sold.channel_id()) {
            return Err(Unusable::Ended(*how));
        }
        if self.factory.has_handed_over(sold.sale.buyer) {
            return Err(Unusable::HandedOver);
        }
        if self.factory.is_closing(self.height) {
            return Err(Unusable::Closing);
        }
        if self.factory.confirmed.contains_key(&sold.txid()) {
            return Ok(());
        }
        if self.factory.leaf_height(sold.sale.buyer).is_some() {
            return Err(Unusable::SaleUnconfirmed);
        }
        self.channel(sold.sale.buyer)
    }
}

impl Factory {
    /// Whether a client's channel may carry HTLCs, and otherwise why not (S18).
    pub fn channel_usable(&self, client: ClientIndex, height: Height) -> Result<(), Unusable> {
        Usability::new(self, height).channel(client)
    }

    /// Whether a bought channel may carry HTLCs, and otherwise why not (S18).
    pub fn sale_usable(&self, sold: &Sold, height: Height) -> Result<(), Unusable> {
        Usability::new(self, height).sale(sold)
    }
}
