//! Signatures that are modelled instead of made, for the simulator's fast mode. With
//! `--cfg modelled_signatures` this stands in the place of [`musig`](super::musig), and nothing that
//! handles money starts.
//!
//! MuSig2 as BIP-327 has it, rounds, nonces and equations, but over the integers modulo 2^128 in place
//! of secp256k1: s·G = R + e·P still holds for whoever has the key and for nobody else who doesn't set
//! out to divide by G, which no liar in a simulated world does. A nonce that is used twice, a forged or
//! a bad part, a wrong sum and another transcript therefore show as they do in earnest. What is modelled
//! away: points have no parity (always even), so that a key and its negation are different keys.

#[path = "../musig/common.rs"]
mod common;
#[path = "../musig/error.rs"]
mod error;
mod group;
mod round;
mod seal;

use common::derived;
pub use common::{AggNonce, MasterSecret, PartialSig, PubNonce, SealedKey};
pub use error::MusigError;
pub use group::{NotAPoint, Parity, PublicKey, XOnlyPublicKey};
use group::{Scalar, challenge, hash, scalar_of};
pub use round::Round;
pub use seal::{open, seal};

use crate::types::InstanceId;

/// A member's secret factory key, and any other: no `Clone`, no `Debug`, no serialisation.
pub struct FactoryKey {
    secret: Scalar,
    public: PublicKey,
}

impl FactoryKey {
    /// A member's key in one attempt: derived as a real one, but a number of the model.
    pub fn derive(master: &MasterSecret, instance: InstanceId, attempt: u32) -> Self {
        Self::derive_salted(master, instance, attempt, &[])
    }

    /// As [`FactoryKey::derive`], with a salt after the attempt: another salt, another key.
    pub fn derive_salted(master: &MasterSecret, instance: InstanceId, attempt: u32, salt: &[u8]) -> Self {
        Self::from_secret(&derived(master, instance, attempt, salt, 0))
    }

    /// The public key: a point of the model.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// The key with these bytes, for wallets and channels of the lab.
    pub fn from_secret(secret: &[u8; 32]) -> Self {
        let secret = hash(&[secret]);
        Self { secret, public: PublicKey::of(secret) }
    }

    /// This key with the BIP-341 tweak of an output without scripts.
    pub fn tweaked(&self) -> Self {
        let tweak = tweak(self.public.x_only_public_key().0, None);
        Self { secret: self.secret.wrapping_add(tweak), public: self.public.plus(PublicKey::of(tweak)) }
    }
}

/// Aggregate key of one coin, as with real keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyAgg {
    /// In sorted order, each with its coefficient.
    members: Vec<(PublicKey, Scalar)>,
    merkle_root: Option<[u8; 32]>,
    internal: XOnlyPublicKey,
    output: XOnlyPublicKey,
    tweak: Scalar,
}

impl KeyAgg {
    /// Aggregates sorted keys and tweaks the sum (BIP-327, BIP-341), in the model.
    pub fn new(keys: &[PublicKey], merkle_root: Option<[u8; 32]>) -> Result<Self, MusigError> {
        let mut sorted = keys.to_vec();
        sorted.sort_unstable();
        if sorted.is_empty() {
            return Err(MusigError::NoKeys);
        }
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(MusigError::DuplicateKey(pair[0]));
        }
        let list: Vec<[u8; 33]> = sorted.iter().map(PublicKey::serialize).collect();
        let list = hash(&list.iter().map(<[u8; 33]>::as_slice).collect::<Vec<_>>()).to_be_bytes();
        let members: Vec<_> = sorted.into_iter().map(|key| (key, hash(&[&list, &key.serialize()]))).collect();
        let sum = |sum: PublicKey, (key, factor): &(PublicKey, Scalar)| sum.plus(key.times(*factor));
        let internal = members.iter().fold(PublicKey::of(0), sum);
        let tweak = tweak(internal.x_only_public_key().0, merkle_root);
        let output = internal.plus(PublicKey::of(tweak)).x_only_public_key().0;
        Ok(Self { members, merkle_root, internal: internal.x_only_public_key().0, output, tweak })
    }

    /// As with real keys; here it saves nothing.
    pub fn reusing(
        _known: Option<&Self>,
        keys: &[PublicKey],
        merkle_root: Option<[u8; 32]>,
    ) -> Result<Self, MusigError> {
        Self::new(keys, merkle_root)
    }

    /// The tweaked key that stands in the output.
    pub fn output_key(&self) -> XOnlyPublicKey {
        self.output
    }

    /// The aggregate key before its Taproot tweak (BIP-341's internal key).
    pub fn internal_key(&self) -> XOnlyPublicKey {
        self.internal
    }

    /// Always even: the model has no odd points.
    pub fn output_parity(&self) -> Parity {
        Parity::Even
    }

    /// How many keys were aggregated.
    pub fn signers(&self) -> usize {
        self.members.len()
    }

    fn coefficient(&self, member: PublicKey) -> Result<Scalar, MusigError> {
        let found = self.members.iter().find(|(key, _)| *key == member);
        found.map(|(_, coefficient)| *coefficient).ok_or(MusigError::NotAMember)
    }
}

/// The key that stands in an output with this internal key and Merkle root.
pub fn output_key(internal: XOnlyPublicKey, merkle_root: Option<[u8; 32]>) -> XOnlyPublicKey {
    internal.even().plus(PublicKey::of(tweak(internal, merkle_root))).x_only_public_key().0
}

fn tweak(internal: XOnlyPublicKey, merkle_root: Option<[u8; 32]>) -> Scalar {
    hash(&[&internal.serialize(), merkle_root.as_ref().map_or(&[], |root| root.as_slice())])
}

/// A secret nonce and the key that it was made for; signing consumes it (S1).
pub struct SecNonce {
    secrets: (Scalar, Scalar),
    owner: PublicKey,
}

impl PubNonce {
    /// Whether this is two points.
    pub fn check(&self) -> Result<(), MusigError> {
        self.checked().map(|_| ())
    }

    /// The two points that this is.
    pub fn checked(&self) -> Result<CheckedNonce, MusigError> {
        self.parse(0)
    }

    fn parse(&self, index: usize) -> Result<CheckedNonce, MusigError> {
        pair(&self.0).map(CheckedNonce).ok_or(MusigError::BadNonce { index })
    }
}

fn pair(bytes: &[u8; 66]) -> Option<(PublicKey, PublicKey)> {
    let (first, second) = bytes.split_at(33);
    Some((PublicKey::from_slice(first).ok()?, PublicKey::from_slice(second).ok()?))
}

fn unpair((first, second): (PublicKey, PublicKey)) -> [u8; 66] {
    let mut bytes = [0; 66];
    bytes[..33].copy_from_slice(&first.serialize());
    bytes[33..].copy_from_slice(&second.serialize());
    bytes
}

/// A [`PubNonce`] that is known to be two points.
#[derive(Clone, Copy, Debug)]
pub struct CheckedNonce((PublicKey, PublicKey));

impl CheckedNonce {
    /// The 66 bytes that are sent.
    pub fn serialize(&self) -> PubNonce {
        PubNonce(unpair(self.0))
    }
}

/// Makes one nonce: the same seed and key give the same nonce (S2).
pub fn new_nonce(seed: [u8; 32], key: &FactoryKey) -> (SecNonce, PubNonce) {
    let (secret, public) = new_checked_nonce(seed, key);
    (secret, public.serialize())
}

/// As [`new_nonce`], for a nonce that doesn't travel.
pub fn new_checked_nonce(seed: [u8; 32], key: &FactoryKey) -> (SecNonce, CheckedNonce) {
    let first = hash(&[&seed, &key.secret.to_be_bytes()]);
    let second = hash(&[&first.to_be_bytes()]);
    let public = (PublicKey::of(first), PublicKey::of(second));
    (SecNonce { secrets: (first, second), owner: key.public }, CheckedNonce(public))
}

/// One signer's BIP-340 signature, in the model.
pub fn sign_alone(key: &FactoryKey, sighash: &[u8; 32], aux: [u8; 32]) -> [u8; 64] {
    let nonce = hash(&[&key.secret.to_be_bytes(), sighash, &aux]);
    let at = PublicKey::of(nonce);
    let e = challenge(at, key.public.x_only_public_key().0, sighash);
    finished(at, nonce.wrapping_add(e.wrapping_mul(key.secret)))
}

fn finished(nonce: PublicKey, s: Scalar) -> [u8; 64] {
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(&nonce.x_only_public_key().0.serialize());
    signature[48..].copy_from_slice(&s.to_be_bytes());
    signature
}

/// Whether a finished signature is one of `key` over `sighash`.
pub fn verify_alone(signature: &[u8; 64], sighash: &[u8; 32], key: &XOnlyPublicKey) -> bool {
    let (nonce, s) = signature.split_at(32);
    let (Ok(nonce), Some(s)) = (XOnlyPublicKey::from_slice(nonce), scalar_of(s)) else {
        return false;
    };
    let e = challenge(nonce.even(), *key, sighash);
    PublicKey::of(s) == nonce.even().plus(key.even().times(e))
}

#[cfg(test)]
mod tests;
