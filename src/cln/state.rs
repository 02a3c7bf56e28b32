//! What every hook, method and subscription can reach.

use std::sync::Arc;

use factory_engine::Config;
use factory_engine::types::{Height, NodeId};
use factory_runtime::Handle;
use tokio::sync::watch;

use super::chain::Progress;
use super::channels::Channels;
use super::client::Rpc;
use super::dust::DustCap;
use super::holding::Holding;
use super::online::Habits;
use super::outbox::Outbox;

/// A cheap clone, as cln-plugin makes one for every call.
pub type State = Arc<Shared>;

/// The plugin's own state; everything about factories is the runtime's.
pub struct Shared {
    /// To lightningd.
    pub rpc: Rpc,
    /// To the engine.
    pub runtime: Handle,
    /// For progress notifications.
    pub outbox: Outbox,
    /// Short channel ids.
    pub channels: Channels,
    /// Dust in flight.
    pub dust: DustCap,
    /// HTLCs for clients that aren't connected.
    pub holding: Holding,
    /// When clients are online.
    pub online: Habits,
    /// The node's options.
    pub config: Config,
    /// This node.
    pub me: NodeId,
    /// lightningd's `cltv-final`: what an invoice gets where nobody says otherwise.
    pub cltv_final: u32,
    /// How far the chain has been read.
    pub scan: Progress,
    /// Height of lightningd's last block: wakes the chain follower.
    pub news: watch::Sender<Height>,
    /// Why blocks don't come from lightningd's backend, if so.
    pub chain_problem: watch::Sender<Option<String>>,
    /// Why the plugin can't do anything but answer hooks, if so.
    pub unavailable: Option<String>,
}
