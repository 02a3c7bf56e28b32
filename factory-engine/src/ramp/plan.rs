//! What leaving a factory for an ordinary channel would be. Looks, and changes nothing.

use std::fmt;

use crate::engine::Engine;
use crate::handover::ready::{NotYet, Successor};
use crate::io::{ChannelBalance, Refusal};
use crate::memory::leaving::{Failure, Priced};
use crate::record::factory::Factory;
use crate::types::{Amount, ChannelId, Height, InstanceId, NodeId};

/// What `factory-leave` would do, as far as can be seen before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeavePlan {
    /// Node id of the operator.
    pub lsp: NodeId,
    /// What goes to the ordinary channel, msat.
    pub move_msat: u64,
    /// The most that stays behind in the factory's channels as their reserve, msat.
    pub stays_msat: u64,
    /// The ordinary channel that can take it; nothing if the operator has to open one, or nothing is to be moved.
    pub to: Option<ChannelId>,
    /// What a channel that the operator opens has to take; nothing if none is needed.
    pub amount: Option<Amount>,
    /// Height at which the ordinary channel is deep enough: now, if it is there; nothing while there is none.
    pub deep: Option<Height>,
    /// What the operator said of its price.
    pub priced: Option<Priced>,
}

/// How leaving stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leave {
    /// The factory (factory_instance).
    pub instance: InstanceId,
    /// Node id of its operator.
    pub lsp: NodeId,
    /// Height at which it was asked for.
    pub since: Height,
    /// The ordinary channel, once there is one.
    pub to: Option<ChannelId>,
    /// What the operator asks for it, msat.
    pub price_msat: u64,
    /// What it waits for.
    pub stage: LeaveStage,
    /// Whether the operator is connected.
    pub connected: bool,
    /// What failed last.
    pub failed: Option<Failure>,
}

/// What leaving waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaveStage {
    /// The operator opens an ordinary channel.
    Channel,
    /// That channel is deep enough, and its output was looked at.
    Depth(NotYet),
    /// What is in the factory's channels moves to it, msat.
    Move(u64),
    /// The key is handed over, and what keeps it from that.
    HandOver(Option<NotYet>),
    /// The operator says that it has stored the key.
    Acknowledgement,
    /// Nothing: the factory is left.
    Done,
}

impl LeaveStage {
    /// Its name in RPC.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Channel => "channel",
            Self::Depth(_) => "depth",
            Self::Move(_) => "move",
            Self::HandOver(_) => "handover",
            Self::Acknowledgement => "acknowledgement",
            Self::Done => "done",
        }
    }
}

/// What it waits for, in words.
impl fmt::Display for LeaveStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Channel => NotYet::NoOrdinary.fmt(f),
            Self::Depth(why) => why.fmt(f),
            Self::Move(msat) => write!(f, "{msat} msat have to move to the ordinary channel"),
            Self::HandOver(Some(why)) => write!(f, "its key is not handed over yet: {why}"),
            Self::HandOver(None) => f.write_str("its key is handed over next"),
            Self::Acknowledgement => f.write_str("the operator has to say that it has stored the key"),
            Self::Done => f.write_str("nothing: this node has left it"),
        }
    }
}

impl Engine {
    /// What `factory-leave` would do at `height`, by what is known of this node's channels with the operator.
    ///
    /// # Errors
    /// Why it can't.
    pub fn plan_leave(&self, instance: InstanceId, height: Height) -> Result<LeavePlan, Refusal> {
        if let Some(why) = self.damage(instance) {
            return Err(Refusal::Damaged { instance, why: why.to_owned() });
        }
        let factory = self.factories.get(&instance).ok_or(Refusal::Unknown(instance))?;
        let no = |why: NotYet| Refusal::CannotLeave { instance, why: why.to_string() };
        let lsp = self.can_hand_over(factory, height).map_err(no)?;
        let mut stays_msat: u64 = 0;
        for channel in factory.own_channels() {
            let known = self.balances.of(channel.channel_id).filter(|known| known.live);
            let known = known.ok_or_else(|| no(NotYet::Unknown(channel.channel_id)))?;
            // All of it: what is paid to an empty channel meanwhile can't be moved out of it either.
            stays_msat = stays_msat.saturating_add(known.reserve_msat);
        }
        let move_msat = self.to_move(factory);
        let to = self.ordinary(lsp).filter(|known| known.receivable_msat >= move_msat);
        // The one with least room that is enough.
        let to = to.filter(|_| move_msat > 0).min_by_key(|known| (known.receivable_msat, known.channel_id));
        let amount = (to.is_none() && move_msat > 0).then(|| Amount::from_sat(move_msat.div_ceil(1_000)));
        let deep = to.and_then(|known| known.confirmed).map(|at| self.irrevocable_from(at, 1).max(height));
        let to = to.map(|known| known.channel_id);
        let priced = self.leaving.priced(instance).filter(|priced| Some(priced.amount) == amount).cloned();
        Ok(LeavePlan { lsp, move_msat, stays_msat, to, amount, deep, priced })
    }

    /// Ordinary channels with a peer that carry payments and are in a block: those that stand on nothing of a factory
    /// which is still off chain.
    pub(super) fn ordinary(&self, peer: NodeId) -> impl Iterator<Item = &ChannelBalance> {
        let known = self.balances.with(peer).filter(|known| known.live && known.confirmed.is_some());
        known.filter(|known| !self.is_off_chain(known.channel_id))
    }

    /// Whether a channel is one of a factory's that has no place on chain.
    fn is_off_chain(&self, channel_id: ChannelId) -> bool {
        self.factories.values().any(|factory| {
            let own = factory.own_channels().find(|own| own.channel_id == channel_id);
            own.is_some_and(|own| !factory.confirmed.contains_key(&own.funding.txid))
        })
    }

    /// Every factory that a person wants to leave, or has left so.
    pub fn leaves(&self, height: Height) -> impl Iterator<Item = Leave> {
        self.whole().filter_map(move |factory| self.leave(factory, height))
    }

    /// How leaving a factory stands; nothing if nobody asked for it, or it goes another way by now.
    pub fn leave(&self, factory: &Factory, height: Height) -> Option<Leave> {
        let wish = factory.leaves.wish()?;
        let stage = self.leave_stage(factory, height)?;
        Some(Leave {
            instance: factory.instance,
            lsp: factory.lsp(),
            since: wish.height,
            to: wish.to,
            price_msat: wish.price_msat,
            stage,
            connected: self.peers.contains(&factory.lsp()),
            failed: self.leaving.failed(factory.instance).cloned(),
        })
    }

    fn leave_stage(&self, factory: &Factory, height: Height) -> Option<LeaveStage> {
        if factory.has_left() {
            let stored = factory.current.handover_stored;
            return Some(if stored { LeaveStage::Done } else { LeaveStage::Acknowledgement });
        }
        let next = match self.may_leave(factory, height) {
            Ok(next) => next,
            Err(NotYet::Leaving | NotYet::State(_)) => return None,
            Err(why @ (NotYet::NotDeepChannel { .. } | NotYet::NotChecked(_) | NotYet::NotThere(_))) => {
                return Some(LeaveStage::Depth(why));
            }
            Err(
                why @ (NotYet::Operator
                | NotYet::Over
                | NotYet::OutOfUse
                | NotYet::Unfinished
                | NotYet::NoChannel
                | NotYet::NoOrdinary
                | NotYet::Unusable(..)
                | NotYet::NotDeep { .. }
                | NotYet::Unknown(_)
                | NotYet::Htlc(_)
                | NotYet::Balance { .. }
                | NotYet::NotMadeUp { .. }),
            ) => return Some(LeaveStage::HandOver(Some(why))),
        };
        let list: Vec<_> = self.balances.with(factory.lsp()).copied().collect();
        Some(match (self.is_empty(factory, next, &list), next) {
            (Ok(()), _) => LeaveStage::HandOver(None),
            (Err(NotYet::Balance { .. }), Successor::Nothing) => LeaveStage::Channel,
            (Err(NotYet::Balance { .. }), _) => {
                let msat = self.to_move(factory).saturating_sub(self.price_behind(factory, next));
                LeaveStage::Move(msat)
            }
            (Err(why), _) => LeaveStage::HandOver(Some(why)),
        })
    }
}
