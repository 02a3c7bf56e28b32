//! The `factory-*` options, parsed once at start-up.

use std::fmt;

use cln_plugin::options::{
    DefaultIntegerConfigOption, DefaultStringConfigOption, FlagConfigOption, StringArrayConfigOption,
};
use cln_plugin::{Builder, ConfiguredPlugin};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::protocol::{Config, Policy};
use crate::types::NodeId;

const POLICY: DefaultStringConfigOption = DefaultStringConfigOption::new_str_with_default(
    "factory-policy",
    "ask",
    "What to do with invitations into a channel factory that are within this node's limits: never \
     (decline), ask (wait for factory-accept) or auto (accept)",
);
const ALLOW_LSP: StringArrayConfigOption = StringArrayConfigOption::new_str_arr_no_default(
    "factory-allow-lsp",
    "Node id of an operator that may invite this node; may be given several times. Without it every \
     connected peer may",
);
const MAX_PRICE: DefaultIntegerConfigOption = DefaultIntegerConfigOption::new_i64_with_default(
    "factory-max-price-msat",
    0,
    "Largest price of joining a factory that this node accepts, in millisatoshi",
);
const MAX_LIFETIME: DefaultIntegerConfigOption = DefaultIntegerConfigOption::new_i64_with_default(
    "factory-max-lifetime-blocks",
    26_280,
    "Most distant timeout of a factory that this node joins, in blocks from the invitation",
);
const MAX_FEERATE: DefaultIntegerConfigOption = DefaultIntegerConfigOption::new_i64_with_default(
    "factory-max-feerate",
    5_000,
    "Largest feerate of a factory's transactions that this node signs, in satoshi per kiloweight",
);
const CONFIRMATIONS: DefaultIntegerConfigOption = DefaultIntegerConfigOption::new_i64_with_default(
    "factory-confirmations",
    3,
    "Confirmations of the funding transaction before channels of a factory that this node creates \
     are used, in blocks",
);
const MIN_CONFIRMATIONS: DefaultIntegerConfigOption = DefaultIntegerConfigOption::new_i64_with_default(
    "factory-min-confirmations",
    1,
    "Fewest confirmations that a factory may ask for, for this node to join it, in blocks",
);
const CONFIRM_BLOCKS: DefaultIntegerConfigOption = DefaultIntegerConfigOption::new_i64_with_default(
    "factory-confirm-blocks",
    6,
    "Time allowed for each transaction of an exit to confirm, in blocks, in factories that this node \
     creates",
);
const MARGIN_BLOCKS: DefaultIntegerConfigOption = DefaultIntegerConfigOption::new_i64_with_default(
    "factory-margin-blocks",
    12,
    "Safety margin added to the time that an exit takes, in blocks, in factories that this node \
     creates",
);
const INVITE_TIMEOUT: DefaultIntegerConfigOption = DefaultIntegerConfigOption::new_i64_with_default(
    "factory-invite-timeout",
    60,
    "How long clients may take to answer an invitation of this node, in seconds",
);
const CEREMONY_TIMEOUT: DefaultIntegerConfigOption = DefaultIntegerConfigOption::new_i64_with_default(
    "factory-ceremony-timeout",
    30,
    "How long each later step of creating a factory may take, in seconds",
);
const MAX_ATTEMPTS: DefaultIntegerConfigOption = DefaultIntegerConfigOption::new_i64_with_default(
    "factory-max-attempts",
    5,
    "How often this node tries to create a factory, each time without the clients that failed it",
);
const MAX_CEREMONIES: DefaultIntegerConfigOption = DefaultIntegerConfigOption::new_i64_with_default(
    "factory-max-ceremonies-per-peer",
    4,
    "Open invitations and unfinished factories that one operator may have with this node",
);
const UNSAFE_SKIP_FUNDING_CHECK: FlagConfigOption = FlagConfigOption::new_flag(
    "factory-unsafe-skip-funding-check",
    "UNSAFE: rely on a channel even if its funding keys cannot be read from lightningd's database. \
     An operator that lies can then take everything that is paid to this node through it",
);

#[cfg(feature = "faults")]
const FAULT: cln_plugin::options::StringConfigOption =
    cln_plugin::options::StringConfigOption::new_str_no_default(
        "factory-fault",
        "FOR TESTS ONLY: what this node does wrong on purpose, see src/runtime/faults.rs",
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

/// Registers every option.
pub fn register<S, I, O>(builder: Builder<S, I, O>) -> Builder<S, I, O>
where
    S: Clone + Send + Sync + 'static,
    I: AsyncRead + Send + Unpin + 'static,
    O: AsyncWrite + Send + Unpin + 'static,
{
    #[cfg(feature = "faults")]
    let builder = builder.option(FAULT);
    builder
        .option(POLICY)
        .option(ALLOW_LSP)
        .option(MAX_PRICE)
        .option(MAX_LIFETIME)
        .option(MAX_FEERATE)
        .option(CONFIRMATIONS)
        .option(MIN_CONFIRMATIONS)
        .option(CONFIRM_BLOCKS)
        .option(MARGIN_BLOCKS)
        .option(INVITE_TIMEOUT)
        .option(CEREMONY_TIMEOUT)
        .option(MAX_ATTEMPTS)
        .option(MAX_CEREMONIES)
        .option(UNSAFE_SKIP_FUNDING_CHECK)
}

/// Reads every option. The error names the first that can't be used.
pub fn read<S, I, O>(plugin: &ConfiguredPlugin<S, I, O>) -> anyhow::Result<Config>
where
    S: Clone + Send + Sync + 'static,
    I: AsyncRead + Send + Unpin + 'static,
    O: AsyncWrite + Send + Unpin + 'static,
{
    let integer = |option: &DefaultIntegerConfigOption<'static>| -> anyhow::Result<(String, i64)> {
        Ok((option.name().to_owned(), plugin.option(option)?))
    };
    #[cfg(feature = "faults")]
    match plugin.option(&FAULT)? {
        Some(name) => crate::runtime::faults::arm(&name).map_err(BadOption)?,
        None => log::warn!("FOR TESTS ONLY: this build misbehaves where factory-fault asks for it"),
    }
    let defaults = Config::default();
    Ok(Config {
        policy: policy(&plugin.option(&POLICY)?)?,
        allowed_lsps: plugin.option(&ALLOW_LSP)?.map(|ids| node_ids(&ids)).transpose()?,
        max_price_msat: within(integer(&MAX_PRICE)?, 0)?,
        max_lifetime_blocks: within(integer(&MAX_LIFETIME)?, 1)?,
        max_tree_feerate: within(integer(&MAX_FEERATE)?, 253)?,
        funding_confirmations: within(integer(&CONFIRMATIONS)?, 1)?,
        min_funding_confirmations: within(integer(&MIN_CONFIRMATIONS)?, 1)?,
        confirm_blocks: within(integer(&CONFIRM_BLOCKS)?, 1)?,
        margin_blocks: within(integer(&MARGIN_BLOCKS)?, 0)?,
        invite_timeout: seconds(integer(&INVITE_TIMEOUT)?)?,
        ceremony_timeout: seconds(integer(&CEREMONY_TIMEOUT)?)?,
        max_attempts: within(integer(&MAX_ATTEMPTS)?, 1)?,
        max_ceremonies_per_peer: within(integer(&MAX_CEREMONIES)?, 1)?,
        unsafe_skip_funding_check: plugin.option(&UNSAFE_SKIP_FUNDING_CHECK)?,
        ..defaults
    })
}

fn policy(text: &str) -> Result<Policy, BadOption> {
    match text {
        "never" => Ok(Policy::Never),
        "ask" => Ok(Policy::Ask),
        "auto" => Ok(Policy::Auto),
        other => Err(BadOption(format!("factory-policy: expected never, ask or auto, got '{other}'"))),
    }
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

fn seconds((name, value): (String, i64)) -> Result<u64, BadOption> {
    let seconds: u64 = within((name, value.min(MAX_SECONDS)), 1)?;
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
        assert_eq!(seconds(option(60)), Ok(60_000));
        assert!(seconds(option(0)).is_err());
        assert_eq!(seconds(option(i64::MAX)), Ok(366 * 24 * 3600 * 1000));
    }
}
