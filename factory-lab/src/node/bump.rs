//! Children that raise fees, as the plugin makes them of lightningd's wallet.

use std::collections::BTreeSet;

use bitcoin::{Amount, OutPoint, Transaction, Txid};
use factory_engine::io::fees::{Raise, Refused, Trouble};
use factory_engine::tx::child::{Bump, Child, Coin, Draft, Least, Own, Purse};
use factory_engine::tx::scripts::ANCHOR_VALUE;

use crate::chain::{Chain, Reject};

use super::Lightningd;

/// How often a child that somebody else's outbids is raised at once.
const RAISES: usize = 3;

/// What the plugin would read from bitcoind's words.
pub fn refused(reject: &Reject) -> Refused {
    match reject {
        Reject::MissingInput { .. } => Refused::MissingInputs,
        Reject::Conflict { .. } => Refused::Conflict(reject.to_string()),
        Reject::TooEarly { .. } | Reject::TimeLock => Refused::NotFinal,
        Reject::Fee { .. } => Refused::FeeTooLow(reject.to_string()),
        _ => Refused::Other(reject.to_string()),
    }
}

impl Lightningd {
    /// Sends a transaction, and the child that raises its fee: one that is out if it will do, or a new one.
    ///
    /// # Errors
    /// Why there is none. A child may be out all the same.
    pub fn raise(&mut self, chain: &mut Chain, raise: &Raise) -> Result<Child, Trouble> {
        let sent = match chain.submit(&raise.parent) {
            Ok(_) => Ok(()),
            // Together with its child it may be enough.
            Err(Reject::Fee { .. }) if self.packages => Err(&raise.parent),
            Err(reject) => return Err(Trouble::Parent(refused(&reject))),
        };
        if let Err(parent) = sent {
            // Past something else that spends its input no child helps it.
            chain.check_with_child(parent).map_err(|reject| Trouble::Parent(refused(&reject)))?;
        }
        if self.locked {
            return Err(Trouble::Wallet("the wallet is locked".to_owned()));
        }
        let parent = raise.parent.compute_txid();
        self.children.note(parent, raise.deadline);
        let here = |chain: &Chain, coin: &Coin| chain.coin(coin.outpoint).is_some();
        let all = |child: &&Child| child.coins.iter().all(|coin| here(chain, coin));
        let old = self.children.of(parent).filter(all).cloned();
        let mut is_out = false;
        if let Some(old) = &old {
            is_out = send(chain, sent, &old.tx).is_ok();
            if is_out && raise.bump.is_served_by(old) {
                return Ok(old.clone());
            }
        }
        let change = match old.as_ref().and_then(|old| old.tx.output.first()) {
            Some(output) => output.script_pubkey.clone(),
            None => self.new_taproot_script(),
        };
        let free: Purse = self.free(chain).into_iter().collect();
        let own = Own { old, stays: is_out, free: &free, change };
        let mut draft =
            Draft::new(&raise.bump, &self.children, raise.deadline, own, |coin| here(chain, coin));
        for _ in 0..RAISES {
            let (new, taken) = draft.child(&raise.bump).map_err(Trouble::NoChild)?;
            let tx = self.sign_child(chain, &raise.parent, new.tx.clone());
            let tx = tx.map_err(|error| Trouble::Wallet(error.to_string()))?;
            match send(chain, sent, &tx) {
                Ok(txid) => {
                    let child = Child { tx, ..new };
                    let cost = child.fee.checked_sub(ANCHOR_VALUE).unwrap_or(Amount::ZERO);
                    self.costs.insert(txid, cost);
                    for gone in taken.iter().filter_map(|of| self.children.remove(*of)) {
                        for coin in &gone.coins {
                            self.reserved.remove(&coin.outpoint);
                        }
                    }
                    self.reserved.extend(child.coins.iter().map(|coin| coin.outpoint));
                    self.children.replace(parent, child.clone());
                    return Ok(child);
                }
                Err(Reject::Conflict { other, .. }) => {
                    let theirs = outbid(chain, other, &tx, new.fee, &raise.bump).ok_or_else(|| {
                        Trouble::Child(Refused::Conflict("somebody else's child".to_owned()))
                    })?;
                    draft.outbid(theirs);
                }
                // The package pays too little as a whole.
                Err(reject @ Reject::Fee { .. }) if sent.is_err() => {
                    return Err(Trouble::Parent(refused(&reject)));
                }
                Err(reject) => return Err(Trouble::Child(refused(&reject))),
            }
        }
        Err(Trouble::Child(Refused::Conflict("others keep outbidding it".to_owned())))
    }

    /// Confirmed, not reserved, and nothing of the mempool spends it: that would be the wallet's own.
    fn free(&self, chain: &Chain) -> Vec<Coin> {
        let own = chain.coins().filter(|(outpoint, coin)| {
            self.keys.contains_key(&coin.output.script_pubkey)
                && !self.reserved.contains(outpoint)
                && chain.waiting_spender(**outpoint).is_none()
        });
        own.map(|(outpoint, coin)| Coin { outpoint: *outpoint, output: coin.output.clone() }).collect()
    }

    /// The largest coin that is free.
    pub fn largest_free(&self, chain: &Chain) -> Amount {
        self.free(chain).iter().map(|coin| coin.output.value).max().unwrap_or(Amount::ZERO)
    }

    /// Some coin that is free.
    pub fn any_coin(&self, chain: &Chain) -> Option<OutPoint> {
        self.free(chain).first().map(|coin| coin.outpoint)
    }

    /// S27: gives back the coins of children whose parents no longer wait.
    pub fn settle(&mut self, chain: &Chain, waiting: &BTreeSet<Txid>) {
        for parent in self.children.ended(waiting) {
            let Some(child) = self.children.of(parent) else { continue };
            if !is_over(chain, child) {
                continue;
            }
            for coin in &child.coins {
                self.reserved.remove(&coin.outpoint);
            }
            self.children.remove(parent);
        }
    }

    /// Coins that stay reserved for a child although it can't be needed: its parent can't come any more
    /// (`may_come`), and nothing spends them.
    pub fn leaked(&self, chain: &Chain, may_come: impl Fn(Txid) -> bool) -> Vec<OutPoint> {
        let over = |parent: &Txid, child: &Child| {
            let waits = may_come(*parent) || chain.waiting(*parent).is_some();
            let here = child.coins.iter().all(|coin| chain.coin(coin.outpoint).is_some());
            !waits && here && is_over(chain, child)
        };
        let leaked = self.children.iter().filter(|(parent, child)| over(parent, child));
        leaked.flat_map(|(_, child)| child.coins.iter().map(|coin| coin.outpoint)).collect()
    }

    /// What children that confirmed took from the wallet.
    pub fn paid_for_fees(&self, chain: &Chain) -> Amount {
        let confirmed = self.costs.iter().filter(|(txid, _)| chain.confirmed(**txid).is_some());
        confirmed.map(|(_, cost)| *cost).sum()
    }
}

/// Whether nothing in the mempool spends a child's coins.
fn is_over(chain: &Chain, child: &Child) -> bool {
    child.coins.iter().all(|coin| chain.waiting_spender(coin.outpoint).is_none())
}

/// A child alone, or together with the parent that the mempool does not take by itself.
fn send(chain: &mut Chain, parent: Result<(), &Transaction>, child: &Transaction) -> Result<Txid, Reject> {
    match parent {
        Ok(()) => chain.submit(child),
        Err(parent) => chain.submit_package(parent, child),
    }
}

/// What it takes to replace somebody's child: one that pays more in all and a lower feerate, or one with a
/// higher feerate that is too small to carry its parent. Nothing if it carries it.
fn outbid(chain: &Chain, other: Txid, tx: &Transaction, fee: Amount, bump: &Bump) -> Option<Least> {
    let other = chain.waiting(other)?;
    let theirs = chain.fee_in_mempool(other)?;
    let lower = u128::from(theirs.to_sat()) * u128::from(tx.weight().to_wu())
        < u128::from(fee.to_sat()) * u128::from(other.weight().to_wu());
    if !lower {
        return bump.over(theirs.to_sat().saturating_mul(4_000).checked_div(other.weight().to_wu())?);
    }
    let relay = Amount::from_sat(u64::try_from(tx.vsize()).unwrap_or(u64::MAX));
    Some(Least::default().and(theirs.checked_add(relay)?))
}
