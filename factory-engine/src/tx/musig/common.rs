//! What real and modelled signatures have in common: bytes, and how secrets are derived.

use bitcoin::hashes::{Hash, HashEngine, Hmac, HmacEngine, sha256};
use zeroize::Zeroizing;

use super::PublicKey;
use crate::types::InstanceId;

/// Separates factory keys from anything else that is derived from the same master secret.
const FACTORY_KEY_LABEL: &[u8] = b"superscalar/1 factory key";

/// Separates the pad of a sealed key from anything else that is made of a shared secret.
pub(super) const PAD_LABEL: &[u8] = b"superscalar/1 sealed key";

/// 32 bytes from lightningd's `makesecret`. Wiped on drop; neither `Clone` nor `Debug` (S7).
pub struct MasterSecret(Zeroizing<[u8; 32]>);

impl MasterSecret {
    /// Takes the secret over. The caller's copy is the caller's to wipe.
    pub fn new(secret: [u8; 32]) -> Self {
        Self(Zeroizing::new(secret))
    }

    /// Another secret of this node, that says nothing of this one: HMAC-SHA256 with this as key over the label.
    pub(crate) fn derive(&self, label: &[u8]) -> Zeroizing<[u8; 32]> {
        let mut engine = HmacEngine::<sha256::Hash>::new(&*self.0);
        engine.input(label);
        Zeroizing::new(Hmac::from_engine(engine).to_byte_array())
    }
}

/// HMAC-SHA256 with the master secret as key over label ‖ instance ‖ attempt ‖ salt ‖ counter: a factory
/// key, if it is a scalar.
pub(super) fn derived(
    master: &MasterSecret,
    instance: InstanceId,
    attempt: u32,
    salt: &[u8],
    counter: u32,
) -> Zeroizing<[u8; 32]> {
    let mut engine = HmacEngine::<sha256::Hash>::new(&*master.0);
    engine.input(FACTORY_KEY_LABEL);
    engine.input(&instance.0);
    engine.input(&attempt.to_be_bytes());
    engine.input(salt);
    engine.input(&counter.to_be_bytes());
    Zeroizing::new(Hmac::from_engine(engine).to_byte_array())
}

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

/// A member's secret key, sealed for L (S22): what is sent, and what L stores of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SealedKey {
    /// The sender's half of the shared secret: a key of one use.
    pub ephemeral: PublicKey,
    /// The secret under its pad.
    pub sealed: [u8; 32],
}
