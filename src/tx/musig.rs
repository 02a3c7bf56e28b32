//! MuSig2 (BIP-327) over factory keys: the only file that names the MuSig2 crate.
//!
//! Keys are `secp256k1` 0.29 types, as everywhere in this crate; the MuSig2 crate uses a later
//! version, so everything crosses by its serialised bytes.
//!
//! What is secret here is wiped when it is dropped (S7) and implements neither `Clone` nor `Debug`
//! (S1). Copies that the MuSig2 crate keeps on the stack during a call are out of our reach.

mod error;

use bitcoin::hashes::{Hash, HashEngine, Hmac, HmacEngine, sha256};
use musig2::secp::{MaybeScalar, Point, Scalar};
use musig2::{CompactSignature, KeyAggContext};
use secp256k1::{Keypair, Parity, PublicKey, SECP256K1, SecretKey, XOnlyPublicKey};
use zeroize::Zeroizing;

pub use error::MusigError;

use crate::types::InstanceId;

/// Separates factory keys from anything else that is derived from the same master secret.
const FACTORY_KEY_LABEL: &[u8] = b"superscalar/1 factory key";

/// 32 bytes from lightningd's `makesecret`. Wiped on drop; neither `Clone` nor `Debug` (S7).
pub struct MasterSecret(Zeroizing<[u8; 32]>);

impl MasterSecret {
    /// Takes the secret over. The caller's copy is the caller's to wipe.
    pub fn new(secret: [u8; 32]) -> Self {
        Self(Zeroizing::new(secret))
    }
}

/// A member's secret factory key. No `Clone`, no `Debug`, no serialisation; wiped on drop (S7).
pub struct FactoryKey {
    secret: Zeroizing<[u8; 32]>,
    public: PublicKey,
}

impl FactoryKey {
    /// Hardened derivation, one key per factory and attempt (S5): HMAC-SHA256 with the master secret
    /// as key over label ‖ instance ‖ attempt ‖ counter, with the first counter that gives a scalar.
    pub fn derive(master: &MasterSecret, instance: InstanceId, attempt: u32) -> Self {
        let mut counter: u32 = 0;
        loop {
            let mut engine = HmacEngine::<sha256::Hash>::new(&*master.0);
            engine.input(FACTORY_KEY_LABEL);
            engine.input(&instance.0);
            engine.input(&attempt.to_be_bytes());
            engine.input(&counter.to_be_bytes());
            let candidate = Zeroizing::new(Hmac::from_engine(engine).to_byte_array());
            if let Ok(mut key) = SecretKey::from_slice(&*candidate) {
                let public = key.public_key(SECP256K1);
                key.non_secure_erase();
                return Self { secret: candidate, public };
            }
            // One in 2^128 hashes is no scalar; the next counter gives another.
            counter = counter.wrapping_add(1);
        }
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    #[expect(clippy::expect_used)]
    fn pair(&self) -> Keypair {
        // As in `scalar`.
        Keypair::from_seckey_slice(SECP256K1, &*self.secret).expect("checked in derive")
    }

    #[expect(clippy::expect_used)]
    fn scalar(&self) -> Scalar {
        // `derive` admits only scalars, and there is no other way to make a key.
        Scalar::from_slice(&*self.secret).expect("checked in derive")
    }
}

/// Aggregate key of one coin: BIP-327 over the members' keys in BIP-327 sorted order, then the
/// BIP-341 tweak. Made once (about 34 µs for each key) and used for every signature on that coin.
#[derive(Clone)]
pub struct KeyAgg {
    context: KeyAggContext,
    internal: XOnlyPublicKey,
    output: XOnlyPublicKey,
    parity: Parity,
}

/// The output key: everything else follows from the members' keys.
impl std::fmt::Debug for KeyAgg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("KeyAgg").field(&self.output_key()).finish()
    }
}

/// As for `Debug`: equal keys aggregate to equal keys, and others don't.
impl PartialEq for KeyAgg {
    fn eq(&self, other: &Self) -> bool {
        (self.internal, self.output, self.parity) == (other.internal, other.output, other.parity)
    }
}

impl Eq for KeyAgg {}

impl KeyAgg {
    /// Aggregates in sorted order and tweaks with `merkle_root`, or for None as BIP-341 does for an
    /// output without scripts. Refuses an empty list, duplicates (S5) and infinity.
    pub fn new(keys: &[PublicKey], merkle_root: Option<[u8; 32]>) -> Result<Self, MusigError> {
        if keys.is_empty() {
            return Err(MusigError::NoKeys);
        }
        let mut sorted: Vec<([u8; 33], PublicKey)> = keys.iter().map(|key| (key.serialize(), *key)).collect();
        sorted.sort_unstable_by_key(|(bytes, _)| *bytes);
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(MusigError::DuplicateKey(pair[0].1));
        }
        let points = sorted.iter().map(|(_, key)| to_point(key)).collect::<Result<Vec<_>, _>>()?;
        let untweaked = KeyAggContext::new(points).map_err(|_| MusigError::KeyAtInfinity)?;
        let internal = x_only(&untweaked)?.0;
        let context = match merkle_root {
            Some(root) => untweaked.with_taproot_tweak(&root),
            None => untweaked.with_unspendable_taproot_tweak(),
        }
        .map_err(|_| MusigError::KeyAtInfinity)?;
        let (output, parity) = x_only(&context)?;
        Ok(Self { context, internal, output, parity })
    }

    /// The tweaked key that stands in the output (BIP-341).
    pub fn output_key(&self) -> XOnlyPublicKey {
        self.output
    }

    /// The untweaked key, for a script path's control block (BIP-341).
    pub fn internal_key(&self) -> XOnlyPublicKey {
        self.internal
    }

    /// Parity of the output key's y coordinate, for the control block (BIP-341).
    pub fn output_parity(&self) -> Parity {
        self.parity
    }

    /// How many keys were aggregated: as many partial signatures make a signature.
    pub fn signers(&self) -> usize {
        self.context.pubkeys().len()
    }
}

fn to_point(key: &PublicKey) -> Result<Point, MusigError> {
    // A secp256k1 public key is a point in the other library too: no caller can meet this error.
    Point::from_slice(&key.serialize_uncompressed()).map_err(|_| MusigError::KeyAtInfinity)
}

fn x_only(context: &KeyAggContext) -> Result<(XOnlyPublicKey, Parity), MusigError> {
    let point: Point = context.aggregated_pubkey();
    PublicKey::from_slice(&point.serialize_uncompressed())
        .map(|key| key.x_only_public_key())
        .map_err(|_| MusigError::KeyAtInfinity)
}

/// A secret nonce, in its 97-byte BIP-327 encoding. No `Clone`, no `Debug`, no serialisation, wiped
/// on drop; signing consumes it (S1).
pub struct SecNonce(Zeroizing<[u8; 97]>);

/// A signer's public nonce (BIP-327, 66 bytes). Not validated until it is used, or by
/// [`PubNonce::check`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PubNonce(pub [u8; 66]);

/// The sum of all signers' public nonces (BIP-327, 66 bytes).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AggNonce(pub [u8; 66]);

/// One signer's part of a signature (BIP-327, 32 bytes).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartialSig(pub [u8; 32]);

impl PubNonce {
    /// Whether this is two points of the curve.
    pub fn check(&self) -> Result<(), MusigError> {
        self.parse(0).map(|_| ())
    }

    fn parse(&self, index: usize) -> Result<musig2::PubNonce, MusigError> {
        musig2::PubNonce::from_bytes(&self.0).map_err(|_| MusigError::BadNonce { index })
    }
}

impl AggNonce {
    fn parse(&self) -> Result<musig2::AggNonce, MusigError> {
        musig2::AggNonce::from_bytes(&self.0).map_err(|_| MusigError::BadAggNonce)
    }
}

/// Makes one nonce (BIP-327 NonceGen with the secret key mixed in). `seed` is 32 fresh random bytes
/// that are used for nothing else: the same seed and key give the same nonce (S2).
pub fn new_nonce(seed: [u8; 32], key: &FactoryKey) -> (SecNonce, PubNonce) {
    let seed = Zeroizing::new(seed);
    let secret = musig2::SecNonceBuilder::from_seckey(*seed, key.scalar()).build();
    let public = PubNonce(secret.public_nonce().serialize());
    (SecNonce(Zeroizing::new(secret.serialize())), public)
}

/// Sums the signers' nonces (BIP-327 NonceAgg); a malformed one is named by its place.
pub fn aggregate_nonces<'a>(nonces: impl IntoIterator<Item = &'a PubNonce>) -> Result<AggNonce, MusigError> {
    let parsed = nonces
        .into_iter()
        .enumerate()
        .map(|(index, nonce)| nonce.parse(index))
        .collect::<Result<Vec<_>, _>>()?;
    if parsed.is_empty() {
        return Err(MusigError::NoNonces);
    }
    Ok(AggNonce(musig2::AggNonce::sum(&parsed).serialize()))
}

/// Signs `sighash` for `agg` with a nonce that is gone afterwards, also after an error (S1, S2). The
/// partial signature is verified before it is returned.
pub fn sign_partial(
    key: &FactoryKey,
    nonce: SecNonce,
    agg: &KeyAgg,
    nonces: &AggNonce,
    sighash: &[u8; 32],
) -> Result<PartialSig, MusigError> {
    use musig2::errors::SigningError;
    let secret = musig2::SecNonce::from_bytes(&*nonce.0).map_err(|_| MusigError::NonceOfAnotherKey)?;
    let sum = nonces.parse()?;
    musig2::sign_partial::<MaybeScalar>(&agg.context, key.scalar(), secret, &sum, sighash)
        .map(|partial| PartialSig(partial.serialize()))
        .map_err(|error| match error {
            SigningError::UnknownKey => MusigError::NotAMember,
            SigningError::SecNoncePubkeyMismatch => MusigError::NonceOfAnotherKey,
            SigningError::SelfVerifyFail => MusigError::BadPartial,
        })
}

/// Checks one signer's partial signature (BIP-327 PartialSigVerify); names who is at fault when
/// [`aggregate`] failed (S4).
pub fn verify_partial(
    agg: &KeyAgg,
    nonces: &AggNonce,
    sighash: &[u8; 32],
    signer: PublicKey,
    signer_nonce: &PubNonce,
    sig: &PartialSig,
) -> Result<(), MusigError> {
    use musig2::errors::VerifyError;
    let scalar = to_scalar(sig, 0)?;
    let nonce = signer_nonce.parse(0)?;
    let sum = nonces.parse()?;
    musig2::verify_partial(&agg.context, scalar, &sum, to_point(&signer)?, &nonce, sighash).map_err(|error| {
        match error {
            VerifyError::UnknownKey => MusigError::NotAMember,
            VerifyError::BadSignature => MusigError::BadPartial,
        }
    })
}

/// The finished BIP-340 signature from everybody's partial signatures, in any order. It is verified:
/// an invalid one is never returned (S4), but [`MusigError::BadSignature`].
pub fn aggregate<'a>(
    agg: &KeyAgg,
    nonces: &AggNonce,
    sighash: &[u8; 32],
    partials: impl IntoIterator<Item = &'a PartialSig>,
) -> Result<[u8; 64], MusigError> {
    let scalars = partials
        .into_iter()
        .enumerate()
        .map(|(index, partial)| to_scalar(partial, index))
        .collect::<Result<Vec<_>, _>>()?;
    if scalars.len() != agg.signers() {
        return Err(MusigError::WrongCount { keys: agg.signers(), partials: scalars.len() });
    }
    let sum = nonces.parse()?;
    musig2::aggregate_partial_signatures::<_, CompactSignature>(&agg.context, &sum, scalars, sighash)
        .map(|signature| signature.serialize())
        .map_err(|_| MusigError::BadSignature)
}

/// Signs alone with the bare factory key (BIP-340), for L's script path of a stock output. `aux`
/// is 32 fresh random bytes.
pub fn sign_alone(key: &FactoryKey, sighash: &[u8; 32], aux: [u8; 32]) -> [u8; 64] {
    let mut pair = key.pair();
    let message = secp256k1::Message::from_digest(*sighash);
    let signature = SECP256K1.sign_schnorr_with_aux_rand(&message, &pair, &Zeroizing::new(aux));
    pair.non_secure_erase();
    signature.serialize()
}

fn to_scalar(sig: &PartialSig, index: usize) -> Result<MaybeScalar, MusigError> {
    MaybeScalar::from_slice(&sig.0).map_err(|_| MusigError::BadScalar { index })
}

#[cfg(test)]
mod vectors;
