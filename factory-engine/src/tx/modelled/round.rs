//! One message being signed.

use super::group::{Scalar, challenge, hash, scalar_of};
use super::{
    AggNonce, CheckedNonce, FactoryKey, KeyAgg, MusigError, PartialSig, PubNonce, PublicKey, SecNonce,
    finished, pair, unpair, verify_alone,
};

/// A message under a key and an aggregate nonce.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// The signature's R (BIP-340).
    nonce: PublicKey,
    /// What binds the second nonces to the message.
    b: Scalar,
    e: Scalar,
    sighash: [u8; 32],
}

impl Round {
    /// For an aggregate nonce that somebody else summed.
    pub fn new(agg: &KeyAgg, nonces: &AggNonce, sighash: &[u8; 32]) -> Result<Self, MusigError> {
        let (first, second) = pair(&nonces.0).ok_or(MusigError::BadAggNonce)?;
        let b = hash(&[&nonces.0, &agg.output.serialize(), sighash]);
        let nonce = first.plus(second.times(b));
        Ok(Self { nonce, b, e: challenge(nonce, agg.output, sighash), sighash: *sighash })
    }

    /// Sums the signers' nonces, too.
    pub fn start<'a>(
        agg: &KeyAgg,
        nonces: impl IntoIterator<Item = &'a CheckedNonce>,
        sighash: &[u8; 32],
    ) -> Result<(AggNonce, Self), MusigError> {
        let sum = nonces
            .into_iter()
            .map(|nonce| nonce.0)
            .reduce(|sum, nonce| (sum.0.plus(nonce.0), sum.1.plus(nonce.1)))
            .ok_or(MusigError::NoNonces)?;
        let sum = AggNonce(unpair(sum));
        Ok((sum, Self::new(agg, &sum, sighash)?))
    }

    /// A partial signature, by a nonce that is gone afterwards, also after an error (S1, S2).
    pub fn sign(&self, key: &FactoryKey, nonce: SecNonce, agg: &KeyAgg) -> Result<PartialSig, MusigError> {
        if nonce.owner != key.public {
            return Err(MusigError::NonceOfAnotherKey);
        }
        let factor = self.e.wrapping_mul(agg.coefficient(key.public)?);
        let (first, second) = nonce.secrets;
        let s = first.wrapping_add(self.b.wrapping_mul(second)).wrapping_add(factor.wrapping_mul(key.secret));
        let mut bytes = [0; 32];
        bytes[16..].copy_from_slice(&s.to_be_bytes());
        Ok(PartialSig(bytes))
    }

    /// Checks one signer's partial signature.
    pub fn verify(
        &self,
        agg: &KeyAgg,
        signer: PublicKey,
        signer_nonce: &PubNonce,
        sig: &PartialSig,
    ) -> Result<(), MusigError> {
        let s = scalar_of(&sig.0).ok_or(MusigError::BadScalar { index: 0 })?;
        let CheckedNonce((first, second)) = signer_nonce.parse(0)?;
        let factor = self.e.wrapping_mul(agg.coefficient(signer)?);
        let expected = first.plus(second.times(self.b)).plus(signer.times(factor));
        if PublicKey::of(s) == expected { Ok(()) } else { Err(MusigError::BadPartial) }
    }

    /// The finished signature, verified (S4); partial signatures in any order.
    pub fn finish<'a>(
        &self,
        agg: &KeyAgg,
        partials: impl IntoIterator<Item = &'a PartialSig>,
    ) -> Result<[u8; 64], MusigError> {
        let (mut s, mut count) = (self.e.wrapping_mul(agg.tweak), 0);
        for (index, partial) in partials.into_iter().enumerate() {
            s = s.wrapping_add(scalar_of(&partial.0).ok_or(MusigError::BadScalar { index })?);
            count = index.saturating_add(1);
        }
        if count != agg.signers() {
            return Err(MusigError::WrongCount { keys: agg.signers(), partials: count });
        }
        let signature = finished(self.nonce, s);
        let valid = verify_alone(&signature, &self.sighash, &agg.output);
        if valid { Ok(signature) } else { Err(MusigError::BadSignature) }
    }
}
