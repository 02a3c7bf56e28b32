//! What hooks need to answer at once, kept up to date by the runtime.

use std::collections::{HashMap, HashSet};
use std::sync::{PoisonError, RwLock};

use factory_engine::types::{Amount, ChannelId, Height, InstanceId, NodeId};
use factory_engine::{ChannelPolicy, Engine};

/// The latest of everything that a hook may ask.
#[derive(Debug, Clone, Default)]
pub struct HtlcView {
    /// Height of the last block that was handled; nothing before the first one. Policies count from
    /// then on.
    pub height: Option<Height>,
    /// Every factory channel of this node.
    pub policies: HashMap<ChannelId, ChannelPolicy>,
    /// Peer and capacity of every open that was accepted for a factory, whatever became of it (S18).
    pub suspects: HashSet<(NodeId, Amount)>,
    /// Channels that nothing may close, splice or forget but the factory's own way out (S34).
    pub guarded: HashMap<ChannelId, InstanceId>,
    /// Over all usable factory channels (S17).
    pub largest_blocks_early: u16,
}

/// Shared between the runtime, which writes, and the hooks, which read.
#[derive(Debug, Default)]
pub struct View {
    htlc: RwLock<HtlcView>,
    expecting: RwLock<HashSet<NodeId>>,
}

impl View {
    /// Reads; the closure should be short.
    pub fn htlc<T>(&self, read: impl FnOnce(&HtlcView) -> T) -> T {
        // Writers only assign: a poisoned lock still holds a whole value.
        read(&self.htlc.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether an open from this peer may be one that was announced.
    pub fn expects_open_from(&self, peer: NodeId) -> bool {
        self.expecting.read().unwrap_or_else(PoisonError::into_inner).contains(&peer)
    }

    pub(super) fn update_expecting(&self, engine: &Engine) {
        let expecting: HashSet<NodeId> =
            engine.peers().filter(|peer| engine.expects_open_from(*peer)).collect();
        *self.expecting.write().unwrap_or_else(PoisonError::into_inner) = expecting;
    }

    pub(super) fn update_htlc(&self, engine: &Engine) {
        let policies: HashMap<ChannelId, ChannelPolicy> = engine.channel_policies().into_iter().collect();
        let usable = policies.values().filter(|policy| policy.usable.is_ok());
        let largest_blocks_early = usable.map(|policy| policy.blocks_early).max().unwrap_or(0);
        let height = engine.tip().map(|(height, _)| height);
        let suspects = engine.suspects().into_iter().collect();
        let guarded = engine.guarded_channels().into_iter().collect();
        let view = HtlcView { height, policies, suspects, guarded, largest_blocks_early };
        let old = std::mem::replace(&mut *self.htlc.write().unwrap_or_else(PoisonError::into_inner), view);
        // No hook waits while a large one is freed.
        drop(old);
    }
}
