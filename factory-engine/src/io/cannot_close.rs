//! Why a factory can't be closed by all together.

use std::fmt;

use crate::record::state::State;
use crate::tx::close::CloseError;
use crate::types::{ChannelId, NodeId};

/// Why a factory can't be closed by all together now. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CannotClose {
    /// This node is a client.
    Client,
    /// This node came back from an older copy: nothing is signed any more (S9).
    Restored(String),
    /// The factory's state doesn't allow it.
    State(State),
    /// Part of the tree is on chain, or on its way there (S24).
    Leaving,
    /// Everybody has handed over: the operator takes it back alone.
    AllHandedOver,
    /// A purchase, its payment or credit is open (S36).
    Sale,
    /// A client's balance moves over a channel of the factory.
    Move(ChannelId),
    /// A close is under way.
    UnderWay,
    /// One was signed for and given up, and there never is another (S8).
    GivenUp(String),
    /// These have to sign, and are not connected.
    Away(Vec<NodeId>),
    /// lightningd doesn't show this channel as one that carries payments: what it holds isn't known.
    NotLive(ChannelId),
    /// An HTLC stands on this channel.
    Htlc(ChannelId),
    /// No transaction pays everybody.
    Outputs(CloseError),
}

impl fmt::Display for CannotClose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client => f.write_str("only the operator closes a factory"),
            Self::Restored(why) => write!(f, "nothing is signed in this factory any more: {why}"),
            Self::State(state) => write!(f, "the factory is {state}"),
            Self::Leaving => f.write_str("part of the tree is on chain, or on its way there"),
            Self::AllHandedOver => {
                f.write_str("everybody has handed over: this node takes the factory back alone")
            }
            Self::Sale => f.write_str("a purchase, its payment or credit is open"),
            Self::Move(channel) => write!(f, "a client's balance moves over channel {channel}"),
            Self::UnderWay => f.write_str("its close is under way"),
            Self::GivenUp(why) => {
                write!(f, "its close was signed for and given up ({why}), and there never is another")
            }
            Self::Away(nodes) => {
                let names: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
                write!(f, "everybody has to sign, and these are not connected: {}", names.join(", "))
            }
            Self::NotLive(channel) => {
                write!(f, "lightningd doesn't show channel {channel} as one that carries payments")
            }
            Self::Htlc(channel) => write!(f, "an HTLC stands on channel {channel}"),
            Self::Outputs(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for CannotClose {}
