//! Why a channel of a factory can't be used, and why nothing can be signed beside it.

use std::fmt;

use crate::record::ended::Ended;
use crate::record::state::State;

/// Why no HTLC may move on a channel of a factory (S18).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unusable {
    /// Its funding script was not compared with the node's own record of it.
    NotChecked,
    /// This node takes it on chain.
    Leaving,
    /// lightningd has ended it (S34).
    Ended(Ended),
    /// Its client has handed its key over, or is about to: the operator has all of it (S22).
    HandedOver,
    /// What it holds is about to be paid by a cooperative close, or may be.
    Closing,
    /// The factory's funding is not as deep as the terms say.
    NotDeep {
        /// Confirmations that the terms ask for.
        confirmations: u16,
    },
    /// The factory's state doesn't allow it.
    State(State),
    /// It is of an attempt that was given up.
    GivenUp,
    /// It was sold, and the sale is not signed yet.
    NotSigned,
    /// Some of the factory's records are not understood (S33).
    Damaged,
    /// It was sold, and the leaf that the sale stands on is on chain: the sale follows.
    SaleUnconfirmed,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotChecked => f.write_str("its funding script has not been checked"),
            Self::Leaving => f.write_str("it is being taken on chain"),
            Self::Ended(how) => how.fmt(f),
            Self::HandedOver => f.write_str("its client hands over what it had in this factory"),
            Self::Closing => f.write_str("the factory is closed: what the channel holds is paid on chain"),
            Self::NotDeep { confirmations } => {
                write!(f, "the factory's funding has not {confirmations} confirmations yet")
            }
            Self::State(state) => write!(f, "the factory is {state}"),
            Self::GivenUp => f.write_str("it is of an attempt that was given up"),
            Self::Damaged => f.write_str("some of its records are not understood: it is out of use"),
            Self::NotSigned => f.write_str("its sale is not signed yet"),
            Self::SaleUnconfirmed => f.write_str("its sale is on its way to the chain"),
        }
    }
}

impl std::error::Error for Unusable {}

/// Why nothing may be signed for a sub-factory (S9, S24).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotCooperative {
    /// Some of the factory's records are not understood, and why (S33).
    Damaged(String),
    /// This node was restored from a backup, as this shows: the factory is exit-only.
    Restored(String),
    /// A channel of the sub-factory is being taken on chain.
    Leaving,
    /// A client of the sub-factory has handed its key over: the operator alone signs for it (S22).
    HandedOver,
    /// The sub-factory's leaf is on chain.
    OnChain,
    /// The factory's state doesn't allow it.
    State(State),
    /// This client's own channel can't be used.
    Channel(Unusable),
}

impl fmt::Display for NotCooperative {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged(reason) => write!(f, "this factory is out of use: {reason}"),
            Self::Restored(reason) => write!(f, "this factory is exit-only here: {reason}"),
            Self::Leaving => f.write_str("a channel of this sub-factory is being taken on chain"),
            Self::HandedOver => {
                f.write_str("a client of this sub-factory has left it: nothing is signed there any more")
            }
            Self::OnChain => {
                f.write_str("this sub-factory's leaf is on chain: nothing is signed in it any more")
            }
            Self::State(state) => write!(f, "the factory is {state}: only an active one sells"),
            Self::Channel(why) => write!(f, "the channel of this factory is not usable: {why}"),
        }
    }
}

impl std::error::Error for NotCooperative {}
