//! What lightningd says: channels, HTLCs, opens, invoices, blocks.

use std::fmt;

use bitcoin::{BlockHash, TxOut};

use crate::record::ended::Ended;
use crate::tx::layout::RESERVE_MSAT;
use crate::types::{Amount, ChannelId, Height, NodeId, PaymentHash, PaymentSecret, Transaction};
use crate::wire::message::ChannelInFactory;

/// A channel that lightningd has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownChannel {
    /// BOLT 2's `channel_id`.
    pub channel_id: ChannelId,
    /// Node id of the other side.
    pub peer: NodeId,
    /// Funding amount: both sides' balances together.
    pub capacity: Amount,
    /// The block that its funding is in, as lightningd has seen it.
    pub confirmed: Option<Height>,
}

/// What lightningd does with one of its channels (S34).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelNow {
    /// BOLT 2's `channel_id`.
    pub channel_id: ChannelId,
    /// How it has ended, or is about to; nothing while it is opened or carries payments.
    pub ended: Option<Ended>,
}

/// What one of this node's channels holds, as lightningd says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelBalance {
    /// BOLT 2's `channel_id`.
    pub channel_id: ChannelId,
    /// Node id of the other side.
    pub peer: NodeId,
    /// This node's balance, msat, without what it has offered in HTLCs.
    pub to_us_msat: u64,
    /// What of it has to stay, msat (BOLT 2's `channel_reserve_satoshis`, as the peer set it).
    pub reserve_msat: u64,
    /// What lightningd thinks that this node can send over it now, msat.
    pub spendable_msat: u64,
    /// The same for what it can receive, msat.
    pub receivable_msat: u64,
    /// The smallest HTLC that this node can send, msat.
    pub minimum_htlc_out_msat: u64,
    /// The largest, msat.
    pub maximum_htlc_out_msat: u64,
    /// The smallest HTLC that the peer forwards over it, msat; 0 if it hasn't said.
    pub minimum_htlc_in_msat: u64,
    /// The largest, msat.
    pub maximum_htlc_in_msat: u64,
    /// Whether this node has opened it, and pays for its commitment transaction.
    pub opener: bool,
    /// Whether this node forwards over it for nothing.
    pub free: bool,
    /// Whether an HTLC stands on it, in either direction, as far as it is forgotten by neither side.
    pub htlcs: bool,
    /// Whether it carries payments: neither being opened nor ended.
    pub live: bool,
    /// The block that its funding is in, as lightningd has seen it.
    pub confirmed: Option<Height>,
}

/// An HTLC that neither side can forget yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PendingHtlc {
    /// The channel that it stands on.
    pub channel_id: ChannelId,
    /// Who offered it, and what is known of a received one.
    pub direction: Direction,
    /// Its amount, msat.
    pub amount_msat: u64,
    /// Height at which the HTLC times out (BOLT 2's cltv_expiry).
    pub cltv_expiry: Height,
    /// payment_hash (BOLT 2): the same on both legs of a forward.
    pub payment_hash: [u8; 32],
}

/// Who offered an HTLC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// This node: it may time out.
    Offered,
    /// The peer, and this node has not removed it: it knows no preimage, or keeps it to itself.
    Received,
    /// The peer, and this node has told its channel to remove it with the preimage, as far as is known: it
    /// has to be claimed.
    Fulfilled,
}

/// What it takes to pay an invoice of a node with which one has a channel (BOLT 11's names).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invoice {
    /// What is to be paid, msat.
    pub amount_msat: u64,
    /// BOLT 11's payment_hash.
    pub payment_hash: PaymentHash,
    /// BOLT 11's payment_secret.
    pub payment_secret: PaymentSecret,
    /// Blocks that the HTLC's expiry has to be away.
    pub min_final_cltv_expiry: u32,
}

/// Why the node could not do what it was asked for, or doesn't know what became of it, in its words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeError(pub String);

impl From<String> for NodeError {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for NodeError {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NodeError {}

/// Why lightningd opened no channel, or committed none, in its words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpenFailure {
    /// The connection ended meanwhile, which is nobody's fault (S4): lightningd says so before it says
    /// that the peer is gone.
    Disconnected(String),
    /// This node's own doing, which is nobody else's fault (S4): its wallet is short, or it has no estimate of fees.
    Own(String),
    /// Anything else, such as a refusal by the peer's node.
    Refused(String),
}

impl OpenFailure {
    /// Who is left out for it: a peer that can't open a channel must not keep the others from theirs
    /// (S30).
    pub(crate) fn blames(&self, peer: NodeId) -> Vec<NodeId> {
        match self {
            Self::Disconnected(_) | Self::Own(_) => vec![],
            Self::Refused(_) => vec![peer],
        }
    }
}

impl fmt::Display for OpenFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Disconnected(text) | Self::Own(text) | Self::Refused(text)) = self;
        f.write_str(text)
    }
}

/// Why a channel's funding script could not be confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckFailure {
    /// lightningd doesn't know the channel (yet): asked again at the next message or block.
    NotYet,
    /// This node can't be asked (a database that we can't read): refuse, and say why.
    Unavailable(String),
    /// lightningd's record differs from the leaf: somebody lies.
    Mismatch(String),
}

/// An `open_channel` that a peer sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenChannel {
    /// Node id of the opener.
    pub peer: NodeId,
    /// BOLT 2's funding_satoshis.
    pub capacity: Amount,
    /// What the opener gives this node in the first commitment, msat (BOLT 2's push_msat).
    pub push_msat: u64,
    /// What this node has to keep in the channel, msat (BOLT 2's channel_reserve_satoshis).
    pub reserve_msat: u64,
    /// Whether its channel_type asks for zero-conf (bit 50).
    pub zeroconf: bool,
    /// The record, where the node software passes it on. Stock lightningd does not.
    pub channel_in_factory: Option<ChannelInFactory>,
}

impl OpenChannel {
    /// What is wrong with the reserve that it asks of this node: more couldn't be moved out of it again, and with
    /// less than the push this node's lightningd could die at the channel's confirmation ([`RESERVE_MSAT`]).
    pub(crate) fn harmful(&self) -> Option<String> {
        let fits = (self.push_msat..=RESERVE_MSAT).contains(&self.reserve_msat);
        let Self { push_msat, reserve_msat, .. } = self;
        (!fits).then(|| {
            format!(
                "a channel_reserve of {reserve_msat} msat: it has to be at least the push of {push_msat} msat and at \
                 most {RESERVE_MSAT} msat"
            )
        })
    }
}

/// A funding transaction whose inputs lightningd's wallet has reserved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedFunding {
    /// Unsigned; native segwit inputs only, so that the txid is final.
    pub tx: Transaction,
    /// What its inputs spend, in their order: with it the wallet can sign.
    pub prevouts: Vec<TxOut>,
    /// Index of the factory's output in `tx`.
    pub vout: u32,
}

/// A block, reduced to what the engine watches ([`Engine::watched`](crate::engine::Engine::watched)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Height of the block.
    pub height: Height,
    /// Hash of the block's header.
    pub hash: BlockHash,
    /// Transactions that spend a watched outpoint or have a watched txid, in block order.
    pub txs: Vec<Transaction>,
}
