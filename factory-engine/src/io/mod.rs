//! What goes into the engine and what comes out of it.

use crate::io::fees::{FeeNews, Report};
use crate::record::copy::Copy;
use crate::record::event::SaleJitOpened;
use crate::terms::ClientIndex;
use crate::types::{
    ChannelId, Height, InstanceId, NodeId, OutPoint, PaymentHash, ScriptBuf, Transaction, Txid,
};

pub use cannot_close::CannotClose;
pub use cannot_move::{CannotMove, MoveLimit};
pub use command::{Command, Create};
pub use effect::{Effect, SendMove, WakeReason};
pub use node::*;
pub use refusal::{Refusal, RefusalKind, StaleStep};
pub use shelf::{Compared, ShelfAnswer, ShelfRequest};
pub use tower::{Kept, SignedReceipt, TowerAnswer, TowerRequest};

mod cannot_close;
mod cannot_move;
mod command;
mod effect;
pub mod fees;
mod node;
mod refusal;
mod shelf;
pub mod sources;
mod tower;

/// Where the engine's randomness comes from: the operating system in the plugin, a seed in the
/// simulator and in tests.
pub trait Entropy {
    /// 32 bytes that nobody can guess and that never come again.
    fn bytes32(&mut self) -> [u8; 32];
}

/// Everything that can happen to the engine.
#[derive(Debug, Clone)]
pub enum Input {
    /// The store was loaded and the node is up. Ceremonies that were under way when the node stopped
    /// are resumed or aborted.
    Started {
        /// Every channel of this node, with any peer.
        channels: Vec<KnownChannel>,
    },
    /// A peer is connected and speaks our factory protocol.
    PeerUp {
        /// Node id of the peer, whether or not it is in a factory.
        peer: NodeId,
        /// Whether this node has a channel with it: others are strangers.
        channels: bool,
    },
    /// A peer disconnected.
    PeerDown {
        /// Node id of the peer.
        peer: NodeId,
    },
    /// One whole message of our protocol arrived.
    Message {
        /// Node id of the sender.
        peer: NodeId,
        /// Undecoded: what is wrong with it is for the engine to say.
        payload: Vec<u8>,
    },
    /// Somebody used a command of this node.
    Command(Command),
    /// A peer opens a channel to this node (the `openchannel` hook).
    OpenChannel(OpenChannel),
    /// [`Effect::PrepareFunding`] ended.
    FundingPrepared {
        /// The factory (factory_instance).
        instance: InstanceId,
        /// Number of the attempt, from 1.
        attempt: u32,
        /// The unsigned funding transaction, or what lightningd said.
        result: Result<PreparedFunding, NodeError>,
    },
    /// [`Effect::NewPayout`] ended.
    PayoutReady {
        /// The factory (factory_instance).
        instance: InstanceId,
        /// Number of the attempt, from 1.
        attempt: u32,
        /// A script of this node's wallet, or what lightningd said.
        result: Result<ScriptBuf, NodeError>,
    },
    /// [`Effect::StartChannel`] ended.
    ChannelStarted {
        /// The factory (factory_instance).
        instance: InstanceId,
        /// Number of the attempt, from 1.
        attempt: u32,
        /// Index of the client that the channel is with, in leaf order.
        client: ClientIndex,
        /// Which sale's channel; nothing for the leaf's.
        sale: Option<u32>,
        /// The channel's funding script (P2WSH), or why there is none.
        result: Result<ScriptBuf, OpenFailure>,
    },
    /// [`Effect::CompleteChannel`] ended.
    ChannelCompleted {
        /// The factory (factory_instance).
        instance: InstanceId,
        /// Number of the attempt, from 1.
        attempt: u32,
        /// Index of the client that the channel is with, in leaf order.
        client: ClientIndex,
        /// Which sale's channel; nothing for the leaf's.
        sale: Option<u32>,
        /// The channel's id, or why it was not committed.
        result: Result<ChannelId, OpenFailure>,
    },
    /// [`Effect::CheckChannel`] ended.
    ChannelChecked {
        /// The factory (factory_instance).
        instance: InstanceId,
        /// Number of the attempt, from 1.
        attempt: u32,
        /// Which sale's channel; nothing for the leaf's.
        sale: Option<u32>,
        /// Nothing if lightningd's record is the leaf's output; otherwise what is wrong.
        result: Result<(), CheckFailure>,
    },
    /// [`Effect::MakeInvoice`] ended.
    InvoiceMade {
        /// The factory (factory_instance).
        instance: InstanceId,
        /// Label of the invoice, as [`Effect::MakeInvoice`] gave it.
        label: String,
        /// The invoice, or what lightningd said.
        result: Result<Invoice, NodeError>,
    },
    /// [`Effect::WaitInvoice`] or [`Effect::EndInvoice`] ended.
    InvoiceEnded {
        /// The factory (factory_instance).
        instance: InstanceId,
        /// Label of the invoice, as [`Effect::MakeInvoice`] gave it.
        label: String,
        /// Whether it was paid, and if not it never will be; or why that isn't known.
        result: Result<bool, NodeError>,
    },
    /// [`Effect::PayInvoice`] or [`Effect::LookPayment`] ended.
    PaymentEnded {
        /// The factory (factory_instance).
        instance: InstanceId,
        /// payment_hash of the invoice (BOLT 11).
        payment_hash: PaymentHash,
        /// It arrived, or it failed for good, and why.
        result: Result<(), NodeError>,
    },
    /// [`Effect::SendMove`] or [`Effect::LookMove`] ended: neither channel has the HTLC any more.
    MoveEnded {
        /// The factory in which the move is kept (factory_instance).
        instance: InstanceId,
        /// payment_hash of the invoice (BOLT 11).
        payment_hash: PaymentHash,
        /// It arrived, or it failed for good, and why.
        result: Result<(), NodeError>,
    },
    /// [`Effect::SetFees`] ended.
    FeesSet {
        /// Node id of the channel's peer.
        peer: NodeId,
        /// The channel (BOLT 2's `channel_id`).
        channel_id: ChannelId,
        /// What was asked for.
        free: bool,
        /// Whether it is so now, or what lightningd said.
        result: Result<(), NodeError>,
    },
    /// [`Effect::FundChannel`] ended.
    ChannelFunded {
        /// The factory (factory_instance).
        instance: InstanceId,
        /// Index of the client that gets the channel, in leaf order.
        buyer: ClientIndex,
        /// The channel and its funding outpoint, or why there is none.
        result: Result<(ChannelId, OutPoint), OpenFailure>,
    },
    /// [`Effect::FindOrdinary`] ended.
    OrdinaryFound {
        /// The factory (factory_instance).
        instance: InstanceId,
        /// As [`Effect::FindOrdinary`] gave it.
        opened: SaleJitOpened,
        /// Whether there is such a channel, or why nobody knows.
        result: Result<bool, NodeError>,
    },
    /// [`Effect::CheckUnspent`] ended.
    Unspent {
        /// The factory (factory_instance).
        instance: InstanceId,
        /// Number of the attempt, from 1.
        attempt: u32,
        /// The height at which the engine asked.
        height: Height,
        /// Whether it is unspent, or why nobody knows.
        result: Result<bool, NodeError>,
    },
    /// A block was connected.
    Block(Block),
    /// HTLCs that are not settled, after every block and at the start: those on factory channels
    /// matter.
    Htlcs(Vec<PendingHtlc>),
    /// What lightningd does with its channels (S34): those that changed, as soon as they do, and again after
    /// every block; at the start, and now and then, all.
    Channels {
        /// Channels with any peer, factories' among them.
        list: Vec<ChannelNow>,
        /// Whether they are all: then one that is missing is settled for good, or forgotten.
        whole: bool,
    },
    /// What channels of this node hold: of each peer that is in the list, all. Whenever somebody has looked, and
    /// as the answer to [`Effect::ReadBalances`].
    Balances(Vec<ChannelBalance>),
    /// [`Effect::CheckEmpty`] ended.
    Emptied {
        /// The factory (factory_instance).
        instance: InstanceId,
        /// As [`Effect::CheckEmpty`] gave it.
        freeze: u64,
        /// What the channels with its operator hold, all that there are; or what lightningd said.
        result: Result<Vec<ChannelBalance>, NodeError>,
    },
    /// [`Effect::CheckOrdinary`] ended.
    OrdinaryChecked {
        /// The factory that is to be left for it (factory_instance).
        instance: InstanceId,
        /// The channel (BOLT 2's `channel_id`).
        channel_id: ChannelId,
        /// Nothing if its funding output is unspent and pays what lightningd thinks; otherwise what is wrong.
        result: Result<(), CheckFailure>,
    },
    /// The chain was reorganised: blocks above `height` are no longer part of it.
    Reorg {
        /// Height of the last block that both chains have.
        height: Height,
    },
    /// What the node knows about fees, after the last block (S26).
    Fees(FeeNews),
    /// The node's backend answers again: what couldn't be sent meanwhile should go out now, and not at the
    /// next block (S26).
    BackendBack,
    /// [`Effect::Broadcast`] or [`Effect::Bump`] ended.
    Published {
        /// Id of the factory's transaction, not of its child.
        txid: Txid,
        /// Its target, its child, and what is wrong if something is.
        report: Box<Report>,
    },
    /// A keeper has copies of these factories, each with so many records (S39): those that [`Effect::Copy`] asked
    /// for, and at the start those that it has.
    Kept {
        /// Who has them.
        keeper: Keeper,
        /// Each with its counter.
        list: Vec<(InstanceId, u32)>,
    },
    /// [`Effect::Copy`] for peers ended.
    Copied {
        /// The factory (factory_instance).
        instance: InstanceId,
        /// Its records, and if there are any the static channel backups of its channels.
        copies: Vec<Copy>,
    },
    /// [`Effect::Shelf`] ended.
    Shelf {
        /// Whose shelf it is.
        peer: NodeId,
        /// What became of it.
        answer: ShelfAnswer,
    },
    /// [`Effect::Appoint`]: what towers have of a factory is looked at.
    Appoint {
        /// The factory (factory_instance).
        instance: InstanceId,
    },
    /// lightningd revoked a commitment of its peer's on one of this node's channels: this punishes its use.
    Revoked {
        /// The channel (BOLT 2's `channel_id`).
        channel_id: ChannelId,
        /// Id of the commitment transaction.
        commitment: Txid,
        /// lightningd's penalty transaction, signed.
        penalty: Transaction,
    },
    /// [`Effect::Tower`] ended, or a block has what an appointment waits for.
    Tower {
        /// Whose appointments they are; this node's own id where they may be anybody's.
        peer: NodeId,
        /// What became of it.
        answer: TowerAnswer,
    },
    /// [`Effect::BringBack`] ended.
    BroughtBack {
        /// Who had the copy.
        keeper: Keeper,
        /// The factory (factory_instance).
        instance: InstanceId,
        /// Number of the records that this node had.
        had: u32,
        /// Number of those that the copy has.
        copied: u32,
        /// What it has beside them.
        compared: Compared,
    },
    /// A keeper could not take a copy.
    NotKept {
        /// Who.
        keeper: Keeper,
        /// Why, for people.
        reason: String,
        /// Whether what it had isn't there any more either, as far as is known.
        lost: bool,
    },
    /// A keeper has a copy that isn't of the records that are stored, nor of the first of them: one in the backup file, which
    /// a start, which compares, could not read; or one that `factory-restore` has found. [`Effect::BringBack`] follows.
    KeeperHas {
        /// Who.
        keeper: Keeper,
        /// Every record of the factory, as this node has sealed them.
        copy: Copy,
    },
    /// Time went by: [`Engine::poll_timeout`](crate::engine::Engine::poll_timeout) was reached.
    Tick,
}

impl Input {
    /// Whether nobody says it again, and without it something waits in vain (S29), or coins stay reserved
    /// for nothing (S27). Whoever brings it does so until its step is stored.
    pub fn is_said_once(&self) -> bool {
        matches!(
            self,
            Self::Started { .. }
                | Self::FundingPrepared { .. }
                | Self::InvoiceEnded { .. }
                | Self::PaymentEnded { .. }
                | Self::MoveEnded { .. }
                | Self::ChannelFunded { .. }
                | Self::OrdinaryFound { .. }
        )
    }
}

/// Who keeps copies of what this node stores (S39).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Keeper {
    /// The file that `factory-backup-file` names.
    File,
    /// A peer that said so: the operator, or one that `factory-keeper` names.
    Peer(NodeId),
}

impl std::fmt::Display for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File => f.write_str("the backup file"),
            Self::Peer(id) => write!(f, "peer {id}"),
        }
    }
}

/// lightningd's log levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Details for developers (lightningd's `debug`).
    Debug,
    /// One line per transition (lightningd's `info`).
    Info,
    /// Something that the operator should know.
    Unusual,
    /// Something that must not happen.
    Broken,
}

/// What the engine answers to a command or a hook, apart from its effects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The input was handled; nothing more is to be said.
    Done,
    /// `factory-create` began this factory.
    Created(InstanceId),
    /// The open belongs to a factory: accept it with mindepth 0.
    AcceptOpen,
    /// The open is none of ours: the node's own policy decides.
    NotOurs,
    /// The open claims to be ours and is not what was agreed.
    RejectOpen(String),
}
