//! Children that raise fees: coins of lightningd's wallet, reserved, signed, broadcast and replaced.
//!
//! A child's inputs are the parent's anchor, which needs no signature, and confirmed coins. lightningd
//! signs (`signpsbt`); we put the witnesses in and broadcast, because its own `sendpsbt` wants every
//! input to be its own. What is out is also in the datastore, so that a restart replaces it instead of
//! building a second one. Reservations run out by themselves if all of that is lost.
//!
//! A parent that the mempool takes only together with its child goes to bitcoind itself, where there is
//! access ([`Bitcoind`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bitcoin::psbt::Psbt;
use bitcoin::{Amount, OutPoint, ScriptBuf, Transaction, Txid, Witness};
use factory_engine::io::fees::{ChildOut, Raise, Refused, Report, Trouble, shortcoming};
use factory_engine::tx::child::{Child, Children, Coin, Draft, Least, Own};
use serde_json::json;
use tokio::sync::Mutex;

use super::bitcoind::Bitcoind;
use super::children::Records;
use super::client::{Call, CallError, field};
use super::kept::Kept;
use super::psbt::{self, spending};
use super::sent::{is_spent, old_feerate, send, shortfall};
use super::wallet::{Owned, coins, payout};

/// Inputs stay reserved for so long after the last look at them, blocks.
const RESERVE_BLOCKS: u32 = 36;
/// Renewed when fewer are left.
const RENEW_BLOCKS: u32 = 12;
/// More than was ever reserved: reservations add up, and releasing subtracts.
const RELEASE_BLOCKS: u32 = 100_000;
/// How often a child that somebody else's outbids is raised at one block.
const RAISES: usize = 3;

/// Makes and keeps the children of this node's transactions.
#[derive(Clone)]
pub struct Bumper<C> {
    rpc: C,
    bitcoind: Bitcoind,
    kept: Kept<C>,
    /// One after the other: two children must not want one coin.
    state: Arc<Mutex<Pocket>>,
}

#[derive(Default)]
struct Pocket {
    /// Nothing before the records are read.
    children: Option<Children>,
    /// Where the next child's change goes. A child that comes to nothing doesn't burn an address.
    change: Option<ScriptBuf>,
}

/// How a parent gets into the mempool.
#[derive(Clone, Copy)]
enum Way<'a> {
    /// It is there.
    Alone,
    /// Only with its child; and what was said to it alone.
    Package(&'a Transaction, &'a Refused),
}

impl<C: Call> Bumper<C> {
    /// A bumper that hasn't read its records yet.
    pub fn new(rpc: C, bitcoind: Bitcoind, kept: Kept<C>) -> Self {
        Self { rpc, bitcoind, kept, state: Arc::default() }
    }

    /// Broadcasts the parent, and a child that is good enough.
    pub async fn raise(&self, raise: &Raise) -> Report {
        let mut report = Report {
            instance: raise.instance,
            what: raise.what.clone(),
            target: Some((raise.bump.feerate, raise.deadline)),
            child: None,
            trouble: None,
        };
        let parent = raise.parent.compute_txid();
        let alone = send(&self.rpc, &raise.parent).await;
        let way = match &alone {
            Ok(()) => Way::Alone,
            Err(low @ Refused::FeeTooLow(_)) if self.bitcoind.is_there() => Way::Package(&raise.parent, low),
            Err(refused) => {
                report.trouble = Some(Trouble::Parent(refused.clone()));
                return report;
            }
        };
        let mut pocket = self.state.lock().await;
        let outcome = match self.load(&mut pocket).await {
            Ok(()) => self.child(raise, parent, way, &mut pocket).await,
            Err(error) => Err(Trouble::Wallet(error.to_string())),
        };
        match outcome {
            Ok(child) => report.trouble = shortcoming(&raise.bump, &child),
            Err(trouble) => report.trouble = Some(trouble),
        }
        report.child = pocket
            .children
            .as_ref()
            .and_then(|children| children.of(parent))
            .map(|child| ChildOut { txid: child.tx.compute_txid(), fee: child.fee });
        report
    }

    async fn load(&self, pocket: &mut Pocket) -> Result<(), CallError> {
        if pocket.children.is_none() {
            pocket.children = Some(self.records().load().await?);
        }
        Ok(())
    }

    fn records(&self) -> Records<'_, C> {
        Records(&self.rpc)
    }

    /// Hands over a child, with its parent if that isn't there.
    async fn send(&self, way: Way<'_>, child: &Transaction) -> Result<(), Refused> {
        match way {
            Way::Alone => send(&self.rpc, child).await,
            Way::Package(parent, alone) => match self.bitcoind.submit(parent, child).await {
                Err(Refused::Backend(why)) => {
                    log::debug!("cannot hand over a package: {why}");
                    Err(alone.clone())
                }
                other => other,
            },
        }
    }

    /// The child that is out if it will do, or a new one.
    async fn child(
        &self,
        raise: &Raise,
        parent: Txid,
        way: Way<'_>,
        pocket: &mut Pocket,
    ) -> Result<Child, Trouble> {
        let wallet = |error: CallError| Trouble::Wallet(error.to_string());
        let Pocket { children, change } = pocket;
        let children = children.get_or_insert_default();
        children.note(parent, raise.deadline);
        let owned = coins(&self.rpc).await.map_err(wallet)?;
        let ours = |coin: &Coin| owned.contains_key(&coin.outpoint);
        // Its coins may have been spent otherwise: then it is none any more.
        let old = children.of(parent).filter(|old| old.coins.iter().all(ours)).cloned();
        let mut stays = false;
        if let Some(old) = &old {
            stays = self.send(way, &old.tx).await.is_ok();
            if stays && raise.bump.is_served_by(old) {
                self.renew(old, &owned).await.map_err(wallet)?;
                return Ok(old.clone());
            }
        }
        let first = old.as_ref().map(|old| old.coins.clone()).unwrap_or_default();
        let kept = self.kept.script().await.map_err(wallet)?;
        let own = Own {
            change: match (old.as_ref().and_then(|old| old.tx.output.first()), &kept, &change) {
                (Some(output), ..) => output.script_pubkey.clone(),
                (None, Some(kept), _) => kept.clone(),
                (None, None, Some(change)) => change.clone(),
                (None, None, None) => {
                    let fresh = payout(&self.rpc).await.map_err(wallet)?;
                    change.insert(fresh).clone()
                }
            },
            free: free(&owned, kept.as_ref(), children),
            old,
            stays,
        };
        let mut draft = Draft::new(&raise.bump, children, raise.deadline, own, ours);
        for _ in 0..RAISES {
            let (new, taken) = draft.child(&raise.bump).map_err(Trouble::NoChild)?;
            match self.publish(way, &new, &first).await? {
                Ok(child) => {
                    children.replace(parent, child.clone());
                    *change = None;
                    self.records().put(parent, &child).await.map_err(wallet)?;
                    for other in taken {
                        self.give_up(children, other, &child).await.map_err(wallet)?;
                    }
                    return Ok(child);
                }
                Err(refused) => draft.outbid(beyond(raise, &new, way, refused)?),
            }
        }
        Err(Trouble::Child(Refused::Conflict("others keep outbidding it".to_owned())))
    }

    /// A child whose coin a more urgent one has taken: what else it had is free again.
    async fn give_up(&self, children: &mut Children, parent: Txid, by: &Child) -> Result<(), CallError> {
        let Some(gone) = children.of(parent) else { return Ok(()) };
        let rest = gone.coins.iter().filter(|coin| !by.coins.contains(coin));
        self.release(&rest.map(|coin| coin.outpoint).collect::<Vec<_>>()).await?;
        self.records().remove(parent).await?;
        children.remove(parent);
        Ok(())
    }

    /// Reserves, signs and broadcasts. What it alone reserved is given back if it isn't taken.
    async fn publish(
        &self,
        way: Way<'_>,
        new: &Child,
        held: &[Coin],
    ) -> Result<Result<Child, Refused>, Trouble> {
        let unsigned = unsigned(new).map_err(Trouble::Wallet)?;
        let result = match self.reserve(&new.tx, RESERVE_BLOCKS).await {
            Ok(()) => self.sign(new, &unsigned).await,
            Err(error) => Err(error),
        };
        let sent = match &result {
            Ok(tx) => self.send(way, tx).await,
            Err(_) => Err(Refused::Other("unsigned".to_owned())),
        };
        if sent.is_err() {
            let fresh: Vec<OutPoint> = new
                .coins
                .iter()
                .map(|coin| coin.outpoint)
                .filter(|o| held.iter().all(|h| h.outpoint != *o))
                .collect();
            if let Err(error) = self.release(&fresh).await {
                log::warn!(
                    "coins of a child that was not taken stay reserved for {RESERVE_BLOCKS} blocks: {error}"
                );
            }
        }
        let tx = result.map_err(|error| Trouble::Wallet(error.to_string()))?;
        Ok(sent.map(|()| Child { tx, ..new.clone() }))
    }

    async fn sign(&self, child: &Child, psbt: &Psbt) -> Result<Transaction, CallError> {
        // Input 0 is the anchor: nobody signs for it.
        let own: Vec<usize> = (1..child.tx.input.len()).collect();
        let signed = self.rpc.call("signpsbt", json!({"psbt": psbt.to_string(), "signonly": own})).await?;
        let text: String = field("signpsbt", &signed, "signed_psbt")?;
        let failed = |message: String| CallError::new("signpsbt", message);
        let signed = psbt::read(&text).map_err(|error| failed(error.to_string()))?;
        let mut tx = child.tx.clone();
        if signed.unsigned_tx != tx {
            return Err(failed("it signed another transaction".to_owned()));
        }
        for index in own {
            let witness = signed.inputs.get(index).and_then(psbt::witness);
            let witness = witness.ok_or_else(|| failed(format!("no signature for input {index}")))?;
            if let Some(input) = tx.input.get_mut(index) {
                input.witness = witness;
            }
        }
        Ok(tx)
    }

    /// A child may wait for longer than its coins were reserved.
    async fn renew(&self, child: &Child, owned: &BTreeMap<OutPoint, Owned>) -> Result<(), CallError> {
        let ends = child.coins.iter().filter_map(|coin| owned.get(&coin.outpoint));
        let ends = ends.map(|own| own.reserved_to.unwrap_or(0)).min().unwrap_or(u64::MAX);
        let height = u64::from(super::chain::tip_height(&self.rpc).await?);
        if ends >= height.saturating_add(u64::from(RENEW_BLOCKS)) {
            return Ok(());
        }
        self.reserve(&child.tx, RESERVE_BLOCKS).await
    }

    async fn reserve(&self, tx: &Transaction, blocks: u32) -> Result<(), CallError> {
        let mut unsigned = tx.clone();
        unsigned.input.iter_mut().for_each(|input| input.witness = Witness::new());
        let psbt = Psbt::from_unsigned_tx(unsigned).map_err(malformed)?;
        let params = json!({"psbt": psbt.to_string(), "exclusive": false, "reserve": blocks});
        self.rpc.call("reserveinputs", params).await.map(drop)
    }

    async fn release(&self, coins: &[OutPoint]) -> Result<(), CallError> {
        if coins.is_empty() {
            return Ok(());
        }
        let psbt = spending(coins).map_err(malformed)?;
        self.rpc
            .call("unreserveinputs", json!({"psbt": psbt.to_string(), "reserve": RELEASE_BLOCKS}))
            .await
            .map(drop)
    }

    /// S27: coins of children whose parents no longer wait are given back, unless the child still spends
    /// them. After each block; and coins that are kept for fees stay apart.
    pub async fn settle(&self, waiting: &BTreeSet<Txid>) -> Result<(), CallError> {
        let mut pocket = self.state.lock().await;
        self.load(&mut pocket).await?;
        let children = pocket.children.get_or_insert_default();
        let ended = children.ended(waiting);
        if !ended.is_empty() {
            let owned = coins(&self.rpc).await?;
            for parent in ended {
                self.end(children, parent, &owned).await?;
            }
        }
        self.kept.keep(children).await
    }

    async fn end(
        &self,
        children: &mut Children,
        parent: Txid,
        owned: &BTreeMap<OutPoint, Owned>,
    ) -> Result<(), CallError> {
        let Some(child) = children.of(parent) else { return Ok(()) };
        let here = child.coins.iter().map(|coin| coin.outpoint).filter(|coin| owned.contains_key(coin));
        let here: Vec<OutPoint> = here.collect();
        if let Some(first) = here.first()
            && is_spent(&self.rpc, *first).await?
        {
            // The child waits for its block.
            return Ok(());
        }
        self.release(&here).await?;
        self.records().remove(parent).await?;
        children.remove(parent);
        Ok(())
    }
}

/// Coins that a child may use: those that nobody has reserved, and those that are kept for fees and that no
/// child uses.
fn free(owned: &BTreeMap<OutPoint, Owned>, kept: Option<&ScriptBuf>, children: &Children) -> Vec<Coin> {
    let used = |coin: &Coin| children.iter().any(|(_, child)| child.coins.contains(coin));
    let free = owned.values().filter(|own| match own.reserved_to {
        None => true,
        Some(_) => kept == Some(&own.coin.output.script_pubkey) && !used(&own.coin),
    });
    free.map(|own| own.coin.clone()).collect()
}

/// What a child has to pay that was refused for this reason.
///
/// # Errors
/// When paying more doesn't help, or isn't ours to do.
fn beyond(raise: &Raise, new: &Child, way: Way<'_>, refused: Refused) -> Result<Least, Trouble> {
    let least = match &refused {
        // Somebody's large child pays more in all, and less for its size: outbid it.
        Refused::LessThanReplaced(text) => shortfall(text)
            .map(|more| Least::default().and(new.fee.checked_add(more).unwrap_or(Amount::MAX_MONEY))),
        // Somebody's small child pays more for its size, and may be too little for the parent.
        Refused::LowerFeerate(text) => match old_feerate(text) {
            Some(theirs) => match raise.bump.over(theirs) {
                Some(least) => Some(least),
                None => return Err(Trouble::Child(Refused::Conflict(text.clone()))),
            },
            None => None,
        },
        Refused::Confirmed
        | Refused::Conflict(_)
        | Refused::MissingInputs
        | Refused::FeeTooLow(_)
        | Refused::NotFinal
        | Refused::Backend(_)
        | Refused::Other(_) => None,
    };
    least.ok_or(match (way, refused) {
        // The parent is still what is missing.
        (Way::Package(..), refused @ Refused::FeeTooLow(_)) => Trouble::Parent(refused),
        (_, refused) => Trouble::Child(refused),
    })
}

fn malformed(error: impl std::fmt::Display) -> CallError {
    CallError::new("child", error.to_string())
}

fn unsigned(child: &Child) -> Result<Psbt, String> {
    let mut psbt = Psbt::from_unsigned_tx(child.tx.clone()).map_err(|error| error.to_string())?;
    for (input, prevout) in psbt.inputs.iter_mut().zip(child.prevouts()) {
        input.witness_utxo = Some(prevout);
    }
    Ok(psbt)
}
