//! Why a command was not carried out.

use std::fmt;

use crate::io::cannot_close::CannotClose;
use crate::io::cannot_move::CannotMove;
use crate::policy::Bound;
use crate::record::state::State;
use crate::record::unusable::NotCooperative;
use crate::terms::ClientIndex;
use crate::tx::layout::LayoutError;
use crate::tx::sale::SaleError;
use crate::types::{ChannelId, Height, InstanceId, NodeId, TermsHash};
use crate::wire::message::PROTOCOL_NAME;

/// Why a command was not carried out. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// `factory-create` names no clients.
    NoClients,
    /// This client is the operator itself.
    ThisNode(NodeId),
    /// This client is there twice.
    NamedTwice(NodeId),
    /// This client is not connected, or doesn't speak our protocol.
    NotConnected(NodeId),
    /// The terms make no factory.
    Terms(LayoutError),
    /// There is no tree for so many clients, and why.
    NoShape(String),
    /// The timeout would come before the longest exit is over.
    LifetimeTooShort {
        /// Blocks from now to the timeout.
        lifetime_blocks: u32,
        /// Blocks of the dying period and the longest exit together.
        needed: u32,
    },
    /// Everybody would have to be evicted from the first day on (S21).
    NoTimeToEvict {
        /// Blocks from now to the timeout.
        lifetime_blocks: u32,
        /// Blocks before the timeout at which eviction has to begin, and those until channels are usable.
        needed: u32,
        /// Blocks of them that the operator's way to its stock takes.
        stock_csv: u16,
    },
    /// No such factory or invitation.
    Unknown(InstanceId),
    /// The factory is over, and its records were deleted.
    Deleted(InstanceId),
    /// Some of the factory's records are not understood: nothing is agreed in it (S33).
    Damaged {
        /// The factory (factory_instance).
        instance: InstanceId,
        /// What is wrong with which record.
        why: String,
    },
    /// This node is the factory's operator: nobody invited it.
    OwnFactory(InstanceId),
    /// The invitation was answered, or its factory is past that.
    NotAnInvitation {
        /// The factory (factory_instance).
        instance: InstanceId,
        /// State that the factory is in by now.
        state: State,
    },
    /// The terms are not those that were read (S32).
    TermsChanged {
        /// The factory (factory_instance).
        instance: InstanceId,
        /// Hash of the terms that were read.
        read: TermsHash,
        /// Hash of the terms that the invitation has now.
        now: TermsHash,
    },
    /// A number of the terms is out of this node's bounds by now (S32).
    OutOfBounds(Bound),
    /// A reason that the operator is to be told can't be sent.
    Reason {
        /// Characters that it has.
        characters: usize,
        /// The most that it may have.
        most: usize,
    },
    /// The factory's operator is not connected.
    OperatorAway(NodeId),
    /// Nothing of the factory is on chain.
    NothingOnChain {
        /// The factory (factory_instance).
        instance: InstanceId,
        /// State that the factory is in.
        state: State,
    },
    /// This client has no channel that its leaf would pay: the leaf would be locked up with the operator.
    NoChannelToExit {
        /// The factory (factory_instance).
        instance: InstanceId,
        /// Height from which on the distribution pays it.
        timeout: Height,
    },
    /// This node has handed its key over: it has nothing in this factory any more (S22).
    HasLeft(InstanceId),
    /// This node has lost its channels in the factory: on chain they would be the operator's to close (S39).
    ChannelsLost {
        /// The factory (factory_instance).
        instance: InstanceId,
        /// From this height on the distribution pays this node.
        timeout: Height,
    },
    /// The list of prices is lost, and what a renewal costs isn't known (S33).
    NoPrices,
    /// Every client has handed its key over: nothing of the factory has to come on chain (S38).
    AllGoneOver(InstanceId),
    /// This client has handed its key over: nothing of it has to come on chain (S22).
    GoneOver(ClientIndex),
    /// This node is a client: it evicts nobody.
    OperatorEvicts,
    /// The factory has no such client.
    NoSuchClient {
        /// Index that was given.
        client: ClientIndex,
        /// How many clients the factory has: indices go from 0 to one less.
        clients: u32,
    },
    /// This client's leaf is on chain.
    IsOut(ClientIndex),
    /// This node is the factory's operator: it sells, and doesn't buy.
    OperatorSells,
    /// The factory has no stock.
    NoStock,
    /// Nothing may be signed for this client's sub-factory.
    NotCooperative(NotCooperative),
    /// Another sale of this client's sub-factory is not done.
    SaleUnderWay,
    /// A payment for an earlier purchase may still arrive.
    PaymentUnderWay,
    /// The amount can't be bought.
    Amount(SaleError),
    /// The factory can't be closed by all together.
    Close(CannotClose),
    /// It is being closed by all together, and what this node has is paid by that.
    Closing(InstanceId),
    /// This client can't leave the factory with its operator's help, and why.
    CannotLeave {
        /// The factory (factory_instance).
        instance: InstanceId,
        /// What is in the way.
        why: String,
    },
    /// It is being left already.
    LeavesAlready(InstanceId),
    /// A channel that was named as one that moves into a factory is none that can.
    CannotComeOn {
        /// The channel (BOLT 2's `channel_id`).
        channel_id: ChannelId,
        /// Node id of the operator that it should be with.
        lsp: NodeId,
    },
    /// A balance can't go from one channel to another.
    Move(CannotMove),
    /// What follows could not be stored (S14), and this is what the store said.
    NotStored(String),
    /// What is stored could not be read, and this is what the store said.
    NotRead(String),
    /// Something else was applied meanwhile.
    Stale(StaleStep),
    /// What is stored is not understood, and why: nothing is touched.
    ReadOnly(String),
    /// Whoever runs the engine is stopping.
    Stopping,
}

/// What kind of refusal it is: whoever asked may act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// A parameter is wrong: another value may do.
    BadParameter,
    /// No such factory or invitation.
    Unknown,
    /// The factory's state, or its operator's, doesn't allow it now.
    WrongState,
    /// A client can't take part.
    BadClient,
    /// Nothing can be stored, or what is stored is not understood.
    Unavailable,
}

impl RefusalKind {
    fn of_move(why: &CannotMove) -> Self {
        match why {
            CannotMove::SameChannel(_)
            | CannotMove::TwoPeers { .. }
            | CannotMove::TooMuch { .. }
            | CannotMove::TooLittle { .. } => Self::BadParameter,
            CannotMove::NoSuchChannel(_) => Self::Unknown,
            CannotMove::NoOperator(_)
            | CannotMove::NotLive(_)
            | CannotMove::Unconfirmed(_)
            | CannotMove::TooYoung { .. }
            | CannotMove::Unusable(..)
            | CannotMove::HandedOver(_)
            | CannotMove::UnderWay { .. }
            | CannotMove::Nothing { .. }
            | CannotMove::Full { .. }
            | CannotMove::TooLate { .. } => Self::WrongState,
        }
    }
}

impl Refusal {
    /// What kind of refusal it is.
    pub fn kind(&self) -> RefusalKind {
        match self {
            Self::Move(why) => RefusalKind::of_move(why),
            Self::NoClients
            | Self::Terms(_)
            | Self::NoShape(_)
            | Self::LifetimeTooShort { .. }
            | Self::NoTimeToEvict { .. }
            | Self::NoSuchClient { .. }
            | Self::IsOut(_)
            | Self::GoneOver(_)
            | Self::Reason { .. }
            | Self::CannotComeOn { .. }
            | Self::Amount(_) => RefusalKind::BadParameter,
            Self::ThisNode(_) | Self::NamedTwice(_) | Self::NotConnected(_) => RefusalKind::BadClient,
            Self::Unknown(_) | Self::Deleted(_) => RefusalKind::Unknown,
            Self::OwnFactory(_)
            | Self::NotAnInvitation { .. }
            | Self::TermsChanged { .. }
            | Self::OutOfBounds(_)
            | Self::OperatorAway(_)
            | Self::NothingOnChain { .. }
            | Self::NoChannelToExit { .. }
            | Self::HasLeft(_)
            | Self::ChannelsLost { .. }
            | Self::AllGoneOver(_)
            | Self::NoPrices
            | Self::OperatorEvicts
            | Self::OperatorSells
            | Self::NoStock
            | Self::NotCooperative(_)
            | Self::SaleUnderWay
            | Self::CannotLeave { .. }
            | Self::LeavesAlready(_)
            | Self::PaymentUnderWay
            | Self::Close(_)
            | Self::Closing(_) => RefusalKind::WrongState,
            Self::Damaged { .. }
            | Self::NotStored(_)
            | Self::NotRead(_)
            | Self::Stale(_)
            | Self::ReadOnly(_)
            | Self::Stopping => RefusalKind::Unavailable,
        }
    }
}

/// What is wrong. What to do about it depends on whom one asks, and how.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoClients => f.write_str("clients is empty: a factory needs at least one client"),
            Self::ThisNode(node) => write!(f, "{node} is this node itself: name only clients"),
            Self::NamedTwice(node) => write!(f, "{node} is named twice"),
            Self::NotConnected(node) => {
                write!(f, "{node} is not connected, or doesn't speak {PROTOCOL_NAME}")
            }
            Self::Terms(error) => error.fmt(f),
            Self::NoShape(why) => f.write_str(why),
            Self::LifetimeTooShort { lifetime_blocks, needed } => write!(
                f,
                "lifetime_blocks of {lifetime_blocks} is too short: dying_blocks and the worst exit alone take \
                 {needed}"
            ),
            Self::NoTimeToEvict { lifetime_blocks, needed, .. } => write!(
                f,
                "lifetime_blocks of {lifetime_blocks} is too short: eviction has to begin {needed} blocks before \
                 the timeout, so that the operator's stock is home by then"
            ),
            Self::Unknown(instance) => write!(f, "unknown factory_instance {instance}"),
            Self::Deleted(instance) => {
                write!(f, "factory {instance} was settled long ago, and its records are deleted")
            }
            Self::Damaged { instance, why } => write!(f, "factory {instance} is out of use: {why}"),
            Self::OwnFactory(instance) => {
                write!(f, "{instance} is this node's own factory, not an invitation")
            }
            Self::NotAnInvitation { instance, state } => {
                write!(f, "factory {instance} is {state}, no longer an invitation")
            }
            Self::TermsChanged { instance, read, now } => write!(
                f,
                "the terms of factory {instance} are not those of terms_hash {read}: nothing was accepted, and \
                 they are {now} now"
            ),
            Self::OutOfBounds(bound) => bound.fmt(f),
            Self::Reason { characters, most } => {
                write!(f, "reason: {characters} characters are too many, it may have 0 to {most}")
            }
            Self::OperatorAway(lsp) => write!(f, "the operator {lsp} is not connected"),
            Self::NothingOnChain { instance, state } => {
                write!(f, "factory {instance} is {state}: there is nothing on chain to exit from")
            }
            Self::NoChannelToExit { instance, timeout } => write!(
                f,
                "factory {instance}: this node has no channel that its leaf would pay; wait for the timeout at \
                 height {timeout}, from where on the distribution pays this node"
            ),
            Self::HasLeft(instance) => write!(
                f,
                "this node has handed its key of factory {instance} over: it has nothing there any more, and may \
                 not take anything on chain"
            ),
            Self::ChannelsLost { instance, timeout } => write!(
                f,
                "this node has lost its channels of factory {instance}: on chain only the operator could close them. \
                 Ask it to (lightningd's emergencyrecover does), or wait for the timeout at height {timeout}, from \
                 where on the distribution pays this node its whole capacity"
            ),
            Self::NoPrices => f.write_str(
                "the list of prices is lost: what a renewal costs isn't known, and one of these clients would be renewed",
            ),
            Self::AllGoneOver(instance) => write!(
                f,
                "every client of factory {instance} has handed its key over: nothing of it needs a place on chain"
            ),
            Self::GoneOver(client) => {
                write!(f, "client {client} has handed its key over: its channel needs no place on chain")
            }
            Self::OperatorEvicts => f.write_str("only the operator evicts"),
            Self::NoSuchClient { client, clients } => {
                write!(f, "there is no client {client}: the factory has {clients}, from 0")
            }
            Self::IsOut(client) => write!(f, "client {client} is out: its leaf is on chain already"),
            Self::OperatorSells => f.write_str("this node is the factory's operator: its clients buy"),
            Self::NoStock => f.write_str("this factory has no stock to sell"),
            Self::NotCooperative(why) => why.fmt(f),
            Self::SaleUnderWay => {
                f.write_str("another sale of this sub-factory is under way: try again when it is done")
            }
            Self::PaymentUnderWay => f.write_str(
                "a payment for an earlier purchase is on its way: try again when it has arrived or failed",
            ),
            Self::Amount(error) => error.fmt(f),
            Self::CannotLeave { instance, why } => write!(f, "factory {instance} can't be left now: {why}"),
            Self::LeavesAlready(instance) => write!(f, "factory {instance} is being left already"),
            Self::CannotComeOn { channel_id, lsp } => {
                write!(f, "channel {channel_id} is no confirmed ordinary channel with the operator {lsp}")
            }
            Self::Move(why) => why.fmt(f),
            Self::Close(why) => why.fmt(f),
            Self::Closing(instance) => write!(
                f,
                "factory {instance} is closed by all its members together: that pays this node all that it has there"
            ),
            Self::NotStored(error) => write!(f, "cannot store: {error}"),
            Self::NotRead(error) => write!(f, "cannot read what is stored: {error}"),
            Self::Stale(stale) => stale.fmt(f),
            Self::ReadOnly(reason) => f.write_str(reason),
            Self::Stopping => f.write_str("this node is stopping"),
        }
    }
}

impl std::error::Error for Refusal {}

impl From<NotCooperative> for Refusal {
    fn from(why: NotCooperative) -> Self {
        Self::NotCooperative(why)
    }
}

impl From<SaleError> for Refusal {
    fn from(error: SaleError) -> Self {
        Self::Amount(error)
    }
}

impl From<CannotClose> for Refusal {
    fn from(why: CannotClose) -> Self {
        Self::Close(why)
    }
}

impl From<CannotMove> for Refusal {
    fn from(why: CannotMove) -> Self {
        Self::Move(why)
    }
}

impl From<StaleStep> for Refusal {
    fn from(stale: StaleStep) -> Self {
        Self::Stale(stale)
    }
}

/// A step was made before another that was applied meanwhile, so that what it follows from may no longer
/// hold. Nothing has changed; the input has to be handled again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StaleStep {
    /// Steps that had been applied when it was made.
    pub made_at: u64,
    /// Steps that have been applied by now.
    pub applied: u64,
}

impl fmt::Display for StaleStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a step made after {} others comes after {}: handle its input again",
            self.made_at, self.applied
        )
    }
}

impl std::error::Error for StaleStep {}
