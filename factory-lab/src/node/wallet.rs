//! The wallet: coins of single keys, reservations, the funding transaction.

use bitcoin::hashes::{Hash, hash160};
use bitcoin::sighash::{EcdsaSighashType, Prevouts, SighashCache, TapSighashType};
use bitcoin::transaction::Version;
use bitcoin::{Amount, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxOut, Txid, Witness, absolute};
use factory_engine::PreparedFunding;
use factory_engine::tx::child::Coin;
use factory_engine::tx::scripts::{anchor_script, key_script};

use crate::chain::{Chain, Reject};
use crate::{LabError, error};

use super::Lightningd;

/// What a funding transaction pays, sat/vB.
const FEERATE: u64 = 2;
/// Upper bounds of sizes, vB: everything but inputs, and one input.
const BASE_VBYTES: u64 = 100;
const INPUT_VBYTES: u64 = 68;

impl Lightningd {
    /// A fresh P2WPKH script of this wallet.
    pub fn new_script(&mut self) -> ScriptBuf {
        let key = self.rng.key();
        let script = ScriptBuf::new_p2wpkh(&hash160::Hash::hash(&key.public()).into());
        self.keys.insert(script.clone(), key);
        script
    }

    /// A fresh P2TR script of this wallet.
    pub fn new_taproot_script(&mut self) -> ScriptBuf {
        let key = self.rng.key();
        let script = key_script(key.taproot_output());
        self.keys.insert(script.clone(), key);
        script
    }

    /// Reserves coins and makes the unsigned funding transaction.
    ///
    /// # Errors
    /// When the wallet has too little.
    pub fn prepare_funding(
        &mut self,
        chain: &Chain,
        script: ScriptBuf,
        amount: Amount,
        reclaims: &[Coin],
    ) -> Result<PreparedFunding, LabError> {
        let mut taken: Vec<OutPoint> = Vec::new();
        let mut inputs: Vec<OutPoint> = reclaims.iter().map(|coin| coin.outpoint).collect();
        let mut prevouts: Vec<TxOut> = reclaims.iter().map(|coin| coin.output.clone()).collect();
        let mut total: Amount = prevouts.iter().map(|output| output.value).sum();
        let brought = u64::try_from(reclaims.len()).map_err(error)?;
        let mut needed = amount + Amount::from_sat((BASE_VBYTES + brought * INPUT_VBYTES) * FEERATE);
        for (outpoint, coin) in chain.coins() {
            if total >= needed {
                break;
            }
            let ours = self.keys.contains_key(&coin.output.script_pubkey);
            if !ours || self.reserved.contains(outpoint) {
                continue;
            }
            inputs.push(*outpoint);
            taken.push(*outpoint);
            prevouts.push(coin.output.clone());
            total += coin.output.value;
            needed += Amount::from_sat(INPUT_VBYTES * FEERATE);
        }
        let change = total
            .checked_sub(needed)
            .ok_or_else(|| error(format!("the wallet has {total} of the {needed} that are needed")))?;
        self.reserved.extend(taken);
        let mut output = vec![TxOut { value: amount, script_pubkey: script }];
        let mut vout = 0;
        if change >= Amount::from_sat(330) {
            let change = TxOut { value: change, script_pubkey: self.new_script() };
            // As txprepare does, outputs in any order.
            vout = u32::from(self.rng.below(2) == 0);
            output.insert(if vout == 1 { 0 } else { 1 }, change);
        }
        let tx = Transaction {
            version: Version::TWO,
            lock_time: absolute::LockTime::ZERO,
            input: inputs.into_iter().map(unsigned).collect(),
            output,
        };
        Ok(PreparedFunding { tx, prevouts, vout })
    }

    /// Gives coins back that a funding transaction had reserved.
    pub fn release_funding(&mut self, inputs: &[OutPoint]) {
        for input in inputs {
            self.reserved.remove(input);
        }
    }

    /// Signs a prepared transaction and hands it to the chain.
    ///
    /// # Errors
    /// When an input is not the wallet's, or the chain refuses.
    pub fn send_funding(
        &self,
        chain: &mut Chain,
        tx: Transaction,
        witnesses: &[(OutPoint, Witness)],
    ) -> Result<Txid, LabError> {
        let txid = tx.compute_txid();
        let waiting = chain.mempool().iter().any(|other| other.compute_txid() == txid);
        if waiting || chain.confirmed(txid).is_some() {
            return Ok(txid);
        }
        let output = |outpoint| Some(chain.available(outpoint)?.output);
        let signed = self.sign_spending(tx, witnesses, output)?;
        chain.submit(&signed).map_err(|reject: Reject| error(reject))
    }

    /// Signs every input of a transaction that spends coins of this wallet, confirmed or not; an anchor
    /// needs no signature.
    ///
    /// # Errors
    /// When an input is neither the wallet's nor an anchor.
    pub fn sign(&self, chain: &Chain, tx: Transaction) -> Result<Transaction, LabError> {
        self.sign_spending(tx, &[], |outpoint| Some(chain.available(outpoint)?.output))
    }

    /// The same for a child, whose parent the mempool may not have.
    ///
    /// # Errors
    /// As [`Lightningd::sign`].
    pub(super) fn sign_child(
        &self,
        chain: &Chain,
        parent: &Transaction,
        tx: Transaction,
    ) -> Result<Transaction, LabError> {
        let txid = parent.compute_txid();
        self.sign_spending(tx, &[], |outpoint| {
            if outpoint.txid == txid {
                return parent.output.get(usize::try_from(outpoint.vout).ok()?).cloned();
            }
            Some(chain.available(outpoint)?.output)
        })
    }

    fn sign_spending(
        &self,
        mut tx: Transaction,
        finished: &[(OutPoint, Witness)],
        output: impl Fn(OutPoint) -> Option<TxOut>,
    ) -> Result<Transaction, LabError> {
        let coin = |input: &TxIn| {
            output(input.previous_output)
                .ok_or_else(|| error(format!("{} is not in the chain", input.previous_output)))
        };
        let anchor = anchor_script();
        let prevouts = tx.input.iter().map(coin).collect::<Result<Vec<_>, _>>()?;
        let mut witnesses = Vec::with_capacity(prevouts.len());
        for (place, prevout) in prevouts.iter().enumerate() {
            let outpoint = tx.input.get(place).map(|input| input.previous_output);
            if let Some((_, witness)) = finished.iter().find(|(of, _)| Some(*of) == outpoint) {
                witnesses.push(witness.clone());
                continue;
            }
            if prevout.script_pubkey == anchor {
                witnesses.push(Witness::new());
                continue;
            }
            let key = self
                .keys
                .get(&prevout.script_pubkey)
                .ok_or_else(|| error(format!("input {place} is not this wallet's")))?;
            let mut cache = SighashCache::new(&tx);
            let witness = if prevout.script_pubkey.is_p2tr() {
                let all = Prevouts::All(&prevouts);
                let hash = cache
                    .taproot_key_spend_signature_hash(place, &all, TapSighashType::Default)
                    .map_err(error)?;
                Witness::from_slice(&[key.taproot(&hash.to_byte_array())])
            } else {
                let kind = EcdsaSighashType::All;
                let hash = cache
                    .p2wpkh_signature_hash(place, &prevout.script_pubkey, prevout.value, kind)
                    .map_err(error)?;
                Witness::from_slice(&[key.ecdsa(&hash.to_byte_array()), key.public().to_vec()])
            };
            witnesses.push(witness);
        }
        for (input, witness) in tx.input.iter_mut().zip(witnesses) {
            input.witness = witness;
        }
        Ok(tx)
    }

    /// Coins that wait for a funding transaction.
    pub fn reserved(&self) -> usize {
        self.reserved.len()
    }
}

fn unsigned(previous_output: OutPoint) -> TxIn {
    TxIn {
        previous_output,
        script_sig: ScriptBuf::new(),
        sequence: Sequence::ENABLE_RBF_NO_LOCKTIME,
        witness: Witness::new(),
    }
}

/// An unsigned transaction from one coin to one script.
pub fn payment(coin: OutPoint, script_pubkey: ScriptBuf, value: Amount) -> Transaction {
    Transaction {
        version: Version::TWO,
        lock_time: absolute::LockTime::ZERO,
        input: vec![unsigned(coin)],
        output: vec![TxOut { value, script_pubkey }],
    }
}
