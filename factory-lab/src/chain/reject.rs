//! Why a transaction is not taken.

use std::fmt;

use bitcoin::{Amount, OutPoint, Txid};

use factory_engine::types::Height;

/// Why the chain refuses a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reject {
    /// An input doesn't exist, or is spent in the chain.
    MissingInput {
        /// Outpoint of the input.
        outpoint: OutPoint,
    },
    /// Another transaction of the mempool spends an input, and is not outbid. Only children of anchors
    /// replace each other here.
    Conflict {
        /// Outpoint of the input that both spend.
        outpoint: OutPoint,
        /// Id of the transaction in the mempool.
        other: Txid,
    },
    /// A timelock counted in blocks is still on.
    TooEarly {
        /// Height of the next block.
        next: Height,
        /// The first height at which it may be in a block.
        due: Height,
    },
    /// A timelock counted in seconds: nothing here has one.
    TimeLock,
    /// It pays more than it spends.
    Amounts,
    /// Below 1 sat/vB, or below the mempool's minimum.
    Fee {
        /// Fee of the transaction.
        fee: Amount,
        /// Its size, vB.
        vbytes: u64,
    },
    /// An output is below the dust limit.
    Dust,
    /// Its version or size doesn't relay.
    NotStandard,
    /// A rule about unconfirmed relatives, by name.
    Topology(&'static str),
    /// Consensus code refuses an input.
    Script {
        /// Index of the input.
        input: usize,
        /// What the consensus library says.
        error: String,
    },
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingInput { outpoint } => write!(f, "its input {outpoint} is missing or spent"),
            Self::Conflict { outpoint, other } => write!(f, "{other} spends its input {outpoint} already"),
            Self::TooEarly { next, due } => {
                write!(f, "its timelock allows block {due}, the next one is {next}")
            }
            Self::TimeLock => f.write_str("its timelock counts seconds"),
            Self::Amounts => f.write_str("it pays more than it spends"),
            Self::Fee { fee, vbytes } => write!(f, "its fee of {fee} is too low for {vbytes} vB"),
            Self::Dust => f.write_str("one of its outputs is dust"),
            Self::NotStandard => f.write_str("its version or size is not standard"),
            Self::Topology(rule) => f.write_str(rule),
            Self::Script { input, error } => write!(f, "consensus code refuses input {input}: {error}"),
        }
    }
}

impl std::error::Error for Reject {}
