//! What each transaction of ours should pay, by when, and how much at most (S26). Carrying it out is
//! the node's: [`Effect::Bump`], answered by [`Input::Published`](super::Input::Published).

mod stakes;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::tx::child::{Bump, NoChild, usual_weight};
use crate::tx::layout::{Layout, NodeIndex, fee, weight};
use crate::types::{Amount, ChannelId, Height, InstanceId, OutPoint, Transaction, Txid};

use super::Engine;
use super::ceremony::Volatile;
use super::chain::{due, wanted_sales};
use super::draft::Draft;
use super::factory::{Factory, own_clients};
use super::io::{Effect, Level, PendingHtlc};
use stakes::bump;

/// An exit that nothing drives is expected to take a day for each transaction, blocks.
pub(super) const NO_HURRY: u32 = 144;
/// From so many blocks before a deadline on, a feerate rises above the estimate.
const URGENT: u32 = 6;
/// By so much of it for each block, percent: at the deadline two and a half times.
const URGENT_PERCENT: u64 = 25;
/// Without any estimate: what is paid once a deadline is as near as [`URGENT`] twice, sat/kw.
const FALLBACK: u32 = 2_500;

/// What the backend says of fees, in sat/kw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Feerates {
    /// Below it nothing gets into the mempool.
    pub floor: u32,
    /// Blocks to a confirmation, and what that takes. Empty if the backend has no estimates.
    pub estimates: BTreeMap<u32, u32>,
}

impl Feerates {
    /// What confirms within so many blocks; nothing without estimates.
    pub fn within(&self, blocks: u32) -> Option<u32> {
        let known = self.estimates.range(..=blocks).next_back().or_else(|| self.estimates.iter().next());
        known.map(|(_, feerate)| (*feerate).max(self.floor))
    }

    /// What a transaction should pay that has `left` blocks to confirm. Nothing if anything will do.
    pub fn target(&self, left: u32) -> Option<u32> {
        let estimate = self.within((left / 2).max(1));
        let base = estimate.or_else(|| (left <= 2 * URGENT).then_some(FALLBACK.max(self.floor)))?;
        let hurry = u64::from(URGENT.saturating_sub(left)).saturating_mul(URGENT_PERCENT);
        let percent = hurry.saturating_add(100);
        let raised = u64::from(base).saturating_mul(percent) / 100;
        Some(u32::try_from(raised).unwrap_or(u32::MAX))
    }
}

/// What the node said after a block, for deciding about fees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FeeNews {
    /// Nothing if the backend failed: the last ones still count then.
    pub feerates: Option<Feerates>,
    /// What this node would lose with each channel: its balance and the HTLCs on it.
    pub stakes: BTreeMap<ChannelId, Amount>,
}

/// A transaction whose fee is to be raised.
#[derive(Debug, Clone)]
pub struct Raise {
    /// Of which factory.
    pub instance: InstanceId,
    /// For people: "state transaction 2".
    pub what: String,
    /// The transaction; it goes first.
    pub parent: Transaction,
    /// What its child has to reach.
    pub bump: Bump,
    /// By when it should confirm.
    pub deadline: Height,
}

/// Why a node does not take a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// It is in a block, and its outputs are unspent.
    Confirmed,
    /// Another transaction of the mempool spends its input and stays.
    Conflict(String),
    /// Its inputs are spent, or don't exist yet.
    MissingInputs,
    /// It pays too little, in the node's own words.
    FeeTooLow(String),
    /// A replacement that pays a higher feerate, and less in all than what it replaces.
    LessThanReplaced(String),
    /// A timelock is still on.
    NotFinal,
    /// lightningd or its backend could not be asked.
    Backend(String),
    /// Anything else, in the node's own words.
    Other(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Confirmed => f.write_str("it is confirmed"),
            Self::Conflict(text) => write!(f, "another transaction is in its way ({text})"),
            Self::MissingInputs => f.write_str("what it spends is spent otherwise, or not there yet"),
            Self::FeeTooLow(text) => {
                write!(
                    f,
                    "it pays less than the mempool's minimum by itself ({text}), and the backend takes no packages; it is sent again at each block, as fees fall"
                )
            }
            Self::LessThanReplaced(text) => write!(f, "a larger child is in its way ({text})"),
            Self::NotFinal => f.write_str("its timelock is still on"),
            Self::Backend(text) => write!(f, "the node's backend fails: {text}"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

/// What is wrong with a transaction of ours that should be on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// It was not taken.
    Parent(Refused),
    /// Its child was not taken.
    Child(Refused),
    /// There is no child.
    NoChild(NoChild),
    /// The child pays all that is at stake, and the target would take this much.
    Capped(Amount),
    /// The wallet could not be asked, or could not sign.
    Wallet(String),
}

impl Trouble {
    /// How much the log makes of it.
    fn level(&self) -> Level {
        match self {
            // A step that is done, or that others did.
            Self::Parent(Refused::Confirmed) => Level::Debug,
            // Somebody's child is better than ours would be.
            Self::Child(Refused::Conflict(_)) => Level::Info,
            _ => Level::Unusual,
        }
    }

    /// Whether somebody should be told in factory-status.
    pub fn matters(&self) -> bool {
        self.level() > Level::Info
    }

    /// Whether it is the same trouble, apart from amounts.
    fn is_like(&self, other: &Self) -> bool {
        let kind = |trouble: &Self| match trouble {
            Self::Parent(refused) => (0, Some(std::mem::discriminant(refused)), None),
            Self::Child(refused) => (1, Some(std::mem::discriminant(refused)), None),
            Self::NoChild(why) => (2, None, Some(std::mem::discriminant(why))),
            Self::Capped(_) => (3, None, None),
            Self::Wallet(_) => (4, None, None),
        };
        kind(self) == kind(other)
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parent(refused) => refused.fmt(f),
            Self::Child(refused) => write!(f, "its fee can't be raised: {refused}"),
            Self::NoChild(why) => write!(f, "its fee can't be raised: {why}"),
            Self::Capped(needed) => {
                write!(
                    f,
                    "its child pays all that is at stake; to confirm in time would take {} sat",
                    needed.to_sat()
                )
            }
            Self::Wallet(text) => write!(f, "its fee can't be raised: {text}"),
        }
    }
}

/// A child that is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChildOut {
    /// The child.
    pub txid: Txid,
    /// What it pays.
    pub fee: Amount,
}

/// How a transaction that is due fares. Volatile: a restart learns it at the next block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Of which factory.
    pub instance: InstanceId,
    /// For people: "state transaction 2".
    pub what: String,
    /// What it should pay, sat/kw, and by when; nothing if what it carries is enough.
    pub target: Option<(u32, Height)>,
    /// What raises its fee.
    pub child: Option<ChildOut>,
    /// What is wrong.
    pub trouble: Option<Trouble>,
}

impl Report {
    /// Of a transaction whose own fee is enough by now.
    fn without_need(&self) -> Self {
        let trouble = self.trouble.clone().filter(|trouble| matches!(trouble, Trouble::Parent(_)));
        Self { target: None, trouble, ..self.clone() }
    }

    /// A broadcast alone says nothing about the child.
    fn of_broadcast(self, before: Option<&Self>) -> Self {
        let Some(before) = before else { return self };
        let of_child = before.trouble.clone().filter(|trouble| !matches!(trouble, Trouble::Parent(_)));
        Self {
            target: before.target,
            child: before.child,
            trouble: self.trouble.or(of_child),
            ..before.clone()
        }
    }
}

/// Everything about fees that lives only in memory.
#[derive(Debug, Clone, Default)]
pub(super) struct Fees {
    news: FeeNews,
    htlcs: Vec<PendingHtlc>,
    reports: BTreeMap<Txid, Report>,
    /// What L's own spend of each stock output pays, sat/kw.
    claims: BTreeMap<OutPoint, u32>,
}

/// Changes of [`Fees`].
pub(super) enum VolatileFees {
    News(FeeNews),
    Htlcs(Vec<PendingHtlc>),
    Report(Txid, Box<Report>),
    Only(BTreeSet<Txid>),
    Claim(OutPoint, u32),
}

impl Fees {
    /// HTLCs of all channels, as of the last block.
    pub(super) fn htlcs(&self) -> &[PendingHtlc] {
        &self.htlcs
    }

    /// What L's own spend of a stock output pays already, sat/kw.
    pub(super) fn claim(&self, stock: OutPoint) -> Option<u32> {
        self.claims.get(&stock).copied()
    }

    pub(super) fn apply(&mut self, change: VolatileFees) {
        match change {
            VolatileFees::News(news) => {
                let before = self.news.feerates.take();
                self.news = news;
                self.news.feerates = self.news.feerates.take().or(before);
            }
            VolatileFees::Htlcs(htlcs) => self.htlcs = htlcs,
            VolatileFees::Report(txid, report) => {
                self.reports.insert(txid, *report);
            }
            VolatileFees::Claim(stock, feerate) => {
                self.claims.insert(stock, feerate);
            }
            VolatileFees::Only(waiting) => self.reports.retain(|txid, _| waiting.contains(txid)),
        }
    }
}

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
    pub(super) fn on_fees(&self, d: &mut Draft<'_>, news: FeeNews) {
        let mut fees = self.fees.clone();
        fees.apply(VolatileFees::News(news.clone()));
        d.volatile(Volatile::Fees(VolatileFees::News(news)));
        let mut waiting = BTreeSet::new();
        for factory in self.factories.values() {
            for (what, tx) in due(factory, d.height) {
                waiting.insert(tx.compute_txid());
                self.raise(d, &fees, factory, what, tx);
            }
        }
        d.volatile(Volatile::Fees(VolatileFees::Only(waiting)));
    }

    fn raise(&self, d: &mut Draft<'_>, fees: &Fees, factory: &Factory, what: String, parent: Transaction) {
        let Some((bump, deadline)) = bump(fees, factory, &parent, d.height) else {
            let txid = parent.compute_txid();
            if let Some(before) = fees.reports.get(&txid) {
                // What it carries is enough again.
                d.volatile(Volatile::Fees(VolatileFees::Report(txid, Box::new(before.without_need()))));
            }
            return;
        };
        d.effect(Effect::Bump(Box::new(Raise { instance: factory.instance, what, parent, bump, deadline })));
    }

    /// What became of a broadcast, or of a child.
    pub(super) fn on_published(&self, d: &mut Draft<'_>, txid: Txid, report: Report) {
        let before = self.fees.reports.get(&txid);
        let report = if report.target.is_some() { report } else { report.of_broadcast(before) };
        let (instance, what) = (report.instance, &report.what);
        match (&report.trouble, before.and_then(|before| before.trouble.as_ref())) {
            (Some(trouble), before) if !before.is_some_and(|before| before.is_like(trouble)) => {
                let by = report.target.map_or_else(String::new, |(_, at)| format!(", due by height {at}"));
                d.log(trouble.level(), format!("{instance}: {what} {txid}{by}: {trouble}"));
            }
            (None, Some(_)) => d.log(Level::Info, format!("{instance}: {what} {txid} is on its way")),
            _ => {}
        }
        if let Some(child) =
            report.child.filter(|child| before.and_then(|before| before.child) != Some(*child))
        {
            d.log(
                Level::Info,
                format!("{instance}: {what} {txid}: child {} pays {} sat", child.txid, child.fee.to_sat()),
            );
        }
        d.volatile(Volatile::Fees(VolatileFees::Report(txid, Box::new(report))));
    }
}

impl Factory {
    /// What this node would have to add to take all of its channels on chain at a feerate (sat/kw): for
    /// each transaction that isn't confirmed, a child of the usual size.
    pub fn exit_reserve(&self, feerate: u32) -> Amount {
        let nodes: BTreeSet<NodeIndex> = own_clients(self)
            .filter(|client| self.leaf_height(*client).is_none())
            .flat_map(|client| self.layout.path(client))
            .filter(|node| !self.node_confirmed(*node))
            .collect();
        let sales = wanted_sales(self).filter(|sold| !self.confirmed.contains_key(&sold.txid()));
        let sales = sales.filter_map(|sold| sold.sale.sessions.first()).map(|session| {
            // All but the anchor.
            let outputs = session.tx.output.len().saturating_sub(1);
            let weight = weight(u64::try_from(outputs).unwrap_or(u64::MAX));
            child_cost(weight, fee(weight, self.terms.tree_feerate).unwrap_or(Amount::ZERO), feerate)
        });
        sum(sales.chain([reserve(&self.layout, nodes.into_iter(), feerate)]))
    }
}

/// What children of these nodes pay together at a feerate (sat/kw).
pub fn reserve(layout: &Layout, nodes: impl Iterator<Item = NodeIndex>, feerate: u32) -> Amount {
    let nodes = nodes.filter_map(|index| layout.node(index));
    sum(nodes.map(|node| child_cost(node.vbytes.saturating_mul(4), node.fee, feerate)))
}

/// What a usual child of a transaction pays for both to reach a feerate.
fn child_cost(weight: u64, pays: Amount, feerate: u32) -> Amount {
    let both = fee(weight.saturating_add(usual_weight()), feerate);
    both.and_then(|both| both.checked_sub(pays)).unwrap_or(Amount::ZERO)
}

fn sum(amounts: impl Iterator<Item = Amount>) -> Amount {
    amounts.fold(Amount::ZERO, |sum, amount| sum.checked_add(amount).unwrap_or(Amount::MAX_MONEY))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates() -> Feerates {
        Feerates {
            floor: 253,
            estimates: BTreeMap::from([(2, 15_000), (6, 11_000), (12, 7_500), (100, 3_750)]),
        }
    }

    // S26
    #[test]
    fn fees_rise_towards_the_deadline() {
        let targets: Vec<u32> = (0..=300).rev().map(|left| rates().target(left).unwrap()).collect();
        assert!(targets.windows(2).all(|pair| pair[0] <= pair[1]), "{targets:?}");
        assert_eq!(rates().target(300), Some(3_750));
        assert_eq!(rates().target(24), Some(7_500));
        assert_eq!(rates().target(6), Some(15_000));
        assert_eq!(rates().target(0), Some(37_500));
    }

    #[test]
    fn never_below_the_floor_and_nothing_without_estimates() {
        let high = Feerates { floor: 9_000, ..rates() };
        assert_eq!(high.target(300), Some(9_000));
        let none = Feerates { floor: 253, estimates: BTreeMap::new() };
        assert_eq!(none.target(100), None);
        assert_eq!(none.target(12), Some(2_500));
        assert_eq!(none.target(0), Some(6_250));
    }

    #[test]
    fn trouble_is_told_once() {
        let short = |sat| Trouble::NoChild(NoChild::Short { missing: Amount::from_sat(sat) });
        assert!(short(5).is_like(&short(9)));
        let max = Amount::ZERO;
        assert!(!short(5).is_like(&Trouble::NoChild(NoChild::NotWorth { fee: max, max })));
        assert!(!Trouble::Parent(Refused::NotFinal).is_like(&Trouble::Child(Refused::NotFinal)));
        assert!(!Trouble::Parent(Refused::NotFinal).is_like(&Trouble::Parent(Refused::MissingInputs)));
    }
}
