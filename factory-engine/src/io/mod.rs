//! What goes into the engine and what comes out of it.

use bitcoin::TxOut;

use crate::io::fees::{FeeNews, Raise, Report};
use crate::record::event::SaleJitOpened;
use crate::record::state::State;
use crate::terms::ClientIndex;
use crate::tx::child::Coin;
use crate::types::{
    Amount, ChannelId, Height, InstanceId, Millis, NodeId, OutPoint, PaymentHash, Preimage, ScriptBuf,
    Transaction, Txid, Witness,
};
use crate::wire::message::Message;

pub use cannot_close::CannotClose;
pub use cannot_move::{CannotMove, MoveLimit};
pub use command::{Command, Create};
pub use node::*;
pub use refusal::{Refusal, RefusalKind, StaleStep};

mod cannot_close;
mod cannot_move;
mod command;
pub mod fees;
mod node;
mod refusal;

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

/// Something to do, once the step's events are stored.
#[derive(Debug, Clone)]
pub enum Effect {
    /// Send a message of our protocol.
    Send {
        /// Node id of the receiver.
        peer: NodeId,
        /// The message, not encoded yet.
        message: Message,
    },
    /// Get a fresh script of this node's wallet, for distribution transactions. Answered by
    /// [`Input::PayoutReady`].
    NewPayout {
        /// The factory (factory_instance).
        instance: InstanceId,
        /// Number of the attempt, from 1.
        attempt: u32,
    },
    /// Reserve wallet inputs and make an unsigned transaction that pays `amount` to `script`.
    /// Answered by [`Input::FundingPrepared`].
    PrepareFunding {
        /// The factory (factory_instance).
        instance: InstanceId,
        /// Number of the attempt, from 1.
        attempt: u32,
        /// Script of the factory's output: P2TR of all members' keys.
        script: ScriptBuf,
        /// Value of the factory's output, without the transaction's own fee.
        amount: Amount,
        /// Coins that it spends beside the wallet's, by key path: the wallet doesn't know or sign them.
        reclaims: Vec<Coin>,
    },
    /// Give back the inputs of an aborted attempt.
    ReleaseFunding {
        /// Wallet outpoints that [`Effect::PrepareFunding`] reserved.
        inputs: Vec<OutPoint>,
    },
    /// `fundchannel_start`. Answered by [`Input::ChannelStarted`]. Effects on one peer's channels
    /// are carried out in order.
    StartChannel {
        /// The factory (factory_instance).
        instance: InstanceId,
        /// Number of the attempt, from 1.
        attempt: u32,
        /// Index of the client that gets the channel, in leaf order.
        client: ClientIndex,
        /// Which sale's channel; nothing for the leaf's.
        sale: Option<u32>,
        /// Node id of that client.
        peer: NodeId,
        /// Channel capacity: `fundchannel_start`'s amount.
        capacity: Amount,
        /// What L gives the client in the first commitment, msat (BOLT 2's push_msat).
        push_msat: u64,
    },
    /// `fundchannel_cancel`: the attempt ended before `fundchannel_complete`.
    CancelChannel {
        /// Node id of the client whose open is cancelled.
        peer: NodeId,
    },
    /// `fundchannel_complete` with the leaf transaction. Answered by [`Input::ChannelCompleted`].
    CompleteChannel {
        /// The factory (factory_instance).
        instance: InstanceId,
        /// Number of the attempt, from 1.
        attempt: u32,
        /// Index of the client that gets the channel, in leaf order.
        client: ClientIndex,
        /// Which sale's channel; nothing for the leaf's.
        sale: Option<u32>,
        /// Node id of that client.
        peer: NodeId,
        /// The transaction that funds the channel, unsigned: the leaf or the sale.
        leaf: Transaction,
        /// The output that it spends, for the PSBT's witness_utxo.
        prevout: TxOut,
    },
    /// Compare lightningd's own record of a channel with the leaf (S18). Answered by
    /// [`Input::ChannelChecked`].
    CheckChannel {
        /// The factory (factory_instance).
        instance: InstanceId,
        /// Number of the attempt, from 1.
        attempt: u32,
        /// Which sale's channel; nothing for the leaf's.
        sale: Option<u32>,
        /// The channel that is looked up (BOLT 2's `channel_id`).
        channel_id: ChannelId,
        /// Funding outpoint that lightningd should have for it.
        outpoint: OutPoint,
        /// The leaf's output: amount and P2WSH script.
        output: TxOut,
    },
    /// Look whether an output is unspent, in the chain and in the mempool. Answered by
    /// [`Input::Unspent`].
    CheckUnspent {
        /// The factory (factory_instance).
        instance: InstanceId,
        /// Number of the attempt, from 1.
        attempt: u32,
        /// Height of the last block that the engine handled.
        height: Height,
        /// The output that is looked up.
        outpoint: OutPoint,
    },
    /// Sign and broadcast the funding transaction (S11). Repeated after a restart until it confirms.
    SendFunding {
        /// The factory (factory_instance).
        instance: InstanceId,
        /// The funding transaction, unsigned: the wallet signs it.
        tx: Transaction,
        /// What its inputs spend, in their order.
        prevouts: Vec<TxOut>,
        /// Finished witnesses of those that are no coins of the wallet.
        witnesses: Vec<(OutPoint, Witness)>,
    },
    /// Broadcast a signed transaction; repeated at every block until it confirms (S26). Answered by
    /// [`Input::Published`].
    Broadcast {
        /// The factory (factory_instance).
        instance: InstanceId,
        /// For the log: "state transaction 2", "distribution of coin 0".
        what: String,
        /// The transaction, fully signed.
        tx: Transaction,
    },
    /// Broadcast a transaction, and a child that raises its fee; repeated at every block, with whatever
    /// fee is needed then (S26). Answered by [`Input::Published`].
    Bump(Box<Raise>),
    /// `invoice`: L asks for a sale's price. Answered by [`Input::InvoiceMade`].
    MakeInvoice {
        /// The factory (factory_instance).
        instance: InstanceId,
        /// Name in lightningd; never the same twice.
        label: String,
        /// What is asked for, msat.
        amount_msat: u64,
        /// Text that the payer sees (BOLT 11's description).
        description: String,
        /// How long it can be paid, milliseconds from now.
        expiry: Millis,
    },
    /// Wait until an invoice is paid, or can't be any more. Answered by [`Input::InvoiceEnded`]; not at
    /// all if the node stops before.
    WaitInvoice {
        /// The factory (factory_instance).
        instance: InstanceId,
        /// Label of the invoice, as [`Effect::MakeInvoice`] gave it.
        label: String,
    },
    /// Take an invoice back, unless it is paid. Answered by [`Input::InvoiceEnded`].
    EndInvoice {
        /// The factory (factory_instance).
        instance: InstanceId,
        /// Label of the invoice, as [`Effect::MakeInvoice`] gave it.
        label: String,
    },
    /// Pay an invoice of a peer over a channel with it. Answered by [`Input::PaymentEnded`] once it is
    /// known for good what became of it.
    PayInvoice {
        /// The factory (factory_instance).
        instance: InstanceId,
        /// Node id of the payee: the operator.
        peer: NodeId,
        /// Amount, hash, secret and final expiry of the peer's invoice.
        invoice: Invoice,
    },
    /// What became of a payment that a stop interrupted, if it left at all. Answered as
    /// [`Effect::PayInvoice`].
    LookPayment {
        /// The factory (factory_instance).
        instance: InstanceId,
        /// payment_hash of the invoice (BOLT 11).
        payment_hash: PaymentHash,
    },
    /// `fundchannel`: an ordinary channel on chain. Answered by [`Input::ChannelFunded`].
    FundChannel {
        /// The factory (factory_instance).
        instance: InstanceId,
        /// Index of the client that gets the channel, in leaf order.
        buyer: ClientIndex,
        /// Node id of that client.
        peer: NodeId,
        /// Channel capacity, without the funding transaction's fee.
        amount: Amount,
    },
    /// Look whether there is a channel of this id and capacity with a peer: who says so may lie. Answered by
    /// [`Input::OrdinaryFound`].
    FindOrdinary {
        /// The factory (factory_instance).
        instance: InstanceId,
        /// Node id of the peer: the operator.
        peer: NodeId,
        /// The channel as the operator says it is.
        opened: SaleJitOpened,
    },
    /// Look what the channels with a peer hold. Answered by [`Input::Balances`]; not at all if lightningd has no
    /// answer.
    ReadBalances {
        /// Node id of the peer.
        peer: NodeId,
    },
    /// The same, once no HTLC is let onto a factory's channels any more: what is on them then is all (S22). Answered
    /// by [`Input::Emptied`].
    CheckEmpty {
        /// The factory (factory_instance).
        instance: InstanceId,
        /// Node id of its operator.
        peer: NodeId,
        /// Since when nothing is let onto its channels: the answer is good for just that.
        freeze: u64,
    },
    /// `connect` to a peer that this node waits for.
    Connect {
        /// Node id of the peer.
        peer: NodeId,
    },
    /// `close` a channel together with the peer, however long that takes: never by one side alone (S22).
    MutualClose {
        /// The channel to be closed (BOLT 2's `channel_id`).
        channel_id: ChannelId,
    },
    /// Pay an invoice of one's own, in one HTLC that leaves on one channel with a peer and comes back on
    /// another. Answered by [`Input::MoveEnded`] once it is known for good what became of it.
    SendMove(Box<SendMove>),
    /// What became of a [`Effect::SendMove`] that a stop interrupted, if it left at all. Answered as that. From
    /// then on it arrives no more, if it hasn't.
    LookMove {
        /// The factory in which the move is kept (factory_instance).
        instance: InstanceId,
        /// payment_hash of the invoice (BOLT 11).
        payment_hash: PaymentHash,
        /// Name of the invoice in lightningd, as [`Effect::SendMove`] gave it.
        label: String,
    },
    /// `setchannel`: what is forwarded over a channel costs nothing, or what this node asks for by default. While
    /// it costs nothing no other channel with that peer does. Effects on one peer's fees are carried out in
    /// order. Answered by [`Input::FeesSet`].
    SetFees {
        /// Node id of the channel's peer.
        peer: NodeId,
        /// The channel (BOLT 2's `channel_id`).
        channel_id: ChannelId,
        /// Whether it costs nothing.
        free: bool,
    },
    /// `close` a channel, unilaterally when the peer doesn't answer at once.
    CloseChannel {
        /// The channel to be closed (BOLT 2's `channel_id`).
        channel_id: ChannelId,
    },
    /// Publish `factory_state_changed`, a notification of the plugin.
    StateChanged {
        /// The factory (factory_instance).
        instance: InstanceId,
        /// State before the step; nothing for a new factory.
        old: Option<State>,
        /// State after the step.
        new: State,
    },
    /// Publish `factory_renewal`, a notification of the plugin: a factory ends, and what follows on it isn't done.
    RenewalDue {
        /// The factory that ends (factory_instance).
        instance: InstanceId,
        /// Height by which it has to be done.
        by: Height,
        /// Blocks until then.
        blocks_left: u32,
        /// What it waits for, and what a person can do.
        waits_for: String,
        /// What failed last, if something did.
        failed: Option<String>,
    },
    /// A line for the log.
    Log {
        /// lightningd's log level for the line.
        level: Level,
        /// The line, without secrets.
        text: String,
    },
}

/// One HTLC of a move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendMove {
    /// The factory in which the move is kept (factory_instance).
    pub instance: InstanceId,
    /// Node id of the other side of both channels: the operator.
    pub peer: NodeId,
    /// The channel that it leaves on (BOLT 2's `channel_id`).
    pub from: ChannelId,
    /// The channel that it comes back on.
    pub to: ChannelId,
    /// What it is worth, msat.
    pub amount_msat: u64,
    /// SHA-256 of the preimage (BOLT 11).
    pub payment_hash: PaymentHash,
    /// What the invoice is made with.
    pub preimage: Preimage,
    /// Name of the invoice in lightningd; never the same twice.
    pub label: String,
    /// Blocks from now to the expiry of the HTLC that leaves, without those that an exit from its channel
    /// takes: what pays over a factory's channel gets these on top (S16).
    pub first_blocks: u32,
    /// Blocks from now to the expiry of the HTLC that comes back.
    pub last_blocks: u32,
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
