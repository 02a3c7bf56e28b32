//! L with the keys of everybody: a coin whose clients have all handed theirs over is L's alone (S22, S38).

use crate::tx::musig::{CheckedNonce, FactoryKey, KeyAgg, MusigError, Round, SecNonce, new_checked_nonce};

/// A signature of the coin's key by all of its keys, verified (S4). `seed` gives 32 fresh random bytes each time. The nonces are made for it and gone
/// afterwards (S1, S2): it may be made again, over another transaction of the same coin.
///
/// # Errors
/// When a key is missing, or isn't one of the coin's.
pub fn sign_with_all(
    keys: &[FactoryKey],
    agg: &KeyAgg,
    sighash: &[u8; 32],
    mut seed: impl FnMut() -> [u8; 32],
) -> Result<[u8; 64], MusigError> {
    let (secret, public): (Vec<SecNonce>, Vec<CheckedNonce>) =
        keys.iter().map(|key| new_checked_nonce(seed(), key)).unzip();
    let (_, round) = Round::start(agg, &public, sighash)?;
    let sign = |(key, nonce)| round.sign(key, nonce, agg);
    let partials = keys.iter().zip(secret).map(sign).collect::<Result<Vec<_>, _>>()?;
    round.finish(agg, &partials)
}
