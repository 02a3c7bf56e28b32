//! HTLCs for whose sake a channel goes on chain: which of them this node would lose otherwise, from which
//! height on, and whether they are worth what the exit costs (S16, S35). The table is in docs/protocol.md.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::chain::channels::OwnChannel;
use crate::engine::Engine;
use crate::io::fees::{Feerates, exit_feerate};
use crate::io::{Direction, Level, PendingHtlc};
use crate::memory::Volatile;
use crate::memory::fees::VolatileFees;
use crate::record::factory::Factory;
use crate::step::builder::StepBuilder;
use crate::terms::ClientIndex;
use crate::tx::child::{COMMITMENT_WEIGHT, HTLC_WEIGHT, usual_fee, usual_weight};
use crate::tx::layout::{fee, weight};
use crate::tx::scripts::{ANCHOR_VALUE, DUST_MSAT};
use crate::types::{Amount, ChannelId, Height};

/// Blocks that are kept at most between the legs of a forward, for having one back on chain or the preimage
/// to the other: lightningd's default `cltv-delta`. What a larger one gives is time to settle.
const RESOLVE: u32 = 34;

/// An HTLC that this node loses, or gets back late, if its channel isn't on chain in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AtRisk {
    /// The HTLC.
    pub htlc: PendingHtlc,
    /// The height at which its channel has to be on its way to the chain.
    pub exit_block: Height,
}

/// Everything that is pending on this node's channels.
struct Pending<'h> {
    by_channel: HashMap<ChannelId, Vec<&'h PendingHtlc>>,
    by_hash: HashMap<[u8; 32], Vec<&'h PendingHtlc>>,
    /// Blocks that those of these channels need that are in a factory and not on chain.
    early: HashMap<ChannelId, u32>,
    /// Blocks that are kept between the legs of a forward.
    resolve: u32,
}

impl<'h> Pending<'h> {
    fn of<'f>(htlcs: &'h [PendingHtlc], factories: impl Iterator<Item = &'f Factory>, resolve: u32) -> Self {
        let (by_channel, by_hash) = (HashMap::new(), HashMap::new());
        let mut pending = Self { by_channel, by_hash, early: HashMap::new(), resolve };
        for htlc in htlcs {
            pending.by_channel.entry(htlc.channel_id).or_default().push(htlc);
            pending.by_hash.entry(htlc.payment_hash).or_default().push(htlc);
        }
        for factory in factories.filter(|_| !htlcs.is_empty()) {
            let inside = factory.own_channels().filter(|channel| !factory.is_out(channel));
            let early = inside.filter(|channel| pending.by_channel.contains_key(&channel.channel_id));
            pending.early.extend(early.map(|channel| (channel.channel_id, factory.early(&channel))));
        }
        pending
    }

    /// The last height at which the way to the chain begins for this HTLC's sake; nothing if this node
    /// loses nothing without it. `early`: what its channel needs.
    fn exit_block(&self, htlc: &PendingHtlc, early: u32) -> Option<Height> {
        let first = htlc.cltv_expiry.saturating_sub(early);
        let same = || self.by_hash.get(&htlc.payment_hash).into_iter().flatten();
        let received = || same().filter(|other| other.direction != Direction::Offered);
        match htlc.direction {
            Direction::Fulfilled => Some(first),
            // It becomes worth something when the one that it pays for is taken, and that may be at any time.
            Direction::Received => same().any(|other| other.direction == Direction::Offered).then_some(first),
            // Its own payment is this node's until the other takes it, late or not.
            Direction::Offered if received().next().is_none() => Some(htlc.cltv_expiry),
            Direction::Offered => {
                // Where the preimage is known already nothing can be lost here.
                let open = received().filter(|other| other.direction == Direction::Received);
                let claims = open.map(|other| {
                    let early = self.early.get(&other.channel_id).copied().unwrap_or(0);
                    other.cltv_expiry.saturating_sub(early)
                });
                // So long it may take to have this one back on chain, or the preimage to that one.
                let last = claims.min()?.saturating_sub(self.resolve).saturating_sub(early);
                // Nothing times out before its expiry, and at its expiry lightningd closes the channel itself.
                Some(last.clamp(first, htlc.cltv_expiry))
            }
        }
    }

    /// Those of a channel that are at risk and bring more than their own transaction costs, the most urgent
    /// first; and what each brings.
    fn at_risk(&self, channel: &OwnChannel, early: u32, feerate: u32) -> Vec<(AtRisk, Amount)> {
        let htlcs = self.by_channel.get(&channel.channel_id).into_iter().flatten();
        let mut all: Vec<(AtRisk, Amount)> = htlcs
            .filter_map(|htlc| {
                let brings = brings(htlc, feerate)?;
                Some((AtRisk { htlc: **htlc, exit_block: self.exit_block(htlc, early)? }, brings))
            })
            .collect();
        all.sort_by_key(|(htlc, _)| (htlc.exit_block, htlc.htlc.cltv_expiry));
        all
    }

    /// HTLCs at risk on a channel that have come to their exit block by `height` and together are worth
    /// an exit; none otherwise.
    fn worth_an_exit(
        &self,
        factory: &Factory,
        channel: &OwnChannel,
        height: Height,
        rates: Option<&Feerates>,
    ) -> Vec<AtRisk> {
        if !self.by_channel.contains_key(&channel.channel_id) {
            return vec![];
        }
        let early = factory.early(channel);
        let feerate = exit_feerate(rates, early);
        let mut near = self.at_risk(channel, early, feerate);
        near.retain(|(htlc, _)| htlc.exit_block <= height);
        let sum = near.iter().map(|(_, brings)| *brings);
        let sum = sum.fold(Amount::ZERO, |sum, sat| sum.checked_add(sat).unwrap_or(Amount::MAX_MONEY));
        if sum <= factory.exit_cost_of(channel, feerate) {
            return vec![];
        }
        near.into_iter().map(|(htlc, _)| htlc).collect()
    }

    /// By which height fundings have to be on chain, of channels with HTLCs at risk.
    fn due<'f>(
        &self,
        factories: impl Iterator<Item = &'f Factory>,
        rates: Option<&Feerates>,
    ) -> BTreeMap<ChannelId, Height> {
        let mut due = BTreeMap::new();
        for factory in factories.filter(|_| !self.by_channel.is_empty()) {
            for channel in factory.own_channels() {
                let early = factory.early(&channel);
                let first = self.at_risk(&channel, early, exit_feerate(rates, early)).first().copied();
                let by = first.map(|(htlc, _)| htlc.exit_block.saturating_add(early));
                due.extend(by.map(|by| (channel.channel_id, by)));
            }
        }
        due
    }
}

/// What is left of an HTLC when its own transaction is paid; nothing of one that no commitment transaction
/// shows.
fn brings(htlc: &PendingHtlc, feerate: u32) -> Option<Amount> {
    let own = fee(HTLC_WEIGHT.saturating_add(usual_weight()), feerate)?;
    let amount = Amount::from_sat(htlc.amount_msat / 1000).checked_sub(own)?;
    (htlc.amount_msat >= DUST_MSAT && amount > Amount::ZERO).then_some(amount)
}

impl Factory {
    /// What it costs this node at a feerate (sat/kw) to take a channel on chain alone: a child for each
    /// transaction on its way that isn't confirmed, and one for its commitment transaction.
    pub fn exit_cost_of(&self, channel: &OwnChannel, feerate: u32) -> Amount {
        let nodes = self.current.layout.path(channel.client);
        let nodes = nodes.into_iter().filter(|node| !self.node_confirmed(*node));
        let nodes = nodes.filter_map(|node| self.current.layout.node(node));
        let nodes = nodes.map(|node| usual_fee(node.vbytes.saturating_mul(4), node.fee, feerate));
        let coin = self.current.layout.stock_coin(channel.client);
        let sales = self.current.sales.all().filter(|sold| {
            let on_the_way = channel.sale.is_some_and(|number| sold.sale.number <= number);
            on_the_way && sold.coin() == coin && !self.confirmed.contains_key(&sold.txid())
        });
        let sales = sales.filter_map(|sold| sold.sale.sessions.first()).map(|session| {
            // All but the anchor.
            let outputs = session.tx.output.len().saturating_sub(1);
            let weight = weight(u64::try_from(outputs).unwrap_or(u64::MAX));
            let pays = fee(weight, self.current.terms.tree_feerate).unwrap_or(Amount::ZERO);
            usual_fee(weight, pays, feerate)
        });
        let commitment = usual_fee(COMMITMENT_WEIGHT, ANCHOR_VALUE, feerate);
        let all = nodes.chain(sales).chain([commitment]);
        all.fold(Amount::ZERO, |sum, sat| sum.checked_add(sat).unwrap_or(Amount::MAX_MONEY))
    }
}

impl Engine {
    /// S16, S35: an HTLC that this node would lose otherwise, and that is worth it, has to be settled on
    /// chain; the way there takes `blocks_early` blocks.
    pub(crate) fn on_htlcs(&self, step: &mut StepBuilder<'_>, htlcs: &[PendingHtlc]) {
        let pending = self.pending(htlcs);
        let funded = || self.factories.values().filter(|factory| factory.funding_height().is_some());
        let due = pending.due(funded(), self.feerates());
        step.volatile(Volatile::Fees(VolatileFees::Htlcs(htlcs.to_vec(), due)));
        for factory in funded() {
            let late = self.late(step, factory, &pending);
            if !late.is_empty() {
                let reason = "an HTLC was not settled in time";
                self.start_exit(step, factory, late.into_iter().collect(), reason);
            }
        }
    }

    /// S16: clients of whose channels an HTLC has to be settled on chain.
    fn late(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        pending: &Pending<'_>,
    ) -> BTreeSet<ClientIndex> {
        let mut late = BTreeSet::new();
        if factory.has_left() {
            // S22: it had no HTLC there, and takes none.
            return late;
        }
        for channel in factory.own_channels() {
            if factory.is_out(&channel) || factory.current.exiting.contains(&channel.client) {
                continue;
            }
            let worth = pending.worth_an_exit(factory, &channel, step.height, self.feerates());
            let Some(first) = worth.first() else { continue };
            step.log(
                Level::Unusual,
                format!(
                    "{}: an HTLC of client {}{} that expires at {} is not settled: taking its channel on chain",
                    factory.instance,
                    channel.client,
                    channel.sale.map_or_else(String::new, |number| format!("'s channel of sale {number}")),
                    first.htlc.cltv_expiry
                ),
            );
            late.insert(channel.client);
        }
        late
    }
}

impl Engine {
    fn pending<'h>(&self, htlcs: &'h [PendingHtlc]) -> Pending<'h> {
        let funded = self.factories.values().filter(|factory| factory.funding_height().is_some());
        Pending::of(htlcs, funded, self.config.cltv_delta.min(RESOLVE))
    }

    /// HTLCs of a factory, as of the last block, that have this node leave by `height` unless they are
    /// settled; with the channel of each.
    pub fn leaving_for(&self, factory: &Factory, height: Height) -> Vec<(OwnChannel, AtRisk)> {
        if self.fees.htlcs().is_empty() || factory.funding_height().is_none() || factory.has_left() {
            return vec![];
        }
        let pending = self.pending(self.fees.htlcs());
        let channels = factory.own_channels().filter(|channel| !factory.is_out(channel));
        let worth = channels.flat_map(|channel| {
            let htlcs = pending.worth_an_exit(factory, &channel, height, self.feerates());
            htlcs.into_iter().map(move |htlc| (channel, htlc))
        });
        worth.collect()
    }
}
