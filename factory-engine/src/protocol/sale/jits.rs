//! Ordinary channels in place of sales: the fold of the events that are about them.

use std::collections::BTreeMap;

use crate::record::event::{SaleJit, SaleJitFailed, SaleJitOpened};
use crate::terms::ClientIndex;

use super::super::factory::{LoadError, inconsistent};
use super::account::Account;

/// Ordinary channels that came in place of sales.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Jits {
    /// L: paid, and lightningd was or is to be asked for the channel.
    pub(super) funding: BTreeMap<ClientIndex, SaleJit>,
    pub(super) opened: Vec<SaleJitOpened>,
}

impl Jits {
    /// Those that were opened, the oldest first.
    pub fn opened(&self) -> &[SaleJitOpened] {
        &self.opened
    }

    pub(super) fn begin(&mut self, account: &mut Account, event: &SaleJit) {
        account.spend(event.buyer, event.price_msat);
        self.funding.insert(event.buyer, event.clone());
    }

    pub(super) fn fail(&mut self, account: &mut Account, event: &SaleJitFailed) -> Result<(), LoadError> {
        let failed = self.funding.remove(&event.buyer);
        let failed = failed.ok_or_else(|| inconsistent("SaleJitFailed", "no channel was being opened"))?;
        account.refund(event.buyer, failed.price_msat);
        Ok(())
    }

    pub(super) fn open(&mut self, account: &mut Account, event: &SaleJitOpened) {
        // The buyer hears of it only now.
        if self.funding.remove(&event.buyer).is_none() {
            account.spend(event.buyer, event.price_msat);
        }
        self.opened.push(event.clone());
    }
}
