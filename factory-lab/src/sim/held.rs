//! Held HTLCs: who has to leave for them, and who must not (S16, S35). What an exit costs, and what is at
//! risk, is reckoned anew here.

use std::collections::BTreeSet;

use factory_engine::io::fees::Feerates;
use factory_engine::terms::ClientIndex;
use factory_engine::tx::child::usual_weight;
use factory_engine::tx::layout::{SpendRole, fee, weight};
use factory_engine::types::{Amount, ChannelId, Height, InstanceId};
use factory_engine::{Direction, Engine, Input, PendingHtlc};

use crate::world::Fed;
use crate::{LabError, error};

use super::find::{Place, place};
use super::payment::CLTV_DELTA;
use super::run::Run;

/// Commitment transaction with one HTLC, and HTLC-success (BOLT 3, anchors), weight units.
const COMMITMENT: u64 = 1_296;
const HTLC: u64 = 706;
/// Below it no commitment transaction has an output, msat.
const DUST: u64 = 546_000;

/// Who leaves, of every factory.
fn leaving(engine: &Engine) -> BTreeSet<(InstanceId, ClientIndex)> {
    let of = |factory: &factory_engine::Factory| {
        let instance = factory.instance;
        factory.current.exiting.iter().map(move |client| (instance, *client)).collect::<Vec<_>>()
    };
    engine.factories().flat_map(of).collect()
}

impl Run {
    /// Everybody's HTLCs, as the plugin reads them at each block; some are settled before.
    ///
    /// # Errors
    /// S16, S35: when one is left until it is too late and nobody leaves, or somebody leaves for nothing.
    pub(super) fn show_htlcs(&mut self) -> Result<(), LabError> {
        let height = self.world.chain.height();
        self.held.retain(|held| held.until >= height);
        self.note_held();
        if self.held.is_empty() {
            return Ok(());
        }
        for at in 0..self.world.members.len() {
            let channels = &self.world.members[at].lightningd.channels;
            let shown: Vec<PendingHtlc> = self.held.iter().flat_map(|held| held.shown(at, height)).collect();
            let shown: Vec<PendingHtlc> =
                shown.into_iter().filter(|htlc| channels.contains_key(&htlc.channel_id)).collect();
            if shown.is_empty() || self.world.seen(at) != Some(height) {
                continue;
            }
            // As in the plugin: after a start fees are known first.
            if self.world.members[at].engine.as_ref().is_some_and(|engine| engine.feerates().is_none()) {
                self.world.show_fees(at)?;
            }
            let Some(engine) = &self.world.members[at].engine else { continue };
            let (rates, before) = (engine.feerates().cloned(), leaving(engine));
            let fed = self.world.feed(at, Input::Htlcs(shown.clone()))?;
            if !matches!(fed, Fed::Done(_)) {
                continue;
            }
            if self.world.is_owed(at) {
                self.judge_held(at, &shown, rates.as_ref(), &before).map_err(error)?;
            }
            // As in the plugin: fees are weighed with these deadlines, and for an exit that just began.
            self.world.show_fees(at)?;
        }
        Ok(())
    }

    /// Channels on which an HTLC stands are known to whoever reads what they hold.
    pub(super) fn note_held(&mut self) {
        let legs = self.held.iter().flat_map(|held| &held.legs);
        self.world.htlcs_on = legs.map(|leg| leg.channel).collect();
    }

    /// What a member did about its HTLCs at this block.
    fn judge_held(
        &self,
        at: usize,
        shown: &[PendingHtlc],
        rates: Option<&Feerates>,
        before: &BTreeSet<(InstanceId, ClientIndex)>,
    ) -> Result<(), String> {
        let height = self.world.chain.height();
        let Some(engine) = &self.world.members[at].engine else { return Ok(()) };
        let mut wanted = BTreeSet::new();
        let channels: BTreeSet<ChannelId> = shown.iter().map(|htlc| htlc.channel_id).collect();
        for channel in channels {
            let Some(place) = place(engine, channel) else { continue };
            let Some(factory) =
                engine.factories().find(|factory| std::ptr::eq(&factory.current, place.attempt))
            else {
                continue;
            };
            let funded =
                place.attempt.funding().is_some_and(|out| self.world.chain.confirmed(out.txid).is_some());
            if !funded || self.is_out(&place) {
                continue;
            }
            let feerate = match rates {
                Some(rates) if !rates.estimates.is_empty() => rates.target(place.early),
                Some(rates) => rates.floor.max(2_500),
                None => 2_500,
            };
            let costs = self.exit_costs(&place, feerate);
            let lost = self.at_risk(engine, shown, channel, &place, height, feerate);
            if lost <= costs {
                continue;
            }
            wanted.insert((factory.instance, place.client));
            if !place.attempt.exiting.contains(&place.client) {
                return Err(format!(
                    "S16: member {at} stays at height {height} and may lose {lost} on client {}'s channel, where \
                     an exit costs {costs}",
                    place.client
                ));
            }
        }
        match leaving(engine).difference(before).find(|gone| !wanted.contains(gone)) {
            Some((_, client)) => Err(format!(
                "S35: member {at} leaves with client {client} at height {height} for HTLCs that aren't worth it"
            )),
            None => Ok(()),
        }
    }

    fn is_out(&self, place: &Place<'_>) -> bool {
        self.world.chain.confirmed(place.outpoint.txid).is_some()
    }

    /// What a member loses on a channel that stays off chain, as HTLCs stand at this height.
    fn at_risk(
        &self,
        engine: &Engine,
        shown: &[PendingHtlc],
        channel: ChannelId,
        here: &Place<'_>,
        height: Height,
        feerate: u32,
    ) -> Amount {
        let mut lost = Amount::ZERO;
        for htlc in shown.iter().filter(|htlc| htlc.channel_id == channel && htlc.amount_msat >= DUST) {
            let same = || shown.iter().filter(|other| other.payment_hash == htlc.payment_hash);
            let with = |direction| same().find(|other| other.direction == direction);
            let last = match htlc.direction {
                Direction::Fulfilled => htlc.cltv_expiry.saturating_sub(here.early),
                Direction::Received if with(Direction::Offered).is_none() => continue,
                Direction::Received => htlc.cltv_expiry.saturating_sub(here.early),
                Direction::Offered => match (with(Direction::Received), with(Direction::Fulfilled)) {
                    (None, Some(_)) => continue,
                    (None, None) => htlc.cltv_expiry,
                    (Some(incoming), _) => {
                        let early = place(engine, incoming.channel_id)
                            .filter(|place| !self.is_out(place))
                            .map_or(0, |place| place.early);
                        let spare = incoming.cltv_expiry.saturating_sub(htlc.cltv_expiry);
                        let spare = spare.saturating_sub(CLTV_DELTA).saturating_sub(early);
                        htlc.cltv_expiry.saturating_sub(here.early.saturating_sub(spare))
                    }
                },
            };
            let own = fee(HTLC.saturating_add(usual_weight()), feerate).unwrap_or(Amount::MAX_MONEY);
            let rest = Amount::from_sat(htlc.amount_msat / 1000).checked_sub(own);
            if height >= last {
                lost = lost.checked_add(rest.unwrap_or(Amount::ZERO)).unwrap_or(lost);
            }
        }
        lost
    }

    /// What it costs to take a channel on chain alone: children of everything that isn't confirmed.
    fn exit_costs(&self, place: &Place<'_>, feerate: u32) -> Amount {
        let child = |weight: u64, pays: Amount| {
            let both = fee(weight.saturating_add(usual_weight()), feerate).unwrap_or(Amount::MAX_MONEY);
            both.checked_sub(pays).unwrap_or(Amount::ZERO)
        };
        let mut costs = child(COMMITMENT, Amount::from_sat(240));
        let on_chain = |txid| self.world.chain.confirmed(txid).is_some();
        let attempt = place.attempt;
        let path = attempt.layout.path(place.client);
        let sessions = attempt.tree.iter().flat_map(|tree| tree.sessions());
        let nodes = sessions.filter(|session| {
            session.id.role == SpendRole::State && path.contains(&session.id.coin) && !on_chain(session.txid)
        });
        let nodes = nodes.filter_map(|session| attempt.layout.node(session.id.coin));
        let nodes = nodes.map(|node| (node.vbytes.saturating_mul(4), node.fee));
        let chain = attempt.layout.stock_coin(place.client).map_or(&[][..], |coin| attempt.sales.of(coin));
        let sales = chain.iter().filter(|sold| {
            place.sold.is_some_and(|own| sold.sale.number <= own.sale.number) && !on_chain(sold.txid())
        });
        let sales = sales.filter_map(|sold| sold.sale.sessions.first()).map(|session| {
            let outputs = session.tx.output.len().saturating_sub(1);
            let weight = weight(u64::try_from(outputs).unwrap_or(0));
            (weight, fee(weight, attempt.terms.tree_feerate).unwrap_or(Amount::ZERO))
        });
        for (weight, pays) in nodes.chain(sales) {
            costs = costs.checked_add(child(weight, pays)).unwrap_or(costs);
        }
        costs
    }
}
