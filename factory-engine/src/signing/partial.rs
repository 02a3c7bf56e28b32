//! This node's own partial signatures.

use std::fmt;

use crate::signing::Plan;
use crate::tx::layout::SessionId;
use crate::tx::musig::{FactoryKey, MusigError, PartialSig, Round, SecNonce};

/// Signs every session of a plan; the nonces are gone afterwards, whatever comes of it (S1, S2).
pub(crate) fn sign_all(
    plan: &Plan,
    key: &FactoryKey,
    nonces: Vec<SecNonce>,
    rounds: &[Round],
) -> Result<Vec<PartialSig>, SignError> {
    if nonces.len() != plan.sessions() || rounds.len() != plan.sessions() {
        return Err(SignError::Count);
    }
    plan.parts()
        .iter()
        .zip(nonces)
        .zip(rounds)
        .map(|((part, nonce), round)| {
            let agg = plan.key(part).map_err(|_| SignError::NotAMember(part.entry.session))?;
            round.sign(key, nonce, agg).map_err(SignError::Musig)
        })
        .collect()
}

/// Why this node could not sign.
#[derive(Debug)]
pub enum SignError {
    /// Nonces are not as many as sessions: those of another plan, or they are used up.
    Count,
    /// This node has no key in a session's coin.
    NotAMember(SessionId),
    /// MuSig2 refused the key, the nonce or the aggregate nonce.
    Musig(MusigError),
}

impl fmt::Display for SignError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count => f.write_str("there are not as many nonces as transactions"),
            Self::NotAMember(id) => write!(f, "this node is no member of coin {}", id.coin),
            Self::Musig(error) => error.fmt(f),
        }
    }
}
