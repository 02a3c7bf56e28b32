//! A member's secret key on its way to L, in the model.

use super::common::{PAD_LABEL, SealedKey};
use super::group::{PublicKey, hash};
use super::{FactoryKey, MusigError, Scalar, scalar_of};

/// Seals `key` for `receiver`, in `context`.
///
/// # Errors
/// None here.
pub fn seal(
    key: &FactoryKey,
    receiver: PublicKey,
    context: &[&[u8]],
    seed: [u8; 32],
) -> Result<SealedKey, MusigError> {
    let once = FactoryKey::from_secret(&seed);
    let pad = pad(receiver.times(once.secret), once.public, context);
    let mut sealed = [0; 32];
    sealed[16..].copy_from_slice(&(key.secret ^ pad).to_be_bytes());
    Ok(SealedKey { ephemeral: once.public, sealed })
}

/// The key that was sealed for this one, in the same context, if it is that of `member`.
///
/// # Errors
/// When it is another key, or none.
pub fn open(
    sealed: &SealedKey,
    receiver: &FactoryKey,
    context: &[&[u8]],
    member: PublicKey,
) -> Result<FactoryKey, MusigError> {
    let pad = pad(sealed.ephemeral.times(receiver.secret), sealed.ephemeral, context);
    let secret = scalar_of(&sealed.sealed).ok_or(MusigError::BadSeal)? ^ pad;
    let key = FactoryKey { secret, public: PublicKey::of(secret) };
    if key.public == member { Ok(key) } else { Err(MusigError::BadSeal) }
}

fn pad(shared: PublicKey, ephemeral: PublicKey, context: &[&[u8]]) -> Scalar {
    let (shared, ephemeral) = (shared.serialize(), ephemeral.serialize());
    let parts = [&[PAD_LABEL, &shared, &ephemeral], context].concat();
    hash(&parts)
}
