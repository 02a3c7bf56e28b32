//! What a client takes of the numbers that a factory fixes at birth (S32): bounds of its own, whoever offers.

use std::fmt;

use crate::terms::Terms;
use crate::types::{Amount, Height};

/// A number of an invitation that a client has bounds for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Term {
    /// What joining costs, msat.
    Price,
    /// Blocks from now to the timeout.
    Lifetime,
    /// Blocks before the timeout at which the dying period begins.
    DyingPeriod,
    /// Feerate of the tree's transactions, sat/kw.
    TreeFeerate,
    /// Confirmations of the funding before channels are usable.
    FundingConfirmations,
    /// Blocks for each transaction of an exit.
    ConfirmBlocks,
    /// Blocks added to every exit.
    MarginBlocks,
    /// Blocks until the operator alone may take stock: bought channels have to be on chain by then.
    StockCsv,
}

impl Term {
    /// Every term, in the order in which they are looked at.
    pub const ALL: [Self; 8] = [
        Self::Price,
        Self::Lifetime,
        Self::DyingPeriod,
        Self::TreeFeerate,
        Self::FundingConfirmations,
        Self::ConfirmBlocks,
        Self::MarginBlocks,
        Self::StockCsv,
    ];

    /// Its name in commands and errors.
    pub fn name(self) -> &'static str {
        match self {
            Self::Price => "price_msat",
            Self::Lifetime => "lifetime_blocks",
            Self::DyingPeriod => "dying_blocks",
            Self::TreeFeerate => "feerate_perkw",
            Self::FundingConfirmations => "funding_confirmations",
            Self::ConfirmBlocks => "confirm_blocks",
            Self::MarginBlocks => "margin_blocks",
            Self::StockCsv => "stock_csv",
        }
    }

    /// The setting of its least value; nothing if zero is the least for everybody.
    pub fn least_setting(self) -> Option<&'static str> {
        match self {
            Self::Price => None,
            Self::Lifetime => Some("min-lifetime-blocks"),
            Self::DyingPeriod => Some("min-dying-blocks"),
            Self::TreeFeerate => Some("min-feerate"),
            Self::FundingConfirmations => Some("min-confirmations"),
            Self::ConfirmBlocks => Some("min-confirm-blocks"),
            Self::MarginBlocks => Some("min-margin-blocks"),
            Self::StockCsv => Some("min-stock-csv"),
        }
    }

    /// The setting of its largest value; nothing if whatever the terms can hold is taken.
    pub fn most_setting(self) -> Option<&'static str> {
        match self {
            Self::Price => Some("max-price-msat"),
            Self::Lifetime => Some("max-lifetime-blocks"),
            Self::TreeFeerate => Some("max-feerate"),
            Self::DyingPeriod
            | Self::FundingConfirmations
            | Self::ConfirmBlocks
            | Self::MarginBlocks
            | Self::StockCsv => None,
        }
    }
}

/// Why the least value is what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Because {
    /// This node's setting says so.
    Setting,
    /// By itself nothing that pays less gets into this node's mempool now.
    Mempool,
    /// It is a share of this node's own estimate, which `min-feerate-percent` says.
    Estimate,
}

/// How a value stands to its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fit {
    /// Well between them.
    Within,
    /// Between them, and less than a quarter of a bound away from it.
    Near,
    /// Below the least, or above the most.
    Outside,
}

impl Fit {
    /// Its name in RPC.
    pub fn name(self) -> &'static str {
        match self {
            Self::Within => "within",
            Self::Near => "near",
            Self::Outside => "outside",
        }
    }
}

/// One number of an invitation, and what this node takes. The unit is the term's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// Which number it is.
    pub term: Term,
    /// What the invitation says.
    pub value: u64,
    /// The least that this node takes.
    pub least: u64,
    /// The most that it takes.
    pub most: u64,
    /// Where the least value comes from.
    pub because: Because,
}

impl Bound {
    /// How the value stands to both ends.
    pub fn fit(&self) -> Fit {
        if self.value < self.least || self.value > self.most {
            Fit::Outside
        } else if self.value.abs_diff(self.least) < self.least / 4
            || self.value.abs_diff(self.most) < self.most / 4
        {
            Fit::Near
        } else {
            Fit::Within
        }
    }

    /// The setting that would have to be another for the value to be taken, or nothing if none would help.
    pub fn setting(&self) -> Option<&'static str> {
        match (self.value > self.most, self.because) {
            (true, _) => self.term.most_setting(),
            (false, Because::Setting) => self.term.least_setting(),
            (false, Because::Estimate) => Some("min-feerate-percent"),
            (false, Because::Mempool) => None,
        }
    }
}

/// Names the term, its value, both ends of what is taken, and the setting.
impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { term, value, least, most, because } = self;
        write!(f, "{} is {value}: this node takes {least} to {most}", term.name())?;
        if value < least && *because == Because::Mempool {
            return f.write_str(" (the least that its mempool takes now)");
        }
        match self.setting() {
            Some(setting) => write!(f, " ({setting})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Bound {}

/// What the node knows of fees, sat/kw.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KnownFees {
    /// Below it nothing gets into the mempool by itself; 0 if that isn't known.
    pub mempool_minimum: u32,
    /// Its estimate for a transaction that has time; 0 if there is none.
    pub estimate: u32,
}

/// A client's bounds. Whatever is below keeps it from getting its money in time; an operator chooses the
/// terms, so it may not choose these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Largest price of joining, msat.
    pub max_price_msat: u64,
    /// Nearest timeout, blocks from now.
    pub min_lifetime_blocks: u32,
    /// Farthest timeout, blocks from now.
    pub max_lifetime_blocks: u32,
    /// Shortest dying period, blocks.
    pub min_dying_blocks: u32,
    /// Lowest feerate of the tree's transactions, sat/kw.
    pub min_tree_feerate: u32,
    /// The same as a share of this node's own estimate, percent.
    pub min_feerate_percent: u32,
    /// Highest feerate of the tree's transactions, sat/kw.
    pub max_tree_feerate: u32,
    /// Fewest confirmations of the funding before channels are usable.
    pub min_funding_confirmations: u16,
    /// Fewest blocks for each transaction of an exit.
    pub min_confirm_blocks: u16,
    /// Fewest blocks added to every exit.
    pub min_margin_blocks: u16,
    /// Fewest blocks until the operator alone may take stock, where there is any.
    pub min_stock_csv: u16,
}

impl Default for Bounds {
    /// What an operator's defaults pass with room to spare.
    fn default() -> Self {
        Self {
            max_price_msat: 0,
            // Two weeks to half a year.
            min_lifetime_blocks: 2_016,
            max_lifetime_blocks: 26_280,
            // Three days.
            min_dying_blocks: 432,
            // 1.5 sat/vB to 20.
            min_tree_feerate: 375,
            min_feerate_percent: 10,
            max_tree_feerate: 5_000,
            min_funding_confirmations: 3,
            min_confirm_blocks: 4,
            // Half a day.
            min_margin_blocks: 72,
            min_stock_csv: 100,
        }
    }
}

impl Bounds {
    /// The lowest feerate of a tree that is taken while fees are as the node says, sat/kw, and why it is that.
    pub fn least_feerate(&self, fees: KnownFees) -> (u32, Because) {
        let share = u64::from(fees.estimate).saturating_mul(self.min_feerate_percent.into()) / 100;
        let share = u32::try_from(share).unwrap_or(u32::MAX);
        let all = [
            (fees.mempool_minimum, Because::Mempool),
            (share, Because::Estimate),
            (self.min_tree_feerate, Because::Setting),
        ];
        // Of equal ones the setting.
        all.into_iter()
            .max_by_key(|(feerate, _)| *feerate)
            .unwrap_or((self.min_tree_feerate, Because::Setting))
    }

    /// Every number that there are bounds for, with its own, at a height.
    pub fn of(&self, terms: &Terms, price_msat: u64, height: Height, fees: KnownFees) -> Vec<Bound> {
        let by_setting = |term, value: u64, least: u64, most: u64| Bound {
            term,
            value,
            least,
            most,
            because: Because::Setting,
        };
        let blocks =
            |term, value: u16, least: u16| by_setting(term, value.into(), least.into(), u16::MAX.into());
        let lifetime = terms.timeout_height.saturating_sub(height);
        let (feerate, because) = self.least_feerate(fees);
        let mut bounds = vec![
            by_setting(Term::Price, price_msat, 0, self.max_price_msat),
            by_setting(
                Term::Lifetime,
                lifetime.into(),
                self.min_lifetime_blocks.into(),
                self.max_lifetime_blocks.into(),
            ),
            by_setting(
                Term::DyingPeriod,
                terms.dying_blocks.into(),
                self.min_dying_blocks.into(),
                u32::MAX.into(),
            ),
            Bound {
                term: Term::TreeFeerate,
                value: terms.tree_feerate.into(),
                least: feerate.into(),
                most: self.max_tree_feerate.into(),
                because,
            },
            blocks(Term::FundingConfirmations, terms.funding_confirmations, self.min_funding_confirmations),
            blocks(Term::ConfirmBlocks, terms.confirm_blocks, self.min_confirm_blocks),
            blocks(Term::MarginBlocks, terms.margin_blocks, self.min_margin_blocks),
        ];
        if terms.stock > Amount::ZERO {
            bounds.push(blocks(Term::StockCsv, terms.stock_csv, self.min_stock_csv));
        }
        bounds
    }

    /// Whether every number is within its bounds.
    ///
    /// # Errors
    /// The first that isn't.
    pub fn check(
        &self,
        terms: &Terms,
        price_msat: u64,
        height: Height,
        fees: KnownFees,
    ) -> Result<(), Bound> {
        let outside = |bound: &Bound| bound.fit() == Fit::Outside;
        self.of(terms, price_msat, height, fees).into_iter().find(outside).map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(value: u64, least: u64, most: u64) -> Bound {
        Bound { term: Term::Lifetime, value, least, most, because: Because::Setting }
    }

    // S32
    #[test]
    fn near_is_less_than_a_quarter_away() {
        for (value, fit) in [
            (99, Fit::Outside),
            (100, Fit::Near),
            (124, Fit::Near),
            (125, Fit::Within),
            (750, Fit::Within),
            (751, Fit::Near),
            (1_000, Fit::Near),
            (1_001, Fit::Outside),
        ] {
            assert_eq!(bound(value, 100, 1_000).fit(), fit, "{value}");
        }
        // Nothing is nearer than zero.
        assert_eq!(bound(0, 0, 0).fit(), Fit::Within);
        assert_eq!(bound(u64::MAX, 0, u64::MAX).fit(), Fit::Near);
    }

    // S32
    #[test]
    fn a_refusal_names_term_value_both_ends_and_setting() {
        assert_eq!(
            bound(9, 10, 20).to_string(),
            "lifetime_blocks is 9: this node takes 10 to 20 (min-lifetime-blocks)"
        );
        assert!(bound(21, 10, 20).to_string().ends_with("10 to 20 (max-lifetime-blocks)"));
        let feerate = |because| Bound { term: Term::TreeFeerate, because, ..bound(9, 10, 20) }.to_string();
        assert!(feerate(Because::Estimate).ends_with("(min-feerate-percent)"));
        assert!(feerate(Because::Mempool).ends_with("(the least that its mempool takes now)"));
    }

    // S32
    #[test]
    fn the_least_feerate_is_the_largest_of_three() {
        let bounds = Bounds { min_tree_feerate: 500, min_feerate_percent: 10, ..Bounds::default() };
        let least = |mempool_minimum, estimate| bounds.least_feerate(KnownFees { mempool_minimum, estimate });
        assert_eq!(least(0, 0), (500, Because::Setting));
        assert_eq!(least(500, 5_000), (500, Because::Setting));
        assert_eq!(least(501, 5_000), (501, Because::Mempool));
        assert_eq!(least(501, 5_020), (502, Because::Estimate));
        assert_eq!(least(0, u32::MAX), (429_496_729, Because::Estimate));
    }
}
