//! A member's secret key on its way to L (S22): sealed for L's key of the same factory, so that whoever else
//! sees the message, or the record that L keeps of it, has nothing.
//!
//! A shared secret with a key of one use (ECDH on secp256k1), from which HMAC-SHA256 makes a pad for the 32 bytes.
//! The pad is used once, and what comes out is checked against the public key that everybody knows: so nothing
//! else authenticates it, and a message that was changed is found out like one with a wrong key.

use bitcoin::hashes::{Hash, HashEngine, Hmac, HmacEngine, sha256};
use secp_musig::{Keypair, ecdh};
use zeroize::Zeroizing;

use super::common::{PAD_LABEL, SealedKey};
use super::{FactoryKey, MusigError, PublicKey, to_library};

/// Seals `key` for `receiver`, in `context`. `seed` is 32 fresh random bytes that are used for nothing else.
///
/// # Errors
/// When the seed is no scalar: one in 2^128; another one is.
pub fn seal(
    key: &FactoryKey,
    receiver: PublicKey,
    context: &[&[u8]],
    seed: [u8; 32],
) -> Result<SealedKey, MusigError> {
    let seed = Zeroizing::new(seed);
    let once = FactoryKey::from_secret(&seed).ok_or(MusigError::BadSeal)?;
    let ephemeral = once.public();
    let pad = pad(&once.pair, receiver, ephemeral, context)?;
    let secret = Zeroizing::new(key.pair.to_secret_bytes());
    Ok(SealedKey { ephemeral, sealed: xor(&secret, &pad) })
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
    let pad = pad(&receiver.pair, sealed.ephemeral, sealed.ephemeral, context)?;
    let secret = Zeroizing::new(xor(&sealed.sealed, &pad));
    FactoryKey::from_secret(&secret).filter(|key| key.public() == member).ok_or(MusigError::BadSeal)
}

/// What two keys have in common, and nobody else.
fn pad(
    ours: &Keypair,
    theirs: PublicKey,
    ephemeral: PublicKey,
    context: &[&[u8]],
) -> Result<Zeroizing<[u8; 32]>, MusigError> {
    let mut secret = ours.secret_key();
    let shared = ecdh::SharedSecret::new(&to_library(&theirs)?, &secret);
    secret.non_secure_erase();
    let mut engine = HmacEngine::<sha256::Hash>::new(&Zeroizing::new(shared.to_secret_bytes())[..]);
    engine.input(PAD_LABEL);
    engine.input(&ephemeral.serialize());
    context.iter().for_each(|part| engine.input(part));
    Ok(Zeroizing::new(Hmac::from_engine(engine).to_byte_array()))
}

fn xor(bytes: &[u8; 32], pad: &[u8; 32]) -> [u8; 32] {
    std::array::from_fn(|at| bytes[at] ^ pad[at])
}
