//! An embedded regtest chain. Blocks hold no work and no header; everything that decides whether a
//! transaction may be in one is checked: inputs exist and are unspent, timelocks of both kinds,
//! amounts, and every input's script by Bitcoin Core's own interpreter.

mod market;
mod policy;
mod reject;

use std::collections::{BTreeMap, BTreeSet};

use bitcoin::hashes::Hash;
use bitcoin::transaction::Version;
use bitcoin::{
    Amount, BlockHash, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid, Witness, absolute,
};

use factory_engine::types::Height;

pub use market::{Market, anchor_of};
pub use policy::{check_scripts, fee_of};
pub use reject::Reject;

/// Height of the first block.
pub const FIRST: Height = 100;

/// A coin and the height of its block; nothing while its transaction is in the mempool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coin {
    /// Value and script of the coin.
    pub output: TxOut,
    /// Height of its block; nothing in the mempool.
    pub height: Option<Height>,
}

/// One block of the model: no header, no work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Its hash: over its parent, its height and its transactions.
    pub hash: BlockHash,
    /// Its transactions, in order.
    pub txs: Vec<Transaction>,
    /// Their ids, in the same order.
    pub txids: Vec<Txid>,
    /// What they spent, for a reorganisation.
    spent: Vec<(OutPoint, Coin)>,
}

/// The best chain and the mempool.
#[derive(Debug, Clone)]
pub struct Chain {
    blocks: Vec<Block>,
    coins: BTreeMap<OutPoint, Coin>,
    /// Where each transaction of the chain is.
    places: BTreeMap<Txid, (Height, usize)>,
    /// Who spends an output, in the chain.
    spenders: BTreeMap<OutPoint, Txid>,
    mempool: Vec<Transaction>,
    minted: Vec<Transaction>,
    /// Feerates that get a transaction into the mempool and into a block.
    pub market: Market,
    salt: u64,
    script_checks: u64,
}

impl Default for Chain {
    fn default() -> Self {
        Self::new()
    }
}

impl Chain {
    /// A chain with one empty block.
    pub fn new() -> Self {
        let mut chain = Self {
            blocks: vec![],
            coins: BTreeMap::new(),
            places: BTreeMap::new(),
            spenders: BTreeMap::new(),
            mempool: vec![],
            minted: vec![],
            market: Market::default(),
            salt: 0,
            script_checks: 0,
        };
        chain.mine();
        chain
    }

    /// Height of the last block.
    pub fn height(&self) -> Height {
        // A lab never mines 2^32 blocks.
        let blocks = Height::try_from(self.blocks.len()).unwrap_or(Height::MAX);
        FIRST.saturating_add(blocks).saturating_sub(1)
    }

    /// The block at a height.
    pub fn block(&self, height: Height) -> Option<&Block> {
        self.blocks.get(usize::try_from(height.checked_sub(FIRST)?).ok()?)
    }

    /// Transactions that wait for a block, in the order in which they came.
    pub fn mempool(&self) -> &[Transaction] {
        &self.mempool
    }

    /// Inputs that consensus code has judged.
    pub fn script_checks(&self) -> u64 {
        self.script_checks
    }

    /// Every unspent coin that is confirmed, by outpoint.
    pub fn coins(&self) -> impl Iterator<Item = (&OutPoint, &Coin)> {
        self.coins.iter()
    }

    /// The coin at this outpoint, if it is confirmed and unspent.
    pub fn coin(&self, outpoint: OutPoint) -> Option<&Coin> {
        self.coins.get(&outpoint)
    }

    /// The height at which a transaction confirmed, with the transaction.
    pub fn confirmed(&self, txid: Txid) -> Option<(Height, &Transaction)> {
        let (height, place) = *self.places.get(&txid)?;
        Some((height, self.block(height)?.txs.get(place)?))
    }

    /// Who spends an outpoint in the best chain, and where.
    pub fn spender(&self, outpoint: OutPoint) -> Option<(Height, &Transaction)> {
        self.confirmed(*self.spenders.get(&outpoint)?)
    }

    /// New money in the next block.
    pub fn mint(&mut self, script_pubkey: ScriptBuf, value: Amount) -> OutPoint {
        self.salt = self.salt.wrapping_add(1);
        let tag = self.salt.to_be_bytes();
        let input = TxIn {
            previous_output: OutPoint::null(),
            script_sig: ScriptBuf::new(),
            sequence: Sequence::MAX,
            witness: Witness::from_slice(&[tag]),
        };
        // Two mints of one amount to one script differ in their lock time.
        let salt = u32::try_from(self.salt % 400_000_000).unwrap_or(0);
        let tx = Transaction {
            version: Version::TWO,
            lock_time: absolute::LockTime::from_consensus(salt),
            input: vec![input],
            output: vec![TxOut { value, script_pubkey }],
        };
        let outpoint = OutPoint { txid: tx.compute_txid(), vout: 0 };
        self.minted.push(tx);
        outpoint
    }

    /// Nobody has any coin but this one, which may be another chain's.
    pub fn only_coin(&mut self, outpoint: OutPoint, output: TxOut) {
        self.coins = BTreeMap::from([(outpoint, Coin { output, height: Some(self.height()) })]);
    }

    /// A coin as a transaction of the mempool may spend it.
    pub fn available(&self, outpoint: OutPoint) -> Option<Coin> {
        if let Some(coin) = self.coins.get(&outpoint) {
            return Some(coin.clone());
        }
        let parent = self.mempool.iter().find(|tx| tx.compute_txid() == outpoint.txid)?;
        let output = parent.output.get(usize::try_from(outpoint.vout).ok()?)?.clone();
        Some(Coin { output, height: None })
    }

    /// Takes a transaction into the mempool; one that is known already is no error.
    ///
    /// # Errors
    /// Whatever would keep it out of the next block, or from being relayed.
    pub fn submit(&mut self, tx: &Transaction) -> Result<Txid, Reject> {
        let txid = tx.compute_txid();
        if !self.knows(txid) {
            let checks = self.check(tx)?;
            self.script_checks = self.script_checks.saturating_add(checks);
            let replaced = self.replaced(tx)?;
            self.mempool.retain(|other| !replaced.contains(&other.compute_txid()));
            self.mempool.push(tx.clone());
        }
        Ok(txid)
    }

    /// Every mempool forgets a transaction: whoever needs it sends it again.
    pub fn drop_waiting(&mut self, txid: Txid) {
        self.mempool.retain(|other| other.compute_txid() != txid);
    }

    /// Whether a transaction is in the mempool or in a block.
    pub fn knows(&self, txid: Txid) -> bool {
        self.mempool.iter().any(|other| other.compute_txid() == txid) || self.confirmed(txid).is_some()
    }

    /// Whether the mempool would take a transaction that it doesn't have; how many inputs consensus
    /// code has judged for that.
    ///
    /// # Errors
    /// As [`Chain::submit`].
    pub fn check(&self, tx: &Transaction) -> Result<u64, Reject> {
        self.check_above(self.market.floor, tx)
    }

    /// The same of a transaction that comes with a child that pays for both: only its fee is no obstacle.
    ///
    /// # Errors
    /// As [`Chain::submit`], fees excepted.
    pub fn check_with_child(&self, tx: &Transaction) -> Result<u64, Reject> {
        self.check_above(0, tx)
    }

    fn check_above(&self, floor: u32, tx: &Transaction) -> Result<u64, Reject> {
        let mut prevouts = Vec::with_capacity(tx.input.len());
        let mut parents = BTreeSet::new();
        for input in &tx.input {
            let outpoint = input.previous_output;
            let coin = self.available(outpoint).ok_or(Reject::MissingInput { outpoint })?;
            policy::check_relative_lock(tx, input.sequence, coin.height, self.height())?;
            if coin.height.is_none() {
                parents.insert(outpoint.txid);
            }
            prevouts.push(coin.output);
        }
        policy::check_lock_time(tx, self.height())?;
        policy::check_standard(tx, &prevouts)?;
        market::check_floor(floor, tx, &prevouts)?;
        let replaced = self.replaced(tx)?;
        self.check_topology(tx, &parents, &replaced)?;
        check_scripts(tx, &prevouts)
    }

    /// Version 3 (BIP-431): one unconfirmed parent with one child, both version 3.
    fn check_topology(
        &self,
        tx: &Transaction,
        parents: &BTreeSet<Txid>,
        replaced: &BTreeSet<Txid>,
    ) -> Result<(), Reject> {
        let v3 = |tx: &Transaction| tx.version.0 == 3;
        for parent in self.mempool.iter().filter(|other| parents.contains(&other.compute_txid())) {
            let txid = parent.compute_txid();
            if v3(parent) != v3(tx) {
                return Err(Reject::Topology("version 3 and others do not mix while unconfirmed"));
            }
            let spends =
                |other: &&Transaction| other.input.iter().any(|input| input.previous_output.txid == txid);
            let stays = |other: &&Transaction| !replaced.contains(&other.compute_txid());
            if v3(parent) && self.mempool.iter().filter(stays).any(|other| spends(&other)) {
                return Err(Reject::Topology("an unconfirmed version 3 transaction has one child"));
            }
            let grandparent = parent.input.iter().any(|input| {
                self.mempool.iter().any(|other| other.compute_txid() == input.previous_output.txid)
            });
            if v3(tx) && grandparent {
                return Err(Reject::Topology("version 3 has one unconfirmed ancestor"));
            }
        }
        if v3(tx) && parents.len() > 1 {
            return Err(Reject::Topology("version 3 has one unconfirmed ancestor"));
        }
        Ok(())
    }

    /// A block with everything that waits. Returns its height.
    pub fn mine(&mut self) -> Height {
        self.mine_without(|_| false)
    }

    /// A block without the transactions that `censored` names, and their descendants.
    pub fn mine_without(&mut self, censored: impl Fn(&Transaction) -> bool) -> Height {
        let height = self.height().saturating_add(1);
        let mut txs = std::mem::take(&mut self.minted);
        let mut left: Vec<Transaction> = Vec::new();
        let cheap: BTreeSet<Txid> =
            self.mempool.iter().filter(|tx| self.is_too_cheap(tx)).map(Transaction::compute_txid).collect();
        for tx in std::mem::take(&mut self.mempool) {
            let below =
                |input: &TxIn| left.iter().any(|other| other.compute_txid() == input.previous_output.txid);
            let refused = censored(&tx) || cheap.contains(&tx.compute_txid());
            if refused || tx.input.iter().any(below) {
                left.push(tx);
            } else {
                txs.push(tx);
            }
        }
        self.mempool = left;
        let mut spent = Vec::new();
        let txids: Vec<Txid> = txs.iter().map(Transaction::compute_txid).collect();
        for (place, (tx, txid)) in txs.iter().zip(txids.iter().copied()).enumerate() {
            for input in &tx.input {
                self.spenders.insert(input.previous_output, txid);
                if let Some(coin) = self.coins.remove(&input.previous_output) {
                    spent.push((input.previous_output, coin));
                }
            }
            self.places.insert(txid, (height, place));
            for (vout, output) in (0..).zip(&tx.output) {
                let coin = Coin { output: output.clone(), height: Some(height) };
                self.coins.insert(OutPoint { txid, vout }, coin);
            }
        }
        let hash = self.hash(height, &txids);
        self.blocks.push(Block { hash, txs, txids, spent });
        height
    }

    fn hash(&mut self, height: Height, txids: &[Txid]) -> BlockHash {
        self.salt = self.salt.wrapping_add(1);
        let mut bytes = self.salt.to_be_bytes().to_vec();
        bytes.extend_from_slice(&height.to_be_bytes());
        if let Some(parent) = self.blocks.last() {
            bytes.extend_from_slice(parent.hash.as_byte_array());
        }
        for txid in txids {
            bytes.extend_from_slice(txid.as_byte_array());
        }
        BlockHash::hash(&bytes)
    }

    /// Drops the last `depth` blocks. What was in them waits in the mempool again, as far as it may;
    /// new money comes in the next block.
    pub fn reorg(&mut self, depth: u32) {
        let waiting = std::mem::take(&mut self.mempool);
        let again = self.unwind(depth);
        for tx in again.into_iter().chain(waiting) {
            // One that the shorter chain doesn't allow is its owner's to send again.
            let _ = self.submit(&tx);
        }
    }

    /// The same, and every mempool is empty afterwards: whoever needs a transaction sends it again.
    pub fn reorg_and_drop(&mut self, depth: u32) {
        self.mempool.clear();
        self.unwind(depth);
    }

    /// Drops blocks, and returns what was in them, without the new money: that comes in the next block.
    fn unwind(&mut self, depth: u32) -> Vec<Transaction> {
        let mut again = Vec::new();
        for _ in 0..depth {
            if self.blocks.len() <= 1 {
                break;
            }
            let Some(block) = self.blocks.pop() else { break };
            for (tx, txid) in block.txs.iter().zip(block.txids.iter().copied()) {
                self.places.remove(&txid);
                for input in &tx.input {
                    self.spenders.remove(&input.previous_output);
                }
                for (vout, _) in (0..).zip(&tx.output) {
                    self.coins.remove(&OutPoint { txid, vout });
                }
            }
            // What the same block had made is no coin of the chain below it.
            let own: BTreeSet<Txid> = block.txids.iter().copied().collect();
            let spent = block.spent.into_iter().filter(|(outpoint, _)| !own.contains(&outpoint.txid));
            self.coins.extend(spent);
            again.splice(0..0, block.txs);
        }
        let (minted, others) = again.into_iter().partition(Transaction::is_coinbase);
        self.minted.extend::<Vec<_>>(minted);
        others
    }
}
