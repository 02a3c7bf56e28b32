//! Why a tree can't be built from what it was given.

use std::fmt;

use crate::terms::ClientIndex;
use crate::tx::layout::{CoinIndex, SessionId};
use crate::tx::musig::MusigError;

/// What doesn't fit the layout. Each text says what to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TreeError {
    /// More or fewer members than capacities.
    WrongMemberCount {
        /// Members that were given.
        given: usize,
        /// Clients that the layout has: one member for each.
        expected: usize,
    },
    /// A client with L's or an earlier client's key (S5).
    DuplicateKey {
        /// The later of the two.
        client: ClientIndex,
    },
    /// A payout script that isn't P2WPKH, P2WSH or P2TR.
    Payout {
        /// Index of the client whose payout it is, in leaf order.
        client: ClientIndex,
    },
    /// The keys of a coin don't aggregate.
    Key {
        /// The coin whose keys they are.
        coin: CoinIndex,
        /// What BIP-327 key aggregation says.
        error: MusigError,
    },
    /// The layout has no such client.
    NoSuchClient {
        /// Index that was given: none of the layout's.
        client: ClientIndex,
    },
    /// The layout has no such coin.
    NoSuchCoin {
        /// Number that was given: none of the layout's.
        coin: CoinIndex,
    },
    /// The funding outpoint is that of a coinbase input.
    Funding,
    /// No channel script for a client of a leaf in scope.
    NoChannelScript {
        /// Index of the client whose channel it is, in leaf order.
        client: ClientIndex,
    },
    /// A channel script that isn't P2WSH.
    ChannelScript {
        /// Index of the client whose channel it is, in leaf order.
        client: ClientIndex,
    },
    /// The key of a coin that the party isn't a member of is missing.
    NoForeignKey {
        /// The coin whose output key is missing.
        coin: CoinIndex,
    },
    /// A key was given for a coin that needs none.
    UnexpectedForeignKey {
        /// The coin whose output key was given.
        coin: CoinIndex,
    },
    /// No BIP-341 signature hash could be made for a session.
    Sighash {
        /// The session whose hash can't be made.
        session: SessionId,
    },
    /// The transcript lacks a session's aggregate nonce.
    NoNonce {
        /// The session whose aggregate nonce is missing.
        session: SessionId,
    },
    /// The transcript lacks the hash of a coin that the party isn't a member of.
    NoForeignHash {
        /// The coin whose transcript hash is missing.
        coin: CoinIndex,
    },
}

impl fmt::Display for TreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongMemberCount { given, expected } => {
                write!(f, "{given} members for {expected} channels: one for each is needed")
            }
            Self::DuplicateKey { client } => {
                write!(f, "client {client} uses the key of another member: it must derive its own")
            }
            Self::Payout { client } => {
                write!(f, "client {client}'s payout script must be P2WPKH, P2WSH or P2TR")
            }
            Self::Key { coin, error } => write!(f, "coin {coin}: {error}"),
            Self::NoSuchClient { client } => {
                write!(f, "the factory has no client {client}: clients count from 0")
            }
            Self::NoSuchCoin { coin } => {
                write!(f, "the factory has no coin {coin}: coins count from 0")
            }
            Self::Funding => write!(f, "the funding outpoint is empty: give txid and output"),
            Self::NoChannelScript { client } => {
                write!(f, "client {client}'s channel script is missing: open its channel first")
            }
            Self::ChannelScript { client } => {
                write!(f, "client {client}'s channel script is not P2WSH: use a plain 2-of-2 channel")
            }
            Self::NoForeignKey { coin } => {
                write!(f, "the output key of coin {coin} is missing: ask L for it")
            }
            Self::UnexpectedForeignKey { coin } => {
                write!(f, "a key was given for coin {coin}, which is ours or not next to our path: omit it")
            }
            Self::Sighash { session } => write!(
                f,
                "no signature hash for coin {} ({}): its transaction has no input",
                session.coin,
                session.role.name()
            ),
            Self::NoNonce { session } => write!(
                f,
                "the aggregate nonce of coin {} ({}) is missing: ask L for it",
                session.coin,
                session.role.name()
            ),
            Self::NoForeignHash { coin } => {
                write!(f, "the transcript hash of coin {coin} is missing: ask L for it")
            }
        }
    }
}

impl std::error::Error for TreeError {}
