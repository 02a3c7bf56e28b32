//! A client's renewals: what follows on each factory that ends, how far that has come, and by when it has to be
//! done. Nothing of it is stored: it follows, at each block, from the factories that this node has with an operator
//! and from what their channels hold, so that a crash loses nothing.
//!
//! A factory is *due* from its dying period on. Its client then joins the next one of the same operator, waits until
//! that can't be undone, moves what it has there, and hands its key of the old one over (S22). Whoever has not done
//! it in time is evicted by the operator, or takes its distribution.

pub(crate) mod notice;
pub mod terms;

use std::fmt;

use crate::engine::Engine;
use crate::handover::client::fail;
use crate::handover::ready::{Kept, NotYet, Successor, kept_behind};
use crate::io::{Effect, Level};
use crate::memory::leaving::Failure;
use crate::policy::Policy;
use crate::record::attempt::Role;
use crate::record::factory::Factory;
use crate::record::state::State;
use crate::step::builder::StepBuilder;
use crate::types::{ChannelId, Height, InstanceId, NodeId};

/// What follows on a factory that ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewal {
    /// The factory that ends (factory_instance).
    pub instance: InstanceId,
    /// Node id of its operator.
    pub lsp: NodeId,
    /// Height from which it is due: its dying period.
    pub due: Height,
    /// Height by which it has to be done: from there on the operator evicts this client, or no payment can use the
    /// channel any more.
    pub by: Height,
    /// What it waits for.
    pub stage: Stage,
    /// What the operator asks for it, msat, once it has invited this node: it stays behind in the old channels, if
    /// there is so much beyond their reserve.
    pub price_msat: Option<u64>,
    /// What failed last, if something did and it isn't done.
    pub failed: Option<Failure>,
    /// What failed so far, the oldest first, as far as it is remembered.
    pub failures: Vec<Failure>,
    /// Whether the operator is connected.
    pub connected: bool,
}

impl Renewal {
    /// What becomes of it if it isn't done in time.
    pub fn otherwise(&self) -> &'static str {
        match self.stage {
            Stage::Acknowledgement | Stage::Done => "nothing is lost",
            Stage::Invitation
            | Stage::Answer { .. }
            | Stage::Creation { .. }
            | Stage::Depth { .. }
            | Stage::Move { .. }
            | Stage::HandOver { .. } => "the operator takes the channel on chain, where it goes on",
        }
    }
}

/// What a renewal waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// The operator invites this node to another factory.
    Invitation,
    /// A person accepts the invitation.
    Answer {
        /// The factory to come.
        next: InstanceId,
    },
    /// The next factory is created.
    Creation {
        /// The factory to come.
        next: InstanceId,
        /// How far it is.
        state: State,
    },
    /// Its funding is deep enough.
    Depth {
        /// The next factory.
        next: InstanceId,
        /// Height at which it is.
        until: Height,
    },
    /// What is in the old channels moves to the new one.
    Move {
        /// The next factory.
        next: InstanceId,
        /// What is still to be moved, msat, as far as channels are known.
        msat: u64,
    },
    /// The key is handed over.
    HandOver {
        /// The next factory.
        next: Option<InstanceId>,
        /// What keeps it from that.
        why: Option<NotYet>,
    },
    /// The operator says that it has stored the key.
    Acknowledgement,
    /// Nothing: the factory is left.
    Done,
}

impl Stage {
    /// Its name in RPC.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Invitation => "invitation",
            Self::Answer { .. } => "answer",
            Self::Creation { .. } => "creation",
            Self::Depth { .. } => "depth",
            Self::Move { .. } => "move",
            Self::HandOver { .. } => "handover",
            Self::Acknowledgement => "acknowledgement",
            Self::Done => "done",
        }
    }

    /// The factory that follows, where there is one by now.
    pub fn next(&self) -> Option<InstanceId> {
        match self {
            Self::Answer { next }
            | Self::Creation { next, .. }
            | Self::Depth { next, .. }
            | Self::Move { next, .. } => Some(*next),
            Self::HandOver { next, .. } => *next,
            Self::Invitation | Self::Acknowledgement | Self::Done => None,
        }
    }
}

/// What it waits for, in words.
impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invitation => f.write_str("its operator has not invited this node to the next factory yet"),
            Self::Answer { next } => write!(f, "the invitation to factory {next} has to be accepted"),
            Self::Creation { next, state } => write!(f, "factory {next} is {state}"),
            Self::Depth { next, until } => {
                write!(f, "the funding of factory {next} is deep enough at height {until}")
            }
            Self::Move { next, msat } => {
                write!(f, "{msat} msat have to move to the channel of factory {next}")
            }
            Self::HandOver { why: Some(why), .. } => write!(f, "its key is not handed over yet: {why}"),
            Self::HandOver { why: None, .. } => f.write_str("its key is handed over next"),
            Self::Acknowledgement => f.write_str("the operator has to say that it has stored the key"),
            Self::Done => f.write_str("nothing: this node has left it"),
        }
    }
}

impl Engine {
    /// Every renewal of this node's: of each factory that is due and lives.
    pub fn renewals(&self, height: Height) -> impl Iterator<Item = Renewal> {
        self.whole().filter_map(move |factory| self.renewal(factory, height))
    }

    /// Whether renewals are this node's to make, or a person's.
    pub fn renews_by_itself(&self) -> bool {
        self.config.renew != Policy::Never
    }

    /// How the renewal of a factory stands; nothing if it isn't due, or has ended another way.
    pub fn renewal(&self, factory: &Factory, height: Height) -> Option<Renewal> {
        let Role::Client { lsp, index } = factory.current.role else { return None };
        let over = !factory.has_left() && (factory.is_leaving(index) || factory.paid_out(index).is_some());
        // A close pays what is in it: nothing has to follow.
        // Nor can anything follow on what is exit-only (S9).
        let over = over || factory.has_close() || factory.restored().is_some();
        if !factory.is_due(height) || over || factory.state(height) == State::Closed {
            return None;
        }
        let terms = &factory.current.terms;
        let stage = self.stage(factory, lsp, height);
        let failures = if stage == Stage::Done { vec![] } else { self.failures(factory, lsp) };
        Some(Renewal {
            instance: factory.instance,
            lsp,
            due: terms.timeout_height.saturating_sub(terms.dying_blocks),
            by: factory.eviction_height(index).min(factory.safe_end()),
            failed: failures.last().cloned(),
            failures,
            price_msat: stage.next().and_then(|next| self.price_to(factory, next)),
            stage,
            connected: self.peers.contains(&lsp),
        })
    }

    fn stage(&self, factory: &Factory, lsp: NodeId, height: Height) -> Stage {
        if factory.has_left() {
            let stored = factory.current.handover_stored;
            return if stored { Stage::Done } else { Stage::Acknowledgement };
        }
        match self.may_leave(factory, height) {
            Ok(Successor::Factory(next)) => self.last_stage(factory, next),
            // A person has chosen another way.
            Ok(next @ (Successor::Ordinary(_) | Successor::Nothing)) => {
                let list: Vec<_> = self.balances.with(lsp).copied().collect();
                Stage::HandOver { next: None, why: self.is_empty(factory, next, &list).err() }
            }
            Err(NotYet::NotDeep { instance, until }) => Stage::Depth { next: instance, until },
            Err(NotYet::NoChannel) => self.first_stage(factory, lsp),
            Err(
                why @ (NotYet::Operator
                | NotYet::Over
                | NotYet::OutOfUse
                | NotYet::State(_)
                | NotYet::Leaving
                | NotYet::Unfinished
                | NotYet::NoOrdinary
                | NotYet::NotThere(_)
                | NotYet::NotDeepChannel { .. }
                | NotYet::NotChecked(_)
                | NotYet::Unusable(..)
                | NotYet::Unknown(_)
                | NotYet::Htlc(_)
                | NotYet::Balance { .. }
                | NotYet::NotMadeUp { .. }),
            ) => Stage::HandOver { next: None, why: Some(why) },
        }
    }

    /// Before there is another channel with the operator.
    fn first_stage(&self, factory: &Factory, lsp: NodeId) -> Stage {
        let ends = factory.current.terms.timeout_height;
        let coming = self.whole().filter(|next| {
            matches!(next.current.role, Role::Client { lsp: its, .. } if its == lsp)
                && next.current.terms.timeout_height > ends
        });
        let coming = coming.filter(|next| next.phase().is_creating() || next.phase() == State::Funding);
        match coming.max_by_key(|next| next.phase()) {
            Some(next) if next.phase() == State::Invited => Stage::Answer { next: next.instance },
            Some(next) => Stage::Creation { next: next.instance, state: next.phase() },
            None => Stage::Invitation,
        }
    }

    /// The new channel is there for good.
    fn last_stage(&self, factory: &Factory, next: &Factory) -> Stage {
        let list: Vec<_> = self.balances.with(factory.lsp()).copied().collect();
        match self.is_empty(factory, Successor::Factory(next), &list) {
            Ok(()) => Stage::HandOver { next: Some(next.instance), why: None },
            Err(NotYet::Balance { .. }) => {
                let price_msat = self.price_behind(factory, Successor::Factory(next));
                let msat = self.to_move(factory).saturating_sub(price_msat);
                Stage::Move { next: next.instance, msat }
            }
            Err(why) => Stage::HandOver { next: Some(next.instance), why: Some(why) },
        }
    }

    /// What a renewal into another factory costs.
    fn price_to(&self, factory: &Factory, next: InstanceId) -> Option<u64> {
        let next = self.factories.get(&next)?;
        Some(self.price_behind(factory, Successor::Factory(next)))
    }

    /// What is in a factory's channels beyond what has to stay, msat, as far as they are known.
    pub fn to_move(&self, factory: &Factory) -> u64 {
        let more =
            |id| self.balances.of(id).map_or(0, |known| known.to_us_msat.saturating_sub(known.reserve_msat));
        factory.own_channels().map(|channel| more(channel.channel_id)).fold(0, u64::saturating_add)
    }

    /// Whatever is in the old channels goes to the new one, but the price; a move that is under way goes on by itself
    /// (S37).
    fn move_over(&self, step: &mut StepBuilder<'_>, factory: &Factory, next: InstanceId) {
        let Some(next) = self.factories.get(&next) else { return };
        let Some(to) = next.own_channels().next() else { return };
        let price_msat = self.price_behind(factory, Successor::Factory(next));
        self.move_what_may(step, factory, to.channel_id, price_msat);
    }

    /// Begins to move what may leave each channel of a factory: all but its reserve and the price, whatever comes in
    /// meanwhile.
    pub(crate) fn move_what_may(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        to: ChannelId,
        price_msat: u64,
    ) {
        for Kept { channel_id: from, more_msat, stays_msat } in
            kept_behind(factory, price_msat, |id| self.balances.of(id))
        {
            if more_msat <= stays_msat || factory.moves.of(from).is_some() {
                continue;
            }
            if let Err(why) = self.begin_move(step, from, to, None) {
                let what = format!("what is in channel {from} doesn't move to channel {to}: {why}");
                step.log(Level::Debug, format!("{}: {what}", factory.instance));
                fail(step, factory.instance, &what);
            }
        }
    }

    /// What failed: at the end of attempts at the next factory, or otherwise.
    fn failures(&self, factory: &Factory, lsp: NodeId) -> Vec<Failure> {
        let ends = factory.current.terms.timeout_height;
        let due = ends.saturating_sub(factory.current.terms.dying_blocks);
        let failed = self.whole().filter(|next| {
            matches!(next.current.role, Role::Client { lsp: its, .. } if its == lsp)
                && next.current.terms.timeout_height > ends
        });
        let attempts = failed.filter_map(|next| {
            let height = next.current.ended_at.filter(|height| *height >= due)?;
            let what = format!("factory {}: {}", next.instance, next.failure()?);
            Some(Failure { height, what })
        });
        let said = self.leaving.failures(factory.instance).cloned();
        let mut all: Vec<Failure> = attempts.chain(said).collect();
        all.sort_by_key(|failure| failure.height);
        all
    }

    /// At every block, of each factory: what a renewal needs, and how urgent it is.
    pub(crate) fn renew(&self, step: &mut StepBuilder<'_>, factory: &Factory) {
        if factory.current.role == Role::Lsp || self.config.renew == Policy::Never {
            return;
        }
        self.look_to_leave(step, factory);
        let Some(renewal) = self.renewal(factory, step.height) else { return };
        if renewal.stage == Stage::Done {
            return;
        }
        if !renewal.connected && notice::looks_for_it(renewal.due, renewal.by, step.height) {
            step.effect(Effect::Connect { peer: renewal.lsp });
        }
        if let Stage::Move { next, .. } = renewal.stage {
            self.move_over(step, factory, next);
        }
        notice::tell(step, &renewal);
    }
}
