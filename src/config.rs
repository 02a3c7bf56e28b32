//! The `factory-*` options, parsed once at start-up.

use std::fmt;

use cln_plugin::options::{
    DefaultIntegerConfigOption, DefaultStringConfigOption, FlagConfigOption, StringArrayConfigOption,
};
use cln_plugin::{Builder, ConfiguredPlugin};
use factory_engine::policy::{DustLimits, HoldLimits};
use factory_engine::tx::layout::MIN_PUSH_MSAT;
use factory_engine::types::{Millis, NodeId};
use factory_engine::{Config, Policy};
use tokio::io::{AsyncRead, AsyncWrite};

const POLICY: &str = "factory-policy";
const POLICY_TEXT: &str = "What to do with invitations into a channel factory that are within this node's \
                           limits: never (decline), ask (wait for factory-accept) or auto (accept)";
const ALLOW_LSP: StringArrayConfigOption = StringArrayConfigOption::new_str_arr_no_default(
    "factory-allow-lsp",
    "Node id of an operator that may invite this node; may be given several times. Without it every \
     connected peer may",
);
const NO_NEIGHBOUR_SALES: FlagConfigOption = FlagConfigOption::new_flag(
    "factory-no-neighbour-sales",
    "Do not sign when another client of this node's sub-factory buys liquidity. Signing costs nothing; \
     without it nobody in the sub-factory can buy",
);
const JIT: FlagConfigOption = FlagConfigOption::new_flag(
    "factory-jit",
    "When a client that has to sign a sale of liquidity is away for longer than factory-sale-wait: open, or \
     take, an ordinary channel on chain instead. Both sides have to allow it",
);
const UNSAFE_SKIP_FUNDING_CHECK: FlagConfigOption = FlagConfigOption::new_flag(
    "factory-unsafe-skip-funding-check",
    "UNSAFE: rely on a channel even if its funding keys cannot be read from lightningd's database. \
     An operator that lies can then take everything that is paid to this node through it",
);

const BITCOIN_RPC: DefaultStringConfigOption = DefaultStringConfigOption::new_str_with_default(
    "factory-bitcoin-rpc",
    "auto",
    "bitcoind's own RPC, for handing over a transaction together with the child that pays for it: auto (what \
     lightningd's bitcoin-* options say), off, or [user:password@]host:port",
);

/// An option with a number. Its default is what [`Config::default`] says.
struct Number {
    name: &'static str,
    description: &'static str,
    default: fn(&Config) -> i64,
}

impl Number {
    fn option(&self) -> DefaultIntegerConfigOption<'static> {
        let default = (self.default)(&Config::default());
        DefaultIntegerConfigOption::new_i64_with_default(self.name, default, self.description)
    }
}

const MAX_PRICE: Number = Number {
    name: "factory-max-price-msat",
    description: "Largest price of joining a factory that this node accepts, in millisatoshi",
    default: |config| signed(config.max_price_msat),
};
const MAX_LIFETIME: Number = Number {
    name: "factory-max-lifetime-blocks",
    description: "Most distant timeout of a factory that this node joins, in blocks from the invitation",
    default: |config| config.max_lifetime_blocks.into(),
};
const MAX_FEERATE: Number = Number {
    name: "factory-max-feerate",
    description: "Largest feerate of a factory's transactions that this node signs, in satoshi per \
                  kiloweight",
    default: |config| config.max_tree_feerate.into(),
};
const CONFIRMATIONS: Number = Number {
    name: "factory-confirmations",
    description: "Confirmations of the funding transaction before channels of a factory that this node \
                  creates are used, in blocks",
    default: |config| config.funding_confirmations.into(),
};
const MIN_CONFIRMATIONS: Number = Number {
    name: "factory-min-confirmations",
    description: "Fewest confirmations that a factory may ask for, for this node to join it, in blocks",
    default: |config| config.min_funding_confirmations.into(),
};
const CONFIRM_BLOCKS: Number = Number {
    name: "factory-confirm-blocks",
    description: "Time allowed for each transaction of an exit to confirm, in blocks, in factories that \
                  this node creates",
    default: |config| config.confirm_blocks.into(),
};
const MARGIN_BLOCKS: Number = Number {
    name: "factory-margin-blocks",
    description: "Safety margin added to the time that an exit takes, in blocks, in factories that this \
                  node creates",
    default: |config| config.margin_blocks.into(),
};
const STATE_STEP: Number = Number {
    name: "factory-state-step",
    description: "Difference of the relative timelocks of two successive states of a stateful level, in \
                  blocks, in factories that this node creates",
    default: |config| config.state_step.into(),
};
const STATE_COUNT: Number = Number {
    name: "factory-state-count",
    description: "Number of states that a stateful level can have, in factories that this node creates; \
                  its first state waits factory-state-step blocks for each of the others",
    default: |config| config.state_count.into(),
};
const STOCK_CSV: Number = Number {
    name: "factory-stock-csv",
    description: "Relative timelock after which this node alone may take the stock of a sub-factory that \
                  is on chain, in blocks, in factories that this node creates",
    default: |config| config.stock_csv.into(),
};
const PUSH: Number = Number {
    name: "factory-push-msat",
    description: "What this node gives each client of a factory when its channel opens, in millisatoshi; \
                  with less than 1000 the client's node would forget a channel that stays off chain",
    default: |config| signed(config.push_msat),
};
const INVITE_TIMEOUT: Number = Number {
    name: "factory-invite-timeout",
    description: "How long clients may take to answer an invitation of this node, in seconds",
    default: |config| in_seconds(config.invite_timeout),
};
const CEREMONY_TIMEOUT: Number = Number {
    name: "factory-ceremony-timeout",
    description: "How long each later step of creating a factory may take, in seconds",
    default: |config| in_seconds(config.ceremony_timeout),
};
const SALE_WAIT: Number = Number {
    name: "factory-sale-wait",
    description: "How long a sale of liquidity waits for clients that have to sign it and are not connected, \
                  in seconds; the shorter of the operator's and the buyer's counts",
    default: |config| in_seconds(config.sale_wait),
};
const MAX_ATTEMPTS: Number = Number {
    name: "factory-max-attempts",
    description: "Number of times that this node tries to create a factory, each time without the clients \
                  that failed it",
    default: |config| config.max_attempts.into(),
};
const RESERVE_FEERATE: Number = Number {
    name: "factory-reserve-feerate",
    description: "Feerate at which this node's wallet should be able to pay an exit from all its factories, \
                  in satoshi per kiloweight; factory-status warns when it could not",
    default: |config| config.reserve_feerate.into(),
};
const MAX_CEREMONIES: Number = Number {
    name: "factory-max-ceremonies-per-peer",
    description: "Number of open invitations and unfinished factories that one operator may have with this \
                  node",
    default: |config| signed(config.max_ceremonies_per_peer),
};

const HOLD_TIME: Number = Number {
    name: "factory-hold-time",
    description: "How long this node holds an HTLC for a client of a factory of its own that is not connected, \
                  in seconds, never into the time that an exit needs; 0 fails it at once",
    default: |config| in_seconds(config.hold.time),
};
const HOLD_MAX: Number = Number {
    name: "factory-hold-max",
    description: "Number of HTLCs that are held at once for clients that are not connected",
    default: |config| signed(config.hold.number),
};
const HOLD_MAX_MSAT: Number = Number {
    name: "factory-hold-max-msat",
    description: "Sum of the HTLCs that are held at once for clients that are not connected, in millisatoshi",
    default: |config| signed(config.hold.msat),
};
const MAX_DUST: Number = Number {
    name: "factory-max-dust-htlcs-msat",
    description: "Sum of the HTLCs in flight on one factory channel that are too small to be claimed on chain \
                  (under 546 satoshi), in millisatoshi; more are failed",
    default: |config| signed(config.dust.channel_msat),
};
const MAX_DUST_TOTAL: Number = Number {
    name: "factory-max-dust-htlcs-total-msat",
    description: "The same for all channels of one factory together, in millisatoshi",
    default: |config| signed(config.dust.factory_msat),
};

/// Every option with a number.
const NUMBERS: [&Number; 22] = [
    &MAX_PRICE,
    &MAX_LIFETIME,
    &MAX_FEERATE,
    &CONFIRMATIONS,
    &MIN_CONFIRMATIONS,
    &CONFIRM_BLOCKS,
    &MARGIN_BLOCKS,
    &STATE_STEP,
    &STATE_COUNT,
    &STOCK_CSV,
    &PUSH,
    &INVITE_TIMEOUT,
    &CEREMONY_TIMEOUT,
    &SALE_WAIT,
    &MAX_ATTEMPTS,
    &RESERVE_FEERATE,
    &MAX_CEREMONIES,
    &HOLD_TIME,
    &HOLD_MAX,
    &HOLD_MAX_MSAT,
    &MAX_DUST,
    &MAX_DUST_TOTAL,
];

fn policy_option() -> DefaultStringConfigOption<'static> {
    DefaultStringConfigOption::new_str_with_default(POLICY, Config::default().policy.name(), POLICY_TEXT)
}

fn signed<T: TryInto<i64>>(value: T) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}

fn in_seconds(millis: Millis) -> i64 {
    signed(millis / 1000)
}

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

/// Registers every option of the plugin with cln-plugin.
pub fn register<S, I, O>(builder: Builder<S, I, O>) -> Builder<S, I, O>
where
    S: Clone + Send + Sync + 'static,
    I: AsyncRead + Send + Unpin + 'static,
    O: AsyncWrite + Send + Unpin + 'static,
{
    #[cfg(feature = "faults")]
    let builder = builder.option(FAULT);
    let builder = builder.option(policy_option()).option(ALLOW_LSP).option(BITCOIN_RPC);
    let builder = builder.option(NO_NEIGHBOUR_SALES).option(JIT).option(UNSAFE_SKIP_FUNDING_CHECK);
    NUMBERS.iter().fold(builder, |builder, number| builder.option(number.option()))
}

/// Reads every option. The error names the first that can't be used.
pub fn read<S, I, O>(plugin: &ConfiguredPlugin<S, I, O>) -> anyhow::Result<Config>
where
    S: Clone + Send + Sync + 'static,
    I: AsyncRead + Send + Unpin + 'static,
    O: AsyncWrite + Send + Unpin + 'static,
{
    let integer = |number: &Number| -> anyhow::Result<(String, i64)> {
        Ok((number.name.to_owned(), plugin.option(&number.option())?))
    };
    #[cfg(feature = "faults")]
    match plugin.option(&FAULT)? {
        Some(name) => factory_runtime::faults::arm(&name).map_err(BadOption)?,
        None => log::warn!("FOR TESTS ONLY: this build misbehaves where factory-fault asks for it"),
    }
    Ok(Config {
        policy: policy(&plugin.option(&policy_option())?)?,
        allowed_lsps: plugin.option(&ALLOW_LSP)?.map(|ids| node_ids(&ids)).transpose()?,
        max_price_msat: within(integer(&MAX_PRICE)?, 0)?,
        max_lifetime_blocks: within(integer(&MAX_LIFETIME)?, 1)?,
        max_tree_feerate: within(integer(&MAX_FEERATE)?, 253)?,
        funding_confirmations: within(integer(&CONFIRMATIONS)?, 1)?,
        min_funding_confirmations: within(integer(&MIN_CONFIRMATIONS)?, 1)?,
        confirm_blocks: within(integer(&CONFIRM_BLOCKS)?, 1)?,
        margin_blocks: within(integer(&MARGIN_BLOCKS)?, 0)?,
        push_msat: within(integer(&PUSH)?, signed(MIN_PUSH_MSAT))?,
        state_step: within(integer(&STATE_STEP)?, 1)?,
        state_count: within(integer(&STATE_COUNT)?, 1)?,
        stock_csv: within(integer(&STOCK_CSV)?, 1)?,
        stock_feerate: Config::default().stock_feerate,
        invite_timeout: seconds(integer(&INVITE_TIMEOUT)?, 1)?,
        ceremony_timeout: seconds(integer(&CEREMONY_TIMEOUT)?, 1)?,
        max_attempts: within(integer(&MAX_ATTEMPTS)?, 1)?,
        reserve_feerate: within(integer(&RESERVE_FEERATE)?, 0)?,
        hold: HoldLimits {
            time: seconds(integer(&HOLD_TIME)?, 0)?,
            number: within(integer(&HOLD_MAX)?, 0)?,
            msat: within(integer(&HOLD_MAX_MSAT)?, 0)?,
        },
        dust: DustLimits {
            channel_msat: within(integer(&MAX_DUST)?, 0)?,
            factory_msat: within(integer(&MAX_DUST_TOTAL)?, 0)?,
        },
        max_ceremonies_per_peer: within(integer(&MAX_CEREMONIES)?, 1)?,
        sign_for_neighbours: !plugin.option(&NO_NEIGHBOUR_SALES)?,
        sale_wait: seconds(integer(&SALE_WAIT)?, 1)?,
        jit: plugin.option(&JIT)?,
        // The datastore knows.
        prices: Config::default().prices,
        unsafe_skip_funding_check: plugin.option(&UNSAFE_SKIP_FUNDING_CHECK)?,
    })
}

/// What `factory-bitcoin-rpc` says; what it means depends on lightningd's own options.
pub fn bitcoin_rpc<S, I, O>(plugin: &ConfiguredPlugin<S, I, O>) -> anyhow::Result<String>
where
    S: Clone + Send + Sync + 'static,
    I: AsyncRead + Send + Unpin + 'static,
    O: AsyncWrite + Send + Unpin + 'static,
{
    plugin.option(&BITCOIN_RPC)
}

fn policy(text: &str) -> Result<Policy, BadOption> {
    let found = Policy::ALL.into_iter().find(|policy| policy.name() == text);
    found.ok_or_else(|| BadOption(format!("{POLICY}: expected never, ask or auto, got '{text}'")))
}

fn node_ids(texts: &[String]) -> Result<Vec<NodeId>, BadOption> {
    let parse = |text: &String| {
        text.parse().map_err(|error| BadOption(format!("factory-allow-lsp: {error}, got '{text}'")))
    };
    texts.iter().map(parse).collect()
}

fn within<T: TryFrom<i64>>((name, value): (String, i64), least: i64) -> Result<T, BadOption> {
    let out_of_range = || BadOption(format!("{name}: {value} is out of range, the least is {least}"));
    if value < least {
        return Err(out_of_range());
    }
    T::try_from(value).map_err(|_| out_of_range())
}

/// A year: whoever wants no limit gets one all the same.
const MAX_SECONDS: i64 = 366 * 24 * 3600;

fn seconds((name, value): (String, i64), least: i64) -> Result<u64, BadOption> {
    let seconds: u64 = within((name, value.min(MAX_SECONDS)), least)?;
    Ok(seconds.saturating_mul(1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_values_are_named() {
        let option = |value| ("factory-confirmations".to_owned(), value);
        assert_eq!(within::<u16>(option(3), 1), Ok(3));
        for bad in [0, -1, 65_536] {
            let error = within::<u16>(option(bad), 1).unwrap_err();
            assert!(error.0.contains("factory-confirmations") && error.0.contains(&bad.to_string()));
        }
        assert!(policy("Auto").unwrap_err().0.contains("'Auto'"));
        assert!(node_ids(&["02ab".to_owned()]).unwrap_err().0.contains("'02ab'"));
    }

    #[test]
    fn timeouts_are_milliseconds() {
        let option = |value| ("factory-invite-timeout".to_owned(), value);
        assert_eq!(seconds(option(60), 1), Ok(60_000));
        assert!(seconds(option(0), 1).is_err());
        assert_eq!(seconds(option(0), 0), Ok(0));
        assert_eq!(seconds(option(i64::MAX), 1), Ok(366 * 24 * 3600 * 1000));
    }
}
