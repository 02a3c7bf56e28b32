//! Everything about fees that lives only in memory.

use std::collections::{BTreeMap, BTreeSet};

use crate::io::PendingHtlc;
use crate::io::fees::{FeeNews, Report};
use crate::types::{ChannelId, Height, OutPoint, Txid};

/// Everything about fees that lives only in memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fees {
    pub(crate) news: FeeNews,
    pub(crate) htlcs: Vec<PendingHtlc>,
    /// By which height the fundings of channels have to be on chain for their HTLCs' sake.
    pub(crate) due: BTreeMap<ChannelId, Height>,
    pub(crate) reports: BTreeMap<Txid, Report>,
    /// What L's own spend of each stock output pays, sat/kw.
    pub(crate) claims: BTreeMap<OutPoint, u32>,
}

/// One change of [`Fees`], made when the step is applied.
pub(crate) enum VolatileFees {
    News(FeeNews),
    Htlcs(Vec<PendingHtlc>, BTreeMap<ChannelId, Height>),
    Report(Txid, Box<Report>),
    Only(BTreeSet<Txid>),
    Claim(OutPoint, u32),
}

impl Fees {
    /// HTLCs of all channels, as of the last block.
    pub(crate) fn htlcs(&self) -> &[PendingHtlc] {
        &self.htlcs
    }

    /// What L's own spend of a stock output pays already, sat/kw.
    pub(crate) fn claim(&self, stock: OutPoint) -> Option<u32> {
        self.claims.get(&stock).copied()
    }

    pub(crate) fn apply(&mut self, change: VolatileFees) {
        match change {
            VolatileFees::News(news) => {
                let before = self.news.feerates.take();
                self.news = news;
                self.news.feerates = self.news.feerates.take().or(before);
            }
            VolatileFees::Htlcs(htlcs, due) => (self.htlcs, self.due) = (htlcs, due),
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
