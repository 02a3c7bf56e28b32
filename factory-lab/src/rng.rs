//! Randomness and keys from one seed: the same seed gives the same world on every machine.

use bitcoin::hashes::{Hash, HashEngine, sha256};
use factory_engine::Entropy;

use super::fault::Dice;
use super::key::Key;

/// A stream from the hash of a seed and a label. Not for real secrets: the seed is 64 bits.
#[derive(Debug, Clone)]
pub struct Rng(Dice);

impl Rng {
    /// The stream with this label.
    pub fn new(seed: u64, label: &str) -> Self {
        let mut engine = sha256::Hash::engine();
        engine.input(b"cln-factory lab");
        engine.input(&seed.to_be_bytes());
        engine.input(label.as_bytes());
        let hash = sha256::Hash::from_engine(engine).to_byte_array();
        let number = hash.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte));
        Self(Dice::new(number, 0))
    }

    fn block(&mut self) -> [u8; 32] {
        let mut block = [0; 32];
        for part in block.chunks_exact_mut(8) {
            part.copy_from_slice(&self.0.next_number().to_be_bytes());
        }
        block
    }

    /// A number below `bound`; 0 if there is none.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0.below(bound)
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
