//! What each transaction of ours should pay, by when, and how much at most (S26). Carrying it out is
//! the node's: [`Effect::Bump`], answered by [`Input::Published`](crate::io::Input::Published).

mod stakes;

use std::collections::BTreeSet;

use crate::chain::due;
use crate::chain::sales::wanted_sales;
use crate::engine::Engine;
use crate::fees::stakes::bump;
use crate::io::fees::{FeeNews, Feerates, Raise, Report};
use crate::io::{Effect, Level};
use crate::memory::Volatile;
use crate::memory::fees::{Fees, VolatileFees};
use crate::record::factory::{Factory, own_clients};
use crate::step::builder::StepBuilder;
use crate::tx::child::usual_fee;
use crate::tx::layout::{Layout, NodeIndex, fee, weight};
use crate::types::{Amount, Height, Transaction, Txid};

impl Engine {
    /// What the backend said of fees last.
    pub fn feerates(&self) -> Option<&Feerates> {
        self.fees.news.feerates.as_ref()
    }

    /// How each transaction fares that is due.
    pub fn reports(&self) -> impl Iterator<Item = (Txid, &Report)> {
        self.fees.reports.iter().map(|(txid, report)| (*txid, report))
    }

    /// Transactions that this node should have in the mempool: whatever else has a child or reserved
    /// coins needs them no more.
    pub fn waiting(&self, height: Height) -> BTreeSet<Txid> {
        let due = self.factories.values().flat_map(|factory| due(factory, height));
        due.map(|(_, tx)| tx.compute_txid()).collect()
    }

    /// After each block, with everything that the node knows: each transaction that is due is weighed
    /// anew.
    pub(crate) fn on_fees(&self, step: &mut StepBuilder<'_>, news: FeeNews) {
        let mut fees = self.fees.clone();
        fees.apply(VolatileFees::News(news.clone()));
        step.volatile(Volatile::Fees(VolatileFees::News(news)));
        let mut waiting = BTreeSet::new();
        for factory in self.factories.values() {
            for (what, tx) in due(factory, step.height) {
                waiting.insert(tx.compute_txid());
                self.raise(step, &fees, factory, what, tx);
            }
        }
        step.volatile(Volatile::Fees(VolatileFees::Only(waiting)));
    }

    fn raise(
        &self,
        step: &mut StepBuilder<'_>,
        fees: &Fees,
        factory: &Factory,
        what: String,
        parent: Transaction,
    ) {
        let Some((bump, deadline)) = bump(fees, factory, &parent, step.height) else {
            let txid = parent.compute_txid();
            if let Some(before) = fees.reports.get(&txid) {
                // What it carries is enough again.
                step.volatile(Volatile::Fees(VolatileFees::Report(txid, Box::new(before.without_need()))));
            }
            return;
        };
        step.effect(Effect::Bump(Box::new(Raise {
            instance: factory.instance,
            what,
            parent,
            bump,
            deadline,
        })));
    }

    /// What became of a broadcast, or of a child.
    pub(crate) fn on_published(&self, step: &mut StepBuilder<'_>, txid: Txid, report: Report) {
        let before = self.fees.reports.get(&txid);
        let report = if report.target.is_some() { report } else { report.of_broadcast(before) };
        let (instance, what) = (report.instance, &report.what);
        match (&report.trouble, before.and_then(|before| before.trouble.as_ref())) {
            (Some(trouble), before) if !before.is_some_and(|before| before.is_like(trouble)) => {
                let by = report.target.map_or_else(String::new, |(_, at)| format!(", due by height {at}"));
                step.log(trouble.level(), format!("{instance}: {what} {txid}{by}: {trouble}"));
            }
            (None, Some(_)) => step.log(Level::Info, format!("{instance}: {what} {txid} is on its way")),
            _ => {}
        }
        if let Some(child) =
            report.child.filter(|child| before.and_then(|before| before.child) != Some(*child))
        {
            step.log(
                Level::Info,
                format!("{instance}: {what} {txid}: child {} pays {} sat", child.txid, child.fee.to_sat()),
            );
        }
        step.volatile(Volatile::Fees(VolatileFees::Report(txid, Box::new(report))));
    }
}

impl Factory {
    /// What this node would have to add to take all of its channels on chain at a feerate (sat/kw): for
    /// each transaction that isn't confirmed, a child of the usual size.
    pub fn exit_reserve(&self, feerate: u32) -> Amount {
        let nodes: BTreeSet<NodeIndex> = own_clients(self)
            .filter(|client| self.leaf_height(*client).is_none())
            .flat_map(|client| self.current.layout.path(client))
            .filter(|node| !self.node_confirmed(*node))
            .collect();
        let sales = wanted_sales(self).filter(|sold| !self.confirmed.contains_key(&sold.txid()));
        let sales = sales.filter_map(|sold| sold.sale.sessions.first()).map(|session| {
            // All but the anchor.
            let outputs = session.tx.output.len().saturating_sub(1);
            let weight = weight(u64::try_from(outputs).unwrap_or(u64::MAX));
            usual_fee(weight, fee(weight, self.current.terms.tree_feerate).unwrap_or(Amount::ZERO), feerate)
        });
        sum(sales.chain([reserve(&self.current.layout, nodes.into_iter(), feerate)]))
    }
}

/// What children of these nodes pay together at a feerate (sat/kw).
pub fn reserve(layout: &Layout, nodes: impl Iterator<Item = NodeIndex>, feerate: u32) -> Amount {
    let nodes = nodes.filter_map(|index| layout.node(index));
    sum(nodes.map(|node| usual_fee(node.vbytes.saturating_mul(4), node.fee, feerate)))
}

fn sum(amounts: impl Iterator<Item = Amount>) -> Amount {
    amounts.fold(Amount::ZERO, |sum, amount| sum.checked_add(amount).unwrap_or(Amount::MAX_MONEY))
}
