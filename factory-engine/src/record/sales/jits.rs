//! Ordinary channels in place of sales: the fold of the events that are about them.

use std::collections::BTreeMap;

use crate::record::event::{SaleJit, SaleJitAgreed, SaleJitFailed, SaleJitOpened};
use crate::record::load_error::{LoadError, inconsistent};
use crate::record::sales::account::Account;
use crate::terms::ClientIndex;

/// Ordinary channels that came in place of sales.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Jits {
    /// L: paid, and lightningd was or is to be asked for the channel.
    pub(crate) funding: BTreeMap<ClientIndex, SaleJit>,
    pub(crate) opened: Vec<SaleJitOpened>,
    /// Buyer: the last that it agreed to and that is not there.
    pub(crate) agreed: Option<SaleJitAgreed>,
}

impl Jits {
    /// L: whether a channel for this client is being opened.
    pub fn is_funding(&self, buyer: ClientIndex) -> bool {
        self.funding.contains_key(&buyer)
    }

    /// Those that were opened, the oldest first.
    pub fn opened(&self) -> &[SaleJitOpened] {
        &self.opened
    }

    pub(crate) fn begin(&mut self, account: &mut Account, event: &SaleJit) {
        account.spend(event.buyer, event.price_msat);
        self.funding.insert(event.buyer, event.clone());
    }

    pub(crate) fn fail(&mut self, account: &mut Account, event: &SaleJitFailed) -> Result<(), LoadError> {
        let failed = self.funding.remove(&event.buyer);
        let failed = failed.ok_or_else(|| inconsistent("SaleJitFailed", "no channel was being opened"))?;
        account.refund(event.buyer, failed.price_msat, event.height);
        Ok(())
    }

    pub(crate) fn open(&mut self, account: &mut Account, event: &SaleJitOpened) {
        // The buyer hears of it only now.
        if self.funding.remove(&event.buyer).is_none() {
            account.spend(event.buyer, event.price_msat);
        }
        self.agreed = None;
        self.opened.push(event.clone());
    }
}
