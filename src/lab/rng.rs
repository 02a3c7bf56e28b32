//! Randomness and keys from one seed: the same seed gives the same world on every machine.

use super::node::Key;
use crate::protocol::Entropy;
use bitcoin::hashes::{Hash, HashEngine, sha256};

/// SHA-256 in counter mode over a seed and a label. Not for real secrets: the seed is 64 bits.
#[derive(Debug, Clone)]
pub struct Rng {
    key: [u8; 32],
    counter: u64,
}

impl Rng {
    /// The stream with this label.
    pub fn new(seed: u64, label: &str) -> Self {
        let mut engine = sha256::Hash::engine();
        engine.input(b"cln-factory lab");
        engine.input(&seed.to_be_bytes());
        engine.input(label.as_bytes());
        Self { key: sha256::Hash::from_engine(engine).to_byte_array(), counter: 0 }
    }

    fn block(&mut self) -> [u8; 32] {
        let mut engine = sha256::Hash::engine();
        engine.input(&self.key);
        engine.input(&self.counter.to_be_bytes());
        self.counter = self.counter.wrapping_add(1);
        sha256::Hash::from_engine(engine).to_byte_array()
    }

    /// A number below `bound`; 0 if there is none.
    pub fn below(&mut self, bound: usize) -> usize {
        let block = self.block();
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&block[..8]);
        // The bias is below one in 2^50 for every bound that a lab has.
        let bound = u64::try_from(bound).unwrap_or(u64::MAX);
        let number = u64::from_be_bytes(bytes).checked_rem(bound).unwrap_or(0);
        usize::try_from(number).unwrap_or(0)
    }

    /// A key of a wallet or a channel.
    pub fn key(&mut self) -> Key {
        loop {
            // One in 2^128 blocks is no key.
            if let Some(key) = Key::new(&self.block()) {
                return key;
            }
        }
    }
}

impl Entropy for Rng {
    fn bytes32(&mut self) -> [u8; 32] {
        self.block()
    }
}
