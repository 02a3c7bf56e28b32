//! What a factory's clients have paid for liquidity: the fold of the events that are about payments.

use std::collections::BTreeMap;

use crate::record::event::{SaleDue, SaleDueEnded};
use crate::record::load_error::{LoadError, inconsistent};
use crate::terms::ClientIndex;
use crate::types::{Height, PaymentHash};

/// For L of every client, for a client its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// Invoices that may still be paid, or payments that may still arrive.
    due: BTreeMap<PaymentHash, Due>,
    /// Paid, and nothing sold for it yet.
    credit: BTreeMap<ClientIndex, Credit>,
}

/// What a client has paid that no sale has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Credit {
    msat: u64,
    /// Height at which it last became more: from here on it waits so many blocks for a sale (S36).
    since: Height,
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
        self.credit.get(&client).map_or(0, |credit| credit.msat)
    }

    /// Height at which a client's credit last became more; nothing without one.
    pub fn credit_since(&self, client: ClientIndex) -> Option<Height> {
        self.credit.get(&client).map(|credit| credit.since)
    }

    /// Whether nobody has credit, and nothing may still be paid.
    pub(crate) fn is_settled(&self) -> bool {
        self.due.is_empty() && self.credit.is_empty()
    }

    /// Every payment that may still arrive, in either direction.
    pub(crate) fn due(&self) -> impl Iterator<Item = &SaleDue> {
        self.due.values().map(|due| &due.event)
    }

    /// The payment of this payment_hash, if it may still arrive.
    pub(crate) fn due_of(&self, payment_hash: PaymentHash) -> Option<&SaleDue> {
        self.due.get(&payment_hash).map(|due| &due.event)
    }

    /// Whether something of this client, or to it, may still be paid.
    pub(crate) fn is_due(&self, client: ClientIndex) -> bool {
        self.due().any(|due| due.buyer == client)
    }

    /// Folds a `sale_due`: a payment may arrive from now on. What L is about to pay back nothing else takes.
    pub(crate) fn begin(&mut self, event: &SaleDue) {
        let left = match (event.back, &event.label) {
            (false, _) => event.amount_msat,
            (true, Some(_)) => 0,
            (true, None) => {
                self.take(event.buyer, event.amount_msat);
                event.amount_msat
            }
        };
        self.due.insert(event.payment_hash, Due { event: event.clone(), left });
    }

    /// Folds a `sale_due_ended`: if it was paid, what no sale has taken is the buyer's credit. The other way
    /// round the credit is gone if it was paid.
    pub(crate) fn end(&mut self, event: &SaleDueEnded) -> Result<(), LoadError> {
        let due = self.due.remove(&event.payment_hash);
        let due = due.ok_or_else(|| inconsistent("SaleDueEnded", "nothing was due by this payment_hash"))?;
        if event.paid != due.event.back {
            self.refund(due.event.buyer, due.left, event.height);
        } else if event.paid && due.event.label.is_some() {
            self.take(due.event.buyer, due.event.amount_msat);
        }
        Ok(())
    }

    /// What was spent comes back.
    pub(crate) fn refund(&mut self, client: ClientIndex, msat: u64, since: Height) {
        if msat > 0 {
            let msat = self.credit(client).saturating_add(msat);
            self.credit.insert(client, Credit { msat, since });
        }
    }

    /// So much less credit; how much there was too little.
    fn take(&mut self, client: ClientIndex, msat: u64) -> u64 {
        let before = self.credit(client);
        match before.saturating_sub(msat) {
            0 => {
                self.credit.remove(&client);
            }
            left => {
                self.credit.entry(client).and_modify(|credit| credit.msat = left);
            }
        }
        msat.saturating_sub(before)
    }

    /// A sale is signed for: what it costs is spent. A client has no account of its neighbours.
    pub(crate) fn spend(&mut self, client: ClientIndex, price_msat: u64) {
        let mut rest = self.take(client, price_msat);
        for due in self.due.values_mut().filter(|due| due.event.buyer == client && !due.event.back) {
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
        account.begin(&SaleDue {
            payment_hash: PaymentHash([1; 32]),
            buyer: 0,
            amount_msat,
            label: None,
            back: false,
        });
        account
    }

    fn end(account: &mut Account, paid: bool) {
        account.end(&SaleDueEnded { payment_hash: PaymentHash([1; 32]), paid, height: 5 }).unwrap();
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
        let event = SaleDueEnded { payment_hash: PaymentHash([2; 32]), paid: true, height: 5 };
        assert!(account(1).end(&event).is_err());
    }

    /// S36: what goes back is gone once, on both sides; and what did not arrive is still there.
    #[test]
    fn credit_that_goes_back() {
        for (label, paid, left) in [
            (None, true, 0),
            (None, false, 700),
            (Some("back".to_owned()), true, 0),
            (Some("back".into()), false, 700),
        ] {
            let mut account = account(700);
            end(&mut account, true);
            let (payer, payment_hash) = (label.is_none(), PaymentHash([3; 32]));
            account.begin(&SaleDue { payment_hash, buyer: 0, amount_msat: 700, label, back: true });
            assert_eq!(account.credit(0), if payer { 0 } else { 700 });
            assert!(account.is_due(0) && !account.is_settled());
            account.end(&SaleDueEnded { payment_hash, paid, height: 9 }).unwrap();
            assert_eq!((account.credit(0), account.is_settled()), (left, left == 0));
        }
    }
}
