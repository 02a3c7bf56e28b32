//! Cooperative close: everybody who has not handed over signs, with L, one transaction from the funding output to
//! what each has. Only L begins one.
//!
//! ```text
//! L                                            client
//! │ no HTLC is let on its channels any more    │
//! │ lightningd says: none stands there         │
//! │ close_ask ───────────────────────────────▶ │ no HTLC is let on its channels any more
//! │                                            │ lightningd says: none stands there, and what it has
//! │ ◀───── close_join {balance, script, nonce} │
//! │ all agree with what L's lightningd says    │
//! │ stores, then                               │
//! │ close_propose {outputs, aggregate nonce} ▶ │ builds it; its own output is there: stores, then
//! │ ◀──────────────── close_partial_signatures │
//! │ finishes, stores, publishes                │
//! │ close_ready {signature} ─────────────────▶ │ verifies, stores, publishes
//! ```
//!
//! Until `close_propose` nobody has signed: whatever goes wrong before ends the try without a trace, and so all that
//! is slow, or can fail, comes before. What is left is one answer of each.
//!
//! A client's partial signature is good for one aggregate nonce, and so for nothing without those of all others. But L
//! has them all, and may finish the close and keep it. Hence whoever has signed can't tell whether it exists, and
//! behaves as if it did: nothing moves on its channels, until the close is buried, or something else that spends
//! the same output; and if it hasn't got the finished one [`CLOSE_BLOCKS`] later it leaves by its path, which is
//! such a spend. L never lets its own part of the signature go, so it alone knows whether the close can appear. It tries again with
//! fresh nonces, the very same transaction (S2, S8), whenever everybody is there, and once that has lasted
//! [`CLOSE_BLOCKS`], or somebody leaves, it stores that it never will finish it.
//!
//! [`CLOSE_BLOCKS`]: crate::record::close::CLOSE_BLOCKS

pub(crate) mod client;
pub(crate) mod lsp;
pub(crate) mod lsp_signing;
pub mod ready;

use crate::engine::Engine;
use crate::io::{ChannelBalance, Effect, NodeError};
use crate::memory::Volatile;
use crate::memory::closing::VolatileClose;
use crate::memory::leaving::Failure;
use crate::record::attempt::Role;
use crate::record::factory::Factory;
use crate::step::builder::{StepBuilder, short};
use crate::types::{InstanceId, NodeId};
use crate::wire::message::{CloseAbort, CloseReady, Message};
use crate::wire::words::Words;

/// Whether a fault in this message is a close's.
pub(crate) fn ends_close(message: &Message) -> bool {
    matches!(
        message,
        Message::CloseAsk(_)
            | Message::CloseJoin(_)
            | Message::ClosePropose(_)
            | Message::ClosePartialSignatures(_)
            | Message::CloseReady(_)
            | Message::CloseAbort(_)
    )
}

fn change(step: &mut StepBuilder<'_>, change: VolatileClose) {
    step.volatile(Volatile::Close(change));
}

fn abort(factory: &Factory, round: u64, reason: &str) -> CloseAbort {
    let (instance, attempt) = (factory.instance, factory.current.number);
    CloseAbort { instance, attempt, round, reason: Words::new(reason) }
}

fn fail(step: &mut StepBuilder<'_>, instance: InstanceId, what: &str) {
    let failure = Failure { height: step.height, what: short(what) };
    change(step, VolatileClose::Failed(instance, failure));
}

impl Engine {
    /// Whether nothing may move on a factory's channels because all are closing it, though nobody may have signed yet.
    pub(crate) fn is_frozen_to_close(&self, instance: InstanceId) -> bool {
        self.closes.freezes(instance)
    }

    /// What a factory's last close came to, if it came to nothing.
    pub fn close_failure(&self, instance: InstanceId) -> Option<&Failure> {
        self.closes.failed(instance)
    }

    /// Whether a close is under way that nobody may have signed yet, or that is signed again.
    pub fn is_close_under_way(&self, instance: InstanceId) -> bool {
        self.closes.freezes(instance)
    }

    /// The look at channels on which nothing moves any more. Whether it was asked for by a close.
    pub(crate) fn on_close_looked(
        &self,
        step: &mut StepBuilder<'_>,
        instance: InstanceId,
        round: u64,
        result: &Result<Vec<ChannelBalance>, NodeError>,
    ) -> bool {
        let Some(factory) = self.factories.get(&instance) else { return false };
        match factory.current.role {
            Role::Lsp => match self.closes.lsp.get(&instance).filter(|close| close.round == round) {
                Some(close) => self.lsp_looked(step, factory, close, result),
                None => return false,
            },
            Role::Client { .. } => {
                match self.closes.client.get(&instance).filter(|close| close.round == round) {
                    Some(close) => self.client_looked(step, factory, close, result),
                    None => return false,
                }
            }
        }
        true
    }

    /// At every block: a close that was signed for is tried again; channels that one has paid are closed.
    pub(crate) fn go_on_closing(&self, step: &mut StepBuilder<'_>, factory: &Factory) {
        if factory.current.close.is_none() {
            return;
        }
        self.close_again_if_all_are_here(step, factory);
        self.close_paid_channels(step, factory, |peer| self.peers.contains(&peer));
    }

    /// A peer is there: it hears of a finished close again, until that is on chain.
    pub(crate) fn closes_peer_up(&self, step: &mut StepBuilder<'_>, peer: NodeId) {
        for factory in self.whole().filter(|factory| factory.current.close.is_some()) {
            self.close_paid_channels(step, factory, |other| other == peer);
            if let Some(client) = factory.client_of(peer)
                && !factory.has_handed_over(client)
                && factory.is_whole()
            {
                send_ready(step, factory, [peer]);
            }
        }
    }

    pub(crate) fn closes_peer_down(&self, step: &mut StepBuilder<'_>, peer: NodeId) {
        self.lsp_closes_peer_down(step, peer);
        self.client_closes_peer_down(step, peer);
    }

    pub(crate) fn closes_tick(&self, step: &mut StepBuilder<'_>) {
        self.lsp_closes_tick(step);
        self.client_closes_tick(step);
    }

    /// What a close has paid, as deep as the funding had to be: lightningd ends these channels, with the peer. The
    /// funding outputs that they stand on never come.
    fn close_paid_channels(
        &self,
        step: &mut StepBuilder<'_>,
        factory: &Factory,
        here: impl Fn(NodeId) -> bool,
    ) {
        let depth = u32::from(factory.current.terms.funding_confirmations);
        let deep = factory
            .close_height()
            .is_some_and(|at| step.height.saturating_add(1) >= at.saturating_add(depth));
        if !deep {
            return;
        }
        let lsp = factory.lsp();
        for channel in factory.own_channels() {
            let peer = match factory.current.role {
                Role::Lsp => factory.node_of(channel.client),
                Role::Client { .. } => Some(lsp),
            };
            if !factory.current.ended.contains_key(&channel.channel_id) && peer.is_some_and(&here) {
                step.effect(Effect::MutualClose { channel_id: channel.channel_id });
            }
        }
    }
}

/// L: the finished close for these clients.
fn send_ready(step: &mut StepBuilder<'_>, factory: &Factory, to: impl IntoIterator<Item = NodeId>) {
    let (instance, attempt) = (factory.instance, factory.current.number);
    let Some(close) = factory.current.close.as_ref() else { return };
    let Some(signature) = close.signature else { return };
    for peer in to {
        step.send(peer, CloseReady { instance, attempt, outputs: close.outputs().to_vec(), signature });
    }
}
