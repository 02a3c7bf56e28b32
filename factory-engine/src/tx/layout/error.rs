//! What is wrong with terms that make no factory.

use std::fmt;

use bitcoin::Amount;

use super::limits::{
    LOCK_TIME_THRESHOLD, MAX_CLIENTS, MAX_EXIT_BLOCKS, MAX_FEERATE, MAX_LEVELS, MAX_V3_VBYTES, MIN_CHANNEL,
    MIN_FEERATE, MIN_PUSH_MSAT, RESERVE_MSAT,
};
use crate::terms::ClientIndex;
use crate::tx::scripts::DUST;
use crate::types::Height;

/// Why terms make no factory. Each text says what to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayoutError {
    /// The terms have no capacities: a factory needs at least one client.
    NoClients,
    /// More clients than [`MAX_CLIENTS`].
    TooManyClients {
        /// Capacities that the terms have.
        clients: usize,
    },
    /// A leaf of no sub-factories, or sub-factories of no clients.
    LeafWithoutClients,
    /// More interior levels than [`MAX_LEVELS`].
    TooManyLevels {
        /// Interior levels that the terms have.
        levels: usize,
    },
    /// An interior level with fewer than two children.
    ArityTooSmall {
        /// Which level, from 0 at the root.
        level: usize,
        /// Largest number of children that a node of it may have.
        arity: u16,
    },
    /// The arities multiplied are fewer than the leaves.
    TooFewLevels {
        /// Leaves that the clients need.
        leaves: u32,
        /// Leaves that the levels hold.
        held: u64,
    },
    /// A channel below [`MIN_CHANNEL`].
    ChannelTooSmall {
        /// Index of the client whose channel it is, in leaf order.
        client: ClientIndex,
        /// Capacity that the terms give it.
        capacity: Amount,
    },
    /// More than 21 million bitcoin.
    AmountsTooLarge,
    /// A push below [`MIN_PUSH_MSAT`], or above [`RESERVE_MSAT`] or the smallest capacity.
    Push {
        /// What the terms push to each client, msat.
        msat: u64,
    },
    /// A stock output whose distribution would be dust.
    StockTooSmall {
        /// Stock of each sub-factory, by the terms.
        stock: Amount,
        /// The least stock that would do.
        needed: Amount,
    },
    /// L could take the stock at once.
    StockCsv,
    /// A tree feerate below [`MIN_FEERATE`].
    FeerateTooLow {
        /// `tree_feerate` of the terms, sat/kw.
        feerate: u32,
    },
    /// A tree feerate above [`MAX_FEERATE`].
    FeerateTooHigh {
        /// `tree_feerate` of the terms, sat/kw.
        feerate: u32,
    },
    /// A stateful level that could never have a second state.
    States {
        /// nSequence difference between two states, blocks.
        step: u16,
        /// How many states a stateful level can have.
        count: u16,
    },
    /// A first state's delay that BIP-68 can't express.
    SequenceTooLong {
        /// `state_step` times `state_count` - 1, blocks.
        blocks: u32,
    },
    /// No block for a transaction to confirm.
    ConfirmBlocks,
    /// Channels usable before the funding is mined.
    FundingConfirmations,
    /// A transaction of the tree larger than [`MAX_V3_VBYTES`].
    TransactionTooLarge {
        /// Outputs of the transaction, without its anchor.
        outputs: u64,
        /// Size of the transaction with its signature, vB.
        vbytes: u64,
    },
    /// An exit longer than [`MAX_EXIT_BLOCKS`].
    ExitTooLong {
        /// `blocks_early` of the client with the longest exit.
        blocks: u32,
    },
    /// A timeout of [`LOCK_TIME_THRESHOLD`] or more, which nLockTime takes for a time.
    TimeoutIsATime {
        /// `timeout_height` of the terms.
        height: Height,
    },
    /// The dying period would begin at or before the first block.
    TimeoutInDyingPeriod {
        /// `timeout_height` of the terms.
        height: Height,
        /// `dying_blocks` of the terms, blocks.
        dying: u32,
    },
    /// Evictions begun in the dying period would not be done by the timeout (S21).
    DyingPeriodTooShort {
        /// `dying_blocks` of the terms, blocks.
        dying: u32,
        /// Blocks of the longest exit, with the margin.
        exit: u32,
    },
    /// What a distribution leaves as its fee would not relay.
    DistributionFee {
        /// How many clients it pays.
        clients: u32,
    },
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoClients => write!(f, "a factory needs at least one client: add capacities"),
            Self::TooManyClients { clients } => {
                write!(f, "{clients} clients: a factory has 1 to {MAX_CLIENTS}, split them into several")
            }
            Self::LeafWithoutClients => {
                write!(f, "a leaf needs at least one sub-factory with at least one client: raise both to 1")
            }
            Self::TooManyLevels { levels } => {
                write!(f, "{levels} interior levels are more than {MAX_LEVELS}: use larger arities")
            }
            Self::ArityTooSmall { level, arity } => {
                write!(f, "level {level} has arity {arity}: an interior level needs at least 2")
            }
            Self::TooFewLevels { leaves, held } => write!(
                f,
                "the interior levels hold {held} leaves, but there are {leaves}: \
                 raise an arity, add a level or put more clients into a leaf"
            ),
            Self::ChannelTooSmall { client, capacity } => write!(
                f,
                "client {client}'s channel of {capacity}: a capacity may be {MIN_CHANNEL} to {}, raise it",
                Amount::MAX_MONEY
            ),
            Self::AmountsTooLarge => {
                write!(f, "the factory is worth more than all bitcoin: lower capacities or stock")
            }
            Self::Push { msat } => write!(
                f,
                "push of {msat} msat: it must be at least {MIN_PUSH_MSAT} msat and at most {RESERVE_MSAT} msat, \
                 which a client keeps in its channel, and the smallest capacity"
            ),
            Self::StockTooSmall { stock, needed } => write!(
                f,
                "stock of {stock} can't pay its distribution's fee and {DUST} to each client: \
                 raise it to at least {needed}, or to zero for none"
            ),
            Self::StockCsv => {
                write!(
                    f,
                    "stock_csv is 0: the operator's way to the stock needs a delay of 1 to {} blocks",
                    u16::MAX
                )
            }
            Self::FeerateTooLow { feerate } => {
                write!(
                    f,
                    "tree feerate of {feerate} sat/kw doesn't relay: {MIN_FEERATE} to {MAX_FEERATE} sat/kw"
                )
            }
            Self::FeerateTooHigh { feerate } => write!(
                f,
                "tree feerate of {feerate} sat/kw: {MIN_FEERATE} to {MAX_FEERATE} sat/kw, anchors do the rest"
            ),
            Self::States { step, count } => write!(
                f,
                "{count} states {step} blocks apart: a stateful level has 2 to {most} states and a step of 1 to \
                 {most} blocks",
                most = u16::MAX
            ),
            Self::SequenceTooLong { blocks } => write!(
                f,
                "a first state would wait {blocks} blocks, and nSequence holds 0 to {}: \
                 lower state_step or state_count",
                u16::MAX
            ),
            Self::ConfirmBlocks => {
                write!(
                    f,
                    "confirm_blocks is 0: a transaction takes a block to confirm, it may be 1 to {}",
                    u16::MAX
                )
            }
            Self::FundingConfirmations => {
                write!(
                    f,
                    "funding_confirmations is 0: a factory is usable after 1 to {} confirmations",
                    u16::MAX
                )
            }
            Self::TransactionTooLarge { outputs, vbytes } => write!(
                f,
                "a node with {outputs} outputs has {vbytes} vB, more than {MAX_V3_VBYTES}: \
                 lower the arity, or sub_factories or clients_per_sub"
            ),
            Self::ExitTooLong { blocks } => write!(
                f,
                "the longest exit takes {blocks} blocks, more than {MAX_EXIT_BLOCKS}: use fewer or \
                 static levels, or lower state_step, state_count, confirm_blocks or margin_blocks"
            ),
            Self::TimeoutIsATime { height } => write!(
                f,
                "timeout height {height} would be read as a time: it must be below \
                 {LOCK_TIME_THRESHOLD}"
            ),
            Self::TimeoutInDyingPeriod { height, dying } => write!(
                f,
                "the timeout, height {height}, leaves no block before a dying period of {dying} \
                 blocks: raise the timeout or shorten the period"
            ),
            Self::DyingPeriodTooShort { dying, exit } => write!(
                f,
                "a dying period of {dying} blocks is shorter than the longest exit, {exit} blocks: \
                 raise dying_blocks"
            ),
            Self::DistributionFee { clients } => write!(
                f,
                "the fees of the tree over {clients} clients don't pay for a distribution: \
                 raise the tree feerate"
            ),
        }
    }
}

impl std::error::Error for LayoutError {}
