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
use bitcoin::{Amount, OutPoint, ScriptBuf, Transaction, Txid};
use factory_engine::io::fees::{ChildOut, Raise, Refused, Report, Trouble, shortcoming};
use factory_engine::tx::child::{Child, Children, Coin, Draft, Least, Own};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::bitcoind::Bitcoind;
use super::children::Records;
use super::client::{Call, CallError, field};
use super::kept::Kept;
use super::look::Look;
use super::psbt::{self, spending};
use super::sent::{is_spent, old_feerate, send, shortfall};
use super::tally::Tally;
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
    tally: Tally,
}

#[derive(Default)]
struct Pocket {
    /// Nothing before the records are read.
    children: Option<Children>,
    /// Where the next child's change goes. A child that comes to nothing doesn't burn an address.
    change: Option<ScriptBuf>,
    /// The wallet, as of this round.
    look: Option<Look>,
}

/// A child that is good enough.
enum Made {
    /// It is out already.
    Before(Child),
    /// A new one, and the parents whose children it takes coins from.
    Now(Child, Vec<Txid>),
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
        Self { rpc, bitcoind, kept, state: Arc::default(), tally: Tally::default() }
    }

    /// The same, and its children are counted there.
    pub fn counted_by(self, tally: Tally) -> Self {
        Self { tally, ..self }
    }

    /// The same as [`Self::raise`]; with the `last` of those that wait ends the round for which one look at the
    /// wallet does.
    pub async fn raise_of_round(&self, raise: &Raise, last: bool) -> Report {
        let report = self.raise(raise).await;
        if last {
            self.state.lock().await.look = None;
        }
        report
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
                self.tally.raised(parent, &report);
                return report;
            }
        };
        let mut pocket = self.state.lock().await;
        let turn = self.kept.turn().await;
        let outcome = match self.load(&mut pocket).await {
            Ok(()) => self.child(raise, parent, way, &mut pocket).await,
            Err(error) => Err(Trouble::Wallet(error.to_string())),
        };
        match outcome {
            Ok(child) => report.trouble = shortcoming(&raise.bump, &child),
            Err(trouble) => report.trouble = Some(trouble),
        }
        drop(turn);
        report.child = pocket
            .children
            .as_ref()
            .and_then(|children| children.of(parent))
            .map(|child| ChildOut { txid: child.tx.compute_txid(), fee: child.fee });
        self.tally.raised(parent, &report);
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
        let Pocket { children, change, look } = pocket;
        let children = children.get_or_insert_default();
        children.note(parent, raise.deadline);
        // Somebody else may have used the wallet since the round began.
        let mut again = look.is_some();
        let made = loop {
            let made = self.make(raise, way, children, change, look).await;
            let failed = matches!(made, Err(Trouble::Wallet(_)));
            if failed {
                *look = None;
            }
            if !failed || !std::mem::take(&mut again) {
                break made?;
            }
        };
        let (child, taken) = match made {
            Made::Before(child) => return Ok(child),
            Made::Now(child, taken) => (child, taken),
        };
        children.replace(parent, child.clone());
        if let Some(look) = look {
            look.spend(&child);
        }
        *change = None;
        self.records().put(parent, &child).await.map_err(wallet)?;
        for other in taken {
            self.give_up(children, look, other, &child).await.map_err(wallet)?;
        }
        Ok(child)
    }

    async fn make(
        &self,
        raise: &Raise,
        way: Way<'_>,
        children: &Children,
        change: &mut Option<ScriptBuf>,
        look: &mut Option<Look>,
    ) -> Result<Made, Trouble> {
        let wallet = |error: CallError| Trouble::Wallet(error.to_string());
        let look = self.look(look, children).await.map_err(wallet)?;
        // Its coins may have been spent otherwise: then it is none any more.
        let old = children.of(raise.parent.compute_txid());
        let old = old.filter(|old| old.coins.iter().all(|coin| look.has(coin))).cloned();
        let mut stays = false;
        if let Some(old) = &old {
            stays = self.send(way, &old.tx).await.is_ok();
            self.renew(old, look).await.map_err(wallet)?;
            if stays && raise.bump.is_served_by(old) {
                return Ok(Made::Before(old.clone()));
            }
        }
        let held = old.as_ref().map(|old| old.coins.clone()).unwrap_or_default();
        let is_free = |coin: &Coin| look.is_unreserved(coin) && !held.contains(coin);
        let own = Own {
            change: match (old.as_ref().and_then(|old| old.tx.output.first()), look.kept(), &change) {
                (Some(output), ..) => output.script_pubkey.clone(),
                (None, Some(kept), _) => kept.clone(),
                (None, None, Some(change)) => change.clone(),
                (None, None, None) => {
                    let fresh = payout(&self.rpc).await.map_err(wallet)?;
                    change.insert(fresh).clone()
                }
            },
            free: look.free(),
            old,
            stays,
        };
        let mut draft = Draft::new(&raise.bump, children, raise.deadline, own, |coin| look.has(coin));
        for _ in 0..RAISES {
            let (new, taken) = draft.child(&raise.bump).map_err(Trouble::NoChild)?;
            match self.publish(way, &new, &is_free).await? {
                Ok(child) => return Ok(Made::Now(child, taken)),
                Err(refused) => draft.outbid(beyond(raise, &new, way, refused)?),
            }
        }
        Err(Trouble::Child(Refused::Conflict("others keep outbidding it".to_owned())))
    }

    /// The wallet as of this round.
    async fn look<'l>(&self, look: &'l mut Option<Look>, children: &Children) -> Result<&'l Look, CallError> {
        let kept = self.kept.script().await?;
        let known = look.take().filter(|known| known.keeps(kept.as_ref()));
        let known = match known {
            Some(known) => known,
            None => Look::new(&self.rpc, kept, children).await?,
        };
        Ok(look.insert(known))
    }

    /// A child whose coin a more urgent one has taken: what else it had is free again.
    async fn give_up(
        &self,
        children: &mut Children,
        look: &mut Option<Look>,
        parent: Txid,
        by: &Child,
    ) -> Result<(), CallError> {
        let Some(gone) = children.of(parent) else { return Ok(()) };
        let rest: Vec<&Coin> = gone.coins.iter().filter(|coin| !by.coins.contains(coin)).collect();
        self.release(&rest).await?;
        if let Some(look) = look {
            rest.into_iter().for_each(|coin| look.give_back(coin));
        }
        self.records().remove(parent).await?;
        children.remove(parent);
        Ok(())
    }

    /// Reserves, signs and broadcasts. What it alone reserved is given back if it isn't taken: neither what is
    /// kept, nor what another child spends that is out.
    async fn publish(
        &self,
        way: Way<'_>,
        new: &Child,
        is_free: impl Fn(&Coin) -> bool,
    ) -> Result<Result<Child, Refused>, Trouble> {
        let unsigned = unsigned(new).map_err(Trouble::Wallet)?;
        let fresh: Vec<&Coin> = new.coins.iter().filter(|coin| is_free(coin)).collect();
        let result = match self.reserve(&fresh, true).await {
            Ok(()) => self.sign(new, &unsigned).await,
            // S27: somebody else has taken one since they were listed. None was reserved here, and theirs stays.
            Err(error) if error.code.is_some() => return Err(Trouble::Wallet(error.to_string())),
            Err(error) => Err(error),
        };
        let sent = match &result {
            Ok(tx) => self.send(way, tx).await,
            Err(_) => Err(Refused::Other("unsigned".to_owned())),
        };
        if sent.is_err()
            && let Err(error) = self.release(&fresh).await
        {
            log::warn!(
                "coins of a child that was not taken stay reserved for {RESERVE_BLOCKS} blocks: {error}"
            );
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

    /// A child may wait for longer than its coins were reserved. What is kept is kept without it.
    async fn renew(&self, child: &Child, look: &Look) -> Result<(), CallError> {
        let height = u64::from(super::chain::tip_height(&self.rpc).await?);
        let enough = height.saturating_add(u64::from(RENEW_BLOCKS));
        let ends = |coin: &&Coin| look.ends_before(coin, enough) && !look.is_kept(coin);
        self.reserve(&child.coins.iter().filter(ends).collect::<Vec<_>>(), false).await
    }

    /// `exclusive`: all of them, or none if one is reserved.
    async fn reserve(&self, coins: &[&Coin], exclusive: bool) -> Result<(), CallError> {
        let params = json!({"exclusive": exclusive, "reserve": RESERVE_BLOCKS});
        self.each("reserveinputs", coins.iter().copied(), params).await
    }

    /// Gives coins back to the wallet, but for those that are kept for fees.
    async fn release(&self, coins: &[&Coin]) -> Result<(), CallError> {
        let kept = self.kept.script().await?;
        let free = coins.iter().copied().filter(|coin| kept.as_ref() != Some(&coin.output.script_pubkey));
        self.each("unreserveinputs", free, json!({"reserve": RELEASE_BLOCKS})).await
    }

    async fn each<'c>(
        &self,
        method: &str,
        coins: impl Iterator<Item = &'c Coin>,
        mut params: Value,
    ) -> Result<(), CallError> {
        let outpoints: Vec<OutPoint> = coins.map(|coin| coin.outpoint).collect();
        if outpoints.is_empty() {
            return Ok(());
        }
        params["psbt"] = spending(&outpoints).map_err(malformed)?.to_string().into();
        self.rpc.call(method, params).await.map(drop)
    }

    /// S27: coins of children whose parents no longer wait are given back, unless the child still spends
    /// them. After each block; and coins that are kept for fees stay apart.
    pub async fn settle(&self, waiting: &BTreeSet<Txid>) -> Result<(), CallError> {
        let mut pocket = self.state.lock().await;
        let turn = self.kept.turn().await;
        pocket.look = None;
        self.load(&mut pocket).await?;
        let children = pocket.children.get_or_insert_default();
        let ended = children.ended(waiting);
        if !ended.is_empty() {
            let owned = coins(&self.rpc).await?;
            for parent in ended {
                self.end(children, parent, &owned).await?;
            }
        }
        self.kept.keep(&turn).await
    }

    async fn end(
        &self,
        children: &mut Children,
        parent: Txid,
        owned: &BTreeMap<OutPoint, Owned>,
    ) -> Result<(), CallError> {
        let Some(child) = children.of(parent) else { return Ok(()) };
        let here: Vec<&Coin> = child.coins.iter().filter(|coin| owned.contains_key(&coin.outpoint)).collect();
        if let Some(first) = here.first()
            && is_spent(&self.rpc, first.outpoint).await?
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

#[cfg(test)]
mod tests;
