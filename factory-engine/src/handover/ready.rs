//! Whether a client may hand its key over (S22). What is wrong otherwise, in the order in which it is looked at.

use std::fmt;

use crate::engine::Engine;
use crate::io::ChannelBalance;
use crate::record::attempt::Role;
use crate::record::factory::{Factory, has_matured};
use crate::record::leaves::Wish;
use crate::record::state::State;
use crate::record::unusable::Unusable;
use crate::tx::layout::RESERVE_MSAT;
use crate::types::{ChannelId, Height, InstanceId, NodeId};

/// Why a client keeps its key for now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotYet {
    /// This node is the factory's operator.
    Operator,
    /// It has been handed over already.
    Over,
    /// Some of the factory's records are not understood, or this node came back from a backup (S9, S33).
    OutOfUse,
    /// The factory's state doesn't allow it.
    State(State),
    /// Its channel is on chain, or on its way there.
    Leaving,
    /// A sale, a payment for one, or credit is open.
    Unfinished,
    /// There is no other channel with the operator that its money could be in.
    NoChannel,
    /// A person wants to leave, and the operator has not opened the ordinary channel yet.
    NoOrdinary,
    /// The ordinary channel isn't there, or carries no payments.
    NotThere(ChannelId),
    /// The funding of the ordinary channel is not deep enough.
    NotDeepChannel {
        /// The channel (BOLT 2's `channel_id`).
        channel_id: ChannelId,
        /// Height at which it is deep enough; nothing if it isn't in a block yet.
        until: Option<Height>,
    },
    /// It isn't known yet whether the ordinary channel's funding output is what lightningd thinks.
    NotChecked(ChannelId),
    /// The other channel isn't usable.
    Unusable(InstanceId, Unusable),
    /// The funding of the other channel is not deep enough.
    NotDeep {
        /// The factory in which the other channel is.
        instance: InstanceId,
        /// Height at which it is deep enough.
        until: Height,
    },
    /// lightningd doesn't list a channel as one that carries payments: what it holds isn't known.
    Unknown(ChannelId),
    /// An HTLC stands on a channel.
    Htlc(ChannelId),
    /// There is more in a channel than has to stay there.
    Balance {
        /// The channel (BOLT 2's `channel_id`).
        channel_id: ChannelId,
        /// What is in it, msat.
        msat: u64,
        /// What has to stay, msat.
        reserve_msat: u64,
    },
    /// More stays behind than was agreed to: than the new channel brought and this node may pay for a renewal, or
    /// than a person was told.
    NotMadeUp {
        /// What stays behind, msat.
        left_msat: u64,
        /// What may, msat.
        most_msat: u64,
    },
}

impl fmt::Display for NotYet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator => f.write_str("this node is its operator"),
            Self::Over => f.write_str("its key is handed over"),
            Self::OutOfUse => f.write_str("nothing is agreed in it any more on this node"),
            Self::State(state) => write!(f, "it is {state}"),
            Self::Leaving => f.write_str("its channel is on chain, or on its way there"),
            Self::Unfinished => f.write_str("a purchase, its payment or credit is still open"),
            Self::NoChannel => {
                f.write_str("there is no newer factory of this operator with a channel of ours")
            }
            Self::NoOrdinary => f.write_str("the operator has not opened an ordinary channel yet"),
            Self::NotThere(channel) => {
                write!(f, "lightningd doesn't show channel {channel} as one that carries payments")
            }
            Self::NotDeepChannel { channel_id, until: Some(until) } => {
                write!(f, "the funding of channel {channel_id} is deep enough at height {until}")
            }
            Self::NotDeepChannel { channel_id, until: None } => {
                write!(f, "the funding of channel {channel_id} is not in a block yet")
            }
            Self::NotChecked(channel) => {
                write!(f, "it has to be checked what the funding output of channel {channel} pays")
            }
            Self::Unusable(instance, why) => write!(f, "the channel of factory {instance}: {why}"),
            Self::NotDeep { instance, until } => {
                write!(f, "the funding of factory {instance} is deep enough at height {until}")
            }
            Self::Unknown(channel) => {
                write!(f, "lightningd doesn't show channel {channel} as one that carries payments")
            }
            Self::Htlc(channel) => write!(f, "an HTLC stands on channel {channel}"),
            Self::Balance { channel_id, msat, reserve_msat } => {
                write!(
                    f,
                    "{msat} msat are in channel {channel_id}, and only {reserve_msat} have to stay there"
                )
            }
            Self::NotMadeUp { left_msat, most_msat } => write!(
                f,
                "{left_msat} msat would stay behind as reserve, and {most_msat} are made up for or may be paid"
            ),
        }
    }
}

impl std::error::Error for NotYet {}

/// What of a price one channel keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    /// The channel (BOLT 2's `channel_id`).
    pub channel_id: ChannelId,
    /// What is in it beyond its reserve, msat.
    pub more_msat: u64,
    /// What of that stays, msat.
    pub stays_msat: u64,
}

/// What stays in each of a factory's channels that are known: of a price each keeps what the ones before it don't hold.
pub(crate) fn kept_behind<'b>(
    factory: &Factory,
    mut price_msat: u64,
    find: impl Fn(ChannelId) -> Option<&'b ChannelBalance>,
) -> impl Iterator<Item = Kept> {
    factory.own_channels().filter_map(move |channel| {
        let known = find(channel.channel_id)?;
        let more_msat = known.to_us_msat.saturating_sub(known.reserve_msat);
        let stays_msat = more_msat.min(price_msat);
        price_msat = price_msat.saturating_sub(stays_msat);
        Some(Kept { channel_id: channel.channel_id, more_msat, stays_msat })
    })
}

/// Where a client's money is once it has left a factory.
#[derive(Debug, Clone, Copy)]
pub enum Successor<'e> {
    /// In its channel of another factory.
    Factory(&'e Factory),
    /// In an ordinary channel with the same operator.
    Ordinary(ChannelId),
    /// Nowhere else: there is nothing to be moved.
    Nothing,
}

impl fmt::Display for Successor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Factory(next) => next.instance.fmt(f),
            Self::Ordinary(channel) => write!(f, "channel {channel}"),
            Self::Nothing => f.write_str("no other channel: there was none to move"),
        }
    }
}

impl Engine {
    /// Where a client's money is once it leaves this factory, if everything but what its channels hold allows that.
    ///
    /// # Errors
    /// Why it stays for now.
    pub fn may_leave<'e>(&'e self, factory: &'e Factory, height: Height) -> Result<Successor<'e>, NotYet> {
        let lsp = self.can_hand_over(factory, height)?;
        match factory.leaves.wish() {
            Some(wish) => self.ordinary_successor(wish, height),
            None => self.successor(factory, lsp, height).map(Successor::Factory),
        }
    }

    /// Whether a factory is one in which this client could hand its key over: the operator.
    ///
    /// # Errors
    /// Why not.
    pub fn can_hand_over(&self, factory: &Factory, height: Height) -> Result<NodeId, NotYet> {
        let Role::Client { lsp, index } = factory.current.role else { return Err(NotYet::Operator) };
        if factory.has_left() {
            return Err(NotYet::Over);
        }
        if factory.damage().is_some() || factory.restored().is_some() {
            return Err(NotYet::OutOfUse);
        }
        // Without a channel it has its share of the distribution, and nothing else to show for its key.
        if !factory.current.checked.contains(&index) {
            return Err(NotYet::Unusable(factory.instance, Unusable::NotChecked));
        }
        // What it holds is about to be paid on chain.
        if self.is_frozen_to_close(factory.instance) {
            return Err(NotYet::State(State::Closing));
        }
        if factory.is_leaving(index) || factory.paid_out(index).is_some() || has_matured(factory, height) {
            return Err(NotYet::Leaving);
        }
        match factory.state(height) {
            State::Active | State::Dying => {}
            state @ (State::Invited
            | State::Joining
            | State::Signing
            | State::Storing
            | State::Opening
            | State::Funding
            | State::Exiting
            | State::Exited
            | State::Distributed
            | State::Left
            | State::Closing
            | State::Reclaimed
            | State::Declined
            | State::Aborted
            | State::Closed) => return Err(NotYet::State(state)),
        }
        if !self.is_finished(factory) {
            return Err(NotYet::Unfinished);
        }
        Ok(lsp)
    }

    /// S22: an ordinary channel is as good as a factory's once its funding has this client's number of confirmations
    /// and pays what lightningd thinks. Until there is one, whoever has nothing needs none.
    fn ordinary_successor(&self, wish: &Wish, height: Height) -> Result<Successor<'_>, NotYet> {
        let Some(channel_id) = wish.to else { return Ok(Successor::Nothing) };
        let known = self.balances.of(channel_id).filter(|known| known.live);
        let known = known.ok_or(NotYet::NotThere(channel_id))?;
        let until = known.confirmed.map(|at| self.irrevocable_from(at, 1));
        if until.is_none_or(|until| height < until) {
            return Err(NotYet::NotDeepChannel { channel_id, until });
        }
        if !self.leaving.is_checked(channel_id) {
            return Err(NotYet::NotChecked(channel_id));
        }
        Ok(Successor::Ordinary(channel_id))
    }

    /// Whether nothing of a sale is open: neither a signature, nor a payment, nor credit (S36).
    pub(crate) fn is_finished(&self, factory: &Factory) -> bool {
        let sales = &factory.current.sales;
        let signed = sales.all().all(|sold| sold.is_signed() || sold.void.is_some());
        let of_this = |(instance, _): &(InstanceId, u32)| *instance == factory.instance;
        let wishes = self.purchases.get(&factory.instance).is_some_and(|wish| wish.is_open());
        let jit = sales.jits().agreed.is_some() || !sales.jits().funding.is_empty();
        let under_way = self.client_sales.keys().any(of_this);
        signed && sales.account().is_settled() && !wishes && !jit && !under_way
    }

    /// A younger factory of the same operator whose channel can take everything, for good.
    fn successor(&self, factory: &Factory, lsp: NodeId, height: Height) -> Result<&Factory, NotYet> {
        let (mut longest, mut nearest) = (None, NotYet::NoChannel);
        for next in self.successors(factory, lsp) {
            match self.is_irrevocable(next, height) {
                // Not one that is due as well, if there is another.
                Ok(()) => longest = [longest, Some(next)].into_iter().flatten().max_by_key(|next| ends(next)),
                Err(why) => nearest = why,
            }
        }
        longest.ok_or(nearest)
    }

    /// Funded factories of this operator that end later than this one, and that this node is in.
    pub(crate) fn successors(&self, factory: &Factory, lsp: NodeId) -> impl Iterator<Item = &Factory> {
        let ends = factory.current.terms.timeout_height;
        let instance = factory.instance;
        let is_one = move |next: &&Factory| {
            matches!(next.current.role, Role::Client { lsp: its, .. } if its == lsp)
                && next.instance != instance
                && next.current.terms.timeout_height > ends
                && next.funding_height().is_some()
                && next.restored().is_none()
                && !next.has_left()
        };
        self.whole().filter(is_one)
    }

    /// From when on a funding in the block at this height can't be undone: it has `factory-handover-depth`
    /// confirmations, and at least so many (S22, S37).
    pub(crate) fn irrevocable_from(&self, at: Height, least: u16) -> Height {
        let depth = u32::from(self.config.handover_depth.max(least));
        at.saturating_add(depth).saturating_sub(1)
    }

    /// S22: the new channel can't be undone, and it is what its leaf pays.
    pub(crate) fn is_irrevocable(&self, next: &Factory, height: Height) -> Result<(), NotYet> {
        let Role::Client { index, .. } = next.current.role else { return Err(NotYet::NoChannel) };
        if self.leaving.frozen(next.instance).is_some() {
            return Err(NotYet::Unusable(next.instance, Unusable::HandedOver));
        }
        let usable = next.channel_usable(index, height);
        let funded = next.funding_height().ok_or(NotYet::NoChannel)?;
        let until = self.irrevocable_from(funded, next.current.terms.funding_confirmations);
        match usable {
            Ok(()) | Err(Unusable::NotDeep { .. }) if height < until => {
                Err(NotYet::NotDeep { instance: next.instance, until })
            }
            Ok(()) => Ok(()),
            Err(why) => Err(NotYet::Unusable(next.instance, why)),
        }
    }

    /// What stays behind in a factory's channels beyond their reserve, msat, as far as there is so much: the price of
    /// the ordinary channel, or of the renewal, less what was left in others for it.
    pub(crate) fn price_behind(&self, factory: &Factory, next: Successor<'_>) -> u64 {
        match next {
            Successor::Factory(next) => next.current.price_msat.saturating_sub(next.current.left_for_it()),
            Successor::Ordinary(_) | Successor::Nothing => {
                factory.leaves.wish().map_or(0, |wish| wish.price_msat)
            }
        }
    }

    /// What has to stay in a channel when a move takes its balance to where this node's money is next, msat.
    pub(crate) fn stays_in<'b>(
        &self,
        (from, to): (ChannelId, ChannelId),
        height: Height,
        find: impl Fn(ChannelId) -> Option<&'b ChannelBalance>,
    ) -> u64 {
        let is_own = |factory: &&Factory| {
            factory.current.role != Role::Lsp && factory.own_channels().any(|own| own.channel_id == from)
        };
        let Some(factory) = self.whole().find(is_own) else { return 0 };
        let next = match factory.leaves.wish() {
            Some(wish) => wish.to.filter(|next| *next == to).map(Successor::Ordinary),
            None if self.wants_to_leave(factory, height) => {
                let goes =
                    |next: &&Factory| next.own_channels().next().is_some_and(|own| own.channel_id == to);
                self.successors(factory, factory.lsp()).find(goes).map(Successor::Factory)
            }
            None => None,
        };
        let price_msat = next.map_or(0, |next| self.price_behind(factory, next));
        let kept = kept_behind(factory, price_msat, find).find(|kept| kept.channel_id == from);
        kept.map_or(0, |kept| kept.stays_msat)
    }

    /// What may stay behind in a factory's channels as reserve, msat: what a person was told; or what its successor
    /// brought, and what a renewal may cost beyond its price.
    pub(crate) fn may_stay(&self, factory: &Factory, next: Successor<'_>) -> u64 {
        let Successor::Factory(next) = next else {
            return factory.leaves.wish().map_or(0, |wish| wish.stays_msat);
        };
        let free = self.config.max_renewal_price_msat.saturating_sub(next.current.price_msat);
        // A bought channel's reserve stays behind: no push can be as large as several.
        let bought = u64::try_from(factory.own_channels().count().saturating_sub(1)).unwrap_or(0);
        let free = free.saturating_add(bought.saturating_mul(RESERVE_MSAT));
        // It makes up for one factory that is left, not for each.
        if next.current.is_renewal_of_some() {
            free
        } else {
            next.current.terms.push_msat.saturating_add(free)
        }
    }

    /// Whether nothing is left to move: no HTLC, and in each channel no more than has to stay (S22). `list` is what
    /// the channels with the operator hold.
    ///
    /// # Errors
    /// What is in the way.
    pub fn is_empty(
        &self,
        factory: &Factory,
        next: Successor<'_>,
        list: &[ChannelBalance],
    ) -> Result<(), NotYet> {
        let find = |id: ChannelId| list.iter().find(|balance| balance.channel_id == id && balance.live);
        let (mut left_msat, mut price_msat) = (0u64, self.price_behind(factory, next));
        for channel in factory.own_channels() {
            let channel_id = channel.channel_id;
            let balance = find(channel_id).ok_or(NotYet::Unknown(channel_id))?;
            if balance.htlcs {
                return Err(NotYet::Htlc(channel_id));
            }
            let (msat, reserve_msat) = (balance.to_us_msat, balance.reserve_msat);
            let more = msat.saturating_sub(reserve_msat);
            if more > price_msat {
                return Err(NotYet::Balance { channel_id, msat, reserve_msat });
            }
            price_msat = price_msat.saturating_sub(more);
            left_msat = left_msat.saturating_add(msat.min(reserve_msat));
        }
        let most_msat = self.may_stay(factory, next);
        if left_msat > most_msat {
            return Err(NotYet::NotMadeUp { left_msat, most_msat });
        }
        // Where the money is now has to be there.
        let channel_id = match next {
            Successor::Nothing => return Ok(()),
            Successor::Ordinary(channel_id) => channel_id,
            Successor::Factory(next) => {
                let Role::Client { index, .. } = next.current.role else { return Err(NotYet::NoChannel) };
                next.current.channels.get(&index).copied().ok_or(NotYet::NoChannel)?
            }
        };
        find(channel_id).map(|_| ()).ok_or(NotYet::Unknown(channel_id))
    }
}

fn ends(factory: &Factory) -> Height {
    factory.current.terms.timeout_height
}
