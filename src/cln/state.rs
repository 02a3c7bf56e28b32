//! What every hook, method and subscription can reach.

use std::sync::Arc;

use factory_engine::Config;
use factory_engine::types::{Height, NodeId};
use factory_runtime::Handle;
use tokio::sync::watch;

use super::bitcoind::Bitcoind;
use super::chain::Progress;
use super::channels::Channels;
use super::client::Rpc;
use super::dust::DustCap;
use super::holding::Holding;
use super::kept::Kept;
use super::online::Habits;
use super::outbox::Outbox;

/// A cheap clone, as cln-plugin makes one for every call.
pub type State = Arc<Shared>;

/// The plugin's own state; everything about factories is the runtime's.
pub struct Shared {
    /// Calls lightningd.
    pub rpc: Rpc,
    /// Talks to the engine, through the runtime.
    pub runtime: Handle,
    /// Sends notifications, such as the progress of a command.
    pub outbox: Outbox,
    /// Which channel has which short channel id.
    pub channels: Channels,
    /// Counts the dust in flight on factory channels, and caps it.
    pub dust: DustCap,
    /// HTLCs that are held for clients that aren't connected.
    pub holding: Holding,
    /// When each client was online, hour by hour of the week.
    pub online: Habits,
    /// The node's options, as they were given at the start.
    pub config: Config,
    /// Node id of this node.
    pub me: NodeId,
    /// lightningd's `cltv-final`: what an invoice gets where nobody says otherwise.
    pub cltv_final: u32,
    /// bitcoind itself, where the operator gives access.
    pub bitcoind: Bitcoind,
    /// Coins that are kept for fees.
    pub kept: Kept<Rpc>,
    /// How far the chain has been read.
    pub scan: Progress,
    /// Height of lightningd's last block: wakes the chain follower.
    pub news: watch::Sender<Height>,
    /// Why blocks don't come from lightningd's backend, if so.
    pub chain_problem: watch::Sender<Option<String>>,
    /// Why the plugin can't do anything but answer hooks, if so.
    pub unavailable: Option<String>,
}
