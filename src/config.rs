//! The `factory-*` options, parsed once at start-up.

use std::fmt;

use cln_plugin::options::{
    DefaultIntegerConfigOption, DefaultStringConfigOption, FlagConfigOption, StringArrayConfigOption,
};
use cln_plugin::{Builder, ConfiguredPlugin};
use factory_engine::policy::{DustLimits, HoldLimits};
use factory_engine::tx::layout::MIN_PUSH_MSAT;
use factory_engine::types::{Millis, NodeId};
use factory_engine::{Bounds, Config, Policy};
use tokio::io::{AsyncRead, AsyncWrite};

const POLICY: &str = "factory-policy";
const POLICY_TEXT: &str = "What to do with invitations into a channel factory that are within this node's \
                           limits: never (decline), ask (wait for factory-accept) or auto (accept)";
const ALLOW_LSP: StringArrayConfigOption = StringArrayConfigOption::new_str_arr_no_default(
    "factory-allow-lsp",
    "Node id of an operator that may invite this node; may be given several times. Without it peers that \
     this node has a channel with may, and others wait for factory-accept. 'any' makes no difference \
     between peers",
);
/// In place of a node id: no difference is made.
const ANYBODY: &str = "any";
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

/// An option with a number, and both ends of what it may be. Its default is what [`Config::default`] says.
struct Number {
    name: &'static str,
    description: &'static str,
    default: fn(&Config) -> i64,
    least: i64,
    most: i64,
}

/// The largest number that fits into the setting.
const U16: i64 = 0xffff;
const U32: i64 = 0xffff_ffff;
const ANY: i64 = i64::MAX;

impl Number {
    fn option(&self) -> DefaultIntegerConfigOption<'static> {
        let default = (self.default)(&Config::default());
        DefaultIntegerConfigOption::new_i64_with_default(self.name, default, self.description)
    }
}

const MAX_PRICE: Number = Number {
    name: "factory-max-price-msat",
    description: "Largest price of joining a factory that this node accepts, in millisatoshi",
    default: |config| signed(config.bounds.max_price_msat),
    least: 0,
    most: ANY,
};
const MAX_LIFETIME: Number = Number {
    name: "factory-max-lifetime-blocks",
    description: "Most distant timeout of a factory that this node joins, in blocks from the invitation",
    default: |config| config.bounds.max_lifetime_blocks.into(),
    least: 1,
    most: U32,
};
const MAX_FEERATE: Number = Number {
    name: "factory-max-feerate",
    description: "Largest feerate of a factory's transactions that this node signs, in satoshi per \
                  kiloweight",
    default: |config| config.bounds.max_tree_feerate.into(),
    least: 253,
    most: U32,
};
const CONFIRMATIONS: Number = Number {
    name: "factory-confirmations",
    description: "Confirmations of the funding transaction before channels of a factory that this node \
                  creates are used, in blocks",
    default: |config| config.funding_confirmations.into(),
    least: 1,
    most: U16,
};
const MIN_CONFIRMATIONS: Number = Number {
    name: "factory-min-confirmations",
    description: "Fewest confirmations that a factory may ask for, for this node to join it, in blocks",
    default: |config| config.bounds.min_funding_confirmations.into(),
    least: 1,
    most: U16,
};
const MIN_LIFETIME: Number = Number {
    name: "factory-min-lifetime-blocks",
    description: "Nearest timeout of a factory that this node joins, in blocks from the invitation",
    default: |config| config.bounds.min_lifetime_blocks.into(),
    least: 1,
    most: U32,
};
const MIN_DYING: Number = Number {
    name: "factory-min-dying-blocks",
    description: "Shortest dying period before the timeout of a factory that this node joins, in blocks",
    default: |config| config.bounds.min_dying_blocks.into(),
    least: 0,
    most: U32,
};
const MIN_FEERATE: Number = Number {
    name: "factory-min-feerate",
    description: "Lowest feerate of a factory's transactions that this node signs, in satoshi per kiloweight; \
                  what its mempool takes now is asked for in any case",
    default: |config| config.bounds.min_tree_feerate.into(),
    least: 253,
    most: U32,
};
const MIN_FEERATE_PERCENT: Number = Number {
    name: "factory-min-feerate-percent",
    description: "The same as a share of this node's own estimate for a transaction that has time, in percent",
    default: |config| config.bounds.min_feerate_percent.into(),
    least: 0,
    most: 100,
};
const MIN_CONFIRM_BLOCKS: Number = Number {
    name: "factory-min-confirm-blocks",
    description: "Fewest blocks for each transaction of an exit to confirm, in factories that this node joins",
    default: |config| config.bounds.min_confirm_blocks.into(),
    least: 1,
    most: U16,
};
const MIN_MARGIN_BLOCKS: Number = Number {
    name: "factory-min-margin-blocks",
    description: "Smallest safety margin of an exit, in blocks, in factories that this node joins",
    default: |config| config.bounds.min_margin_blocks.into(),
    least: 0,
    most: U16,
};
const MIN_STOCK_CSV: Number = Number {
    name: "factory-min-stock-csv",
    description: "Shortest relative timelock after which the operator alone may take stock, in blocks, in \
                  factories that this node joins: channels bought from it have to be on chain by then",
    default: |config| config.bounds.min_stock_csv.into(),
    least: 1,
    most: U16,
};
const CONFIRM_BLOCKS: Number = Number {
    name: "factory-confirm-blocks",
    description: "Time allowed for each transaction of an exit to confirm, in blocks, in factories that \
                  this node creates",
    default: |config| config.confirm_blocks.into(),
    least: 1,
    most: U16,
};
const MARGIN_BLOCKS: Number = Number {
    name: "factory-margin-blocks",
    description: "Safety margin added to the time that an exit takes, in blocks, in factories that this \
                  node creates",
    default: |config| config.margin_blocks.into(),
    least: 0,
    most: U16,
};
const STATE_STEP: Number = Number {
    name: "factory-state-step",
    description: "Difference of the relative timelocks of two successive states of a stateful level, in \
                  blocks, in factories that this node creates",
    default: |config| config.state_step.into(),
    least: 1,
    most: U16,
};
const STATE_COUNT: Number = Number {
    name: "factory-state-count",
    description: "Number of states that a stateful level can have, in factories that this node creates; \
                  its first state waits factory-state-step blocks for each of the others",
    default: |config| config.state_count.into(),
    least: 1,
    most: U16,
};
const STOCK_CSV: Number = Number {
    name: "factory-stock-csv",
    description: "Relative timelock after which this node alone may take the stock of a sub-factory that \
                  is on chain, in blocks, in factories that this node creates",
    default: |config| config.stock_csv.into(),
    least: 1,
    most: U16,
};
const PUSH: Number = Number {
    name: "factory-push-msat",
    description: "What this node gives each client of a factory when its channel opens, in millisatoshi; \
                  with less than 1000 the client's node would forget a channel that stays off chain",
    default: |config| signed(config.push_msat),
    least: MIN_PUSH_MSAT.cast_signed(),
    most: ANY,
};
const INVITE_TIMEOUT: Number = Number {
    name: "factory-invite-timeout",
    description: "How long clients may take to answer an invitation of this node, in seconds",
    default: |config| in_seconds(config.invite_timeout),
    least: 1,
    most: MAX_SECONDS,
};
const CEREMONY_TIMEOUT: Number = Number {
    name: "factory-ceremony-timeout",
    description: "How long each later step of creating a factory may take, in seconds",
    default: |config| in_seconds(config.ceremony_timeout),
    least: 1,
    most: MAX_SECONDS,
};
const SALE_WAIT: Number = Number {
    name: "factory-sale-wait",
    description: "How long a sale of liquidity waits for clients that have to sign it and are not connected, \
                  in seconds; the shorter of the operator's and the buyer's counts",
    default: |config| in_seconds(config.sale_wait),
    least: 1,
    most: MAX_SECONDS,
};
const SALE_BLOCKS: Number = Number {
    name: "factory-sale-blocks",
    description: "How long a sale of liquidity that is paid may wait for signatures, in blocks; then it is given \
                  up, and its price is the buyer's again",
    default: |config| config.sale_blocks.into(),
    least: 1,
    most: U32,
};
const CREDIT_BLOCKS: Number = Number {
    name: "factory-credit-blocks",
    description: "How long what this node has paid for liquidity and not got waits for its next purchase, in \
                  blocks; then it asks the operator to pay it back",
    default: |config| config.credit_blocks.into(),
    least: 1,
    most: U32,
};
const MAX_ATTEMPTS: Number = Number {
    name: "factory-max-attempts",
    description: "Number of times that this node tries to create a factory, not counting those after which it \
                  goes on without a client that failed it; 1 is one try in all",
    default: |config| config.max_attempts.into(),
    least: 1,
    most: U32,
};
const RESERVE_FEERATE: Number = Number {
    name: "factory-reserve-feerate",
    description: "Feerate at which this node's wallet should be able to pay an exit from all its factories, \
                  in satoshi per kiloweight; factory-status warns when it could not",
    default: |config| config.reserve_feerate.into(),
    least: 0,
    most: U32,
};
const MAX_CEREMONIES: Number = Number {
    name: "factory-max-ceremonies-per-peer",
    description: "Number of open invitations and unfinished factories that one operator may have with this \
                  node",
    default: |config| signed(config.max_ceremonies_per_peer),
    least: 1,
    most: ANY,
};

const HOLD_TIME: Number = Number {
    name: "factory-hold-time",
    description: "How long this node holds an HTLC for a client of a factory of its own that is not connected, \
                  in seconds, never into the time that an exit needs; 0 fails it at once",
    default: |config| in_seconds(config.hold.time),
    least: 0,
    most: MAX_SECONDS,
};
const HOLD_MAX: Number = Number {
    name: "factory-hold-max",
    description: "Number of HTLCs that are held at once for clients that are not connected",
    default: |config| signed(config.hold.number),
    least: 0,
    most: ANY,
};
const HOLD_MAX_MSAT: Number = Number {
    name: "factory-hold-max-msat",
    description: "Sum of the HTLCs that are held at once for clients that are not connected, in millisatoshi",
    default: |config| signed(config.hold.msat),
    least: 0,
    most: ANY,
};
const MAX_DUST: Number = Number {
    name: "factory-max-dust-htlcs-msat",
    description: "Sum of the HTLCs in flight on one factory channel that are too small to be claimed on chain \
                  (under 546 satoshi), in millisatoshi; more are failed",
    default: |config| signed(config.dust.channel_msat),
    least: 0,
    most: ANY,
};
const MAX_DUST_TOTAL: Number = Number {
    name: "factory-max-dust-htlcs-total-msat",
    description: "The same for all channels of one factory together, in millisatoshi",
    default: |config| signed(config.dust.factory_msat),
    least: 0,
    most: ANY,
};

/// Every option with a number.
const NUMBERS: [&Number; 31] = [
    &MAX_PRICE,
    &MAX_LIFETIME,
    &MAX_FEERATE,
    &CONFIRMATIONS,
    &MIN_CONFIRMATIONS,
    &MIN_LIFETIME,
    &MIN_DYING,
    &MIN_FEERATE,
    &MIN_FEERATE_PERCENT,
    &MIN_CONFIRM_BLOCKS,
    &MIN_MARGIN_BLOCKS,
    &MIN_STOCK_CSV,
    &CONFIRM_BLOCKS,
    &MARGIN_BLOCKS,
    &STATE_STEP,
    &STATE_COUNT,
    &STOCK_CSV,
    &PUSH,
    &INVITE_TIMEOUT,
    &CEREMONY_TIMEOUT,
    &SALE_WAIT,
    &SALE_BLOCKS,
    &CREDIT_BLOCKS,
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
    let set = |number: &Number| -> anyhow::Result<i64> { plugin.option(&number.option()) };
    #[cfg(feature = "faults")]
    match plugin.option(&FAULT)? {
        Some(name) => factory_runtime::faults::arm(&name).map_err(BadOption)?,
        None => log::warn!("FOR TESTS ONLY: this build misbehaves where factory-fault asks for it"),
    }
    let allowed = plugin.option(&ALLOW_LSP)?;
    let anybody = allowed.as_ref().is_some_and(|ids| ids.iter().any(|id| id == ANYBODY));
    Ok(Config {
        // lightningd says it.
        cltv_delta: Config::default().cltv_delta,
        cltv_final: Config::default().cltv_final,
        policy: policy(&plugin.option(&policy_option())?)?,
        allowed_lsps: allowed.as_ref().filter(|_| !anybody).map(|ids| node_ids(ids)).transpose()?,
        anybody_invites: anybody,
        bounds: Bounds {
            max_price_msat: within(&MAX_PRICE, set(&MAX_PRICE)?)?,
            min_lifetime_blocks: within(&MIN_LIFETIME, set(&MIN_LIFETIME)?)?,
            max_lifetime_blocks: within(&MAX_LIFETIME, set(&MAX_LIFETIME)?)?,
            min_dying_blocks: within(&MIN_DYING, set(&MIN_DYING)?)?,
            min_tree_feerate: within(&MIN_FEERATE, set(&MIN_FEERATE)?)?,
            min_feerate_percent: within(&MIN_FEERATE_PERCENT, set(&MIN_FEERATE_PERCENT)?)?,
            max_tree_feerate: within(&MAX_FEERATE, set(&MAX_FEERATE)?)?,
            min_funding_confirmations: within(&MIN_CONFIRMATIONS, set(&MIN_CONFIRMATIONS)?)?,
            min_confirm_blocks: within(&MIN_CONFIRM_BLOCKS, set(&MIN_CONFIRM_BLOCKS)?)?,
            min_margin_blocks: within(&MIN_MARGIN_BLOCKS, set(&MIN_MARGIN_BLOCKS)?)?,
            min_stock_csv: within(&MIN_STOCK_CSV, set(&MIN_STOCK_CSV)?)?,
        },
        funding_confirmations: within(&CONFIRMATIONS, set(&CONFIRMATIONS)?)?,
        confirm_blocks: within(&CONFIRM_BLOCKS, set(&CONFIRM_BLOCKS)?)?,
        margin_blocks: within(&MARGIN_BLOCKS, set(&MARGIN_BLOCKS)?)?,
        push_msat: within(&PUSH, set(&PUSH)?)?,
        state_step: within(&STATE_STEP, set(&STATE_STEP)?)?,
        state_count: within(&STATE_COUNT, set(&STATE_COUNT)?)?,
        stock_csv: within(&STOCK_CSV, set(&STOCK_CSV)?)?,
        stock_feerate: Config::default().stock_feerate,
        invite_timeout: seconds(&INVITE_TIMEOUT, set(&INVITE_TIMEOUT)?)?,
        ceremony_timeout: seconds(&CEREMONY_TIMEOUT, set(&CEREMONY_TIMEOUT)?)?,
        max_attempts: within(&MAX_ATTEMPTS, set(&MAX_ATTEMPTS)?)?,
        reserve_feerate: within(&RESERVE_FEERATE, set(&RESERVE_FEERATE)?)?,
        hold: HoldLimits {
            time: seconds(&HOLD_TIME, set(&HOLD_TIME)?)?,
            number: within(&HOLD_MAX, set(&HOLD_MAX)?)?,
            msat: within(&HOLD_MAX_MSAT, set(&HOLD_MAX_MSAT)?)?,
        },
        dust: DustLimits {
            channel_msat: within(&MAX_DUST, set(&MAX_DUST)?)?,
            factory_msat: within(&MAX_DUST_TOTAL, set(&MAX_DUST_TOTAL)?)?,
        },
        max_ceremonies_per_peer: within(&MAX_CEREMONIES, set(&MAX_CEREMONIES)?)?,
        sign_for_neighbours: !plugin.option(&NO_NEIGHBOUR_SALES)?,
        sale_wait: seconds(&SALE_WAIT, set(&SALE_WAIT)?)?,
        sale_blocks: within(&SALE_BLOCKS, set(&SALE_BLOCKS)?)?,
        credit_blocks: within(&CREDIT_BLOCKS, set(&CREDIT_BLOCKS)?)?,
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

/// The option's value, or an error that names both ends and what came.
fn within<T: TryFrom<i64>>(number: &Number, value: i64) -> Result<T, BadOption> {
    let Number { name, least, most, .. } = *number;
    let in_range = Some(value).filter(|value| (least..=most).contains(value));
    in_range
        .and_then(|value| T::try_from(value).ok())
        .ok_or_else(|| BadOption(format!("{name}: {value} is out of range, it may be {least} to {most}")))
}

/// A year: whoever wants no limit gets one all the same.
const MAX_SECONDS: i64 = 366 * 24 * 3600;

fn seconds(number: &Number, value: i64) -> Result<u64, BadOption> {
    let seconds: u64 = within(number, value.min(MAX_SECONDS))?;
    Ok(seconds.saturating_mul(1000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use factory_engine::Term;

    /// Each option that has a number: both ends are taken, and what is beyond is answered with both.
    #[test]
    fn an_error_about_a_range_names_both_ends_and_what_came() {
        for number in NUMBERS {
            let Number { name, least, most, .. } = *number;
            assert!(least < most, "{name}");
            let default = (number.default)(&Config::default());
            for value in [least, most, default] {
                assert_eq!(within::<i64>(number, value), Ok(value), "{name}");
            }
            for beyond in [least.checked_sub(1), most.checked_add(1), Some(i64::MIN)].into_iter().flatten() {
                let error = within::<i64>(number, beyond).unwrap_err().to_string();
                let ends = format!("{name}: {beyond} is out of range, it may be {least} to {most}");
                assert_eq!(error, ends);
            }
        }
        let error = within::<u16>(&CONFIRM_BLOCKS, 70_000).unwrap_err().to_string();
        assert_eq!(error, "factory-confirm-blocks: 70000 is out of range, it may be 1 to 65535");
    }

    #[test]
    fn bad_values_are_named() {
        assert!(policy("Auto").unwrap_err().0.contains("'Auto'"));
        assert!(node_ids(&["02ab".to_owned()]).unwrap_err().0.contains("'02ab'"));
    }

    // S32
    #[test]
    fn every_bound_of_terms_has_its_option() {
        let options: Vec<&str> = NUMBERS.iter().map(|number| number.name).collect();
        let settings = Term::ALL.into_iter().flat_map(|term| [term.least_setting(), term.most_setting()]);
        for setting in settings.flatten().chain(["min-feerate-percent"]) {
            assert!(options.contains(&format!("factory-{setting}").as_str()), "{setting}");
        }
    }

    #[test]
    fn timeouts_are_milliseconds() {
        assert_eq!(seconds(&INVITE_TIMEOUT, 60), Ok(60_000));
        assert!(seconds(&INVITE_TIMEOUT, 0).is_err());
        assert_eq!(seconds(&HOLD_TIME, 0), Ok(0));
        assert_eq!(seconds(&HOLD_TIME, i64::MAX), Ok(366 * 24 * 3600 * 1000));
    }
}
