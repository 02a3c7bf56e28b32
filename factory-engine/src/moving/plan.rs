//! What can go from one channel to another, in which HTLCs, and how long they may last (S15). Looks, and changes
//! nothing.

use crate::admission::htlc::{ChannelPolicy, SLACK};
use crate::engine::Engine;
use crate::io::{CannotMove, ChannelBalance, MoveLimit};
use crate::record::attempt::Role;
use crate::record::factory::Factory;
use crate::record::state::State;
use crate::tx::scripts::DUST_MSAT;
use crate::types::{ChannelId, Height, InstanceId, NodeId};

/// The most HTLCs that a plan counts.
const MOST_PARTS: usize = 1_000;

/// What a move would be, as far as can be seen before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MovePlan {
    /// The factory in which it is kept (factory_instance).
    pub instance: InstanceId,
    /// Node id of the operator.
    pub peer: NodeId,
    /// What goes, msat.
    pub amount_msat: u64,
    /// The HTLCs that it takes, msat each.
    pub parts: Vec<u64>,
    /// What says how much one HTLC carries.
    pub limit: MoveLimit,
    /// What stays behind in the channel that it leaves, msat.
    pub stays_msat: u64,
    /// How long its HTLCs may last.
    pub blocks: MoveBlocks,
}

/// How long the HTLCs of a move last, in blocks from now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MoveBlocks {
    /// That of the HTLC that leaves, without what an exit from its channel takes.
    pub first: u32,
    /// What an exit from the channel that it leaves takes: the HTLC lasts that much longer (S16).
    pub early: u32,
    /// That of the HTLC that comes back.
    pub last: u32,
}

impl MoveBlocks {
    fn of(
        from: Option<&ChannelPolicy>,
        to: Option<&ChannelPolicy>,
        cltv_final: u32,
        cltv_delta: u32,
    ) -> Self {
        let early =
            |policy: Option<&ChannelPolicy>| policy.map_or(0, |policy| u32::from(policy.blocks_early));
        let last = cltv_final.saturating_add(early(to)).saturating_add(SLACK);
        Self { first: last.saturating_add(cltv_delta), early: early(from), last }
    }
}

/// The next HTLC: how much, and what keeps it from being more. `left`: what is missing of the move's amount, msat.
///
/// # Errors
/// Why there can be none.
pub fn next_part(
    from: &ChannelBalance,
    to: &ChannelBalance,
    left: Option<u64>,
) -> Result<(u64, MoveLimit), CannotMove> {
    let least = from.minimum_htlc_out_msat.max(to.minimum_htlc_in_msat).max(1);
    if from.spendable_msat < least {
        let (to_us_msat, reserve_msat) = (from.to_us_msat, from.reserve_msat);
        return Err(CannotMove::Nothing { to_us_msat, reserve_msat });
    }
    if to.receivable_msat < least {
        let (channel_id, receivable_msat) = (to.channel_id, to.receivable_msat);
        return Err(CannotMove::Full { channel_id, receivable_msat });
    }
    // Where the peer pays for the commitment transaction and can't for one more output, only what is no output
    // goes; that makes room.
    let poor = !from.opener && from.receivable_msat == 0;
    let limits = [
        (from.spendable_msat, MoveLimit::Spendable),
        (to.receivable_msat, MoveLimit::Receivable),
        (from.maximum_htlc_out_msat.min(to.maximum_htlc_in_msat), MoveLimit::HtlcMaximum),
        (if poor { DUST_MSAT.saturating_sub(1) } else { u64::MAX }, MoveLimit::CommitmentFee),
        (left.unwrap_or(u64::MAX), MoveLimit::Asked),
    ];
    let smallest = limits.into_iter().min_by_key(|(msat, _)| *msat);
    // There are limits, so one is the smallest.
    let (amount_msat, limit) = smallest.unwrap_or((0, MoveLimit::Spendable));
    if amount_msat < least {
        return Err(CannotMove::TooLittle { asked_msat: amount_msat, least_msat: least });
    }
    Ok((amount_msat, limit))
}

/// A channel of which so much can't be spent, msat, besides its reserve.
pub(super) fn without(channel: &ChannelBalance, msat: u64) -> ChannelBalance {
    let reserve_msat = channel.reserve_msat.saturating_add(msat);
    ChannelBalance { spendable_msat: channel.spendable_msat.saturating_sub(msat), reserve_msat, ..*channel }
}

/// All HTLCs, if what was seen of both channels is all that happens.
fn parts(
    from: &ChannelBalance,
    to: &ChannelBalance,
    asked: Option<u64>,
) -> Result<(Vec<u64>, MoveLimit), CannotMove> {
    let (mut from, mut to, mut left) = (*from, *to, asked);
    let mut sizes = Vec::new();
    let mut first = None;
    let end = loop {
        let (amount_msat, limit) = match next_part(&from, &to, left) {
            Ok(next) => next,
            Err(why) => break why,
        };
        first.get_or_insert(limit);
        sizes.push(amount_msat);
        from.spendable_msat = from.spendable_msat.saturating_sub(amount_msat);
        from.receivable_msat = from.receivable_msat.saturating_add(amount_msat);
        to.receivable_msat = to.receivable_msat.saturating_sub(amount_msat);
        left = left.map(|left| left.saturating_sub(amount_msat));
        if left == Some(0) || sizes.len() >= MOST_PARTS {
            return Ok((sizes, first.unwrap_or(limit)));
        }
    };
    let Some(limit) = first else { return Err(end) };
    if let Some(asked_msat) = asked {
        let limit =
            if matches!(end, CannotMove::Full { .. }) { MoveLimit::Receivable } else { MoveLimit::Spendable };
        let most_msat = sizes.iter().fold(0, |sum: u64, size| sum.saturating_add(*size));
        return Err(CannotMove::TooMuch { asked_msat, most_msat, limit });
    }
    Ok((sizes, limit))
}

impl Engine {
    /// What `factory-move` would do at `height`, by what is known of both channels.
    ///
    /// # Errors
    /// Why nothing can go.
    pub fn plan_move(
        &self,
        from: ChannelId,
        to: ChannelId,
        amount_msat: Option<u64>,
        height: Height,
    ) -> Result<MovePlan, CannotMove> {
        if from == to {
            return Err(CannotMove::SameChannel(from));
        }
        let known = |id| self.balances.of(id).ok_or(CannotMove::NoSuchChannel(id));
        let (old, new) = (known(from)?, known(to)?);
        if old.peer != new.peer {
            return Err(CannotMove::TwoPeers { from: old.peer, to: new.peer });
        }
        if let Some(open) = self.move_with(old.peer) {
            return Err(CannotMove::UnderWay { from: open.0, to: open.1 });
        }
        let home = self.move_home(old.peer, from, to, height).ok_or(CannotMove::NoOperator(old.peer))?;
        // What L needs is asked for; most ask for what we do.
        let blocks = self.may_move(old, new, self.config.cltv_delta, height)?;
        if amount_msat == Some(0) {
            return Err(CannotMove::TooLittle {
                asked_msat: 0,
                least_msat: old.minimum_htlc_out_msat.max(1),
            });
        }
        let stays = self.stays_in((from, to), height, |id| self.balances.of(id));
        let (parts, limit) = parts(&without(old, stays), new, amount_msat)?;
        let amount_msat = parts.iter().fold(0, |sum: u64, size| sum.saturating_add(*size));
        let stays_msat = old.to_us_msat.saturating_sub(amount_msat);
        Ok(MovePlan {
            instance: home.instance,
            peer: old.peer,
            amount_msat,
            parts,
            limit,
            stays_msat,
            blocks,
        })
    }

    /// Both channels of the move between this client and `peer` that isn't done, if there is one.
    pub(crate) fn move_with(&self, peer: NodeId) -> Option<(ChannelId, ChannelId)> {
        let of_peer =
            self.factories().filter(|factory| factory.current.role != Role::Lsp && factory.lsp() == peer);
        of_peer.flat_map(|factory| factory.moves.open()).map(|open| (open.from, open.to)).next()
    }

    /// The factory in which a move is kept: that of the channel that it leaves, else that of the one that it goes
    /// to, else any that lives and has this operator.
    fn move_home(&self, peer: NodeId, from: ChannelId, to: ChannelId, height: Height) -> Option<&Factory> {
        let of_peer =
            || self.whole().filter(|factory| factory.current.role != Role::Lsp && factory.lsp() == peer);
        let has = |factory: &&Factory, id| factory.own_channels().any(|channel| channel.channel_id == id);
        let lives = |factory: &&Factory| {
            matches!(factory.state(height), State::Active | State::Dying | State::Exiting | State::Exited)
        };
        let home = of_peer().find(|factory| has(factory, from));
        home.or_else(|| of_peer().find(|factory| has(factory, to))).or_else(|| of_peer().find(lives))
    }

    /// Whether HTLCs may go from one channel to another, and how long they last.
    pub(crate) fn may_move(
        &self,
        from: &ChannelBalance,
        to: &ChannelBalance,
        cltv_delta: u32,
        height: Height,
    ) -> Result<MoveBlocks, CannotMove> {
        let mut policies = [None, None];
        for (place, channel) in policies.iter_mut().zip([from, to]) {
            let id = channel.channel_id;
            if self.is_handed_over(id) {
                return Err(CannotMove::HandedOver(id));
            }
            if !channel.live {
                return Err(CannotMove::NotLive(id));
            }
            *place = self.policy_of(id);
            if let Some(Err(why)) = place.as_ref().map(|policy| policy.usable) {
                return Err(CannotMove::Unusable(id, why));
            }
        }
        let [old, new] = &policies;
        if new.is_none() && to.confirmed.is_none() {
            return Err(CannotMove::Unconfirmed(to.channel_id));
        }
        let channel_id = to.channel_id;
        if let Some(until) = self.deep_from(to).filter(|until| height < *until) {
            return Err(CannotMove::TooYoung { channel_id, until });
        }
        let blocks = MoveBlocks::of(old.as_ref(), new.as_ref(), self.config.cltv_final, cltv_delta);
        // A block may come in before lightningd counts from it.
        let next = height.saturating_add(1);
        let lasts = [
            (from, old, next.saturating_add(blocks.first).saturating_add(blocks.early)),
            (to, new, next.saturating_add(blocks.last)),
        ];
        for (channel, policy, cltv_expiry) in lasts {
            let channel_id = channel.channel_id;
            if let Some(safe_end) =
                policy.as_ref().map(|policy| policy.safe_end).filter(|end| cltv_expiry > *end)
            {
                return Err(CannotMove::TooLate { channel_id, cltv_expiry, safe_end });
            }
        }
        Ok(blocks)
    }

    /// S37: from when on a channel may hold what has moved: what it stands on can't be undone then, by the depth that
    /// a handover asks for, too (S22). The other side has funded it, and could spend its inputs otherwise.
    fn deep_from(&self, channel: &ChannelBalance) -> Option<Height> {
        let own = self
            .factories()
            .find(|factory| factory.own_channels().any(|own| own.channel_id == channel.channel_id));
        let (at, least) = match own {
            Some(factory) => (factory.funding_height(), factory.current.terms.funding_confirmations),
            None => (channel.confirmed, 1),
        };
        at.map(|at| self.irrevocable_from(at, least))
    }

    /// Whether this client has handed its key of the channel's factory over.
    fn is_handed_over(&self, channel: ChannelId) -> bool {
        self.factories().any(|factory| {
            let own = || factory.own_channels().filter(|own| own.channel_id == channel);
            !factory.current.handed_over.is_empty() && own().any(|own| factory.has_handed_over(own.client))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(id: u8, spendable_msat: u64, receivable_msat: u64) -> ChannelBalance {
        ChannelBalance {
            channel_id: ChannelId([id; 32]),
            peer: NodeId([7; 33]),
            to_us_msat: spendable_msat.saturating_add(546_000),
            reserve_msat: 546_000,
            spendable_msat,
            receivable_msat,
            minimum_htlc_out_msat: 1,
            maximum_htlc_out_msat: 1_000_000_000,
            minimum_htlc_in_msat: 0,
            maximum_htlc_in_msat: 1_000_000_000,
            opener: false,
            free: false,
            htlcs: false,
            live: true,
            confirmed: None,
        }
    }

    // S37
    #[test]
    fn each_limit_cuts_an_htlc() {
        let (old, new) = (channel(1, 100_000_000, 5_000_000), channel(2, 0, 80_000_000));
        let next = |old, new, left| next_part(&old, &new, left).unwrap();
        assert_eq!(next(old, new, None), (80_000_000, MoveLimit::Receivable));
        assert_eq!(next(old, new, Some(7)), (7, MoveLimit::Asked));
        let larger = ChannelBalance { receivable_msat: 200_000_000, ..new };
        assert_eq!(next(old, larger, None), (100_000_000, MoveLimit::Spendable));
        let small = ChannelBalance { maximum_htlc_in_msat: 30_000_000, ..larger };
        assert_eq!(next(old, small, None), (30_000_000, MoveLimit::HtlcMaximum));
        assert_eq!(parts(&old, &small, None).unwrap().0, [30_000_000, 30_000_000, 30_000_000, 10_000_000]);
        assert_eq!(parts(&old, &small, Some(50_000_000)).unwrap().0, [30_000_000, 20_000_000]);
        let all = parts(&old, &new, Some(80_000_001)).unwrap_err();
        let most_msat = 80_000_000;
        assert_eq!(
            all,
            CannotMove::TooMuch { asked_msat: 80_000_001, most_msat, limit: MoveLimit::Receivable }
        );
    }

    /// An operator that can't pay for another output takes what is none.
    #[test]
    fn the_first_is_small_where_the_operator_has_too_little() {
        let (old, new) = (channel(1, 100_000_000, 0), channel(2, 0, 200_000_000));
        assert_eq!(next_part(&old, &new, None).unwrap(), (545_999, MoveLimit::CommitmentFee));
        let (sizes, limit) = parts(&old, &new, None).unwrap();
        assert_eq!((sizes, limit), (vec![545_999, 99_454_001], MoveLimit::CommitmentFee));
        // Whoever opened the channel pays itself.
        let own = ChannelBalance { opener: true, ..old };
        assert_eq!(next_part(&own, &new, None).unwrap(), (100_000_000, MoveLimit::Spendable));
    }

    #[test]
    fn nothing_and_full() {
        let (empty, full) = (channel(1, 0, 5_000_000), channel(2, 0, 0));
        let some = channel(3, 10, 10);
        assert!(matches!(next_part(&empty, &some, None), Err(CannotMove::Nothing { .. })));
        assert!(matches!(next_part(&some, &full, None), Err(CannotMove::Full { .. })));
        let coarse = ChannelBalance { minimum_htlc_in_msat: 8, ..some };
        let little = CannotMove::TooLittle { asked_msat: 7, least_msat: 8 };
        assert_eq!(next_part(&some, &coarse, Some(7)), Err(little));
    }
}
