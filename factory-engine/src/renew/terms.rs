//! Whether an invitation is a renewal on terms no worse than those that were accepted before (S32).

use std::fmt;

use crate::engine::Engine;
use crate::handover::client::fail;
use crate::io::Level;
use crate::record::attempt::Role;
use crate::record::factory::Factory;
use crate::record::state::State;
use crate::step::builder::StepBuilder;
use crate::terms::{ClientIndex, Terms};
use crate::types::{Amount, Height, InstanceId, NodeId};
use crate::wire::message::Invite;

/// Blocks by which a lifetime may be shorter than the one before: an invitation takes some to arrive.
const LATE: u32 = 12;

/// What of a renewal is worse than what it renews. Numbers are the least, or the most, that would not be, and what
/// the invitation has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worse {
    /// The price, msat.
    Price {
        /// The most that a renewal may cost here.
        most: u64,
        /// What it costs.
        now: u64,
    },
    /// The channel.
    Capacity {
        /// What this node has now.
        before: Amount,
        /// What it would have.
        now: Amount,
    },
    /// What the operator gives at first, msat: less than what stays behind.
    Push {
        /// What would stay behind and isn't paid for otherwise.
        least: u64,
        /// What it would give.
        now: u64,
    },
    /// A number that may not be less, by its name in commands.
    Less {
        /// Its name.
        term: &'static str,
        /// What it was.
        before: u64,
        /// What it would be.
        now: u64,
    },
}

impl fmt::Display for Worse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Price { most, now } => write!(f, "it costs {now} msat, and a renewal may cost {most} here"),
            Self::Capacity { before, now } => {
                write!(f, "its channel has {} sat, and the one before {}", now.to_sat(), before.to_sat())
            }
            Self::Push { least, now } => {
                write!(f, "its operator gives {now} msat, and {least} stay behind in the old factory")
            }
            Self::Less { term, before, now } => write!(f, "{term} is {now}, and was {before}"),
        }
    }
}

impl std::error::Error for Worse {}

impl Engine {
    /// The factory that another one of this operator, with that timeout, would renew: of those that it has with this
    /// node and that live, or out of which this node was evicted, the one that ends last; if the new one ends later.
    /// One that a person wants to leave is renewed by none.
    pub(crate) fn renewed_by(
        &self,
        (operator, instance): (NodeId, InstanceId),
        timeout: Height,
        height: Height,
    ) -> Option<&Factory> {
        let lives = |factory: &&Factory| {
            let Role::Client { lsp, index } = factory.current.role else { return false };
            let state = factory.state(height);
            lsp == operator
                && factory.instance != instance
                && factory.funding_height().is_some()
                && factory.restored().is_none()
                && (matches!(state, State::Funding | State::Active | State::Dying)
                    || goes_on_chain(factory, index))
                && factory.current.checked.contains(&index)
                && factory.leaves.wish().is_none()
        };
        let last = self.whole().filter(lives).max_by_key(|factory| factory.current.terms.timeout_height);
        last.filter(|factory| factory.current.terms.timeout_height < timeout)
    }

    /// Whether an invitation is accepted without a person because it renews a factory, and otherwise what is worse in
    /// it; nothing if it renews none, or this node renews nothing by itself.
    pub(crate) fn renewal_terms(
        &self,
        peer: NodeId,
        invite: &Invite,
        height: Height,
    ) -> Option<(&Factory, Result<(), Worse>)> {
        let before = self.renewed_by((peer, invite.instance), invite.terms.timeout_height, height)?;
        Some((before, self.no_worse(before, invite, height)))
    }

    /// What of the new terms is worse, the first.
    fn no_worse(&self, before: &Factory, invite: &Invite, height: Height) -> Result<(), Worse> {
        let Role::Client { index, .. } = before.current.role else { return Ok(()) };
        let (old, new) = (&before.current.terms, &invite.terms);
        let most = self.config.max_renewal_price_msat;
        if invite.price_msat > most {
            return Err(Worse::Price { most, now: invite.price_msat });
        }
        let (had, gets) = (before.capacity(index), capacity(invite, invite.client));
        if gets < had {
            return Err(Worse::Capacity { before: had, now: gets });
        }
        // Of a channel that is on chain nothing is lost: the transaction that closes it pays its reserve.
        let left = if before.was_evicted() { 0 } else { self.left_behind(before) };
        let least = left.saturating_sub(most.saturating_sub(invite.price_msat));
        if new.push_msat < least {
            return Err(Worse::Push { least, now: new.push_msat });
        }
        let began = before.current.invited_at.unwrap_or(height);
        let lived = old.timeout_height.saturating_sub(began).saturating_sub(LATE);
        let lives = new.timeout_height.saturating_sub(height);
        // What fees are now counts where they have fallen.
        let estimate = self.known_fees().estimate;
        let feerate = if estimate == 0 { old.tree_feerate } else { old.tree_feerate.min(estimate) };
        // Whoever pays for each renewal isn't asked for it more often.
        let rests = |terms: &Terms, from: Height| {
            terms.timeout_height.saturating_sub(terms.dying_blocks).saturating_sub(from)
        };
        let (rested, rest) = match invite.price_msat {
            0 => (0, 0),
            _ => (rests(old, began).saturating_sub(LATE), rests(new, height)),
        };
        let stock_csv = if new.stock > Amount::ZERO { old.stock_csv } else { 0 };
        let terms: [(&str, u64, u64); 8] = [
            ("lifetime_blocks", lived.into(), lives.into()),
            ("lifetime_blocks - dying_blocks", rested.into(), rest.into()),
            ("dying_blocks", old.dying_blocks.into(), new.dying_blocks.into()),
            ("feerate_perkw", feerate.into(), new.tree_feerate.into()),
            ("funding_confirmations", old.funding_confirmations.into(), new.funding_confirmations.into()),
            ("confirm_blocks", old.confirm_blocks.into(), new.confirm_blocks.into()),
            ("margin_blocks", old.margin_blocks.into(), new.margin_blocks.into()),
            ("stock_csv", stock_csv.into(), new.stock_csv.into()),
        ];
        let less = terms.into_iter().find(|(_, before, now)| now < before);
        less.map_or(Ok(()), |(term, before, now)| Err(Worse::Less { term, before, now }))
    }

    /// What can't be moved out of a factory, msat, and has to be made up for: its leaf's channel's reserve, or what is
    /// in it if that is less. A bought channel's stays behind: no push can be as large as several.
    pub(crate) fn left_behind(&self, factory: &Factory) -> u64 {
        let stays = |id| self.balances.of(id).map_or(0, |known| known.to_us_msat.min(known.reserve_msat));
        factory.own_channels().next().map_or(0, |channel| stays(channel.channel_id))
    }

    /// What came of an invitation that would have renewed a factory: said where somebody looks.
    pub(crate) fn renewal_failed(
        &self,
        step: &mut StepBuilder<'_>,
        peer: NodeId,
        invite: &Invite,
        what: &str,
    ) {
        let timeout = invite.terms.timeout_height;
        if let Some(before) = self.renewed_by((peer, invite.instance), timeout, step.height) {
            step.log(Level::Unusual, format!("{}: not renewed: {what}", before.instance));
            fail(step, before.instance, what);
        }
    }
}

/// Whether a client was evicted, and its channel goes on as an ordinary one.
fn goes_on_chain(factory: &Factory, index: ClientIndex) -> bool {
    factory.was_evicted()
        && factory.current.ended_of(index).is_none()
        && !factory.current.resolved.contains(&index)
}

fn capacity(invite: &Invite, client: ClientIndex) -> Amount {
    let place = usize::try_from(client).ok();
    place.and_then(|place| invite.terms.capacities.get(place).copied()).unwrap_or(Amount::ZERO)
}
