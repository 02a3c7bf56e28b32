//! What hooks need to answer at once, kept up to date by the runtime.

use std::collections::{HashMap, HashSet};
use std::sync::{OnceLock, PoisonError, RwLock};

use factory_engine::types::{Amount, ChannelId, Height, InstanceId, NodeId};
use factory_engine::{ChannelPolicy, Doubt, Engine};

/// Blocks that may be handled later than lightningd has them. Further behind than that, no HTLC moves on a
/// factory's channel: what the view says of it may be over (S33).
pub const MOST_BEHIND: Height = 6;

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
    /// Channels of factories that neither side has ended, wherever their leaf is (S34).
    pub standing: HashSet<ChannelId>,
    /// Over all usable factory channels (S17).
    pub largest_blocks_early: u16,
    /// Which channels may be a factory's although no policy is theirs (S33).
    pub doubt: Doubt,
}

impl HtlcView {
    /// Why nothing may be taken on a factory's channel now, although the channel itself could: what is known
    /// here is older than the chain, which is at `tip` (S33).
    pub fn behind(&self, tip: Height) -> Option<String> {
        match self.height {
            None => Some("no block has been handled yet".to_owned()),
            Some(height) if tip > height.saturating_add(MOST_BEHIND) => {
                Some(format!("block {height} is the last that was handled, and the chain is at {tip}"))
            }
            Some(_) => None,
        }
    }
}

/// Shared between the runtime, which writes, and the hooks, which read.
#[derive(Debug)]
pub struct View {
    htlc: RwLock<HtlcView>,
    expecting: RwLock<HashSet<NodeId>>,
    /// Why nobody keeps it up to date any more.
    stale: OnceLock<String>,
}

/// Before anybody has said what there is, every channel may be a factory's (S33).
impl Default for View {
    fn default() -> Self {
        let doubt = Doubt::All("factories are not loaded yet".to_owned());
        let htlc = HtlcView { doubt, ..HtlcView::default() };
        Self { htlc: RwLock::new(htlc), expecting: RwLock::default(), stale: OnceLock::new() }
    }
}

impl View {
    /// Why a channel that no policy is about may be a factory's all the same, if it may; `None` is a peer
    /// that nobody knows (S33).
    pub fn doubt(&self, peer: Option<NodeId>) -> Option<String> {
        let stale = self.stale.get().cloned();
        stale.or_else(|| self.htlc(|view| view.doubt.of(peer).map(str::to_owned)))
    }

    /// Whether every factory is known, and somebody keeps what is known up to date.
    pub fn is_certain(&self) -> bool {
        self.stale.get().is_none() && self.htlc(|view| view.doubt.is_none())
    }

    /// Why what it says may be over by now, for good.
    pub fn stale(&self) -> Option<&str> {
        self.stale.get().map(String::as_str)
    }

    /// From now on nobody keeps it up to date, for this reason.
    pub fn give_up(&self, why: &str) {
        // The first reason is the one that counts.
        let _ = self.stale.set(why.to_owned());
    }

    /// Nothing is known of any factory, for this reason, until the next [`View::update_htlc`].
    pub(super) fn know_nothing(&self, why: &str) {
        let doubt = Doubt::All(why.to_owned());
        self.htlc.write().unwrap_or_else(PoisonError::into_inner).doubt = doubt;
    }

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
        let standing = engine.standing_channels().into_iter().collect();
        let doubt = engine.doubt();
        let view = HtlcView { height, policies, suspects, guarded, standing, largest_blocks_early, doubt };
        let old = std::mem::replace(&mut *self.htlc.write().unwrap_or_else(PoisonError::into_inner), view);
        // No hook waits while a large one is freed.
        drop(old);
    }
}
