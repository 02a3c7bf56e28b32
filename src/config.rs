//! The `factory-*` options, parsed once at start-up.

mod texts;

use std::fmt;
use std::net::SocketAddr;

use cln_plugin::options::{
    DefaultIntegerConfigOption, DefaultStringConfigOption, FlagConfigOption, StringArrayConfigOption, Value,
};
use cln_plugin::{Builder, ConfiguredPlugin};
use factory_engine::Config;
use factory_engine::tx::layout::{MIN_PUSH_MSAT, RESERVE_MSAT};
use factory_engine::types::Millis;
use tokio::io::{AsyncRead, AsyncWrite};

use texts::{
    NONE, or_none, set_allowed, set_backup_file, set_bitcoin_rpc, set_keepers, set_metrics_bind, set_policy,
    set_renew, set_towers, set_wake_command, set_watch_for, set_web_bind,
};

/// What the options say. [`Settings::default`] is what is so without any.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The engine's settings; those without an option are filled by others: the price list stands in the
    /// datastore, lightningd has its `cltv-delta`.
    pub config: Config,
    /// What `factory-bitcoin-rpc` says; what it means depends on lightningd's own options.
    pub bitcoin_rpc: String,
    /// Path of the program that is run for a client that has to come; empty for none.
    pub wake_command: String,
    /// Path of the file that keeps copies of what is stored; empty for none.
    pub backup_file: String,
    /// Where numbers for monitoring are served.
    pub metrics_bind: Option<SocketAddr>,
    /// Where the page is served.
    pub web_bind: Option<SocketAddr>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            config: Config { peer_backup: true, ..Config::default() },
            bitcoin_rpc: "auto".to_owned(),
            wake_command: String::new(),
            backup_file: String::new(),
            metrics_bind: None,
            web_bind: None,
        }
    }
}

/// One option: all that there is to say about it. Its default is what [`Settings::default`] has.
struct Entry {
    name: &'static str,
    kind: Kind,
    description: &'static str,
}

/// What an option takes, and where it goes.
#[derive(Clone, Copy)]
enum Kind {
    /// A number: the least, the most, and its setting.
    Number(i64, i64, fn(&mut Settings) -> &mut dyn Number),
    /// Seconds, as many as this at least; the setting has milliseconds.
    Seconds(i64, fn(&mut Settings) -> &mut Millis),
    /// A text: how a setting is written, and how one is read.
    Text(fn(&Settings) -> &str, fn(&mut Settings, &str) -> Result<(), BadOption>),
    /// Texts. Nothing is set unless some are given.
    List(fn(&mut Settings, &[String]) -> Result<(), BadOption>),
    /// Whether it is given.
    Flag(fn(&mut Settings, bool)),
}

/// A number among the settings.
trait Number {
    /// What it is.
    fn get(&self) -> i64;
    /// Sets it, and says whether it could be that.
    fn set(&mut self, value: i64) -> bool;
}

impl<T: Copy + TryFrom<i64> + TryInto<i64>> Number for T {
    fn get(&self) -> i64 {
        (*self).try_into().unwrap_or(i64::MAX)
    }

    fn set(&mut self, value: i64) -> bool {
        let fits = Self::try_from(value);
        fits.map(|value| *self = value).is_ok()
    }
}

/// The largest number that fits into the setting.
const U16: i64 = 0xffff;
const U32: i64 = 0xffff_ffff;
const ANY: i64 = i64::MAX;
/// A year: whoever wants no limit gets one all the same.
const MAX_SECONDS: i64 = 366 * 24 * 3600;

/// Every option, in the order in which they are read.
static OPTIONS: [Entry; 53] = [
    Entry {
        name: "factory-policy",
        kind: Kind::Text(|from| from.config.policy.name(), set_policy),
        description: "What to do with invitations into a channel factory that are within this node's \
                      limits: never (decline), ask (wait for factory-accept) or auto (accept)",
    },
    Entry {
        name: "factory-allow-lsp",
        kind: Kind::List(set_allowed),
        description: "Node id of an operator that may invite this node; may be given several times. \
                      Without it peers that this node has a channel with may, and others wait for \
                      factory-accept. 'any' makes no difference between peers",
    },
    Entry {
        name: "factory-renew",
        kind: Kind::Text(|from| from.config.renew.name(), set_renew),
        description: "What to do when a factory that this node is in comes to its end: auto (accept the next one \
                      of its operator if its terms are no worse than before, move there, and leave the old one), \
                      ask (wait for factory-accept, then the same) or never (nothing by itself)",
    },
    Entry {
        name: "factory-max-renewal-price-msat",
        kind: Kind::Number(0, ANY, |to| &mut to.config.max_renewal_price_msat),
        description: "The most that a renewal of a factory may cost without a person being asked, in millisatoshi: \
                      the price of joining the next one, and what stays behind in the old one and is not made up for",
    },
    Entry {
        name: "factory-handover-depth",
        kind: Kind::Number(1, U16, |to| &mut to.config.handover_depth),
        description: "Confirmations of a new factory's funding before this node gives up its channels in the old \
                      one, in blocks",
    },
    Entry {
        name: "factory-leave-channels",
        kind: Kind::Flag(|to, given| to.config.leave_channels = given),
        description: "Operator: open a channel on chain to a client that leaves (factory-leave), for its fee",
    },
    Entry {
        name: "factory-reclaim-blocks",
        kind: Kind::Number(0, U16, |to| &mut to.config.reclaim_blocks),
        description: "How long before the last moment this node takes back, by a transaction of its own, a factory \
                      whose clients have all handed their keys over, in blocks; until then that waits to be an input \
                      of the next factory's funding",
    },
    Entry {
        name: "factory-max-price-msat",
        kind: Kind::Number(0, ANY, |to| &mut to.config.bounds.max_price_msat),
        description: "Largest price of joining a factory that this node accepts, in millisatoshi",
    },
    Entry {
        name: "factory-min-lifetime-blocks",
        kind: Kind::Number(1, U32, |to| &mut to.config.bounds.min_lifetime_blocks),
        description: "Nearest timeout of a factory that this node joins, in blocks from the invitation",
    },
    Entry {
        name: "factory-max-lifetime-blocks",
        kind: Kind::Number(1, U32, |to| &mut to.config.bounds.max_lifetime_blocks),
        description: "Most distant timeout of a factory that this node joins, in blocks from the \
                      invitation",
    },
    Entry {
        name: "factory-min-dying-blocks",
        kind: Kind::Number(0, U32, |to| &mut to.config.bounds.min_dying_blocks),
        description: "Shortest dying period before the timeout of a factory that this node joins, in \
                      blocks",
    },
    Entry {
        name: "factory-min-feerate",
        kind: Kind::Number(253, U32, |to| &mut to.config.bounds.min_tree_feerate),
        description: "Lowest feerate of a factory's transactions that this node signs, in satoshi per \
                      kiloweight; what its mempool takes now is asked for in any case",
    },
    Entry {
        name: "factory-min-feerate-percent",
        kind: Kind::Number(0, 100, |to| &mut to.config.bounds.min_feerate_percent),
        description: "The same as a share of this node's own estimate for a transaction that has time, in \
                      percent",
    },
    Entry {
        name: "factory-max-feerate",
        kind: Kind::Number(253, U32, |to| &mut to.config.bounds.max_tree_feerate),
        description: "Largest feerate of a factory's transactions that this node signs, in satoshi per \
                      kiloweight",
    },
    Entry {
        name: "factory-min-confirmations",
        kind: Kind::Number(1, U16, |to| &mut to.config.bounds.min_funding_confirmations),
        description: "Fewest confirmations that a factory may ask for, for this node to join it, in blocks",
    },
    Entry {
        name: "factory-min-confirm-blocks",
        kind: Kind::Number(1, U16, |to| &mut to.config.bounds.min_confirm_blocks),
        description: "Fewest blocks for each transaction of an exit to confirm, in factories that this \
                      node joins",
    },
    Entry {
        name: "factory-min-margin-blocks",
        kind: Kind::Number(0, U16, |to| &mut to.config.bounds.min_margin_blocks),
        description: "Smallest safety margin of an exit, in blocks, in factories that this node joins",
    },
    Entry {
        name: "factory-min-stock-csv",
        kind: Kind::Number(1, U16, |to| &mut to.config.bounds.min_stock_csv),
        description: "Shortest relative timelock after which the operator alone may take stock, in \
                      blocks, in factories that this node joins: channels bought from it have to be on \
                      chain by then",
    },
    Entry {
        name: "factory-confirmations",
        kind: Kind::Number(1, U16, |to| &mut to.config.funding_confirmations),
        description: "Confirmations of the funding transaction before channels of a factory that this \
                      node creates are used, in blocks",
    },
    Entry {
        name: "factory-confirm-blocks",
        kind: Kind::Number(1, U16, |to| &mut to.config.confirm_blocks),
        description: "Time allowed for each transaction of an exit to confirm, in blocks, in factories \
                      that this node creates",
    },
    Entry {
        name: "factory-margin-blocks",
        kind: Kind::Number(0, U16, |to| &mut to.config.margin_blocks),
        description: "Safety margin added to the time that an exit takes, in blocks, in factories that \
                      this node creates",
    },
    Entry {
        name: "factory-push-msat",
        kind: Kind::Number(MIN_PUSH_MSAT.cast_signed(), RESERVE_MSAT.cast_signed(), |to| {
            &mut to.config.push_msat
        }),
        description: "What this node gives each client of a factory when its channel opens, in \
                      millisatoshi; with less than 1000 the client's node would forget a channel that \
                      stays off chain, with more than 546000, its reserve, it could die when that confirms",
    },
    Entry {
        name: "factory-state-step",
        kind: Kind::Number(1, U16, |to| &mut to.config.state_step),
        description: "Difference of the relative timelocks of two successive states of a stateful level, \
                      in blocks, in factories that this node creates",
    },
    Entry {
        name: "factory-state-count",
        kind: Kind::Number(1, U16, |to| &mut to.config.state_count),
        description: "Number of states that a stateful level can have, in factories that this node \
                      creates; its first state waits factory-state-step blocks for each of the others",
    },
    Entry {
        name: "factory-stock-csv",
        kind: Kind::Number(1, U16, |to| &mut to.config.stock_csv),
        description: "Relative timelock after which this node alone may take the stock of a sub-factory \
                      that is on chain, in blocks, in factories that this node creates",
    },
    Entry {
        name: "factory-invite-timeout",
        kind: Kind::Seconds(1, |to| &mut to.config.invite_timeout),
        description: "How long clients may take to answer an invitation of this node, in seconds",
    },
    Entry {
        name: "factory-ceremony-timeout",
        kind: Kind::Seconds(1, |to| &mut to.config.ceremony_timeout),
        description: "How long each later step of creating a factory may take, in seconds",
    },
    Entry {
        name: "factory-max-attempts",
        kind: Kind::Number(1, U32, |to| &mut to.config.max_attempts),
        description: "Number of times that this node tries to create a factory, not counting those after \
                      which it goes on without a client that failed it; 1 is one try in all",
    },
    Entry {
        name: "factory-reserve-feerate",
        kind: Kind::Number(0, U32, |to| &mut to.config.reserve_feerate),
        description: "Feerate at which this node's wallet should be able to pay an exit from all its \
                      factories, and what settles their channels, in satoshi per kiloweight; factory-status \
                      warns when it could not",
    },
    Entry {
        name: "factory-hold-time",
        kind: Kind::Seconds(0, |to| &mut to.config.hold.time),
        description: "How long this node holds an HTLC for a client of a factory of its own that is not \
                      connected, in seconds, never into the time that an exit needs; 0 fails it at once",
    },
    Entry {
        name: "factory-hold-max",
        kind: Kind::Number(0, ANY, |to| &mut to.config.hold.number),
        description: "Number of HTLCs that are held at once for clients that are not connected",
    },
    Entry {
        name: "factory-hold-max-msat",
        kind: Kind::Number(0, ANY, |to| &mut to.config.hold.msat),
        description: "Sum of the HTLCs that are held at once for clients that are not connected, in \
                      millisatoshi",
    },
    Entry {
        name: "factory-max-dust-htlcs-msat",
        kind: Kind::Number(0, ANY, |to| &mut to.config.dust.channel_msat),
        description: "Sum of the HTLCs in flight on one factory channel that are too small to be claimed \
                      on chain (under 546 satoshi), in millisatoshi; more are failed",
    },
    Entry {
        name: "factory-max-dust-htlcs-total-msat",
        kind: Kind::Number(0, ANY, |to| &mut to.config.dust.factory_msat),
        description: "The same for all channels of one factory together, in millisatoshi",
    },
    Entry {
        name: "factory-max-ceremonies-per-peer",
        kind: Kind::Number(1, ANY, |to| &mut to.config.max_ceremonies_per_peer),
        description: "Number of open invitations and unfinished factories that one operator may have with \
                      this node",
    },
    Entry {
        name: "factory-no-neighbour-sales",
        kind: Kind::Flag(|to, given| to.config.sign_for_neighbours = !given),
        description: "Do not sign when another client of this node's sub-factory buys liquidity. Signing \
                      costs nothing; without it nobody in the sub-factory can buy",
    },
    Entry {
        name: "factory-sale-wait",
        kind: Kind::Seconds(1, |to| &mut to.config.sale_wait),
        description: "How long a sale of liquidity waits for clients that have to sign it and are not \
                      connected, in seconds; the shorter of the operator's and the buyer's counts",
    },
    Entry {
        name: "factory-sale-blocks",
        kind: Kind::Number(1, U32, |to| &mut to.config.sale_blocks),
        description: "How long a sale of liquidity that is paid may wait for signatures, in blocks; then \
                      it is given up, and its price is the buyer's again",
    },
    Entry {
        name: "factory-credit-blocks",
        kind: Kind::Number(1, U32, |to| &mut to.config.credit_blocks),
        description: "How long what this node has paid for liquidity and not got waits for its next \
                      purchase, in blocks; then it asks the operator to pay it back",
    },
    Entry {
        name: "factory-keep-finished-blocks",
        kind: Kind::Number(0, U32, |to| &mut to.config.keep_finished_blocks),
        description: "How long the records of a factory in which everything is settled for good are kept, in \
                      blocks; then they are deleted, and factory-list doesn't find it any more. 0 keeps them \
                      for ever",
    },
    Entry {
        name: "factory-jit",
        kind: Kind::Flag(|to, given| to.config.jit = given),
        description: "When a client that has to sign a sale of liquidity is away for longer than \
                      factory-sale-wait: open, or take, an ordinary channel on chain instead. Both sides \
                      have to allow it",
    },
    Entry {
        name: "factory-wake-command",
        kind: Kind::Text(|from| or_none(&from.wake_command), set_wake_command),
        description: "Path of a program that this node runs when a client that has to come is away, once a rung \
                      of factory-ladder and before an HTLC of the client's runs out; its arguments are the \
                      factory's id, the client's node id, the height by which it has to come, and renewal or \
                      htlc. 'none' runs nothing",
    },
    Entry {
        name: "factory-backup-file",
        kind: Kind::Text(|from| or_none(&from.backup_file), set_backup_file),
        description: "Path of a file, on another disk, that keeps a sealed copy of all that this node stores of its \
                      factories: with it and hsm_secret factory-restore brings them back. This node binds itself in \
                      a factory only once the copy is written. 'none' keeps none",
    },
    Entry {
        name: "factory-min-keepers",
        kind: Kind::Number(0, 8, |to| &mut to.config.min_keepers),
        description: "Number of keepers (the backup file, the operator, and peers of factory-keeper) that must have a \
                      copy of all that is stored of a factory before this node says that it has its path, pays for \
                      liquidity, gives its key away or funds it. It waits for as long as there are fewer; with 0 it \
                      waits for those that there are, goes on when they fail, and factory-status says so",
    },
    Entry {
        name: "factory-no-peer-backup",
        kind: Kind::Flag(|to, given| to.config.peer_backup = !given),
        description: "Have no peer keep copies of what this node stores of its factories. Without it the operator of \
                      each does, sealed, and gives them back when this node has lost them",
    },
    Entry {
        name: "factory-keeper",
        kind: Kind::List(set_keepers),
        description: "Node id of a peer beside the operators that is asked to keep copies, if it serves \
                      (factory-keep-for-peers); may be given several times",
    },
    Entry {
        name: "factory-keep-for-peers",
        kind: Kind::Flag(|to, given| to.config.serves_copies = given),
        description: "Keep sealed copies for every peer that this node has a channel with, at most 4 MB each, and not \
                      only for the clients of its factories",
    },
    Entry {
        name: "factory-tower",
        kind: Kind::List(set_towers),
        description: "Node id of a peer that watches the chain for this node while it is off, if it does so for others \
                      (factory-watch-for): it gets finished transactions and no keys, and publishes them once they are \
                      due; may be given several times",
    },
    Entry {
        name: "factory-watch-for",
        kind: Kind::List(set_watch_for),
        description: "Node id of a peer that this node watches the chain for, or peers for all that it has a channel \
                      with, at most 16 MB each: it publishes their transactions when they are due, and pays nothing \
                      beside the fees that are in them; may be given several times",
    },
    Entry {
        name: "factory-metrics-bind",
        kind: Kind::Text(|_| NONE, set_metrics_bind),
        description: "Address and port at which Prometheus finds this node's numbers (http://address:port/metrics), of \
                      this machine alone: 127.0.0.1:9750, say. One that other machines reach has to be written with \
                      public: before it, for whoever reaches it needs no password. 'none' serves nothing",
    },
    Entry {
        name: "factory-web-bind",
        kind: Kind::Text(|_| NONE, set_web_bind),
        description: "Address and port at which a browser finds the page that shows this node's factories \
                      (http://address:port/), to whoever has a rune for that; of this machine alone: 127.0.0.1:9751, \
                      say. One that other machines reach has to be written with public: before it, for the rune goes \
                      there unencrypted. 'none' serves nothing",
    },
    Entry {
        name: "factory-unsafe-skip-funding-check",
        kind: Kind::Flag(|to, given| to.config.unsafe_skip_funding_check = given),
        description: "UNSAFE: rely on a channel even if its funding keys cannot be read from lightningd's \
                      database. An operator that lies can then take everything that is paid to this node \
                      through it",
    },
    Entry {
        name: "factory-bitcoin-rpc",
        kind: Kind::Text(|from| &from.bitcoin_rpc, set_bitcoin_rpc),
        description: "bitcoind's own RPC, for handing over a transaction together with the child that \
                      pays for it: auto (what lightningd's bitcoin-* options say), off, or \
                      [user:password@]host:port",
    },
];

#[cfg(feature = "faults")]
const FAULT: cln_plugin::options::StringConfigOption =
    cln_plugin::options::StringConfigOption::new_str_no_default(
        "factory-fault",
        "FOR TESTS ONLY: what this node does wrong on purpose, see factory-runtime/src/faults.rs",
    );

/// A value that an option can't have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadOption(pub String);

impl fmt::Display for BadOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadOption {}

impl Entry {
    fn register<S, I, O>(&self, builder: Builder<S, I, O>) -> Builder<S, I, O>
    where
        S: Clone + Send + Sync + 'static,
        I: AsyncRead + Send + Unpin + 'static,
        O: AsyncWrite + Send + Unpin + 'static,
    {
        let Self { name, kind, description } = *self;
        let number = |default| DefaultIntegerConfigOption::new_i64_with_default(name, default, description);
        let mut default = Settings::default();
        match kind {
            Kind::Number(_, _, setting) => builder.option(number(setting(&mut default).get())),
            Kind::Seconds(_, setting) => builder.option(number((*setting(&mut default) / 1000).get())),
            Kind::Text(written, _) => {
                let default = written(&default);
                builder.option(DefaultStringConfigOption::new_str_with_default(name, default, description))
            }
            Kind::List(_) => {
                builder.option(StringArrayConfigOption::new_str_arr_no_default(name, description))
            }
            Kind::Flag(_) => builder.option(FlagConfigOption::new_flag(name, description)),
        }
    }

    /// Sets what the option says. `given` is nothing for a list that isn't given.
    fn set(&self, to: &mut Settings, given: Option<Value>) -> Result<(), BadOption> {
        match (self.kind, given) {
            (Kind::Number(least, most, setting), Some(Value::Integer(value))) => {
                if !(least..=most).contains(&value) || !setting(to).set(value) {
                    return Err(self.out_of_range(value, least, most));
                }
            }
            (Kind::Seconds(least, setting), Some(Value::Integer(value))) => {
                let value = value.min(MAX_SECONDS);
                if value < least || !setting(to).set(value.saturating_mul(1000)) {
                    return Err(self.out_of_range(value, least, MAX_SECONDS));
                }
            }
            (Kind::Text(_, set), Some(Value::String(text))) => return set(to, &text),
            (Kind::List(set), Some(Value::StringArray(texts))) => return set(to, &texts),
            (Kind::Flag(set), Some(Value::Boolean(given))) => set(to, given),
            (Kind::List(_), None) => {}
            // lightningd keeps to the type that it was told.
            (
                Kind::Number(..) | Kind::Seconds(..) | Kind::Text(..) | Kind::List(_) | Kind::Flag(_),
                given,
            ) => return Err(BadOption(format!("{}: lightningd gave it as {given:?}", self.name))),
        }
        Ok(())
    }

    /// Names both ends and what came.
    fn out_of_range(&self, value: i64, least: i64, most: i64) -> BadOption {
        BadOption(format!("{}: {value} is out of range, it may be {least} to {most}", self.name))
    }
}

/// Registers every option of the plugin with cln-plugin.
pub fn register<S, I, O>(builder: Builder<S, I, O>) -> Builder<S, I, O>
where
    S: Clone + Send + Sync + 'static,
    I: AsyncRead + Send + Unpin + 'static,
    O: AsyncWrite + Send + Unpin + 'static,
{
    #[cfg(feature = "faults")]
    let builder = builder.option(FAULT);
    OPTIONS.iter().fold(builder, |builder, option| option.register(builder))
}

/// Reads every option. The error names the first that can't be used.
pub fn read<S, I, O>(plugin: &ConfiguredPlugin<S, I, O>) -> anyhow::Result<Settings>
where
    S: Clone + Send + Sync + 'static,
    I: AsyncRead + Send + Unpin + 'static,
    O: AsyncWrite + Send + Unpin + 'static,
{
    #[cfg(feature = "faults")]
    match plugin.option(&FAULT)? {
        Some(name) => factory_runtime::faults::arm(&name).map_err(BadOption)?,
        None => log::warn!("FOR TESTS ONLY: this build misbehaves where factory-fault asks for it"),
    }
    let mut settings = Settings::default();
    for option in &OPTIONS {
        option.set(&mut settings, plugin.option_str(option.name)?)?;
    }
    Ok(settings)
}

#[cfg(test)]
mod tests;
