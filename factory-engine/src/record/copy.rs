//! What a keeper has of a factory: every record of it, sealed.
//!
//! The key follows from the node's own secret, so that whoever has that reads every copy, and nobody else any
//! (S40). A keeper sees a tag, which says nothing of the factory, the number of records, and about how long they
//! are. That number is the copy's *counter*: records are only ever added, so of two copies of one factory the one
//! with the higher counter has all that the other has. It is authenticated with everything else: whoever keeps an
//! older copy can't pass it off as a newer one.
//!
//! XChaCha20-Poly1305; tag and counter are associated data. Inside: factory_instance (32 bytes), then each record with
//! its length (u32, big-endian) before it. The nonce follows from what is sealed, and from the key: other contents have
//! another one, and the same contents are the same copy. So whoever has the records knows from counter and nonce
//! whether a copy is of just these.

use std::fmt;

use bitcoin::hashes::{Hash, HashEngine, Hmac, HmacEngine, sha256};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use crate::tx::musig::MasterSecret;
use crate::types::{InstanceId, NodeId};

/// Separates the key of copies from everything else that follows from the node's secret.
const KEY_LABEL: &[u8] = b"superscalar/1 copy";
/// Separates a nonce from everything else that is made with that key.
const NONCE_LABEL: &[u8] = b"nonce";
/// Separates a tag from everything else that is made with that key.
const TAG_LABEL: &[u8] = b"tag";
/// Begins the associated data; its number is the format's.
const AD_LABEL: &[u8] = b"cln-factory copy 1";
/// Bytes of the nonce.
pub const NONCE: usize = 24;
/// Which copy: number of its records, and its nonce.
pub type Version = (u32, [u8; NONCE]);
/// Bytes that every copy has, sealed: nonce, authenticator, factory_instance.
pub const LEAST_BYTES: usize = NONCE + 16 + 32;

/// Most bytes that a peer is asked to keep of one factory, sealed: a message of ours has room for it. A client's
/// records have some 10 kB at 127 clients.
pub const MOST_BYTES: usize = 1_000_000;

/// What lightningd's static channel backups of a factory's channels are called towards keepers: they are a copy of
/// their own, which changes seldom. Each is a record.
pub fn statics_name(instance: InstanceId) -> InstanceId {
    let mut engine = sha256::Hash::engine();
    engine.input(b"static channel backups");
    engine.input(&instance.0);
    InstanceId(sha256::Hash::from_engine(engine).to_byte_array())
}

/// What a factory's appointments with a tower are called: another name, and another one with each, so that nobody learns
/// that copies or others' appointments are of the same factory.
pub fn appointments_name(instance: InstanceId, tower: NodeId) -> InstanceId {
    let mut engine = sha256::Hash::engine();
    engine.input(b"appointments");
    engine.input(&tower.0);
    engine.input(&instance.0);
    InstanceId(sha256::Hash::from_engine(engine).to_byte_array())
}

/// Every record of one factory, in order, as the store has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// The factory (factory_instance).
    pub instance: InstanceId,
    /// Its records; one that was lost is empty.
    pub records: Vec<Vec<u8>>,
}

/// A copy as a keeper has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedCopy {
    /// Names the factory, to its owner alone.
    pub tag: [u8; 32],
    /// Number of its records.
    pub counter: u32,
    /// Nonce, what is sealed, authenticator.
    pub sealed: Vec<u8>,
}

impl SealedCopy {
    /// Its nonce; nothing of what is too short to be a copy.
    pub fn nonce(&self) -> Option<[u8; NONCE]> {
        self.sealed.first_chunk().copied()
    }
}

/// Seals and opens one node's copies. Neither `Clone` nor `Debug`; wiped on drop (S7).
pub struct CopyKey(Zeroizing<[u8; 32]>);

/// Why something is no copy of this node's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyError {
    /// Another node's, or not as it was sealed.
    NotOurs,
    /// It was sealed by this node, and its contents don't fit together.
    Malformed,
}

impl fmt::Display for CopyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotOurs => "it was not sealed by this node, or it was changed since",
            Self::Malformed => "its contents don't fit together",
        })
    }
}

impl std::error::Error for CopyError {}

impl CopyKey {
    /// The one that belongs to a node's secret.
    pub fn derive(master: &MasterSecret) -> Self {
        Self(master.derive(KEY_LABEL))
    }

    /// What a factory is called towards keepers.
    pub fn tag(&self, instance: InstanceId) -> [u8; 32] {
        let mut engine = HmacEngine::<sha256::Hash>::new(&self.0[..]);
        engine.input(TAG_LABEL);
        engine.input(&instance.0);
        Hmac::from_engine(engine).to_byte_array()
    }

    /// Seals a copy. Nothing of more records than a counter can say, or longer than 4 GB.
    pub fn seal(&self, copy: &Copy) -> Option<SealedCopy> {
        let tag = self.tag(copy.instance);
        let counter = u32::try_from(copy.records.len()).ok()?;
        let plain = plain(copy.instance, &copy.records)?;
        let nonce = self.nonce(&plain);
        let aad = associated(tag, counter);
        let payload = Payload { msg: &plain, aad: &aad };
        let mut sealed = nonce.to_vec();
        sealed.extend(self.cipher().encrypt(&XNonce::from(nonce), payload).ok()?);
        Some(SealedCopy { tag, counter, sealed })
    }

    /// Nonce of the copy with these records.
    pub fn nonce_of(&self, instance: InstanceId, records: &[Vec<u8>]) -> Option<[u8; NONCE]> {
        Some(self.nonce(&plain(instance, records)?))
    }

    fn nonce(&self, plain: &[u8]) -> [u8; NONCE] {
        let mut engine = HmacEngine::<sha256::Hash>::new(&self.0[..]);
        engine.input(NONCE_LABEL);
        engine.input(plain);
        let mut nonce = [0; NONCE];
        nonce.copy_from_slice(Hmac::from_engine(engine).to_byte_array().split_at(NONCE).0);
        nonce
    }

    /// What was sealed.
    ///
    /// # Errors
    /// When this node has not sealed it, with this tag and this counter.
    pub fn open(&self, copy: &SealedCopy) -> Result<Copy, CopyError> {
        let (nonce, sealed) = copy.sealed.split_first_chunk::<NONCE>().ok_or(CopyError::NotOurs)?;
        let aad = associated(copy.tag, copy.counter);
        let payload = Payload { msg: sealed, aad: &aad };
        let plain = self.cipher().decrypt(&XNonce::from(*nonce), payload).map_err(|_| CopyError::NotOurs)?;
        let copied = parse(&plain).ok_or(CopyError::Malformed)?;
        let fits =
            u32::try_from(copied.records.len()) == Ok(copy.counter) && self.tag(copied.instance) == copy.tag;
        if fits { Ok(copied) } else { Err(CopyError::Malformed) }
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(Key::from_slice(&self.0[..]))
    }
}

fn plain(instance: InstanceId, records: &[Vec<u8>]) -> Option<Vec<u8>> {
    let mut plain = instance.0.to_vec();
    for record in records {
        plain.extend(u32::try_from(record.len()).ok()?.to_be_bytes());
        plain.extend(record);
    }
    Some(plain)
}

fn associated(tag: [u8; 32], counter: u32) -> Vec<u8> {
    [AD_LABEL, &tag, &counter.to_be_bytes()].concat()
}

fn parse(plain: &[u8]) -> Option<Copy> {
    let (instance, mut rest) = plain.split_first_chunk::<32>()?;
    let mut records = Vec::new();
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let (record, after) = after.split_at_checked(length)?;
        records.push(record.to_vec());
        rest = after;
    }
    Some(Copy { instance: InstanceId(*instance), records })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

    use super::*;

    /// Bytes that a copy has beside its records: tag, counter, nonce, authenticator, factory_instance.
    const OVERHEAD: usize = 32 + 4 + NONCE + 16 + 32;

    fn key(secret: u8) -> CopyKey {
        CopyKey::derive(&MasterSecret::new([secret; 32]))
    }

    fn copy() -> Copy {
        Copy { instance: InstanceId([7; 32]), records: vec![vec![1, 2, 3], vec![], vec![9; 300]] }
    }

    /// S40: only who has the secret reads a copy, and not with another tag or counter than it was sealed with.
    #[test]
    fn a_copy_is_its_owners_as_it_was_sealed() {
        let sealed = key(1).seal(&copy()).unwrap();
        assert_eq!(key(1).open(&sealed), Ok(copy()));
        assert_eq!(sealed.counter, 3);
        let records: usize = copy().records.iter().map(|record| record.len() + 4).sum();
        assert_eq!(32 + 4 + sealed.sealed.len(), OVERHEAD + records);
        assert_eq!(key(2).open(&sealed), Err(CopyError::NotOurs));
        let others = [
            SealedCopy { counter: 4, ..sealed.clone() },
            SealedCopy { tag: [0; 32], ..sealed.clone() },
            SealedCopy { sealed: vec![], ..sealed.clone() },
            SealedCopy { sealed: sealed.sealed[..sealed.sealed.len() - 1].to_vec(), ..sealed.clone() },
        ];
        for other in others {
            assert_eq!(key(1).open(&other), Err(CopyError::NotOurs));
        }
        for at in 0..sealed.sealed.len() {
            let mut changed = sealed.clone();
            changed.sealed[at] ^= 1;
            assert_eq!(key(1).open(&changed), Err(CopyError::NotOurs), "byte {at}");
        }
    }

    /// S40: a tag says nothing of its factory; S9: another record is another nonce, and the same records are the same copy.
    #[test]
    fn a_keeper_learns_nothing_of_what_it_keeps() {
        let first = key(1).seal(&copy()).unwrap();
        let other = Copy { records: vec![vec![1, 2, 4], vec![], vec![9; 300]], ..copy() };
        let second = key(1).seal(&other).unwrap();
        assert_eq!((first.tag, first.counter), (second.tag, second.counter));
        assert_ne!(first.sealed[..NONCE], second.sealed[..NONCE]);
        assert_ne!(first.sealed[NONCE..NONCE + 32], second.sealed[NONCE..NONCE + 32]);
        assert_eq!(key(1).seal(&copy()), Some(first.clone()));
        let nonce = key(1).nonce_of(copy().instance, &copy().records).unwrap();
        assert_eq!(first.sealed[..NONCE], nonce);
        assert_ne!(key(2).nonce_of(copy().instance, &copy().records), Some(nonce));
        assert_ne!(first.tag, key(2).tag(copy().instance));
        assert!(!first.sealed.windows(32).any(|bytes| bytes == [7; 32] || bytes == [9; 32]));
    }
}
