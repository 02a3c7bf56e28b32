//! The fee market: what the mempool takes, what the next block takes, and replacement of children.
//!
//! It concerns transactions with an anchor and what spends one: everything else of a world (a funding, a
//! commitment) is lightningd's to raise. A [`Market::strict`] one concerns all.

use std::collections::BTreeSet;

use bitcoin::{Amount, OutPoint, Transaction, TxOut, Txid};

use super::{Chain, Reject, fee_of};
use factory_engine::tx::child::INCREMENT;
use factory_engine::tx::layout::fee;
use factory_engine::tx::scripts::anchor_script;

/// What fees are at the moment, in sat/kw.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Market {
    /// Under it nothing with an anchor gets into the mempool.
    pub floor: u32,
    /// Under it no miner takes anything with an anchor; parent and child count together.
    pub inclusion: u32,
    /// Whether fees decide about every transaction, and any may be replaced by one that pays more: not about
    /// those with anchors alone.
    pub strict: bool,
}

impl Chain {
    /// What a transaction of the mempool pays.
    pub fn fee_in_mempool(&self, tx: &Transaction) -> Option<Amount> {
        fee_of(tx, &self.prevouts(tx)?)
    }

    /// The outputs that a transaction spends, in the chain or in the mempool.
    pub fn prevouts(&self, tx: &Transaction) -> Option<Vec<TxOut>> {
        tx.input.iter().map(|input| Some(self.available(input.previous_output)?.output)).collect()
    }

    /// The transaction of the mempool that spends an outpoint.
    pub fn waiting_spender(&self, outpoint: OutPoint) -> Option<&Transaction> {
        self.mempool.iter().find(|tx| tx.input.iter().any(|input| input.previous_output == outpoint))
    }

    /// A transaction of the mempool with this id.
    pub fn waiting(&self, txid: Txid) -> Option<&Transaction> {
        self.mempool.iter().find(|tx| tx.compute_txid() == txid)
    }

    /// What a transaction pays together with the child on its anchor, and their weight.
    pub fn package(&self, tx: &Transaction) -> Option<(Amount, u64)> {
        let own = (self.fee_in_mempool(tx)?, tx.weight().to_wu());
        let child = anchor_of(tx).and_then(|anchor| self.waiting_spender(anchor));
        let Some(child) = child else { return Some(own) };
        let fee = own.0.checked_add(self.fee_in_mempool(child)?)?;
        Some((fee, own.1.saturating_add(child.weight().to_wu())))
    }

    /// Takes a parent that is too cheap by itself together with the child that pays for both (bitcoind's
    /// `submitpackage`). Both or none.
    ///
    /// # Errors
    /// As [`Chain::submit`]; of fees, what both together pay.
    pub fn submit_package(&mut self, parent: &Transaction, child: &Transaction) -> Result<Txid, Reject> {
        let floor = std::mem::take(&mut self.market.floor);
        let before = self.mempool.clone();
        let both = self.submit(parent).and_then(|_| self.submit(child));
        self.market.floor = floor;
        let paid = both.and_then(|txid| {
            let (paid, weight) = self.package(parent).ok_or(Reject::Amounts)?;
            let enough = fee(weight, floor).is_some_and(|needed| paid >= needed);
            if enough { Ok(txid) } else { Err(Reject::Fee { fee: paid, vbytes: weight.div_ceil(4) }) }
        });
        if paid.is_err() {
            self.mempool = before;
        }
        paid
    }

    /// What a transaction would replace: children of anchors that it outbids (BIP-125: a higher feerate,
    /// all that they pay, and its own relay).
    pub(super) fn replaced(&self, tx: &Transaction) -> Result<BTreeSet<Txid>, Reject> {
        let mut replaced = BTreeSet::new();
        for input in &tx.input {
            let outpoint = input.previous_output;
            let Some(other) = self.waiting_spender(outpoint) else { continue };
            let conflict = Reject::Conflict { outpoint, other: other.compute_txid() };
            let children = self.spends_anchor(tx) && self.spends_anchor(other);
            if !children && !self.market.strict {
                return Err(conflict);
            }
            if replaced.insert(other.compute_txid()) && !self.outbids(tx, other) {
                return Err(conflict);
            }
        }
        // What spends a transaction that goes, goes too.
        let below = |gone: &BTreeSet<Txid>, other: &Transaction| {
            other.input.iter().any(|input| gone.contains(&input.previous_output.txid))
        };
        for other in self.mempool.iter().filter(|_| self.market.strict) {
            if below(&replaced, other) {
                replaced.insert(other.compute_txid());
            }
        }
        // The one child that a version 3 parent may have goes if another outbids it, whatever it spends.
        let siblings = self.mempool.iter().filter(|other| self.are_siblings(tx, other));
        for other in siblings.filter(|_| self.spends_anchor(tx)) {
            if self.outbids(tx, other) {
                replaced.insert(other.compute_txid());
            }
        }
        Ok(replaced)
    }

    /// Whether both spend outputs of one version 3 transaction that is not confirmed.
    fn are_siblings(&self, tx: &Transaction, other: &Transaction) -> bool {
        let mut parents = tx.input.iter().map(|input| input.previous_output.txid);
        let spends = |parent| other.input.iter().any(|input| input.previous_output.txid == parent);
        parents.any(|parent| spends(parent) && self.waiting(parent).is_some_and(|tx| tx.version.0 == 3))
    }

    fn outbids(&self, tx: &Transaction, other: &Transaction) -> bool {
        let Some(new) = self.fee_in_mempool(tx).map(Amount::to_sat) else { return false };
        let Some(old) = self.fee_in_mempool(other).map(Amount::to_sat) else { return false };
        let relay = u64::try_from(tx.vsize()).unwrap_or(u64::MAX).saturating_mul(INCREMENT);
        let (weight, before) = (tx.weight().to_wu(), other.weight().to_wu());
        let better = u128::from(new) * u128::from(before) > u128::from(old) * u128::from(weight);
        better && new >= old.saturating_add(relay)
    }

    fn spends_anchor(&self, tx: &Transaction) -> bool {
        let anchor = anchor_script();
        tx.input.iter().any(|input| {
            self.available(input.previous_output).is_some_and(|coin| coin.output.script_pubkey == anchor)
        })
    }

    /// Whether a miner leaves a transaction out. Whatever spends one that is left out is too.
    pub(super) fn is_too_cheap(&self, tx: &Transaction) -> bool {
        if self.market.inclusion == 0 {
            return false;
        }
        let concerned = self.market.strict || anchor_of(tx).is_some() || self.spends_anchor(tx);
        let alone = self.fee_in_mempool(tx).map(|paid| (paid, tx.weight().to_wu()));
        concerned && !self.pays(alone) && !self.pays(self.package(tx)) && !self.carries(tx)
    }

    fn pays(&self, package: Option<(Amount, u64)>) -> bool {
        package.is_some_and(|(paid, weight)| {
            fee(weight, self.market.inclusion).is_some_and(|needed| paid >= needed)
        })
    }

    /// Whether a transaction is the child that makes its parent worth a place.
    fn carries(&self, tx: &Transaction) -> bool {
        let parents = tx.input.iter().filter_map(|input| self.waiting(input.previous_output.txid));
        parents.into_iter().any(|parent| self.pays(self.package(parent)))
    }
}

/// Whether a minimum of the mempool (sat/kw) lets a transaction in.
pub(super) fn check_floor(floor: u32, tx: &Transaction, prevouts: &[TxOut]) -> Result<(), Reject> {
    let paid = fee_of(tx, prevouts).ok_or(Reject::Amounts)?;
    let needed = fee(tx.weight().to_wu(), floor).ok_or(Reject::Amounts)?;
    if anchor_of(tx).is_some() && paid < needed {
        let vbytes = u64::try_from(tx.vsize()).unwrap_or(u64::MAX);
        return Err(Reject::Fee { fee: paid, vbytes });
    }
    Ok(())
}

/// Where a transaction's anchor is.
pub fn anchor_of(tx: &Transaction) -> Option<OutPoint> {
    let anchor = anchor_script();
    let place = tx.output.iter().position(|output| output.script_pubkey == anchor)?;
    Some(OutPoint { txid: tx.compute_txid(), vout: u32::try_from(place).ok()? })
}
