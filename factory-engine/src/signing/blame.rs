//! Whose partial signature is bad (S4). Only when a finished one is: while all are honest it costs nothing.

use crate::terms::ClientIndex;
use crate::tx::musig::{CheckedNonce, KeyAgg, PartialSig, PublicKey, Round};

/// One client's part in a session.
pub(crate) struct Evidence<'a> {
    pub(crate) client: ClientIndex,
    pub(crate) key: PublicKey,
    pub(crate) nonce: &'a CheckedNonce,
    pub(crate) partial: &'a PartialSig,
}

/// The first client whose part doesn't fit its key and its nonce.
pub(crate) fn culprit<'a>(
    agg: &KeyAgg,
    round: &Round,
    parts: impl IntoIterator<Item = Evidence<'a>>,
) -> Option<ClientIndex> {
    let bad =
        |part: &Evidence<'_>| round.verify(agg, part.key, &part.nonce.serialize(), part.partial).is_err();
    parts.into_iter().find(bad).map(|part| part.client)
}
