//! What is wrong with what a member sent, and with a signing as a whole.

use std::fmt;

use crate::terms::ClientIndex;
use crate::tx::layout::SessionId;
use crate::tx::musig::MusigError;

/// Why a member's nonces are not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BadNonces {
    /// They are not as many as it has sessions.
    Count {
        /// Nonces that the member sent.
        given: usize,
        /// Sessions that it signs: one nonce for each.
        expected: usize,
    },
    /// One isn't two points of the curve.
    Nonce(MusigError),
}

impl fmt::Display for BadNonces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count { given, expected } => {
                write!(f, "{given} nonces where {expected} transactions are to be signed")
            }
            Self::Nonce(error) => error.fmt(f),
        }
    }
}

/// Why a member's partial signatures are not taken. Whether that is its fault the use knows: it knows what
/// a late message looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// L has not proposed anything to sign yet.
    NotNow,
    /// It has sent the same partial signatures before.
    Repeated,
    /// It has sent other partial signatures before.
    Differs,
    /// It signed something else than everybody else (S6).
    Transcript,
    /// They are not as many as it has sessions.
    Count {
        /// Partial signatures that the member sent.
        given: usize,
        /// Sessions that it signs: one partial signature for each.
        expected: usize,
    },
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotNow => f.write_str("no partial signatures are expected now"),
            Self::Repeated => f.write_str("its partial signatures are here already"),
            Self::Differs => f.write_str("a second set of partial signatures that differs from the first"),
            Self::Transcript => f.write_str("its transcript hash differs from ours"),
            Self::Count { given, expected } => {
                write!(f, "{given} partial signatures where {expected} were asked for")
            }
        }
    }
}

/// Why everybody's partial signatures make no finished signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// L could not sign itself.
    NotSigned,
    /// This client's partial signature of this session is bad (S4).
    Culprit {
        /// Index of the client at fault, in leaf order.
        client: ClientIndex,
        /// The session that its partial signature is bad for.
        session: SessionId,
    },
    /// Every part is good, and the whole is not.
    Nobody(MusigError),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSigned => f.write_str("a session lost its key or nonce"),
            Self::Culprit { client, session } => {
                write!(f, "client {client} sent a bad partial signature for {session}")
            }
            Self::Nobody(error) => {
                write!(f, "a signature doesn't verify although every part does: {error}")
            }
        }
    }
}

/// Why finished signatures that L sent are not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfinished {
    /// They are not as many as there are sessions.
    Count {
        /// Signatures that L sent.
        given: usize,
        /// Sessions: one signature for each.
        expected: usize,
    },
    /// The signature of this session doesn't verify.
    Invalid(SessionId),
}
