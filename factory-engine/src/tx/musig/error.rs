//! What goes wrong in a signing session.

use std::fmt;

use super::PublicKey;

/// What is wrong with a key, a nonce or a signature. Indices count from 0 in the order in which the
/// caller handed the values over, so that the culprit has a name (S4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MusigError {
    /// No key was given to aggregate.
    NoKeys,
    /// The same key twice (S5).
    DuplicateKey(PublicKey),
    /// The aggregate key is the point at infinity: possible only if members chose keys to this end.
    KeyAtInfinity,
    /// No public nonce was given to aggregate.
    NoNonces,
    /// This public nonce isn't two curve points.
    BadNonce {
        /// Its place among those given.
        index: usize,
    },
    /// The aggregate nonce isn't two curve points.
    BadAggNonce,
    /// This partial signature isn't a scalar.
    BadScalar {
        /// Its place among those given.
        index: usize,
    },
    /// As many partial signatures as keys are needed.
    WrongCount {
        /// Keys in the aggregate: one partial signature is needed for each.
        keys: usize,
        /// Partial signatures that were given.
        partials: usize,
    },
    /// The signer's key isn't part of the aggregate key.
    NotAMember,
    /// The nonce was made for another key.
    NonceOfAnotherKey,
    /// This partial signature isn't valid for its signer's key and nonce.
    BadPartial,
    /// The finished signature isn't valid: check the partial signatures one by one.
    BadSignature,
    /// What was sealed is not this member's key.
    BadSeal,
}

impl fmt::Display for MusigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoKeys => write!(f, "no keys to aggregate: a coin has at least L and one client"),
            Self::DuplicateKey(key) => {
                write!(f, "member key {key} appears twice: every member needs a key of its own")
            }
            Self::KeyAtInfinity => {
                write!(f, "the member keys cancel each other out: start again with fresh keys")
            }
            Self::NoNonces => write!(f, "no public nonces to aggregate: every signer sends one"),
            Self::BadNonce { index } => {
                write!(f, "public nonce {index} is not two points of the curve: ask its signer for another")
            }
            Self::BadAggNonce => {
                write!(f, "the aggregate nonce is not two points of the curve: aggregate again")
            }
            Self::BadScalar { index } => {
                write!(f, "partial signature {index} is not below the group order: its signer is at fault")
            }
            Self::WrongCount { keys, partials } => {
                write!(f, "{partials} partial signatures for {keys} keys: exactly one for each key is needed")
            }
            Self::NotAMember => {
                write!(f, "the signer's key is not one of the keys that were aggregated")
            }
            Self::NonceOfAnotherKey => {
                write!(f, "the secret nonce was made for another key: make a fresh one")
            }
            Self::BadPartial => {
                write!(f, "the partial signature does not fit its signer's key, nonce and this transaction")
            }
            Self::BadSignature => {
                write!(f, "the finished signature is invalid: check the partial signatures one by one")
            }
            Self::BadSeal => write!(f, "what was sealed is not the secret of this member's key"),
        }
    }
}

impl std::error::Error for MusigError {}
