//! The integers modulo 2^128 in the place of a curve.

use std::fmt;

use bitcoin::hashes::{HashEngine, siphash24};

/// An integer modulo 2^128: its arithmetic wraps.
pub(super) type Scalar = u128;

/// Any odd number: then every point has one secret.
const GENERATOR: u128 = 0x2d35_8dcc_aa6c_78a5_8bb8_4b93_962e_acc9;
/// In the place of 02 and 03: no other software takes this for a key.
const PREFIX: u8 = 0x4d;

/// Bytes that are no point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAPoint;

/// Parity of a point: there are only even ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parity {
    /// Every point is even.
    Even,
    /// No point is odd: the curve's type has this variant, too.
    Odd,
}

/// A point. 33 bytes: the prefix, 16 zeros, the number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(u128);

impl PublicKey {
    /// The point of a secret.
    pub(super) fn of(secret: Scalar) -> Self {
        Self(secret.wrapping_mul(GENERATOR))
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }

    pub(super) fn times(self, factor: Scalar) -> Self {
        Self(self.0.wrapping_mul(factor))
    }

    /// Reads what [`Self::serialize`] makes: the prefix, 16 zeros, the number.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, NotAPoint> {
        let (prefix, rest) = bytes.split_first().ok_or(NotAPoint)?;
        if *prefix != PREFIX {
            return Err(NotAPoint);
        }
        scalar_of(rest).map(Self).ok_or(NotAPoint)
    }

    /// The prefix, 16 zeros, the number: as long as a compressed key.
    pub fn serialize(&self) -> [u8; 33] {
        let mut bytes = [0; 33];
        bytes[0] = PREFIX;
        bytes[17..].copy_from_slice(&self.0.to_be_bytes());
        bytes
    }

    /// The same point without its prefix.
    pub fn x_only_public_key(&self) -> (XOnlyPublicKey, Parity) {
        (XOnlyPublicKey(self.0), Parity::Even)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// A point in 32 bytes: 16 zeros and the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct XOnlyPublicKey(u128);

impl XOnlyPublicKey {
    /// Reads what [`Self::serialize`] makes: 16 zeros, the number.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, NotAPoint> {
        scalar_of(bytes).map(Self).ok_or(NotAPoint)
    }

    /// 16 zeros, the number: as long as an x-only key.
    pub fn serialize(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes[16..].copy_from_slice(&self.0.to_be_bytes());
        bytes
    }

    pub(super) fn even(self) -> PublicKey {
        PublicKey(self.0)
    }
}

/// The number in 32 bytes, of which the first 16 have to be zero: no bit of a key or a signature is
/// without meaning.
pub(super) fn scalar_of(bytes: &[u8]) -> Option<Scalar> {
    let bytes: [u8; 32] = bytes.try_into().ok()?;
    let (zeros, number) = bytes.split_at(16);
    let number: [u8; 16] = number.try_into().ok()?;
    zeros.iter().all(|byte| *byte == 0).then(|| u128::from_be_bytes(number))
}

/// A number from bytes, by SipHash: as far as a model is concerned, nobody finds two that agree.
pub(super) fn hash(parts: &[&[u8]]) -> Scalar {
    let half = |key| {
        let mut engine = siphash24::HashEngine::with_keys(key, 0x6d6f_6465_6c6c_6564);
        parts.iter().for_each(|part| engine.input(part));
        siphash24::Hash::from_engine_to_u64(engine)
    };
    u128::from(half(0)) << 64 | u128::from(half(1))
}

/// The challenge e of BIP-340, over R, key and message.
pub(super) fn challenge(nonce: PublicKey, key: XOnlyPublicKey, message: &[u8; 32]) -> Scalar {
    hash(&[&nonce.0.to_be_bytes(), &key.0.to_be_bytes(), message])
}
