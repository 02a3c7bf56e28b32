//! Moves, modelled: a client pays itself in a circle over the operator, and `setchannel`.
//!
//! As in lightningd, an HTLC goes on over whichever of the peer's channels has most to spend among those whose fees
//! are those of the named one, and whoever opened a channel pays for one more output of its commitment transaction.

use factory_engine::admission::htlc::{ChannelPolicy, Htlc, Upstream, Verdict, admit};
use factory_engine::tx::scripts::DUST_MSAT;
use factory_engine::types::{ChannelId, InstanceId, NodeId, PaymentHash};
use factory_engine::{ChannelBalance, Input, NodeError, SendMove};

use crate::node::{Balances, Channel};
use crate::{LabError, error};

use super::World;

/// What each side has to keep in a channel, msat: lightningd's least.
pub const RESERVE_MSAT: u64 = 546_000;
/// What whoever opened a channel needs beyond that for an HTLC, msat: anchors, and the commitment transaction's fee
/// at 3,750 sat/kw with one more output.
pub const OPENER_MSAT: u64 = 5_520_000;

/// A circle whose HTLCs stand on both channels.
#[derive(Debug, Clone)]
pub(super) struct Circle {
    at: usize,
    send: SendMove,
    /// Over which the operator's lightningd went on.
    onward: ChannelId,
}

/// What a channel holds of whoever has this side of it, and of its peer.
pub(super) fn sides(channel: &Channel) -> (u64, u64) {
    let Balances { opener_msat, fundee_msat } = channel.balances;
    if channel.opener { (opener_msat, fundee_msat) } else { (fundee_msat, opener_msat) }
}

impl World {
    /// What a member's channels with a peer hold, as the plugin reads it.
    pub fn balances(&self, at: usize, peer: NodeId) -> Vec<ChannelBalance> {
        let lightningd = &self.members[at].lightningd;
        let theirs = self.member_of(peer).map(|other| &self.members[other].lightningd);
        let balance = |(id, channel): (&ChannelId, &Channel)| {
            let (to_us_msat, to_them_msat) = sides(channel);
            let pending = |out: bool| self.standing_msat((at, out), *id);
            let to_us_msat = to_us_msat.saturating_sub(pending(true));
            let least = |pays: bool| RESERVE_MSAT.saturating_add(if pays { OPENER_MSAT } else { 0 });
            ChannelBalance {
                channel_id: *id,
                peer,
                to_us_msat,
                reserve_msat: RESERVE_MSAT,
                spendable_msat: to_us_msat.saturating_sub(least(channel.opener)),
                receivable_msat: to_them_msat
                    .saturating_sub(least(!channel.opener))
                    .saturating_sub(pending(false)),
                minimum_htlc_out_msat: 1,
                maximum_htlc_out_msat: channel.capacity.to_sat().saturating_mul(1000),
                minimum_htlc_in_msat: 0,
                maximum_htlc_in_msat: theirs.map_or(u64::MAX, |theirs| theirs.htlc_maximum_msat),
                opener: channel.opener,
                free: lightningd.free.contains(id),
                htlcs: pending(true) > 0 || pending(false) > 0 || self.htlcs_on.contains(id),
                live: channel.ended(&self.chain).is_none(),
                confirmed: self.chain.confirmed(channel.outpoint.txid).map(|(height, _)| height),
            }
        };
        lightningd.channels.iter().filter(|(_, channel)| channel.peer == peer).map(balance).collect()
    }

    /// All that a client has in its channels with the operator, by commitments that both have signed, msat: what a
    /// circle under way carries is still its own in one of them.
    pub fn purse_msat(&self, client: usize) -> u64 {
        let member = &self.members[client];
        let now: u64 = member.lightningd.channels.values().map(|channel| sides(channel).0).sum();
        now.saturating_add(member.forgotten_msat)
    }

    /// A member's engine hears what its channels with a peer hold.
    ///
    /// # Errors
    /// When a property is violated.
    pub fn show_balances(&mut self, at: usize, peer: usize) -> Result<(), LabError> {
        let list = self.balances(at, self.members[peer].id);
        self.feed(at, Input::Balances(list)).map(drop)
    }

    /// `setchannel`.
    pub(super) fn set_fees(&mut self, at: usize, peer: NodeId, channel_id: ChannelId, free: bool) {
        let lightningd = &mut self.members[at].lightningd;
        let known = lightningd.channels.get(&channel_id).is_some_and(|channel| channel.peer == peer);
        let result = if lightningd.fees_fail || !known {
            Err("no such channel".into())
        } else {
            if free && !lightningd.fees_ignored {
                lightningd.free.insert(channel_id);
            } else if !lightningd.fees_stay {
                lightningd.free.remove(&channel_id);
            }
            Ok(())
        };
        self.answer(at, Input::FeesSet { peer, channel_id, free, result });
    }

    /// `sendpay` in a circle. With [`World::hold_moves`] its HTLCs stand until [`World::end_moves`].
    pub(super) fn send_move(&mut self, at: usize, send: SendMove) {
        if self.members[at].lightningd.payments.get(&send.payment_hash) == Some(&true) {
            self.judge.violations.push(format!("S37: member {at} pays {} a second time", send.payment_hash));
        }
        let standing = self.circles.iter().any(|circle| circle.at == at && circle.send.from == send.from);
        if standing {
            self.judge.violations.push(format!("S37: member {at} moves twice what is in {}", send.from));
        }
        let stands = |chaos: &mut Box<super::chaos::Chaos>| {
            chaos.chances.roll(crate::fault::Kind::MoveStands, || format!("member {at}")).is_some()
        };
        let stands = self.chaos.as_mut().is_some_and(stands);
        match self.begin_circle(at, &send) {
            Ok(onward) => {
                let circle = Circle { at, send, onward };
                if self.hold_moves || stands {
                    self.circles.push(circle);
                } else {
                    let arrived = self.settle_circle(&circle);
                    self.end_circle(at, &circle.send, arrived);
                }
            }
            Err(why) => self.end_circle(at, &send, Err(why)),
        }
    }

    /// What circles that stand take out of one side of a channel, or bring there, msat: who began one, and the operator
    /// that forwards it, both have its HTLCs.
    pub(crate) fn standing_msat(&self, (at, out): (usize, bool), channel: ChannelId) -> u64 {
        let carried = |circle: &Circle| {
            let began = circle.at == at;
            let leaves = circle.send.from == channel && began == out;
            let arrives = circle.onward == channel && began != out;
            [leaves, arrives].into_iter().filter(|here| *here).map(|_| circle.send.amount_msat).sum::<u64>()
        };
        self.circles.iter().map(carried).sum()
    }

    /// Whether HTLCs of a move stand on a channel.
    pub(crate) fn is_moving(&self, channel: ChannelId) -> bool {
        self.circles.iter().any(|circle| circle.send.from == channel || circle.onward == channel)
    }

    /// A client that has asked what its channels of a factory hold, and has not heard it yet.
    pub(crate) fn looks(&self) -> Option<usize> {
        let asked = |queue: &std::collections::VecDeque<Input>| {
            queue.iter().any(|input| matches!(input, Input::Emptied { .. }))
        };
        self.tasks.iter().find(|(_, queue)| asked(queue)).map(|(at, _)| *at)
    }

    /// Whether any do.
    pub fn moves_stand(&self) -> bool {
        !self.circles.is_empty()
    }

    /// Circles that stand arrive, if they can.
    pub fn end_moves(&mut self) {
        for circle in std::mem::take(&mut self.circles) {
            let arrived = self.settle_circle(&circle);
            self.end_circle(circle.at, &circle.send, arrived);
        }
    }

    fn end_circle(&mut self, at: usize, send: &SendMove, result: Result<(), LabError>) {
        let (instance, payment_hash) = (send.instance, send.payment_hash);
        let result = result.map_err(|why| NodeError(why.to_string()));
        self.members[at].lightningd.payments.insert(payment_hash, result.is_ok());
        if self.members[at].engine.is_some() {
            self.answer(at, Input::MoveEnded { instance, payment_hash, result });
        }
    }

    /// Both commitments without the HTLC: the client has let the preimage go for what it has in the second.
    fn settle_circle(&mut self, Circle { at, send, onward }: &Circle) -> Result<(), LabError> {
        let operator = self.member_of(send.peer).ok_or_else(|| error("no such peer"))?;
        let before = self.purse_msat(*at);
        // Once one of them has ended nobody lets a preimage go: both HTLCs come back.
        for channel in [send.from, *onward] {
            let open = |member: usize| {
                let known = self.members[member].lightningd.channels.get(&channel);
                known.is_some_and(|known| !known.closing)
            };
            if !open(*at) || !open(operator) {
                return Err(error("a channel has ended meanwhile"));
            }
        }
        let has = |of: usize, channel| {
            let known = self.members[of].lightningd.channels.get(&channel);
            known.map_or(0, |known| sides(known).0)
        };
        if has(*at, send.from).min(has(operator, *onward)) < send.amount_msat {
            return Err(error("Insufficient balance"));
        }
        self.shift((*at, operator), send.from, send.amount_msat)?;
        self.shift((operator, *at), *onward, send.amount_msat)?;
        if self.purse_msat(*at) != before {
            self.judge.violations.push(format!("S37: a move has changed what member {at} has"));
        }
        Ok(())
    }

    /// `listsendpays` of what has ended. What is under way answers when it ends.
    pub(super) fn look_move(&mut self, at: usize, instance: InstanceId, payment_hash: PaymentHash) {
        if self.circles.iter().any(|circle| circle.at == at && circle.send.payment_hash == payment_hash) {
            return;
        }
        let arrived = self.members[at].lightningd.payments.get(&payment_hash).copied().unwrap_or(false);
        let result = if arrived { Ok(()) } else { Err("it never left".into()) };
        self.answer(at, Input::MoveEnded { instance, payment_hash, result });
    }

    /// The channel over which the operator's lightningd goes on.
    fn onward(&self, operator: usize, peer: NodeId, named: ChannelId) -> Result<ChannelId, LabError> {
        let lightningd = &self.members[operator].lightningd;
        let list = self.balances(operator, peer);
        let hint = list.iter().find(|channel| channel.channel_id == named && channel.live);
        let hint = hint.ok_or_else(|| error("unknown_next_peer"))?;
        if !lightningd.free.contains(&named) {
            return Err(error("fee_insufficient"));
        }
        let same = list.iter().filter(|channel| channel.live && channel.free == hint.free);
        let best = same.max_by_key(|channel| (channel.spendable_msat, channel.channel_id == named));
        Ok(best.map_or(named, |channel| channel.channel_id))
    }

    fn policy(&self, at: usize, channel: ChannelId) -> Result<Option<ChannelPolicy>, LabError> {
        Ok(self.engine(at)?.policy_of(channel))
    }

    /// Whether an HTLC comes to stand on both channels, and on which second one.
    fn begin_circle(&self, at: usize, send: &SendMove) -> Result<ChannelId, LabError> {
        let operator = self.member_of(send.peer).filter(|other| self.connected(at, *other));
        let operator = operator.ok_or_else(|| error("First peer not ready"))?;
        let (me, height, msat) = (self.members[at].id, self.chain.height(), send.amount_msat);
        let own = self.policy(at, send.from)?;
        let early = own.as_ref().map_or(0, |policy| u32::from(policy.blocks_early));
        let expiry = height.saturating_add(send.first_blocks).saturating_add(early);
        let last = height.saturating_add(send.last_blocks);
        // What the hook says of this node's own payment.
        if let Some(policy) = &own {
            policy.usable.map_err(error)?;
            if policy.safe_end < expiry {
                return Err(error("S15: the payment would outlive the factory"));
            }
        }
        let find = |world: &Self, of: usize, peer, id| {
            world.balances(of, peer).into_iter().find(|channel: &ChannelBalance| channel.channel_id == id)
        };
        let old = find(self, at, send.peer, send.from).ok_or_else(|| error("no such channel"))?;
        if old.spendable_msat < msat {
            return Err(error("Capacity exceeded"));
        }
        if !old.opener && old.receivable_msat == 0 && msat >= DUST_MSAT {
            return Err(error("the opener can't afford the commitment transaction"));
        }
        let onward = self.onward(operator, me, send.to)?;
        let (incoming, outgoing) = (self.policy(operator, send.from)?, self.policy(operator, onward)?);
        let forwarded = Htlc {
            incoming: incoming.as_ref(),
            outgoing: outgoing.as_ref(),
            cltv_expiry: expiry,
            outgoing_cltv_expiry: Some(last),
            cltv_delta: self.members[operator].config.cltv_delta,
            upstream: Upstream::Live,
        };
        let theirs = self.policy(at, onward)?;
        let received = Htlc {
            incoming: theirs.as_ref(),
            outgoing: None,
            cltv_expiry: last,
            outgoing_cltv_expiry: None,
            cltv_delta: 0,
            upstream: Upstream::Live,
        };
        for htlc in [forwarded, received] {
            if let Verdict::Fail { reason, .. } = admit(&htlc, height) {
                return Err(error(reason));
            }
        }
        let new = find(self, operator, me, onward).ok_or_else(|| error("no such channel"))?;
        if new.spendable_msat < msat || msat > self.members[operator].lightningd.htlc_maximum_msat {
            return Err(error("temporary_channel_failure"));
        }
        Ok(onward)
    }
}
