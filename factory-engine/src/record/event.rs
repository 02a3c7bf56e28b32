//! Durable changes. A factory *is* the fold of its events: nothing else about it is stored.
//!
//! A record holds the events of one step of one factory, so that they become durable together.

use bitcoin::TxOut;

use crate::terms::{ClientIndex, Terms};
use crate::tx::layout::{CoinIndex, SessionId, SpendRole};
use crate::types::{
    Amount, ChannelId, Height, NodeId, OutPoint, PaymentHash, ProtocolId, ScriptBuf, Transaction, Txid,
};
use crate::wire::codec::{Codec, DecodeError, Malformed, Reader, plain_codec, tlv_enum, tlv_struct};

use super::Proposal;
use super::ended::Ended;
pub use super::handed::{HandedOver, HandoverStored, KeyReceived, RenewalPaid, Renewed};
use super::reclaimed::ReclaimedInput;
pub use super::{RECORD_VERSION, RecordError, decode_record, encode_record};
pub use close::*;
pub use leave::*;
pub use moves::*;
pub use rungs::*;
pub use sale::*;

mod close;
mod leave;
mod moves;
mod rungs;
mod sale;

tlv_struct! {
    /// L: `factory-create` was accepted. Attempt 1 begins.
    pub struct Created {
        /// The terms of the first attempt.
        pub terms: Terms => 0,
        /// The clients' nodes, in leaf order.
        pub clients: Vec<NodeId> => 2,
        /// Which kind of factory it is, and of which major version.
        pub protocol: ProtocolId => 4,
        /// What each client is asked for its renewal, msat, in leaf order; absent where nobody is asked for anything.
        pub prices_msat: Option<Vec<u64>> => 5,
    }
}

tlv_struct! {
    /// L: an attempt was given up and another begins with whoever is left.
    pub struct AttemptStarted {
        /// Number of the new attempt, from 2.
        pub attempt: u32 => 0,
        /// The terms without the members that were left out.
        pub terms: Terms => 2,
        /// The clients' nodes, in leaf order.
        pub clients: Vec<NodeId> => 4,
        /// Why the one before was given up.
        pub reason: String => 6,
        /// Who was left out for it.
        pub left_out: Vec<NodeId> => 8,
        /// Who was the cause and may try again, once (S30).
        pub caused: Vec<NodeId> => 10,
        /// What each client is asked for its renewal, msat, as in the first attempt.
        pub prices_msat: Option<Vec<u64>> => 11,
    }
}

tlv_struct! {
    /// Client: an invitation, or the operator's next attempt at one that was accepted.
    pub struct Invited {
        /// Number of the attempt, from 1.
        pub attempt: u32 => 0,
        /// What the factory will be.
        pub terms: Terms => 2,
        /// This client's index, in leaf order.
        pub client: ClientIndex => 4,
        /// The price of joining, msat.
        pub price_msat: u64 => 6,
        /// Height at which it arrived: where a scan of the chain has to begin.
        pub height: Height => 8,
        /// Which kind of factory it is, and of which major version.
        pub protocol: ProtocolId => 10,
    }
}

tlv_struct! {
    /// Client: the invitation was accepted, by a person or by policy.
    pub struct Accepted {
        /// The ordinary channel with L (BOLT 2's `channel_id`) that moves into the factory once that is there for
        /// good, and is closed then; nothing for none.
        pub from: Option<ChannelId> => 1,
    }
}

tlv_struct! {
    /// Client: the invitation was declined.
    pub struct Declined {
        /// Why, as the operator is told.
        pub reason: String => 0,
        /// Height of the last block that was handled then: from here on it is kept for so many blocks (S28).
        pub height: Height => 2,
    }
}

/// One line of the sign-once ledger (S8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerEntry {
    /// The coin that is spent.
    pub outpoint: OutPoint,
    /// Coin and role; the role is part of what is signed once.
    pub session: SessionId,
    /// BIP-341 signature hash of the only input.
    pub sighash: [u8; 32],
}

plain_codec!(LedgerEntry { outpoint, session, sighash });
plain_codec!(SessionId { coin, role });

impl Codec for SpendRole {
    fn write(&self, out: &mut Vec<u8>) {
        u8::from(*self).write(out);
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let value = u8::read(r)?;
        SpendRole::try_from(value)
            .map_err(|_| Malformed::BadValue { value: value.into(), expected: "a role" }.into())
    }
}

tlv_struct! {
    /// The transactions are fixed and partial signatures may leave after this (S8, S10).
    pub struct Signing {
        /// Number of the attempt, from 1.
        pub attempt: u32 => 0,
        /// Keys, payout scripts, channel scripts and the funding transaction.
        pub proposal: Proposal => 2,
        /// Every session that this node is about to sign.
        pub ledger: Vec<LedgerEntry> => 4,
        /// Client: what its key was derived with.
        pub salt: Option<[u8; 32]> => 6,
    }
}

tlv_struct! {
    /// Finished signatures, verified: for L all, for a client those of its path.
    pub struct Signed {
        /// BIP-340, one for each session of the tree, in their order.
        pub signatures: Vec<[u8; 64]> => 0,
    }
}

tlv_struct! {
    /// L: every client has said stored; channels may be completed.
    pub struct AllStored {}
}

tlv_struct! {
    /// L: lightningd committed the channel with this client.
    pub struct ChannelCommitted {
        /// Index of the client whose channel it is, in leaf order.
        pub client: ClientIndex => 0,
        /// BOLT 2's `channel_id`.
        pub channel_id: ChannelId => 2,
    }
}

tlv_struct! {
    /// Client: lightningd's record of the channel is what the leaf pays (S18). L: a client said so.
    pub struct ChannelChecked {
        /// Index of the client whose channel it is, in leaf order.
        pub client: ClientIndex => 0,
        /// BOLT 2's `channel_id`.
        pub channel_id: ChannelId => 2,
    }
}

tlv_struct! {
    /// L: everything that S11 asks for is there; the funding may be broadcast after this.
    pub struct FundingReleased {
        /// Height of the last block that was handled then.
        pub height: Height => 0,
    }
}

tlv_struct! {
    /// A transaction of the factory, or one that spends what a transaction of it would, is in a block.
    pub struct Confirmed {
        /// Id of the transaction.
        pub txid: Txid => 0,
        /// Height of its block.
        pub height: Height => 2,
        /// Outpoints of the factory that it spends.
        pub spends: Vec<OutPoint> => 4,
        /// What its outputs are worth together, if it isn't one that we have ourselves and has no
        /// input but ours: for the account.
        pub pays: Option<Amount> => 6,
    }
}

tlv_struct! {
    /// Blocks above `height` left the chain.
    pub struct Reorged {
        /// Height of the last block that both chains have.
        pub height: Height => 0,
    }
}

tlv_struct! {
    /// This node publishes its path from now on.
    pub struct ExitStarted {
        /// Height of the last block that was handled then.
        pub height: Height => 0,
        /// Why, for people: a command, an HTLC, the timeout.
        pub reason: String => 2,
        /// Whose paths: a client's own; for L those of the clients whose channels it takes on chain.
        pub clients: Vec<ClientIndex> => 4,
    }
}

tlv_struct! {
    /// Creation failed, or the operator gave an attempt up.
    pub struct Aborted {
        /// What failed, for people.
        pub reason: String => 0,
        /// Height of the last block that was handled then: from here on it is kept for so many blocks (S28).
        pub height: Height => 2,
    }
}

tlv_struct! {
    /// Client: the operator's announced `open_channel` was accepted as zero-conf. Whatever channel it
    /// makes, nothing moves on it before it is checked (S18).
    pub struct OpenAccepted {
        /// Number of the attempt, from 1.
        pub attempt: u32 => 0,
    }
}

tlv_struct! {
    /// Nothing of this factory can matter any more (S12).
    pub struct Forgotten {
        /// Why nothing can come of it, for people.
        pub reason: String => 0,
    }
}

tlv_struct! {
    /// L: wallet inputs are reserved for an attempt. A restart gives them back.
    pub struct FundingReserved {
        /// Number of the attempt, from 1.
        pub attempt: u32 => 0,
        /// The funding transaction, unsigned; its inputs are those that are reserved.
        pub tx: Transaction => 2,
        /// What its inputs spend, in their order.
        pub prevouts: Vec<TxOut> => 4,
        /// Those of its inputs that are no coins of the wallet: funding outputs of factories that are all L's
        /// again, which it takes back (S38).
        pub reclaims: Option<Vec<ReclaimedInput>> => 5,
    }
}

tlv_struct! {
    /// L: these clients' paths are published from now on; their channels stay open (S21).
    pub struct EvictionStarted {
        /// Height of the last block that was handled then.
        pub height: Height => 0,
        /// Why, for people: a command, or the timeout that is near.
        pub reason: String => 2,
        /// Indices of the clients that are evicted, in leaf order.
        pub clients: Vec<ClientIndex> => 4,
    }
}

tlv_struct! {
    /// L: where its stock goes when it takes it.
    pub struct StockPayout {
        /// A script of this node's wallet.
        pub script: ScriptBuf => 0,
    }
}

tlv_struct! {
    /// lightningd is done with a channel whose leaf is on chain: everything of it is settled.
    pub struct ChannelResolved {
        /// Index of the client whose channel it is, in leaf order.
        pub client: ClientIndex => 0,
    }
}

tlv_struct! {
    /// lightningd closes, fails, splices or has forgotten a channel of this node's in the factory (S34).
    pub struct ChannelEnded {
        /// BOLT 2's `channel_id`: a leaf's channel or one that was bought.
        pub channel_id: ChannelId => 0,
        /// What was seen of it first.
        pub how: Ended => 2,
    }
}

tlv_struct! {
    /// This node's records are older than what its peers know of the factory: it was restored from a
    /// backup. From now on the factory is exit-only (S9).
    pub struct Restored {
        /// What showed that the records are old, for people.
        pub reason: String => 0,
    }
}

tlv_struct! {
    /// All that this node had is lost but for a copy of its records that somebody kept (S39). lightningd has none of
    /// the factory's channels any more, and the factory is exit-only from now on (S9). A client publishes nothing
    /// of its path: its leaf would be locked up with the operator, while the distribution pays it alone.
    pub struct Recovered {
        /// Where the copy came from, for people.
        pub reason: String => 0,
    }
}

tlv_enum! {
    /// A durable change of one factory. Numbers are never reused: a record outlives the version
    /// that wrote it.
    pub enum Event {
        /// L: `factory-create` was accepted.
        1 "created" => Created(Created),
        /// L: another attempt begins.
        2 "attempt_started" => AttemptStarted(AttemptStarted),
        /// Client: an invitation arrived, or the next attempt at one.
        3 "invited" => Invited(Invited),
        /// Client: the invitation was accepted.
        4 "accepted" => Accepted(Accepted),
        /// Client: the invitation was declined.
        5 "declined" => Declined(Declined),
        /// The transactions are fixed: partial signatures may leave.
        6 "signing" => Signing(Signing),
        /// Finished signatures are stored.
        7 "signed" => Signed(Signed),
        /// L: every client has stored its path.
        8 "all_stored" => AllStored(AllStored),
        /// L: lightningd committed a channel.
        9 "channel_committed" => ChannelCommitted(ChannelCommitted),
        /// A channel's funding script was checked.
        10 "channel_checked" => ChannelChecked(ChannelChecked),
        /// L: the funding may be broadcast.
        11 "funding_released" => FundingReleased(FundingReleased),
        /// A transaction that matters to the factory is in a block.
        12 "confirmed" => Confirmed(Confirmed),
        /// Blocks left the chain.
        13 "reorged" => Reorged(Reorged),
        /// This node publishes its path from now on.
        14 "exit_started" => ExitStarted(ExitStarted),
        /// Creation failed, or an attempt was given up.
        15 "aborted" => Aborted(Aborted),
        /// Nothing of the factory matters any more.
        16 "forgotten" => Forgotten(Forgotten),
        /// Client: an announced open was accepted.
        17 "open_accepted" => OpenAccepted(OpenAccepted),
        /// L: wallet inputs are reserved.
        18 "funding_reserved" => FundingReserved(FundingReserved),
        /// L: clients' paths are published from now on.
        19 "eviction_started" => EvictionStarted(EvictionStarted),
        /// L: the script that its stock goes to.
        20 "stock_payout" => StockPayout(StockPayout),
        /// lightningd is done with a channel.
        21 "channel_resolved" => ChannelResolved(ChannelResolved),
        /// lightningd ends a channel (S34).
        22 "channel_ended" => ChannelEnded(ChannelEnded),
        /// Client: its key may leave.
        23 "handed_over" => HandedOver(HandedOver),
        /// Client: L has stored its key.
        24 "handover_stored" => HandoverStored(HandoverStored),
        /// L: a client has handed its key over.
        25 "key_received" => KeyReceived(KeyReceived),
        /// L: a sale's channel is about to be completed.
        32 "sale_opening" => SaleOpening(SaleOpening),
        /// L: a sale ended before it was signed.
        33 "sale_dropped" => SaleDropped(SaleDropped),
        /// Buyer: a sale's open was accepted.
        34 "sale_open_accepted" => SaleOpenAccepted(SaleOpenAccepted),
        /// Partial signatures of a sale may leave.
        35 "sale_signing" => SaleSigning(SaleSigning),
        /// A sale's finished signatures are stored.
        36 "sale_signed" => SaleSigned(SaleSigned),
        /// L: every client has stored a sale.
        37 "sale_stored" => SaleStored(SaleStored),
        /// The node was restored from a backup.
        38 "restored" => Restored(Restored),
        /// lightningd is done with a sale's channel.
        39 "sale_resolved" => SaleResolved(SaleResolved),
        /// A sale's price may be paid.
        44 "sale_due" => SaleDue(SaleDue),
        /// What a `sale_due` announced was paid, or never will be.
        45 "sale_due_ended" => SaleDueEnded(SaleDueEnded),
        /// L: an ordinary channel is about to be opened in place of a sale.
        46 "sale_jit" => SaleJit(SaleJit),
        /// L: that channel could not be opened.
        47 "sale_jit_failed" => SaleJitFailed(SaleJitFailed),
        /// An ordinary channel was opened in place of a sale.
        48 "sale_jit_opened" => SaleJitOpened(SaleJitOpened),
        /// A sale that was signed for never will be finished.
        49 "sale_void" => SaleVoid(SaleVoid),
        /// Buyer: it takes an ordinary channel in place of a sale.
        50 "sale_jit_agreed" => SaleJitAgreed(SaleJitAgreed),
        /// Client: a balance is to go from one channel to another.
        51 "move_wanted" => MoveWanted(MoveWanted),
        /// Client: an HTLC of a move may leave.
        52 "move_started" => MoveStarted(MoveStarted),
        /// Client: an HTLC of a move has arrived, or never will.
        53 "move_ended" => MoveEnded(MoveEnded),
        /// Client: a move has come to its end.
        54 "move_over" => MoveOver(MoveOver),
        /// A partial signature of the cooperative close may leave.
        61 "close_signing" => CloseSigning(CloseSigning),
        /// The cooperative close is finished.
        62 "close_signed" => CloseSigned(CloseSigned),
        /// L: the cooperative close never will be finished.
        63 "close_given_up" => CloseGivenUp(CloseGivenUp),
        /// L: a ladder began this factory.
        67 "rung" => Rung(Rung),
        /// L: clients that are due were sent for.
        68 "woken" => Woken(Woken),
        /// Client: a person wants to leave the factory for an ordinary channel.
        70 "leave_wanted" => LeaveWanted(LeaveWanted),
        /// Client: nothing comes of that.
        71 "leave_over" => LeaveOver(LeaveOver),
        /// Client: L has opened the channel for it.
        72 "leave_opened" => LeaveOpened(LeaveOpened),
        /// L: a channel is about to be opened to a client that leaves.
        73 "leave_opening" => LeaveOpening(LeaveOpening),
        /// L: that was opened, or could not be.
        74 "leave_funded" => LeaveFunded(LeaveFunded),
        /// L: what a client has left behind for its place here.
        75 "renewal_paid" => RenewalPaid(RenewalPaid),
        /// Client: it has left another factory for this one.
        76 "renewed" => Renewed(Renewed),
        /// The records came from a copy, and the channels are lost.
        77 "recovered" => Recovered(Recovered),
    }
}

impl Event {
    /// Which kind of factory begins with it, or with its next attempt; of most nothing.
    #[expect(clippy::wildcard_enum_match_arm, reason = "of all others nothing")]
    pub(super) fn protocol(&self) -> Option<ProtocolId> {
        match self {
            Self::Created(created) => Some(created.protocol),
            Self::Invited(invited) => Some(invited.protocol),
            _ => None,
        }
    }

    /// What this node signs once the event is stored (S8); empty for all but three kinds.
    #[expect(clippy::wildcard_enum_match_arm, reason = "of all others nothing")]
    pub(crate) fn ledger(&self) -> &[LedgerEntry] {
        match self {
            Self::Signing(signing) => &signing.ledger,
            Self::SaleSigning(signing) => &signing.ledger,
            Self::CloseSigning(signing) => &signing.ledger,
            _ => &[],
        }
    }
}

impl Signing {
    /// The funding transaction that was proposed.
    pub fn funding_tx(&self) -> &Transaction {
        &self.proposal.funding_tx
    }
}
