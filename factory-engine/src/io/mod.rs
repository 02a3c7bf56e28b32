//! What goes into the engine and what comes out of it.

use bitcoin::TxOut;

use crate::io::fees::{FeeNews, Raise, Report};
use crate::record::state::State;
use crate::terms::{ClientIndex, Shape};
use crate::types::{
    Amount, ChannelId, Height, InstanceId, Millis, NodeId, OutPoint, PaymentHash, ScriptBuf, Transaction,
    Txid,
};
use crate::wire::message::Message;

pub use node::*;
pub use refusal::{Refusal, RefusalKind, StaleStep};

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
        /// The peer.
        peer: NodeId,
    },
    /// A peer disconnected.
    PeerDown {
        /// The peer.
        peer: NodeId,
    },
    /// One whole message of our protocol arrived.
    Message {
        /// Who sent it.
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
        /// Of which factory.
        instance: InstanceId,
        /// Of which attempt.
        attempt: u32,
        /// The unsigned funding transaction, or what lightningd said.
        result: Result<PreparedFunding, NodeError>,
    },
    /// [`Effect::NewPayout`] ended.
    PayoutReady {
        /// Of which factory.
        instance: InstanceId,
        /// Of which attempt.
        attempt: u32,
        /// A script of this node's wallet, or what lightningd said.
        result: Result<ScriptBuf, NodeError>,
    },
    /// [`Effect::StartChannel`] ended.
    ChannelStarted {
        /// Of which factory.
        instance: InstanceId,
        /// Of which attempt.
        attempt: u32,
        /// With which client.
        client: ClientIndex,
        /// Which sale's channel; nothing for the leaf's.
        sale: Option<u32>,
        /// The channel's funding script (P2WSH), or why there is none.
        result: Result<ScriptBuf, OpenFailure>,
    },
    /// [`Effect::CompleteChannel`] ended.
    ChannelCompleted {
        /// Of which factory.
        instance: InstanceId,
        /// Of which attempt.
        attempt: u32,
        /// With which client.
        client: ClientIndex,
        /// Which sale's channel; nothing for the leaf's.
        sale: Option<u32>,
        /// The channel's id, or why it was not committed.
        result: Result<ChannelId, OpenFailure>,
    },
    /// [`Effect::CheckChannel`] ended.
    ChannelChecked {
        /// Of which factory.
        instance: InstanceId,
        /// Of which attempt.
        attempt: u32,
        /// Which sale's channel; nothing for the leaf's.
        sale: Option<u32>,
        /// Fine, or what is wrong.
        result: Result<(), CheckFailure>,
    },
    /// [`Effect::MakeInvoice`] ended.
    InvoiceMade {
        /// Of which factory.
        instance: InstanceId,
        /// lightningd's name for it.
        label: String,
        /// The invoice, or what lightningd said.
        result: Result<Invoice, NodeError>,
    },
    /// [`Effect::WaitInvoice`] or [`Effect::EndInvoice`] ended.
    InvoiceEnded {
        /// Of which factory.
        instance: InstanceId,
        /// lightningd's name for it.
        label: String,
        /// Whether it was paid, and if not it never will be; or why that isn't known.
        result: Result<bool, NodeError>,
    },
    /// [`Effect::PayInvoice`] or [`Effect::LookPayment`] ended.
    PaymentEnded {
        /// Of which factory.
        instance: InstanceId,
        /// Which payment.
        payment_hash: PaymentHash,
        /// It arrived, or it failed for good, and why.
        result: Result<(), NodeError>,
    },
    /// [`Effect::FundChannel`] ended.
    ChannelFunded {
        /// Of which factory.
        instance: InstanceId,
        /// For which client.
        buyer: ClientIndex,
        /// The channel and its funding outpoint, or what lightningd said.
        result: Result<(ChannelId, OutPoint), NodeError>,
    },
    /// [`Effect::CheckUnspent`] ended.
    Unspent {
        /// Of which factory.
        instance: InstanceId,
        /// Of which attempt.
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
    /// Every channel that lightningd has not done with, after every block: one that is missing is
    /// settled for good.
    Channels(Vec<ChannelId>),
    /// The chain was reorganised: blocks above `height` are no longer part of it.
    Reorg {
        /// The last common block.
        height: Height,
    },
    /// What the node knows about fees, after the last block (S26).
    Fees(FeeNews),
    /// [`Effect::Broadcast`] or [`Effect::Bump`] ended.
    Published {
        /// The transaction of the factory.
        txid: Txid,
        /// How it fares.
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
                | Self::ChannelFunded { .. }
        )
    }
}

/// The commands that change something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `factory-create`.
    Create(Create),
    /// `factory-accept`.
    Accept {
        /// Which invitation.
        instance: InstanceId,
    },
    /// `factory-decline`.
    Decline {
        /// Which invitation.
        instance: InstanceId,
        /// Told to the operator.
        reason: String,
    },
    /// `factory-exit`.
    Exit {
        /// Which factory.
        instance: InstanceId,
    },
    /// `factory-evict`.
    Evict {
        /// Which factory.
        instance: InstanceId,
        /// Whom; nobody named means everybody who is still in.
        clients: Vec<ClientIndex>,
    },
    /// `factory-buy`.
    Buy {
        /// Which factory.
        instance: InstanceId,
        /// Capacity of the channel.
        amount: Amount,
        /// The most that it may cost, msat.
        max_price_msat: u64,
    },
    /// `factory-buy` with `dry_run`: ask the operator for its price.
    AskPrice {
        /// Which factory.
        instance: InstanceId,
        /// Capacity of the channel.
        amount: Amount,
    },
}

/// Parameters of `factory-create`, after the plugin has filled in the defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Create {
    /// Clients and their channel capacities, in the order of the leaves.
    pub clients: Vec<(NodeId, Amount)>,
    /// Stock of each sub-factory; zero for none.
    pub stock: Amount,
    /// The tree's shape, from the planner.
    pub shape: Shape,
    /// Blocks from now to the timeout.
    pub lifetime_blocks: u32,
    /// Length of the dying period before the timeout, blocks.
    pub dying_blocks: u32,
    /// Feerate of the tree's transactions, sat/kw.
    pub tree_feerate: u32,
}

/// Something to do, once the step's events are stored.
#[derive(Debug, Clone)]
pub enum Effect {
    /// Send a message of our protocol.
    Send {
        /// To whom.
        peer: NodeId,
        /// What.
        message: Message,
    },
    /// Get a fresh script of this node's wallet, for distribution transactions. Answered by
    /// [`Input::PayoutReady`].
    NewPayout {
        /// Of which factory.
        instance: InstanceId,
        /// Of which attempt.
        attempt: u32,
    },
    /// Reserve wallet inputs and make an unsigned transaction that pays `amount` to `script`.
    /// Answered by [`Input::FundingPrepared`].
    PrepareFunding {
        /// Of which factory.
        instance: InstanceId,
        /// Of which attempt.
        attempt: u32,
        /// The factory's output script.
        script: ScriptBuf,
        /// Its value.
        amount: Amount,
    },
    /// Give back the inputs of an aborted attempt.
    ReleaseFunding {
        /// What was reserved.
        inputs: Vec<OutPoint>,
    },
    /// `fundchannel_start`. Answered by [`Input::ChannelStarted`]. Effects on one peer's channels
    /// are carried out in order.
    StartChannel {
        /// Of which factory.
        instance: InstanceId,
        /// Of which attempt.
        attempt: u32,
        /// Which client.
        client: ClientIndex,
        /// Which sale's channel; nothing for the leaf's.
        sale: Option<u32>,
        /// Its node.
        peer: NodeId,
        /// Channel capacity.
        capacity: Amount,
        /// push_msat.
        push_msat: u64,
    },
    /// `fundchannel_cancel`: the attempt ended before `fundchannel_complete`.
    CancelChannel {
        /// Whose open.
        peer: NodeId,
    },
    /// `fundchannel_complete` with the leaf transaction. Answered by [`Input::ChannelCompleted`].
    CompleteChannel {
        /// Of which factory.
        instance: InstanceId,
        /// Of which attempt.
        attempt: u32,
        /// Which client.
        client: ClientIndex,
        /// Which sale's channel; nothing for the leaf's.
        sale: Option<u32>,
        /// Its node.
        peer: NodeId,
        /// The unsigned leaf transaction.
        leaf: Transaction,
        /// The output that it spends, for the PSBT's witness_utxo.
        prevout: TxOut,
    },
    /// Compare lightningd's own record of a channel with the leaf (S18). Answered by
    /// [`Input::ChannelChecked`].
    CheckChannel {
        /// Of which factory.
        instance: InstanceId,
        /// Of which attempt.
        attempt: u32,
        /// Which sale's channel; nothing for the leaf's.
        sale: Option<u32>,
        /// The channel.
        channel_id: ChannelId,
        /// Its funding outpoint.
        outpoint: OutPoint,
        /// The leaf's output: amount and P2WSH script.
        output: TxOut,
    },
    /// Look whether an output is unspent, in the chain and in the mempool. Answered by
    /// [`Input::Unspent`].
    CheckUnspent {
        /// Of which factory.
        instance: InstanceId,
        /// Of which attempt.
        attempt: u32,
        /// The engine's height.
        height: Height,
        /// The output.
        outpoint: OutPoint,
    },
    /// Sign and broadcast the funding transaction (S11). Repeated after a restart until it confirms.
    SendFunding {
        /// Of which factory.
        instance: InstanceId,
        /// The transaction, unsigned.
        tx: Transaction,
        /// What its inputs spend, in their order.
        prevouts: Vec<TxOut>,
    },
    /// Broadcast a signed transaction; repeated at every block until it confirms (S26). Answered by
    /// [`Input::Published`].
    Broadcast {
        /// Of which factory.
        instance: InstanceId,
        /// For the log: "state transaction 2", "distribution of coin 0".
        what: String,
        /// The transaction.
        tx: Transaction,
    },
    /// Broadcast a transaction, and a child that raises its fee; repeated at every block, with whatever
    /// fee is needed then (S26). Answered by [`Input::Published`].
    Bump(Box<Raise>),
    /// `invoice`. Answered by [`Input::InvoiceMade`].
    MakeInvoice {
        /// Of which factory.
        instance: InstanceId,
        /// Name in lightningd; never the same twice.
        label: String,
        /// How much.
        amount_msat: u64,
        /// For people.
        description: String,
        /// How long it can be paid.
        expiry: Millis,
    },
    /// Wait until an invoice is paid, or can't be any more. Answered by [`Input::InvoiceEnded`]; not at
    /// all if the node stops before.
    WaitInvoice {
        /// Of which factory.
        instance: InstanceId,
        /// Which.
        label: String,
    },
    /// Take an invoice back, unless it is paid. Answered by [`Input::InvoiceEnded`].
    EndInvoice {
        /// Of which factory.
        instance: InstanceId,
        /// Which.
        label: String,
    },
    /// Pay an invoice of a peer over a channel with it. Answered by [`Input::PaymentEnded`] once it is
    /// known for good what became of it.
    PayInvoice {
        /// Of which factory.
        instance: InstanceId,
        /// Whom.
        peer: NodeId,
        /// What.
        invoice: Invoice,
    },
    /// What became of a payment that a stop interrupted, if it left at all. Answered as
    /// [`Effect::PayInvoice`].
    LookPayment {
        /// Of which factory.
        instance: InstanceId,
        /// Which.
        payment_hash: PaymentHash,
    },
    /// `fundchannel`: an ordinary channel on chain. Answered by [`Input::ChannelFunded`].
    FundChannel {
        /// Of which factory.
        instance: InstanceId,
        /// For which client.
        buyer: ClientIndex,
        /// Its node.
        peer: NodeId,
        /// Channel capacity.
        amount: Amount,
    },
    /// `close` a channel, unilaterally when the peer doesn't answer at once.
    CloseChannel {
        /// Which.
        channel_id: ChannelId,
    },
    /// Publish `factory_state_changed`.
    StateChanged {
        /// Of which factory.
        instance: InstanceId,
        /// Before; nothing for a new factory.
        old: Option<State>,
        /// Now.
        new: State,
    },
    /// A line for the log.
    Log {
        /// How important.
        level: Level,
        /// Without secrets.
        text: String,
    },
}

/// lightningd's log levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For developers.
    Debug,
    /// One line per transition.
    Info,
    /// Something that the operator should know.
    Unusual,
    /// Something that must not happen.
    Broken,
}

/// What the engine answers to a command or a hook, apart from its effects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Nothing to say.
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
