//! What the node says about fees, and what it is asked to do about them (S26).

use std::collections::BTreeMap;
use std::fmt;

use crate::io::{ChannelId, Height, InstanceId, Level};
use crate::tx::child::{Bump, Child, NoChild};
use crate::types::{Amount, Transaction, Txid};

/// Where nothing drives it a transaction is expected to take a day, blocks.
pub(crate) const NO_HURRY: u32 = 144;

/// A replacement pays at least so much more, sat/kw: 1 sat/vB for its own relay (BIP-125 rule 4), and rounding.
const MIN_RAISE: u32 = 260;

/// The least feerate, sat/kw, for which a transaction of ours that pays `before` is replaced.
pub(crate) fn replaced_from(before: u32) -> u32 {
    before.saturating_add((before / 4).max(MIN_RAISE))
}

/// What is known of fees, in sat/kw ([`sources`](crate::io::sources)).
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
        self.estimate(blocks).map(|feerate| feerate.max(self.floor))
    }

    /// What is said of a confirmation within so many blocks, whatever the mempool asks for.
    pub(crate) fn estimate(&self, blocks: u32) -> Option<u32> {
        let known = self.estimates.range(..=blocks).next_back().or_else(|| self.estimates.iter().next());
        known.map(|(_, feerate)| *feerate)
    }

    /// What confirms in the longest time that there is an estimate for; nothing without estimates.
    pub fn slowest(&self) -> Option<u32> {
        self.estimates.values().next_back().copied()
    }

    /// What a transaction should pay that has `left` blocks to confirm. Without any estimate that is the
    /// mempool's minimum while there is time, and then more with each block: nobody says what is enough.
    pub fn target(&self, left: u32) -> u32 {
        let known = self.within((left / 2).max(1));
        let (base, each) = match known {
            Some(estimate) => (estimate, URGENT_PERCENT),
            None if left > 2 * URGENT => return self.floor,
            None => (FALLBACK.max(self.floor), BLIND_PERCENT),
        };
        let hurry = u64::from(URGENT.saturating_sub(left)).saturating_mul(each);
        let raised = u64::from(base).saturating_mul(hurry.saturating_add(100)) / 100;
        u32::try_from(raised).unwrap_or(u32::MAX)
    }
}

/// What an exit of so many blocks is reckoned with, sat/kw: also where nothing is known of fees.
pub(crate) fn exit_feerate(known: Option<&Feerates>, blocks: u32) -> u32 {
    match known {
        Some(rates) if !rates.estimates.is_empty() => rates.target(blocks),
        Some(rates) => FALLBACK.max(rates.floor),
        None => FALLBACK,
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
    /// The factory that the transaction is of (factory_instance).
    pub instance: InstanceId,
    /// For people: "state transaction 2".
    pub what: String,
    /// The transaction; it goes first.
    pub parent: Transaction,
    /// Anchor, weights, feerate and cap: what the child has to reach.
    pub bump: Bump,
    /// Height by which it should confirm.
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
    /// A replacement whose feerate is no higher than that of what it replaces.
    LowerFeerate(String),
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
                    "it pays less than the mempool's minimum ({text}), and is taken only together with a child that pays for both (factory-bitcoin-rpc), or once fees fall: it is sent again at each block"
                )
            }
            Self::LessThanReplaced(text) => write!(f, "a larger child is in its way ({text})"),
            Self::LowerFeerate(text) => write!(f, "a child with a higher feerate is in its way ({text})"),
            Self::NotFinal => f.write_str("its timelock is still on"),
            Self::Backend(text) => write!(f, "the node's backend fails: {text}"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

/// What is wrong with a transaction of ours that should be on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// The node did not take the transaction itself, for this reason.
    Parent(Refused),
    /// The node did not take its child, for this reason.
    Child(Refused),
    /// No child could be made, for this reason.
    NoChild(NoChild),
    /// The child pays all that is at stake, and the target would take this much.
    Capped(Amount),
    /// The child pays all that the wallet has, and the target would take this much more.
    Short(Amount),
    /// The wallet could not be asked, or could not sign.
    Wallet(String),
}

impl Trouble {
    /// How much the log makes of it.
    pub(crate) fn level(&self) -> Level {
        match self {
            // A step that is done, or that others did.
            Self::Parent(Refused::Confirmed) => Level::Debug,
            // Somebody's child is better than ours would be.
            Self::Child(Refused::Conflict(_)) => Level::Info,
            Self::Parent(_)
            | Self::Child(_)
            | Self::NoChild(_)
            | Self::Capped(_)
            | Self::Short(_)
            | Self::Wallet(_) => Level::Unusual,
        }
    }

    /// Whether somebody should be told in factory-status.
    pub fn matters(&self) -> bool {
        self.level() > Level::Info
    }

    /// Whether it is the same trouble, apart from amounts.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let kind = |trouble: &Self| match trouble {
            Self::Parent(refused) => (0, Some(std::mem::discriminant(refused)), None),
            Self::Child(refused) => (1, Some(std::mem::discriminant(refused)), None),
            Self::NoChild(why) => (2, None, Some(std::mem::discriminant(why))),
            Self::Capped(_) => (3, None, None),
            Self::Wallet(_) => (4, None, None),
            Self::Short(_) => (5, None, None),
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
            Self::Short(missing) => {
                write!(
                    f,
                    "its child pays all that the wallet has that is confirmed and free; to confirm in time takes {} sat more",
                    missing.to_sat()
                )
            }
            Self::Wallet(text) => write!(f, "its fee can't be raised: {text}"),
        }
    }
}

/// What keeps a child below its target, if anything does: what is at stake, or the wallet.
pub fn shortcoming(bump: &Bump, child: &Child) -> Option<Trouble> {
    // One that is nearly good enough is.
    let short = || bump.short_by(child).filter(|_| !bump.is_served_by(child)).map(Trouble::Short);
    bump.beyond_cap(child).map(Trouble::Capped).or_else(short)
}

/// A child that is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChildOut {
    /// Id of the child.
    pub txid: Txid,
    /// Fee of the child alone, without its parent's.
    pub fee: Amount,
}

/// How a transaction that is due fares. Volatile: a restart learns it at the next block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The factory that the transaction is of (factory_instance).
    pub instance: InstanceId,
    /// For people: "state transaction 2".
    pub what: String,
    /// What it should pay, sat/kw, and by when; nothing if what it carries is enough.
    pub target: Option<(u32, Height)>,
    /// The child that raises its fee; nothing if none is out.
    pub child: Option<ChildOut>,
    /// Why it may not confirm in time; nothing if all is well.
    pub trouble: Option<Trouble>,
}

impl Report {
    /// Of a transaction whose own fee is enough by now.
    pub(crate) fn without_need(&self) -> Self {
        let trouble = self.trouble.clone().filter(|trouble| matches!(trouble, Trouble::Parent(_)));
        Self { target: None, trouble, ..self.clone() }
    }

    /// A broadcast alone says nothing about the child.
    pub(crate) fn of_broadcast(self, before: Option<&Self>) -> Self {
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

/// From so many blocks before a deadline on, a feerate rises above the estimate.
const URGENT: u32 = 6;

/// By so much of it for each block, percent: at the deadline two and a half times.
const URGENT_PERCENT: u64 = 25;

/// Without any estimate: what is paid once a deadline is as near as [`URGENT`] twice, sat/kw.
pub(crate) const FALLBACK: u32 = 2_500;

/// By so much of that for each block from [`URGENT`] on, percent: at the deadline ten times, 100 sat/vB.
const BLIND_PERCENT: u64 = 150;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::fees::Refused;
    use crate::io::fees::Trouble;
    use crate::tx::child::NoChild;
    use std::collections::BTreeMap;

    fn rates() -> Feerates {
        Feerates {
            floor: 253,
            estimates: BTreeMap::from([(2, 15_000), (6, 11_000), (12, 7_500), (100, 3_750)]),
        }
    }

    // S26
    #[test]
    fn fees_rise_towards_the_deadline() {
        let targets: Vec<u32> = (0..=300).rev().map(|left| rates().target(left)).collect();
        assert!(targets.windows(2).all(|pair| pair[0] <= pair[1]), "{targets:?}");
        assert_eq!(rates().target(300), 3_750);
        assert_eq!(rates().target(24), 7_500);
        assert_eq!(rates().target(6), 15_000);
        assert_eq!(rates().target(0), 37_500);
    }

    // S26
    #[test]
    fn never_below_the_floor_and_more_and_more_without_estimates() {
        let high = Feerates { floor: 9_000, ..rates() };
        assert_eq!(high.target(300), 9_000);
        let none = Feerates { floor: 253, estimates: BTreeMap::new() };
        assert_eq!(none.target(100), 253, "anything will do");
        assert_eq!(none.target(12), 2_500);
        assert_eq!(none.target(6), 2_500);
        assert_eq!(none.target(3), 13_750);
        assert_eq!(none.target(0), 25_000);
        let storm = Feerates { floor: 12_500, estimates: BTreeMap::new() };
        assert_eq!((storm.target(100), storm.target(12), storm.target(0)), (12_500, 12_500, 125_000));
    }

    /// S26: what somebody should look at is told, and nothing else.
    #[test]
    fn trouble_that_matters() {
        let matters = [
            Trouble::Parent(Refused::MissingInputs),
            Trouble::Child(Refused::Other("no".into())),
            Trouble::NoChild(NoChild::Short { missing: Amount::ZERO }),
            Trouble::Capped(Amount::ZERO),
            Trouble::Wallet("locked".into()),
        ];
        assert!(matters.iter().all(Trouble::matters));
        // A step that is done, and a child of somebody's that is better than ours.
        let done = Trouble::Parent(Refused::Confirmed);
        let theirs = Trouble::Child(Refused::Conflict("theirs".into()));
        assert_eq!((done.level(), theirs.level()), (Level::Debug, Level::Info));
        assert!(!done.matters() && !theirs.matters());
    }

    /// S26: a broadcast says whether the transaction itself is taken, and nothing about its child.
    #[test]
    fn a_broadcast_says_nothing_about_the_child() {
        let report = |target, child, trouble| Report {
            instance: InstanceId([1; 32]),
            what: "sale 1 of coin 7".into(),
            target,
            child,
            trouble,
        };
        let child = ChildOut { txid: bitcoin::hashes::Hash::all_zeros(), fee: Amount::from_sat(9) };
        let missing = Trouble::Parent(Refused::MissingInputs);
        let capped = Trouble::Capped(Amount::from_sat(7));
        let bumped = |trouble| report(Some((900, 200)), Some(child), trouble);
        let broadcast = |trouble| report(None, None, trouble);
        assert_eq!(broadcast(Some(missing.clone())).of_broadcast(None), broadcast(Some(missing.clone())));
        for (before, said, after) in [
            (Some(capped.clone()), None, Some(capped.clone())),
            (Some(capped.clone()), Some(missing.clone()), Some(missing.clone())),
            // It is taken by now.
            (Some(missing.clone()), None, None),
            (None, None, None),
        ] {
            assert_eq!(broadcast(said).of_broadcast(Some(&bumped(before))), bumped(after));
        }
        // What it carries is enough again: then nothing is wrong with a child.
        let enough = |trouble| report(None, Some(child), trouble);
        assert_eq!(bumped(Some(capped)).without_need(), enough(None));
        assert_eq!(bumped(Some(missing.clone())).without_need(), enough(Some(missing)));
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
