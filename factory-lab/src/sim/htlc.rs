//! HTLCs with expiries around every limit: whatever an honest member admits is judged from outside.

use bitcoin::OutPoint;
use factory_engine::admission::htlc::{Htlc, Verdict, admit};
use factory_engine::terms::ClientIndex;
use factory_engine::types::{ChannelId, Height};
use factory_engine::{Attempt, Engine, Input, PendingHtlc, Sold};

use crate::node::COMMITMENT_FEE;
use crate::world::judged::{early, early_of_sale};
use crate::world::{Fed, LSP};
use crate::{LabError, error};

use super::find::{find, find_sold};
use super::run::Run;

impl Run {
    /// One HTLC between the operator and a client, somewhere.
    ///
    /// # Errors
    /// When it was admitted and should not have been.
    pub(super) fn try_htlc(&mut self) -> Result<(), LabError> {
        let clients = self.world.members.len().saturating_sub(1);
        let client = self.dice.below(clients).saturating_add(1);
        let channels = self.world.channels_of(client);
        let Some(channel) = channels.get(self.dice.below(channels.len())).copied() else {
            return Ok(());
        };
        let out = self.dice.one_in(2);
        let (from, to) = if out { (LSP, client) } else { (client, LSP) };
        let msat = 1_000 * (1 + self.dice.next_number() % 60_000);
        if !self.world.connected(from, to) {
            return Ok(());
        }
        let expiry = self.some_expiry(client, channel);
        self.htlcs.0 = self.htlcs.0.saturating_add(1);
        // The payer offers it (outgoing), the payee gets it (incoming).
        for (at, offers) in [(from, true), (to, false)] {
            if !self.admits(at, channel, offers, expiry) {
                return Ok(());
            }
            self.judge_htlc(at, channel, expiry).map_err(error)?;
        }
        // Once one side has closed, lightningd adds nothing.
        let theirs = self.world.members[to].lightningd.channels.get(&channel);
        let open = theirs.is_some_and(|channel| !channel.closing);
        let enough = self.world.members[from].lightningd.channels.get(&channel).is_some_and(|channel| {
            let own = channel.balances;
            // The opener keeps its reserve and the commitment's fee, as lightningd sees to.
            let kept = (channel.capacity.to_sat() / 100 + COMMITMENT_FEE.to_sat()) * 1000;
            let free = if channel.opener { own.opener_msat.saturating_sub(kept) } else { own.fundee_msat };
            !channel.closing && free >= msat
        });
        if enough && open {
            self.htlcs.1 = self.htlcs.1.saturating_add(1);
            if self.dice.one_in(4) {
                // The payee takes its time: until then the channel owes it to nobody.
                self.pending.push((channel, expiry));
            } else {
                self.world.shift((from, to), channel, msat)?;
            }
        }
        Ok(())
    }

    /// Everybody's HTLCs, as the plugin reads them at each block; some are settled before.
    ///
    /// # Errors
    /// S16: when one is left until it is too late, and nobody leaves.
    pub(super) fn show_htlcs(&mut self) -> Result<(), LabError> {
        let height = self.world.chain.height();
        let settled = self.dice.below(16);
        if settled < self.pending.len() {
            self.pending.swap_remove(settled);
        }
        self.pending.retain(|(_, expiry)| *expiry >= height);
        if self.pending.is_empty() {
            return Ok(());
        }
        for at in 0..self.world.members.len() {
            let member = &self.world.members[at];
            let own = |(channel, _): &&(ChannelId, Height)| member.lightningd.channels.contains_key(channel);
            let htlc = |(channel_id, cltv_expiry): &(ChannelId, Height)| PendingHtlc {
                channel_id: *channel_id,
                cltv_expiry: *cltv_expiry,
            };
            let shown: Vec<PendingHtlc> = self.pending.iter().filter(own).map(htlc).collect();
            if shown.is_empty() || self.world.seen(at) != Some(height) {
                continue;
            }
            let fed = self.world.feed(at, Input::Htlcs(shown.clone()))?;
            if !matches!(fed, Fed::Done(_)) {
                continue;
            }
            // As in the plugin: fees are weighed with these deadlines, and for an exit that just began.
            self.world.show_fees(at)?;
            if self.world.is_owed(at) {
                self.judge_pending(at, &shown).map_err(error)?;
            }
        }
        Ok(())
    }

    fn judge_pending(&self, at: usize, shown: &[PendingHtlc]) -> Result<(), String> {
        let chain = &self.world.chain;
        let Some(engine) = &self.world.members[at].engine else { return Ok(()) };
        for htlc in shown {
            let Some(place) = place(engine, htlc.channel_id) else { continue };
            let (attempt, client) = (place.attempt, place.client);
            let Some(tree) = &attempt.tree else { continue };
            let leaf = chain.confirmed(place.outpoint.txid).is_some();
            let late = chain.height().saturating_add(place.early) >= htlc.cltv_expiry;
            let funded = chain.confirmed(tree.funding().txid).is_some();
            if late && funded && !leaf && !attempt.exiting.contains(&client) {
                return Err(format!(
                    "S16: member {at} has an HTLC that expires at {} at height {}, and doesn't leave",
                    htlc.cltv_expiry,
                    chain.height()
                ));
            }
        }
        Ok(())
    }

    /// An expiry near one of the limits, or anywhere.
    fn some_expiry(&mut self, client: usize, channel: ChannelId) -> Height {
        let height = self.world.chain.height();
        let nudge = self.dice.below_u32(4);
        let engine = self.world.members[client].engine.as_ref();
        let Some(Place { attempt, early, .. }) = engine.and_then(|engine| place(engine, channel)) else {
            return height.saturating_add(self.dice.below_u32(100));
        };
        match self.dice.below(4) {
            0 => height.saturating_add(early).saturating_add(nudge).saturating_sub(1),
            1 => attempt.terms.timeout_height.saturating_sub(early).saturating_add(nudge).saturating_sub(1),
            _ => height.saturating_add(early).saturating_add(1).saturating_add(self.dice.below_u32(20)),
        }
    }

    fn admits(&self, at: usize, channel: ChannelId, offers: bool, expiry: Height) -> bool {
        let Some(engine) = &self.world.members[at].engine else { return false };
        let policies = engine.channel_policies();
        let policy = policies.iter().find(|(id, _)| *id == channel).map(|(_, policy)| policy);
        if policy.is_none() {
            // As the plugin's hook does with what only looks like a factory's channel (S18).
            let known = self.world.members[at].lightningd.channels.get(&channel);
            let looks = known.is_some_and(|known| engine.suspects().contains(&(known.peer, known.capacity)));
            let settled =
                known.is_some_and(|known| self.world.chain.confirmed(known.outpoint.txid).is_some());
            if looks && !settled {
                return false;
            }
        }
        let htlc = Htlc {
            incoming: policy.filter(|_| !offers),
            outgoing: policy.filter(|_| offers),
            cltv_expiry: expiry,
            outgoing_cltv_expiry: offers.then_some(expiry),
        };
        admit(&htlc, self.world.chain.height()) == Verdict::Continue
    }

    /// S15, S18: what an honest member that knows the chain's tip has just admitted.
    fn judge_htlc(&self, at: usize, channel: ChannelId, expiry: Height) -> Result<(), String> {
        let (world, chain) = (&self.world, &self.world.chain);
        if !world.is_owed(at) || world.seen(at) != Some(chain.height()) {
            return Ok(());
        }
        let member = &world.members[at];
        let known = member.lightningd.channels.get(&channel).ok_or("lab: no such channel")?;
        let leaf: OutPoint = known.outpoint;
        if chain.confirmed(leaf.txid).is_some() {
            return Ok(()); // It stands by itself, or will in a few blocks.
        }
        let found = member.engine.as_ref().and_then(|engine| place(engine, channel));
        let Some(Place { attempt, client, early, sold, .. }) = found else {
            if at == LSP {
                // What it has given up is closed, and its own money.
                return Ok(());
            }
            return Err(format!("S18: member {at} admits an HTLC on a channel that no factory knows"));
        };
        let tree = attempt.tree.as_ref().ok_or("S18: a channel without a tree")?;
        let funded = chain.confirmed(tree.funding().txid).map(|(height, _)| height);
        let height = chain.height();
        let depth = funded.map_or(0, |funded| height.saturating_sub(funded).saturating_add(1));
        if depth < u32::from(attempt.terms.funding_confirmations) {
            return Err(format!("S18: member {at} admits an HTLC while the funding is {depth} blocks deep"));
        }
        match sold {
            None => world.record_fits(at, attempt, client)?,
            Some(sold) => {
                // What it stands on: every sale up to its own.
                let chain = sold.coin().map_or(&[][..], |coin| attempt.sales.of(coin));
                if chain.iter().any(|other| other.sale.number <= sold.sale.number && !other.is_signed()) {
                    return Err(format!("S18: member {at} admits an HTLC on a sale that is not signed"));
                }
                world.sold_record_fits(at, sold)?;
            }
        }
        if expiry < height.saturating_add(early).saturating_add(1) {
            let blocks = expiry.saturating_sub(height);
            return Err(format!("S15: member {at} admits an HTLC {blocks} blocks before its expiry"));
        }
        // The operator's safe end may be earlier: it counts with its longest exit.
        if expiry > attempt.terms.timeout_height.saturating_sub(early) {
            return Err(format!("S15: member {at} admits an HTLC that outlives the factory's safe end"));
        }
        Ok(())
    }
}

/// Where a channel is in a factory.
#[derive(Clone, Copy)]
struct Place<'a> {
    attempt: &'a Attempt,
    client: ClientIndex,
    outpoint: OutPoint,
    /// Blocks that its way to the chain takes.
    early: u32,
    sold: Option<&'a Sold>,
}

fn place(engine: &Engine, channel: ChannelId) -> Option<Place<'_>> {
    if let Some((attempt, client)) = find(engine, channel) {
        let outpoint = attempt.tree.as_ref()?.channel_outpoint(client)?;
        return Some(Place { attempt, client, outpoint, early: early(&attempt.layout, client), sold: None });
    }
    let (attempt, sold) = find_sold(engine, channel)?;
    let client = sold.sale.buyer;
    let early = early_of_sale(&attempt.layout, client, sold.sale.number);
    Some(Place { attempt, client, outpoint: sold.sale.channel, early, sold: Some(sold) })
}
