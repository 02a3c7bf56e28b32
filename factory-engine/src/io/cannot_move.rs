//! Why a balance can't go from one channel to another.

use std::fmt;

use crate::record::unusable::Unusable;
use crate::types::{ChannelId, Height, NodeId};

/// What says how much one HTLC of a move carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MoveLimit {
    /// It is all that was asked for, or the rest of it.
    Asked,
    /// What can be sent over the channel that it leaves.
    Spendable,
    /// What can be received over the channel that it goes to.
    Receivable,
    /// The largest HTLC that one of the channels takes.
    HtlcMaximum,
    /// In the channel that it leaves the operator has too little for a larger commitment transaction.
    CommitmentFee,
}

impl MoveLimit {
    /// Its name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Spendable => "spendable",
            Self::Receivable => "receivable",
            Self::HtlcMaximum => "htlc_maximum",
            Self::CommitmentFee => "commitment_fee",
        }
    }
}

impl fmt::Display for MoveLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Asked => "it was not asked for more",
            Self::Spendable => "the channel that it leaves can't send more",
            Self::Receivable => "the channel that it goes to can't receive more",
            Self::HtlcMaximum => "no larger HTLC may stand on one of the channels",
            Self::CommitmentFee => {
                "the operator has too little in the channel that it leaves to pay for a larger commitment \
                 transaction"
            }
        })
    }
}

/// Why a balance can't go from one channel to another. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CannotMove {
    /// It is the same channel.
    SameChannel(ChannelId),
    /// This node has no such channel, or not yet.
    NoSuchChannel(ChannelId),
    /// The channels are with two peers.
    TwoPeers {
        /// The peer of the channel that it would leave.
        from: NodeId,
        /// The peer of the channel that it would go to.
        to: NodeId,
    },
    /// The channels' peer is the operator of no factory that this node is a client of and that lives.
    NoOperator(NodeId),
    /// lightningd opens the channel, or ends it.
    NotLive(ChannelId),
    /// The channel stands on nothing that is known to be safe: it is no factory's, and not on chain.
    Unconfirmed(ChannelId),
    /// What the channel stands on could still leave the chain, and all that has moved with it
    /// (`factory-handover-depth`).
    TooYoung {
        /// That channel.
        channel_id: ChannelId,
        /// Height at which it is deep enough, if nothing is reorganised.
        until: Height,
    },
    /// The channel is a factory's and can't be used.
    Unusable(ChannelId, Unusable),
    /// The key of the channel's factory was handed over.
    HandedOver(ChannelId),
    /// Another move between this node and the operator isn't done.
    UnderWay {
        /// The channel that it leaves.
        from: ChannelId,
        /// The channel that it goes to.
        to: ChannelId,
    },
    /// Nothing in the channel can go.
    Nothing {
        /// This node's balance there, msat.
        to_us_msat: u64,
        /// What of it has to stay, msat.
        reserve_msat: u64,
    },
    /// The channel that it would go to can't take anything.
    Full {
        /// That channel.
        channel_id: ChannelId,
        /// What it can receive, msat.
        receivable_msat: u64,
    },
    /// So much can't go.
    TooMuch {
        /// What was asked for, msat.
        asked_msat: u64,
        /// The most that can go now, msat.
        most_msat: u64,
        /// What is in the way of more.
        limit: MoveLimit,
    },
    /// So little can't go.
    TooLittle {
        /// What was asked for, msat.
        asked_msat: u64,
        /// The smallest HTLC that both channels take, msat.
        least_msat: u64,
    },
    /// An HTLC would last longer than it may on one of the channels (S15).
    TooLate {
        /// That channel.
        channel_id: ChannelId,
        /// Height until which it would last.
        cltv_expiry: Height,
        /// Height after which nothing may stand there.
        safe_end: Height,
    },
}

impl fmt::Display for CannotMove {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SameChannel(channel) => write!(f, "from and to are the same channel, {channel}"),
            Self::NoSuchChannel(channel) => write!(f, "this node has no channel {channel}"),
            Self::TwoPeers { from, to } => write!(
                f,
                "the channels are with two nodes, {from} and {to}: a balance moves between channels with one \
                 operator"
            ),
            Self::NoOperator(peer) => {
                write!(f, "the channels' peer {peer} is not the operator of a factory that this node is in")
            }
            Self::NotLive(channel) => write!(f, "channel {channel} carries no payments"),
            Self::Unconfirmed(channel) => {
                write!(f, "channel {channel} is no factory's, and its funding is not on chain")
            }
            Self::Unusable(channel, why) => write!(f, "channel {channel} can't be used: {why}"),
            Self::HandedOver(channel) => {
                write!(f, "the key of channel {channel}'s factory was handed over: nothing moves there")
            }
            Self::UnderWay { from, to } => {
                write!(f, "another move, from channel {from} to {to}, is under way")
            }
            Self::Nothing { to_us_msat, reserve_msat } => write!(
                f,
                "nothing can go: the balance there is {to_us_msat} msat, and {reserve_msat} msat have to stay"
            ),
            Self::Full { channel_id, receivable_msat } => {
                write!(f, "channel {channel_id} can receive {receivable_msat} msat, too little for an HTLC")
            }
            Self::TooMuch { asked_msat, most_msat, limit } => {
                write!(f, "{asked_msat} msat are too much, at most {most_msat} msat can go: {limit}")
            }
            Self::TooLittle { asked_msat, least_msat } => {
                write!(f, "{asked_msat} msat are too little: the smallest HTLC is {least_msat} msat")
            }
            Self::TooYoung { channel_id, until } => write!(
                f,
                "the funding of channel {channel_id} is not as deep as factory-handover-depth asks for before \
                 block {until}: a reorganisation could take what has moved there"
            ),
            Self::TooLate { channel_id, cltv_expiry, safe_end } => write!(
                f,
                "it is too late: an HTLC would last until block {cltv_expiry}, and on channel {channel_id} \
                 nothing may stand after block {safe_end}"
            ),
        }
    }
}

impl std::error::Error for CannotMove {}
