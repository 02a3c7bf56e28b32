//! What a factory's clients have paid for liquidity: the fold of the events that are about payments.

use std::collections::BTreeMap;

use crate::record::event::{SaleDue, SaleDueEnded};
use crate::record::load_error::{LoadError, inconsistent};
use crate::terms::ClientIndex;
use crate::types::PaymentHash;

/// For L of every client, for a client its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// Invoices that may still be paid, or payments that may still arrive.
    due: BTreeMap<PaymentHash, Due>,
    /// Paid, and nothing sold for it yet, msat.
    credit: BTreeMap<ClientIndex, u64>,
}

/// Something that may still be paid.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Due {
    event: SaleDue,
    /// What of it no sale has taken yet, msat: a buyer may hear of its sale before it hears that its
    /// payment has arrived.
    left: u64,
}

impl Account {
    /// What a client has paid that no sale has taken, msat.
    pub fn credit(&self, client: ClientIndex) -> u64 {
        self.credit.get(&client).copied().unwrap_or(0)
    }

    /// Every payment that may still arrive.
    pub(crate) fn due(&self) -> impl Iterator<Item = &SaleDue> {
        self.due.values().map(|due| &due.event)
    }

    /// The payment of this payment_hash, if it may still arrive.
    pub(crate) fn due_of(&self, payment_hash: PaymentHash) -> Option<&SaleDue> {
        self.due.get(&payment_hash).map(|due| &due.event)
    }

    /// Whether something of this client may still be paid.
    pub(crate) fn is_due(&self, client: ClientIndex) -> bool {
        self.due().any(|due| due.buyer == client)
    }

    /// Folds a `sale_due`: a payment may arrive from now on.
    pub(crate) fn begin(&mut self, event: &SaleDue) {
        let due = Due { event: event.clone(), left: event.amount_msat };
        self.due.insert(event.payment_hash, due);
    }

    /// Folds a `sale_due_ended`: if it was paid, what no sale has taken is the buyer's credit.
    pub(crate) fn end(&mut self, event: &SaleDueEnded) -> Result<(), LoadError> {
        let due = self.due.remove(&event.payment_hash);
        let due = due.ok_or_else(|| inconsistent("SaleDueEnded", "nothing was due by this payment_hash"))?;
        if event.paid {
            self.refund(due.event.buyer, due.left);
        }
        Ok(())
    }

    /// What was spent comes back.
    pub(crate) fn refund(&mut self, client: ClientIndex, msat: u64) {
        if msat > 0 {
            let credit = self.credit.entry(client).or_default();
            *credit = credit.saturating_add(msat);
        }
    }

    /// A sale is signed for: what it costs is spent. A client has no account of its neighbours.
    pub(crate) fn spend(&mut self, client: ClientIndex, price_msat: u64) {
        let before = self.credit(client);
        let mut rest = price_msat.saturating_sub(before);
        match before.saturating_sub(price_msat) {
            0 => self.credit.remove(&client),
            left => self.credit.insert(client, left),
        };
        for due in self.due.values_mut().filter(|due| due.event.buyer == client) {
            let taken = due.left.min(rest);
            due.left = due.left.saturating_sub(taken);
            rest = rest.saturating_sub(taken);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(amount_msat: u64) -> Account {
        let mut account = Account::default();
        account.begin(&SaleDue { payment_hash: PaymentHash([1; 32]), buyer: 0, amount_msat, label: None });
        account
    }

    fn end(account: &mut Account, paid: bool) {
        account.end(&SaleDueEnded { payment_hash: PaymentHash([1; 32]), paid }).unwrap();
    }

    #[test]
    fn what_was_paid_and_not_spent_is_credit() {
        let mut account = account(700);
        assert!(account.is_due(0) && !account.is_due(1));
        end(&mut account, true);
        assert_eq!((account.credit(0), account.is_due(0)), (700, false));
        account.spend(1, 700);
        account.spend(0, 300);
        assert_eq!(account.credit(0), 400);
        account.spend(0, 400);
        assert_eq!(account, Account::default());
    }

    /// A sale may be signed before its buyer hears that its payment has arrived; and without a payment.
    #[test]
    fn nothing_counts_twice_and_nothing_is_negative() {
        let mut early = account(700);
        early.spend(0, 500);
        assert_eq!(early.credit(0), 0);
        end(&mut early, true);
        assert_eq!(early.credit(0), 200);
        let mut unpaid = account(700);
        unpaid.spend(0, 700);
        end(&mut unpaid, false);
        assert_eq!(unpaid, Account::default());
    }

    #[test]
    fn the_end_of_what_never_began_is_an_error() {
        let event = SaleDueEnded { payment_hash: PaymentHash([2; 32]), paid: true };
        assert!(account(1).end(&event).is_err());
    }
}
