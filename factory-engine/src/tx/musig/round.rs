//! One message being signed: what its signing, verification and aggregation have in common is worked
//! out once.

use secp_musig::musig;
use secp256k1::PublicKey;

use super::{
    AggNonce, CheckedNonce, FactoryKey, KeyAgg, MusigError, PartialSig, PubNonce, SecNonce, to_library,
};

/// A message under a key and an aggregate nonce. Its methods take the same [`KeyAgg`] as it was made
/// with: with another, they make and accept nothing that is valid.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    session: musig::Session,
    sighash: [u8; 32],
}

impl Round {
    /// For an aggregate nonce that somebody else summed.
    pub fn new(agg: &KeyAgg, nonces: &AggNonce, sighash: &[u8; 32]) -> Result<Self, MusigError> {
        let sum = musig::AggregatedNonce::from_byte_array(&nonces.0).map_err(|_| MusigError::BadAggNonce)?;
        Ok(Self { session: musig::Session::new(&agg.cache, sum, sighash), sighash: *sighash })
    }

    /// Sums the signers' nonces, too.
    pub fn start<'a>(
        agg: &KeyAgg,
        nonces: impl IntoIterator<Item = &'a CheckedNonce>,
        sighash: &[u8; 32],
    ) -> Result<(AggNonce, Self), MusigError> {
        let sum = sum(&nonces.into_iter().map(|nonce| &nonce.0).collect::<Vec<_>>())?;
        let wire = AggNonce(sum.serialize());
        Ok((wire, Self { session: musig::Session::new(&agg.cache, sum, sighash), sighash: *sighash }))
    }

    /// A partial signature, by a nonce that is gone afterwards, also after an error (S1, S2). It isn't
    /// verified: the finished signature is (S4).
    pub fn sign(&self, key: &FactoryKey, nonce: SecNonce, agg: &KeyAgg) -> Result<PartialSig, MusigError> {
        // The library wipes a nonce to zeros and aborts the process when it meets such a one.
        if nonce.owner != key.public || nonce.secret.iter().all(|byte| *byte == 0) {
            return Err(MusigError::NonceOfAnotherKey);
        }
        if !agg.has(&key.public) {
            return Err(MusigError::NotAMember);
        }
        let secret = musig::SecretNonce::dangerous_from_bytes(*nonce.secret);
        Ok(PartialSig(self.session.partial_sign(secret, &key.pair, &agg.cache).serialize()))
    }

    /// Checks one signer's partial signature (BIP-327 PartialSigVerify).
    pub fn verify(
        &self,
        agg: &KeyAgg,
        signer: PublicKey,
        signer_nonce: &PubNonce,
        sig: &PartialSig,
    ) -> Result<(), MusigError> {
        let partial = parse(sig, 0)?;
        let nonce = signer_nonce.parse(0)?;
        if !agg.has(&signer) {
            return Err(MusigError::NotAMember);
        }
        if self.session.partial_verify(&agg.cache, &partial, &nonce, to_library(&signer)?) {
            Ok(())
        } else {
            Err(MusigError::BadPartial)
        }
    }

    /// The finished BIP-340 signature, verified (S4); partial signatures in any order.
    pub fn finish<'a>(
        &self,
        agg: &KeyAgg,
        partials: impl IntoIterator<Item = &'a PartialSig>,
    ) -> Result<[u8; 64], MusigError> {
        let parsed = partials
            .into_iter()
            .enumerate()
            .map(|(index, partial)| parse(partial, index))
            .collect::<Result<Vec<_>, _>>()?;
        if parsed.len() != agg.signers() {
            return Err(MusigError::WrongCount { keys: agg.signers(), partials: parsed.len() });
        }
        self.session
            .partial_sig_agg(&parsed.iter().collect::<Vec<_>>())
            .verify(&agg.cache.agg_pk(), &self.sighash)
            .map(|signature| signature.to_byte_array())
            .map_err(|_| MusigError::BadSignature)
    }
}

pub(super) fn sum(nonces: &[&musig::PublicNonce]) -> Result<musig::AggregatedNonce, MusigError> {
    // The library panics at an empty list.
    if nonces.is_empty() { Err(MusigError::NoNonces) } else { Ok(musig::AggregatedNonce::new(nonces)) }
}

fn parse(sig: &PartialSig, index: usize) -> Result<musig::PartialSignature, MusigError> {
    musig::PartialSignature::from_byte_array(&sig.0).map_err(|_| MusigError::BadScalar { index })
}
