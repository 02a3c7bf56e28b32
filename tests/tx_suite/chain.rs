//! The rules of a chain that scripts don't check: coins, amounts, nLockTime and nSequence.

use std::collections::BTreeMap;

use bitcoin::{Amount, OutPoint, Transaction, TxOut};
use factory_engine::tx::verify::verify_input;

#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    NoCoin,
    Inflation,
    LockTime,
    Sequence,
    Script,
}

/// Unspent outputs, with the height at which they were mined.
#[derive(Clone)]
pub struct Chain {
    pub height: u32,
    coins: BTreeMap<OutPoint, (TxOut, u32)>,
}

impl Chain {
    pub fn with(height: u32, outpoint: OutPoint, output: TxOut) -> Self {
        Self { height, coins: BTreeMap::from([(outpoint, (output, height))]) }
    }

    pub fn has(&self, outpoint: &OutPoint) -> bool {
        self.coins.contains_key(outpoint)
    }

    pub fn mine(&mut self, blocks: u32) {
        self.height += blocks;
    }

    /// Whether the transaction may be in the next block.
    pub fn check(&self, tx: &Transaction) -> Result<(), Refusal> {
        let next = self.height + 1;
        let [input] = tx.input.as_slice() else { panic!("the factory's have one input") };
        let (prevout, mined) = self.coins.get(&input.previous_output).ok_or(Refusal::NoCoin)?;
        let paid: Amount = tx.output.iter().map(|output| output.value).sum();
        if paid > prevout.value {
            return Err(Refusal::Inflation);
        }
        // BIP-113 aside (these are heights): final if the height has passed, or nSequence says so.
        let (lock, sequence) = (tx.lock_time.to_consensus_u32(), input.sequence.0);
        if lock >= next && sequence != u32::MAX {
            return Err(Refusal::LockTime);
        }
        // BIP-68: bit 31 switches it off, bit 22 would make it a time.
        if tx.version.0 >= 2 && sequence & (1 << 31) == 0 {
            assert_eq!(sequence & (1 << 22), 0, "no relative times here");
            if mined + (sequence & 0xffff) > next {
                return Err(Refusal::Sequence);
            }
        }
        verify_input(tx, prevout).map_err(|_| Refusal::Script)
    }

    /// Mines a block with the transaction.
    pub fn include(&mut self, tx: &Transaction) -> Result<(), Refusal> {
        self.check(tx)?;
        self.height += 1;
        self.coins.remove(&tx.input[0].previous_output);
        let txid = tx.compute_txid();
        for (vout, output) in (0..).zip(&tx.output) {
            self.coins.insert(OutPoint { txid, vout }, (output.clone(), self.height));
        }
        Ok(())
    }
}
