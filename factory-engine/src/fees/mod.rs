//! What each transaction of ours should pay, by when, and how much at most (S26). Carrying it out is
//! the node's: [`Effect::Bump`], answered by [`Input::Published`](crate::io::Input::Published).

mod stakes;

use std::collections::BTreeSet;

use crate::chain::due;
use crate::chain::sales::wanted_sales;
use crate::engine::Engine;
use crate::fees::stakes::{bump, confirm_by};
use crate::io::fees::{FeeNews, Feerates, Raise, Report};
use crate::io::{Effect, Level};
use crate::memory::Volatile;
use crate::memory::fees::{Fees, VolatileFees};
use crate::policy::KnownFees;
use crate::record::factory::Factory;
use crate::step::builder::StepBuilder;
use crate::tx::child::{COMMITMENT_WEIGHT, HTLC_WEIGHT, usual_fee};
use crate::tx::layout::{Layout, NodeIndex, fee, weight};
use crate::tx::scripts::DUST;
use crate::tx::tree::Session;
use crate::types::{Amount, Height, Transaction, Txid};

impl Engine {
    /// What the backend said of fees last.
    pub fn feerates(&self) -> Option<&Feerates> {
        self.fees.news.feerates.as_ref()
    }

    /// What the terms of an invitation are held against (S32); zeros as long as the backend has said nothing.
    pub fn known_fees(&self) -> KnownFees {
        let said = self
            .feerates()
            .map(|rates| KnownFees { mempool_minimum: rates.floor, estimate: rates.slowest().unwrap_or(0) });
        said.unwrap_or_default()
    }

    /// How each transaction fares that is due.
    pub fn reports(&self) -> impl Iterator<Item = (Txid, &Report)> {
        self.fees.reports.iter().map(|(txid, report)| (*txid, report))
    }

    /// By when a factory's transaction that is due should confirm, whether or not it needs a child for that; nothing
    /// if it isn't one of those that were signed beforehand.
    pub fn confirm_by(&self, factory: &Factory, txid: Txid, height: Height) -> Option<Height> {
        confirm_by(&self.fees, factory, txid, height)
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
        let mut raises = Vec::new();
        for factory in self.factories.values() {
            for (what, tx) in due(factory, step.height) {
                waiting.insert(tx.compute_txid());
                raises.extend(self.raise(step, &fees, factory, what, tx));
            }
        }
        // The most urgent first: the wallet's coins may not do for all.
        raises.sort_by_key(|raise| raise.deadline);
        for raise in raises {
            step.effect(Effect::Bump(Box::new(raise)));
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
    ) -> Option<Raise> {
        let Some((bump, deadline)) = bump(fees, factory, &parent, step.height) else {
            let txid = parent.compute_txid();
            if let Some(before) = fees.reports.get(&txid) {
                // What it carries is enough again.
                step.volatile(Volatile::Fees(VolatileFees::Report(txid, Box::new(before.without_need()))));
            }
            return None;
        };
        Some(Raise { instance: factory.instance, what, parent, bump, deadline })
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

/// Coins for the children of an exit: a child spends whole coins, and what is due at once can't share one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExitCoins {
    /// Transactions that may be due at once.
    pub at_once: u64,
    /// As many coins of that size pay for all of them.
    pub number: u64,
    /// What the dearest child takes.
    pub each: Amount,
}

impl ExitCoins {
    /// For both.
    pub fn and(self, other: Self) -> Self {
        Self {
            at_once: self.at_once.saturating_add(other.at_once),
            number: self.number.saturating_add(other.number),
            each: self.each.max(other.each),
        }
    }
}

/// What lightningd adds to raise its fee: a child that spends the anchor and a coin, and has change. Weight units.
const ANCHOR_CHILD_WEIGHT: u64 = 760;
/// The coin and the change that lightningd adds to an HTLC's transaction, which pays no fee by itself. Weight units.
const HTLC_FEE_WEIGHT: u64 = 272 + 172;

/// What lightningd would pay at a feerate (sat/kw) for what settles a channel of this capacity once it is on
/// chain: its commitment transaction and one HTLC. Never more than the channel is worth.
pub fn channel_reserve(capacity: Amount, feerate: u32) -> Amount {
    // What a commitment transaction pays itself isn't known beforehand, and in a storm is next to nothing.
    let cost = fee(COMMITMENT_WEIGHT + ANCHOR_CHILD_WEIGHT + HTLC_WEIGHT + HTLC_FEE_WEIGHT, feerate);
    cost.unwrap_or(Amount::MAX_MONEY).min(capacity)
}

impl Factory {
    /// What lightningd would pay besides ([`Factory::exit_reserve`]) for what settles this node's channels, of
    /// those that aren't on chain: out of coins that nothing keeps from it.
    pub fn channels_reserve(&self, feerate: u32) -> Amount {
        let waiting =
            self.own_channels().filter(|channel| !self.confirmed.contains_key(&channel.funding.txid));
        sum(waiting.map(|channel| channel_reserve(channel.capacity, feerate)))
    }

    /// What this node would have to add to take all of its channels on chain at a feerate (sat/kw): for
    /// each transaction that isn't confirmed, a child of the usual size.
    pub fn exit_reserve(&self, feerate: u32) -> Amount {
        sum(self.exit_costs(feerate).into_iter())
    }

    /// The same in coins.
    pub fn exit_coins(&self, feerate: u32) -> ExitCoins {
        let costs = self.exit_costs(feerate);
        let Some(each) = costs.iter().copied().max().filter(|each| *each > Amount::ZERO) else {
            return ExitCoins::default();
        };
        let leaves: BTreeSet<NodeIndex> =
            self.waiting_paths().filter_map(|path| path.last().copied()).collect();
        // Sales of one stock follow each other.
        let stocks: BTreeSet<_> = self.waiting_sales().map(|session| session.id.coin).collect();
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let at_once = count(leaves.len().max(stocks.len()).max(1));
        let number = sum(costs.into_iter()).to_sat().div_ceil(each.to_sat()).max(at_once);
        // Change is left of each, and it is no dust.
        let each = each.checked_add(DUST).unwrap_or(Amount::MAX_MONEY);
        ExitCoins { at_once, number, each }
    }

    /// The paths of own clients whose leaves are not on chain. Whoever has handed over needs none (S22).
    fn waiting_paths(&self) -> impl Iterator<Item = Vec<NodeIndex>> {
        let clients = self.inside().filter(|client| self.leaf_height(*client).is_none());
        clients.map(|client| self.current.layout.path(client))
    }

    /// Sales that are wanted and not on chain.
    fn waiting_sales(&self) -> impl Iterator<Item = &Session> {
        let left = self.has_left();
        let sales =
            wanted_sales(self).filter(move |sold| !left && !self.confirmed.contains_key(&sold.txid()));
        sales.filter_map(|sold| sold.sale.sessions.first())
    }

    fn exit_costs(&self, feerate: u32) -> Vec<Amount> {
        let nodes: BTreeSet<NodeIndex> =
            self.waiting_paths().flatten().filter(|node| !self.node_confirmed(*node)).collect();
        let sales = self.waiting_sales().map(|session| {
            // All but the anchor.
            let outputs = session.tx.output.len().saturating_sub(1);
            let weight = weight(u64::try_from(outputs).unwrap_or(u64::MAX));
            usual_fee(weight, fee(weight, self.current.terms.tree_feerate).unwrap_or(Amount::ZERO), feerate)
        });
        sales.chain(costs(&self.current.layout, nodes.into_iter(), feerate)).collect()
    }
}

/// What children of these nodes pay together at a feerate (sat/kw).
pub fn reserve(layout: &Layout, nodes: impl Iterator<Item = NodeIndex>, feerate: u32) -> Amount {
    sum(costs(layout, nodes, feerate))
}

fn costs(
    layout: &Layout,
    nodes: impl Iterator<Item = NodeIndex>,
    feerate: u32,
) -> impl Iterator<Item = Amount> {
    let nodes = nodes.filter_map(|index| layout.node(index));
    nodes.map(move |node| usual_fee(node.vbytes.saturating_mul(4), node.fee, feerate))
}

fn sum(amounts: impl Iterator<Item = Amount>) -> Amount {
    amounts.fold(Amount::ZERO, |sum, amount| sum.checked_add(amount).unwrap_or(Amount::MAX_MONEY))
}
