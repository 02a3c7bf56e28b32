//! What the engine has done: once a step is stored.

use bitcoin::TxOut;

#[cfg(doc)]
use crate::io::Input;
use crate::io::fees::Raise;
use crate::io::{Invoice, Keeper, Level, ShelfRequest, SignedReceipt, TowerRequest};
use crate::record::copy::Copy;
use crate::record::event::SaleJitOpened;
use crate::record::state::State;
use crate::terms::ClientIndex;
use crate::tx::child::Coin;
use crate::types::{
    Amount, ChannelId, Height, InstanceId, Millis, NodeId, OutPoint, PaymentHash, Preimage, ScriptBuf,
    Transaction, Witness,
};
use crate::wire::message::Message;

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
    /// `disconnect` from a peer, with force: whatever lightningd has pending with it ends, no channel does.
    Disconnect {
        /// Node id of the peer.
        peer: NodeId,
    },
    /// Compare lightningd's own record of an ordinary channel with the output that is on chain (S22). Answered by
    /// [`Input::OrdinaryChecked`].
    CheckOrdinary {
        /// The factory that is to be left for it (factory_instance).
        instance: InstanceId,
        /// Node id of the other side.
        peer: NodeId,
        /// The channel (BOLT 2's `channel_id`).
        channel_id: ChannelId,
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
    /// `close` a channel, unilaterally when the peer doesn't answer.
    CloseChannel {
        /// The channel to be closed (BOLT 2's `channel_id`).
        channel_id: ChannelId,
        /// Whether its funding output is on chain: then every block counts, and the peer has a moment only. A channel
        /// that never comes there is better closed with its peer: lightningd cuts the connection of one that it closes
        /// alone.
        on_chain: bool,
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
        /// How near that is: broken from the last blocks on.
        level: Level,
        /// What it waits for, and what a person can do.
        waits_for: String,
        /// What failed last, if something did.
        failed: Option<String>,
    },
    /// Publish `factory_wake`, a notification of the plugin, and run the operator's program for it: a client that has
    /// to come is away.
    Wake {
        /// The factory for which it has to come (factory_instance).
        instance: InstanceId,
        /// Node id of the client.
        peer: NodeId,
        /// Height by which it has to.
        by: Height,
        /// What for.
        reason: WakeReason,
    },
    /// Have the keepers take a copy of a factory's records as they are stored now (S39). Answered by
    /// [`Input::Kept`] or [`Input::NotKept`], of this copy or of a newer one.
    Copy {
        /// The factory (factory_instance).
        instance: InstanceId,
        /// Whether something waits for it.
        urgent: bool,
        /// Whether peers should have one too: then [`Input::Copied`] is an answer as well.
        peers: bool,
    },
    /// Do something with what is kept for a peer. Answered by [`Input::Shelf`], except where something is forgotten.
    Shelf {
        /// Whose shelf it is.
        peer: NodeId,
        /// What to do.
        request: ShelfRequest,
    },
    /// Look at what towers have of a factory: comes back as [`Input::Appoint`] once this step is done.
    Appoint {
        /// The factory (factory_instance).
        instance: InstanceId,
    },
    /// Do something for a peer that this node watches for. Answered by [`Input::Tower`], except where something is
    /// forgotten, or published.
    Tower {
        /// Whose appointments they are.
        peer: NodeId,
        /// What to do.
        request: TowerRequest,
    },
    /// Keep what a tower has signed, in place of what it had signed before of this factory, if the signature is its own.
    KeepReceipt(Box<SignedReceipt>),
    /// A keeper has other records of a factory than this node: where they begin with all that are stored, or with those from
    /// which the factory was restored, store the rest, and that it was restored (S9). Answered by [`Input::BroughtBack`].
    BringBack {
        /// Who had it.
        keeper: Keeper,
        /// Every record of the factory, as this node has sealed them.
        copy: Copy,
    },
    /// Read a message again that waited: it comes back as [`Input::Message`].
    ReadAgain {
        /// Who has sent it.
        peer: NodeId,
        /// The message, as it came.
        payload: Vec<u8>,
    },
    /// A line for the log.
    Log {
        /// lightningd's log level for the line.
        level: Level,
        /// The line, without secrets.
        text: String,
    },
}

/// What a client has to come for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WakeReason {
    /// Its factory ends: it has to join the next one, or to go on there.
    Renewal,
    /// An HTLC on its channel runs out.
    Htlc,
}

impl WakeReason {
    /// Its name in the notification and for the operator's program.
    pub fn name(self) -> &'static str {
        match self {
            Self::Renewal => "renewal",
            Self::Htlc => "htlc",
        }
    }
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
