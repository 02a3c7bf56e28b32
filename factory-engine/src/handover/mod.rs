//! Key handover (S22): a client whose channels in a factory are all empty gives the operator its key of that
//! factory, and with it whatever it could still claim there.
//!
//! ```text
//! client                                       L
//! │ HTLCs are let on its channels no more      │
//! │ lightningd says: they are empty            │
//! │ stores handed_over, then                   │
//! │ handover {sealed key} ───────────────────▶ │ key·G is the member's key: stores it
//! │ ◀───────────────────────── handover_stored │
//! │ ◀══════ both close the channels, together ═▶
//! ```
//!
//! Other plugins on both nodes see the message too, so the key is sealed for L's key of the factory. The client says
//! it again whenever L is there, at each block, until L has stored it.

pub(crate) mod client;
pub(crate) mod lsp;
pub mod ready;

use crate::engine::Engine;
use crate::io::Effect;
use crate::record::attempt::Role;
use crate::record::factory::Factory;
use crate::step::builder::StepBuilder;
use crate::terms::ClientIndex;
use crate::types::{ChannelId, InstanceId, NodeId};

/// What a sealed key is bound to: the factory, the attempt and the client.
pub(crate) struct Context([u8; 32], [u8; 4], [u8; 4]);

impl Context {
    pub(crate) fn new(instance: InstanceId, attempt: u32, client: ClientIndex) -> Self {
        Self(instance.0, attempt.to_be_bytes(), client.to_be_bytes())
    }

    pub(crate) fn parts(&self) -> [&[u8]; 3] {
        [&self.0, &self.1, &self.2]
    }
}

/// Asks lightningd to close, with the peer, channels in which nothing is any more, of these clients: never alone, since
/// that would only wait for a funding output which never comes. A client does so once its key is stored.
pub(crate) fn close_channels(
    step: &mut StepBuilder<'_>,
    factory: &Factory,
    stored: bool,
    of: impl Fn(ClientIndex) -> bool,
) {
    if factory.current.role != Role::Lsp && !stored {
        return;
    }
    let open = |id: &ChannelId| !factory.current.ended.contains_key(id);
    let channels = factory.own_channels().filter(|channel| of(channel.client));
    for channel_id in channels.map(|channel| channel.channel_id).filter(open) {
        step.effect(Effect::MutualClose { channel_id });
    }
}

impl Engine {
    /// Whatever a handover still needs, at every block: the message again, and lightningd's close.
    pub(crate) fn go_on_leaving(&self, step: &mut StepBuilder<'_>, factory: &Factory) {
        if !factory.current.handed_over.is_empty() {
            self.finish_leaving(step, factory, |id| self.peers.contains(&id));
        }
    }

    /// A peer is there: what it has to hear again, and what can be closed with it.
    pub(crate) fn handover_peer_up(&self, step: &mut StepBuilder<'_>, peer: NodeId) {
        for factory in self.whole().filter(|factory| !factory.current.handed_over.is_empty()) {
            self.finish_leaving(step, factory, |id| id == peer);
        }
    }

    /// With those peers that are there.
    fn finish_leaving(&self, step: &mut StepBuilder<'_>, factory: &Factory, here: impl Fn(NodeId) -> bool) {
        let left = |client| factory.has_handed_over(client);
        let stored = factory.current.handover_stored;
        match factory.current.role {
            Role::Client { lsp, .. } if here(lsp) => {
                self.hand_over_again(step, factory);
                close_channels(step, factory, stored, left);
            }
            Role::Client { .. } => {}
            Role::Lsp => close_channels(step, factory, true, |client| {
                left(client) && factory.node_of(client).is_some_and(&here)
            }),
        }
    }
}
