//! HTLCs with expiries around every limit, some of them held: whatever an honest member admits, leaves for
//! or leaves alone is judged from outside.

use bitcoin::OutPoint;
use factory_engine::admission::htlc::{Htlc, Upstream, Verdict, admit};
use factory_engine::types::{ChannelId, Height};

use crate::fault::Kind;
use crate::node::COMMITMENT_FEE;
use crate::world::LSP;
use crate::{LabError, error};

use super::find::{Place, place};
use super::payment::{CLTV_DELTA, Held, Leg};
use super::run::Run;

impl Run {
    /// One payment between the operator and a client, or from one client to another.
    ///
    /// # Errors
    /// When it was admitted and should not have been.
    pub(super) fn try_htlc(&mut self) -> Result<(), LabError> {
        let clients = self.world.members.len().saturating_sub(1);
        let client = self.dice.below(clients).saturating_add(1);
        let (from, to) = match self.dice.below(5) {
            0 | 1 => (LSP, client),
            2 | 3 => (client, LSP),
            _ => (client, self.dice.below(clients).saturating_add(1)),
        };
        self.try_payment(from, to)
    }

    /// One payment from one member to another.
    ///
    /// # Errors
    /// As [`Run::try_htlc`].
    pub(super) fn try_payment(&mut self, from: usize, to: usize) -> Result<(), LabError> {
        let mut msat = 1_000 * (1 + self.dice.next_number() % 60_000);
        if let Some(mut dice) = self.roll(Kind::Dust, || format!("from {from} to {to}")) {
            msat = 1 + dice.next_number() % 600_000;
        }
        let Some(legs) = self.legs(from, to) else { return Ok(()) };
        self.htlcs.0 = self.htlcs.0.saturating_add(1);
        for (place, leg) in legs.iter().enumerate() {
            // The payer offers it (outgoing), the payee gets it (incoming), and whoever forwards has both.
            let before = place.checked_sub(1).and_then(|place| legs.get(place));
            let last = place.saturating_add(1) == legs.len();
            for (at, legs) in [(leg.from, (before, Some(leg))), (leg.to, (Some(leg), None))] {
                if at == leg.to && !last {
                    continue;
                }
                if !self.admits(at, legs) {
                    return Ok(());
                }
                self.judge_htlc(at, leg.channel, leg.expiry).map_err(error)?;
                if let (Some(before), Some(leg)) = legs {
                    self.judge_htlc(at, before.channel, before.expiry).map_err(error)?;
                    self.judge_forward(at, before, leg).map_err(error)?;
                }
            }
        }
        if !legs.iter().all(|leg| self.has_room(leg, msat)) {
            return Ok(());
        }
        self.htlcs.1 = self.htlcs.1.saturating_add(1);
        if let Some(mut dice) = self.roll(Kind::Held, || format!("{msat} msat from {from} to {to}")) {
            let height = self.world.chain.height();
            let told = dice.one_in(2);
            let told = told.then(|| {
                let legs = dice.below(legs.len()).saturating_add(1);
                (height.saturating_add(dice.below_u32(40)), legs)
            });
            // Where factories are renewed most are settled before anybody leaves for them.
            let short = self.renewing.is_some() && !dice.one_in(12);
            let blocks = if short { 6 } else { 80 };
            let until = height.saturating_add(1).saturating_add(dice.below_u32(blocks));
            let mut hash = [0; 32];
            hash.iter_mut().for_each(|byte| *byte = dice.next_number().to_be_bytes()[7]);
            self.held.push(Held { hash, msat, legs, until, told });
            self.note_held();
        } else {
            for leg in legs {
                self.world.shift((leg.from, leg.to), leg.channel, msat)?;
            }
        }
        Ok(())
    }

    /// The channels that a payment takes, with expiries around the limits.
    fn legs(&mut self, from: usize, to: usize) -> Option<Vec<Leg>> {
        let hops = match (from, to) {
            (LSP, _) | (_, LSP) => vec![(from, to)],
            _ if from == to => return None,
            _ => vec![(from, LSP), (LSP, to)],
        };
        let mut legs: Vec<Leg> = Vec::new();
        for (from, to) in hops.into_iter().rev() {
            if !self.world.connected(from, to) {
                return None;
            }
            let client = if from == LSP { to } else { from };
            let channels = self.world.channels_of(client);
            let channel = channels.get(self.dice.below(channels.len())).copied()?;
            let expiry = match legs.first() {
                None => self.some_expiry(client, channel),
                Some(next) => {
                    let early = self.early_at(client, channel);
                    let more = self.dice.below_u32(5);
                    let least = next.expiry.saturating_add(early).saturating_add(CLTV_DELTA);
                    // One block less is refused.
                    least.saturating_add(more * more).saturating_sub(u32::from(self.dice.one_in(4)))
                }
            };
            legs.insert(0, Leg { from, to, channel, expiry });
        }
        Some(legs)
    }

    /// Whether lightningd would add an HTLC there.
    fn has_room(&self, leg: &Leg, msat: u64) -> bool {
        // Once one side has closed, lightningd adds nothing.
        let theirs = self.world.members[leg.to].lightningd.channels.get(&leg.channel);
        let open = theirs.is_some_and(|channel| !channel.closing);
        let ours = self.world.members[leg.from].lightningd.channels.get(&leg.channel);
        open && ours.is_some_and(|channel| {
            let own = channel.balances;
            // The opener keeps its reserve and the commitment's fee, as lightningd sees to.
            let kept = (channel.capacity.to_sat() / 100 + COMMITMENT_FEE.to_sat()) * 1000;
            let free = if channel.opener { own.opener_msat.saturating_sub(kept) } else { own.fundee_msat };
            // What a move has there already is spent twice otherwise, and the commitment can't pay its own fee.
            let standing = self.world.standing_msat((leg.from, true), leg.channel);
            !channel.closing && free.saturating_sub(standing) >= msat
        })
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

    /// Blocks that the way of a client's channel to the chain takes.
    fn early_at(&self, client: usize, channel: ChannelId) -> u32 {
        let engine = self.world.members[client].engine.as_ref();
        engine.and_then(|engine| place(engine, channel)).map_or(0, |place| place.early)
    }

    /// Whether a member lets an HTLC in, out, or through.
    fn admits(&self, at: usize, (incoming, outgoing): (Option<&Leg>, Option<&Leg>)) -> bool {
        let Some(engine) = &self.world.members[at].engine else { return false };
        let find = |leg: Option<&Leg>| engine.policy_of(leg?.channel);
        for leg in [incoming, outgoing].into_iter().flatten().filter(|leg| find(Some(leg)).is_none()) {
            // As the plugin's hook does with what only looks like a factory's channel (S18).
            let known = self.world.members[at].lightningd.channels.get(&leg.channel);
            let looks = known.is_some_and(|known| engine.suspects().contains(&(known.peer, known.capacity)));
            let settled =
                known.is_some_and(|known| self.world.chain.confirmed(known.outpoint.txid).is_some());
            let doubtful = known.is_some_and(|known| engine.doubt().of(Some(known.peer)).is_some());
            if (looks || doubtful) && !settled {
                return false;
            }
        }
        let own = outgoing.map(|leg| leg.expiry);
        let (before, after) = (find(incoming), find(outgoing));
        let htlc = Htlc {
            incoming: before.as_ref(),
            outgoing: after.as_ref(),
            cltv_expiry: incoming.map(|leg| leg.expiry).or(own).unwrap_or(0),
            outgoing_cltv_expiry: own,
            cltv_delta: CLTV_DELTA,
            upstream: Upstream::Live,
        };
        admit(&htlc, self.world.chain.height()) == Verdict::Continue
    }

    /// S33: what a member has just admitted whose records are not all understood: nothing on a channel that may
    /// be a damaged factory's, unless its funding is on chain.
    fn judge_damaged(&self, at: usize, channel: ChannelId) -> Result<(), String> {
        let member = &self.world.members[at];
        let known = member.lightningd.channels.get(&channel);
        // One that an older copy doesn't have is nobody's any more.
        if known.is_none_or(|known| self.world.chain.confirmed(known.outpoint.txid).is_some()) {
            return Ok(());
        }
        let whole = member.engine.as_ref().is_some_and(|engine| {
            let place = place(engine, channel);
            place.is_some_and(|place| engine.damage(place.attempt.terms.instance).is_none())
        });
        if whole {
            Ok(())
        } else {
            Err(format!("S33: member {at} admits an HTLC although records are damaged"))
        }
    }

    /// S15, S18: what an honest member that knows the chain's tip has just admitted.
    fn judge_htlc(&self, at: usize, channel: ChannelId, expiry: Height) -> Result<(), String> {
        let (world, chain) = (&self.world, &self.world.chain);
        if world.seen(at) != Some(chain.height()) {
            return Ok(());
        }
        if world.is_damaged(at) {
            return self.judge_damaged(at, channel);
        }
        if !world.is_owed(at) {
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

    /// S16: what a forward brings can be claimed when what it costs ends as late as it may.
    fn judge_forward(&self, at: usize, incoming: &Leg, outgoing: &Leg) -> Result<(), String> {
        let (world, chain) = (&self.world, &self.world.chain);
        let early = self.early_at(incoming.from, incoming.channel);
        let known = world.members[at].lightningd.channels.get(&incoming.channel);
        let out = known.is_none_or(|known| chain.confirmed(known.outpoint.txid).is_some());
        let least = outgoing.expiry.saturating_add(early).saturating_add(CLTV_DELTA);
        if world.is_owed(at) && !out && early > 0 && incoming.expiry < least {
            return Err(format!(
                "S16: member {at} forwards what expires at {} for one that ends at {}, and needs {early} blocks for an exit",
                incoming.expiry, outgoing.expiry
            ));
        }
        Ok(())
    }
}
