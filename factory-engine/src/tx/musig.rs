//! MuSig2 (BIP-327) over factory keys: the only module that names the library that does it.
//!
//! That is the musig module of libsecp256k1, by a later version of the `secp256k1` crate than the one
//! whose types are used everywhere else, so everything crosses by its serialised bytes. The `musig2`
//! crate does the same independently and is the judge in tests: each accepts what the other makes.
//!
//! libsecp256k1 aborts the process when it is handed what its documentation forbids; every such case
//! is an error here, before the call.
//!
//! What is secret here is wiped when it is dropped (S7) and implements neither `Clone` nor `Debug`
//! (S1). Copies that a call leaves on the stack are out of our reach.

mod common;
mod error;
mod round;
mod seal;

use bitcoin::hashes::Hash;
use bitcoin::taproot::{TapNodeHash, TapTweakHash};
use secp_musig::{Keypair, Scalar, ffi, musig, schnorr};
use secp256k1::{Message, SECP256K1};
use zeroize::Zeroizing;

use common::derived;
pub use common::{AggNonce, MasterSecret, PartialSig, PubNonce, SealedKey};
pub use error::MusigError;
pub use round::Round;
pub use seal::{open, seal};
pub use secp256k1::{Parity, PublicKey, XOnlyPublicKey};

use crate::types::InstanceId;

/// A member's secret factory key. No `Clone`, no `Debug`, no serialisation; wiped on drop (S7).
pub struct FactoryKey {
    pair: Keypair,
    public: PublicKey,
}

impl FactoryKey {
    /// Hardened derivation, one key per factory and attempt (S5): HMAC-SHA256 with the master secret
    /// as key over label ‖ instance ‖ attempt ‖ salt ‖ counter, with the first counter that gives a scalar.
    pub fn derive(master: &MasterSecret, instance: InstanceId, attempt: u32) -> Self {
        Self::derive_salted(master, instance, attempt, &[])
    }

    /// As [`FactoryKey::derive`], with a salt after the attempt: another salt, another key. A client
    /// salts its key with fresh randomness at every `join`, so that not even a node that was restored
    /// from an older copy can be brought to sign for one outpoint twice (S8, S9).
    pub fn derive_salted(master: &MasterSecret, instance: InstanceId, attempt: u32, salt: &[u8]) -> Self {
        let mut counter: u32 = 0;
        loop {
            let candidate = derived(master, instance, attempt, salt, counter);
            if let Some(key) = Self::from_secret(&candidate) {
                return key;
            }
            // One in 2^128 hashes is no scalar; the next counter gives another.
            counter = counter.wrapping_add(1);
        }
    }

    /// The public key: a point on secp256k1.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    fn from_secret(secret: &[u8; 32]) -> Option<Self> {
        let mut pair = Keypair::from_secret_bytes(*secret).ok()?;
        match from_library(&pair.public_key()) {
            Ok(public) => Some(Self { pair, public }),
            Err(_) => {
                pair.non_secure_erase();
                None
            }
        }
    }
}

impl Drop for FactoryKey {
    fn drop(&mut self) {
        // A volatile write and a fence, as zeroize does; "non-secure" because of earlier copies.
        self.pair.non_secure_erase();
    }
}

/// Aggregate key of one coin: BIP-327 over the members' keys in BIP-327 sorted order, then the
/// BIP-341 tweak. Made once (about 21 µs for each key) and used for every signature on that coin.
#[derive(Clone)]
pub struct KeyAgg {
    cache: musig::KeyAggCache,
    members: Vec<[u8; 33]>,
    merkle_root: Option<[u8; 32]>,
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
    /// output without scripts. Refuses an empty list and duplicates (S5).
    pub fn new(keys: &[PublicKey], merkle_root: Option<[u8; 32]>) -> Result<Self, MusigError> {
        Self::reusing(None, keys, merkle_root)
    }

    /// As [`KeyAgg::new`]; a clone of `known` if that is of the same keys and root.
    pub fn reusing(
        known: Option<&Self>,
        keys: &[PublicKey],
        merkle_root: Option<[u8; 32]>,
    ) -> Result<Self, MusigError> {
        let mut sorted: Vec<([u8; 33], &PublicKey)> = keys.iter().map(|key| (key.serialize(), key)).collect();
        sorted.sort_unstable_by_key(|(bytes, _)| *bytes);
        if let Some(known) = known
            && known.merkle_root == merkle_root
            && known.members.iter().eq(sorted.iter().map(|(bytes, _)| bytes))
        {
            return Ok(known.clone());
        }
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(MusigError::DuplicateKey(*pair[0].1));
        }
        Self::untweaked(sorted)?.tweaked(merkle_root)
    }

    /// BIP-327's KeyAgg, in the given order. The sum is infinity only for whoever breaks discrete
    /// logarithms or SHA-256: the library doesn't look.
    fn untweaked(keys: Vec<([u8; 33], &PublicKey)>) -> Result<Self, MusigError> {
        if keys.is_empty() {
            return Err(MusigError::NoKeys);
        }
        let parsed = keys.iter().map(|(_, key)| to_library(key)).collect::<Result<Vec<_>, _>>()?;
        let cache = musig::KeyAggCache::new(&parsed.iter().collect::<Vec<_>>());
        let (internal, parity) = from_library(&cache.agg_pk_full())?.x_only_public_key();
        let members = keys.into_iter().map(|(bytes, _)| bytes).collect();
        Ok(Self { cache, members, merkle_root: None, internal, output: internal, parity })
    }

    fn tweaked(mut self, merkle_root: Option<[u8; 32]>) -> Result<Self, MusigError> {
        let root = merkle_root.map(TapNodeHash::from_byte_array);
        let tweak = TapTweakHash::from_key_and_tweak(self.internal, root).to_byte_array();
        let tweak = Scalar::from_be_bytes(tweak).map_err(|_| MusigError::KeyAtInfinity)?;
        let output = self.cache.pubkey_xonly_tweak_add(&tweak).map_err(|_| MusigError::KeyAtInfinity)?;
        (self.output, self.parity) = from_library(&output)?.x_only_public_key();
        self.merkle_root = merkle_root;
        Ok(self)
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
        self.members.len()
    }

    /// Whether a key is one of those that were aggregated.
    fn has(&self, member: &PublicKey) -> bool {
        self.members.contains(&member.serialize())
    }
}

/// A public key in the library's type. Uncompressed, to spare it a square root.
fn to_library(key: &PublicKey) -> Result<secp_musig::PublicKey, MusigError> {
    // A point of the curve is one in every version: no caller can meet this error.
    secp_musig::PublicKey::from_byte_array_uncompressed(key.serialize_uncompressed())
        .map_err(|_| MusigError::KeyAtInfinity)
}

fn from_library(key: &secp_musig::PublicKey) -> Result<PublicKey, MusigError> {
    // As in `to_library`.
    PublicKey::from_slice(&key.serialize_uncompressed()).map_err(|_| MusigError::KeyAtInfinity)
}

/// A secret nonce and the key that it was made for. No `Clone`, no `Debug`, no serialisation, wiped
/// on drop; signing consumes it (S1).
pub struct SecNonce {
    /// As the library keeps it: a form that may differ between its versions, so it never leaves.
    secret: Zeroizing<[u8; ffi::MUSIG_SECNONCE_SIZE]>,
    owner: PublicKey,
}

impl PubNonce {
    /// Whether this is two points of the curve.
    pub fn check(&self) -> Result<(), MusigError> {
        self.checked().map(|_| ())
    }

    /// The two points of the curve that this is, to be added up later.
    pub fn checked(&self) -> Result<CheckedNonce, MusigError> {
        self.parse(0).map(CheckedNonce)
    }

    fn parse(&self, index: usize) -> Result<musig::PublicNonce, MusigError> {
        musig::PublicNonce::from_byte_array(&self.0).map_err(|_| MusigError::BadNonce { index })
    }
}

/// A [`PubNonce`] that is known to be two points of the curve: spares finding them twice.
#[derive(Clone, Copy, Debug)]
pub struct CheckedNonce(musig::PublicNonce);

impl CheckedNonce {
    /// The 66 bytes that are sent (BIP-327).
    pub fn serialize(&self) -> PubNonce {
        PubNonce(self.0.serialize())
    }
}

/// Makes one nonce (BIP-327 NonceGen with the secret key mixed in). `seed` is 32 fresh random bytes
/// that are used for nothing else: the same seed and key give the same nonce (S2).
pub fn new_nonce(seed: [u8; 32], key: &FactoryKey) -> (SecNonce, PubNonce) {
    let (secret, public) = new_checked_nonce(seed, key);
    (secret, public.serialize())
}

/// As [`new_nonce`], for a nonce that doesn't travel: that of whoever aggregates.
pub fn new_checked_nonce(seed: [u8; 32], key: &FactoryKey) -> (SecNonce, CheckedNonce) {
    let seed = Zeroizing::new(seed);
    let mut secret = key.pair.secret_key();
    let random = musig::SessionSecretRand::assume_unique_per_nonce_gen(*seed, &secret);
    secret.non_secure_erase();
    let (secret, public) = musig::new_nonce_pair(random, None, None, key.pair.public_key(), None, None);
    let secret = Zeroizing::new(secret.dangerous_into_bytes());
    (SecNonce { secret, owner: key.public }, CheckedNonce(public))
}

/// Sums the signers' nonces (BIP-327 NonceAgg); a malformed one is named by its place.
pub fn aggregate_nonces<'a>(nonces: impl IntoIterator<Item = &'a PubNonce>) -> Result<AggNonce, MusigError> {
    let parsed = nonces
        .into_iter()
        .enumerate()
        .map(|(index, nonce)| nonce.parse(index))
        .collect::<Result<Vec<_>, _>>()?;
    round::sum(&parsed.iter().collect::<Vec<_>>()).map(|sum| AggNonce(sum.serialize()))
}

/// Signs `sighash` for `agg` with a nonce that is gone afterwards, also after an error (S1, S2). The
/// result isn't verified: the finished signature is (S4).
pub fn sign_partial(
    key: &FactoryKey,
    nonce: SecNonce,
    agg: &KeyAgg,
    nonces: &AggNonce,
    sighash: &[u8; 32],
) -> Result<PartialSig, MusigError> {
    Round::new(agg, nonces, sighash)?.sign(key, nonce, agg)
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
    Round::new(agg, nonces, sighash)?.verify(agg, signer, signer_nonce, sig)
}

/// The finished BIP-340 signature from everybody's partial signatures, in any order. It is verified:
/// an invalid one is never returned (S4), but [`MusigError::BadSignature`].
pub fn aggregate<'a>(
    agg: &KeyAgg,
    nonces: &AggNonce,
    sighash: &[u8; 32],
    partials: impl IntoIterator<Item = &'a PartialSig>,
) -> Result<[u8; 64], MusigError> {
    Round::new(agg, nonces, sighash)?.finish(agg, partials)
}

/// Signs alone with the bare factory key (BIP-340), for L's script path of a stock output. `aux`
/// is 32 fresh random bytes.
pub fn sign_alone(key: &FactoryKey, sighash: &[u8; 32], aux: [u8; 32]) -> [u8; 64] {
    schnorr::sign_with_aux_rand(sighash, &key.pair, &Zeroizing::new(aux)).to_byte_array()
}

/// Whether a finished signature is one of `key` over `sighash` (BIP-340).
pub fn verify_alone(signature: &[u8; 64], sighash: &[u8; 32], key: &XOnlyPublicKey) -> bool {
    secp256k1::schnorr::Signature::from_slice(signature).is_ok_and(|signature| {
        SECP256K1.verify_schnorr(&signature, &Message::from_digest(*sighash), key).is_ok()
    })
}

#[cfg(test)]
mod crosscheck;
#[cfg(test)]
mod vectors;
