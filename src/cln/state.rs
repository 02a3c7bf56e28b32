//! What every hook, method and subscription can reach.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use factory_engine::Config;
use factory_engine::backup::CopyKey;
use factory_engine::types::{Height, Millis, NodeId};
use factory_runtime::Handle;
use tokio::sync::watch;

use super::backup::Backup;
use super::backup::payouts::Search;
use super::bitcoind::Bitcoind;
use super::chain::Progress;
use super::channels::{Changes, Channels};
use super::client::Rpc;
use super::dust::DustCap;
use super::feerates::Known;
use super::holding::Holding;
use super::kept::Kept;
use super::mirror::Mirror;
use super::online::Habits;
use super::outbox::Outbox;
use super::tally::Tally;
use super::vital::Vital;
use super::wallet_db::WalletDb;

/// lightningd's default `cltv-final`, should `listconfigs` not say.
const CLTV_FINAL: u32 = 18;

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
    /// Channels as `listpeerchannels` showed them last.
    pub mirror: Mirror,
    /// What lightningd has just done with channels, on its way to the engine.
    pub changes: Changes,
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
    /// lightningd's database, which is only read.
    pub database: WalletDb,
    /// bitcoind itself, where the operator gives access.
    pub bitcoind: Bitcoind,
    /// What fees are, and who said so.
    pub feerates: Known,
    /// Coins that are kept for fees.
    pub kept: Kept<Rpc>,
    /// How far the chain has been read.
    pub scan: Progress,
    /// Height of lightningd's last block: wakes the chain follower.
    pub news: watch::Sender<Height>,
    /// Why blocks don't come from lightningd's backend, if so.
    pub chain_problem: watch::Sender<Option<String>>,
    /// Why what is stored can't be read, if so: then there are only hooks.
    pub unavailable: watch::Sender<Option<String>>,
    /// Whether lightningd stops when this plugin does.
    pub important: bool,
    /// What is counted as it happens.
    pub tally: Tally,
    /// Why metrics aren't served that should be, if so.
    pub metrics_problem: watch::Sender<Option<String>>,
    /// The same of the page.
    pub web_problem: watch::Sender<Option<String>>,
    /// Where copies of what is stored are kept.
    pub backup: Option<Backup>,
    /// Opens this node's copies.
    pub copy_key: Option<Arc<CopyKey>>,
    /// How far a `factory-restore` is, if one is under way.
    pub restoring: watch::Sender<Option<Search>>,
    /// Starts tasks whose end is the process's.
    pub vital: Vital,
    /// When the plugin has started.
    pub started: Millis,
    /// Whether an HTLC has met a view that was up to date since.
    pub sighted: AtomicBool,
}

impl Shared {
    /// Of a plugin that knows nothing of its node yet.
    pub fn new(rpc: Rpc, runtime: Handle, outbox: Outbox, config: Config) -> Self {
        Self {
            kept: Kept::new(rpc.clone()),
            rpc,
            runtime,
            outbox,
            channels: Channels::default(),
            mirror: Mirror::default(),
            changes: Changes::default(),
            dust: DustCap::new(config.dust),
            holding: Holding::new(config.hold),
            online: Habits::default(),
            config,
            me: NodeId([0; 33]),
            cltv_final: CLTV_FINAL,
            database: WalletDb::unknown(),
            bitcoind: Bitcoind::default(),
            feerates: Known::default(),
            scan: Progress::default(),
            news: watch::Sender::new(0),
            chain_problem: watch::Sender::new(None),
            unavailable: watch::Sender::new(None),
            important: false,
            tally: Tally::default(),
            metrics_problem: watch::Sender::new(None),
            web_problem: watch::Sender::new(None),
            backup: None,
            copy_key: None,
            restoring: watch::Sender::new(None),
            vital: Vital::new().0,
            started: factory_runtime::now(),
            sighted: AtomicBool::new(false),
        }
    }
}
