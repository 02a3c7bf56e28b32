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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use super::*;

    fn key(number: u8) -> FactoryKey {
        FactoryKey::from_secret(&[number; 32]).unwrap()
    }

    const CONTEXT: [&[u8]; 3] = [&[1; 32], &[0, 0, 0, 1], &[0, 0, 0, 2]];

    // S22
    #[test]
    fn only_the_receiver_opens_it_and_only_as_what_it_is() {
        let (member, lsp, other) = (key(3), key(4), key(5));
        let sealed = seal(&member, lsp.public(), &CONTEXT, [7; 32]).unwrap();
        let opened = open(&sealed, &lsp, &CONTEXT, member.public()).unwrap();
        assert_eq!(opened.pair.to_secret_bytes(), member.pair.to_secret_bytes());
        let refused = |result: Result<FactoryKey, MusigError>| result.err() == Some(MusigError::BadSeal);
        assert!(refused(open(&sealed, &other, &CONTEXT, member.public())), "another receiver");
        assert!(refused(open(&sealed, &member, &CONTEXT, member.public())), "its own sender");
        assert!(refused(open(&sealed, &lsp, &CONTEXT, other.public())), "another member's");
        for place in 0..CONTEXT.len() {
            let mut context = CONTEXT;
            context[place] = &[9; 4];
            assert!(refused(open(&sealed, &lsp, &context, member.public())), "context {place}");
        }
        for bit in 0..256 {
            let mut changed = sealed;
            changed.sealed[bit / 8] ^= 1 << (bit % 8);
            assert!(refused(open(&changed, &lsp, &CONTEXT, member.public())), "bit {bit}");
        }
        let changed = SealedKey { ephemeral: other.public(), ..sealed };
        assert!(refused(open(&changed, &lsp, &CONTEXT, member.public())));
    }

    /// A pad is used once: another seed, another receiver or another context make another.
    #[test]
    fn no_two_seals_are_alike() {
        let (member, lsp) = (key(3), key(4));
        let sealed = |receiver: &FactoryKey, context: &[&[u8]], seed| {
            let sealed = seal(&member, receiver.public(), context, [seed; 32]).unwrap();
            assert_ne!(sealed.sealed, member.pair.to_secret_bytes());
            sealed.sealed
        };
        let all = [
            sealed(&lsp, &CONTEXT, 7),
            sealed(&lsp, &CONTEXT, 8),
            sealed(&key(5), &CONTEXT, 7),
            sealed(&lsp, &CONTEXT[..2], 7),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(!all[..at].contains(one), "{at}");
        }
        assert!(seal(&member, lsp.public(), &CONTEXT, [0; 32]).is_err(), "no scalar");
    }
}
