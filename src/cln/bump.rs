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
            self.renew(old, &owned).await.map_err(wallet)?;
            if stays && raise.bump.is_served_by(old) {
                return Ok(old.clone());
            }
        }
        let held = old.as_ref().map(|old| old.coins.clone()).unwrap_or_default();
        let is_free = |coin: &Coin| {
            owned.get(&coin.outpoint).is_none_or(|own| own.reserved_to.is_none()) && !held.contains(coin)
        };
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
            match self.publish(way, &new, &is_free).await? {
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
        self.release(&rest.collect::<Vec<_>>()).await?;
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
    async fn renew(&self, child: &Child, owned: &BTreeMap<OutPoint, Owned>) -> Result<(), CallError> {
        let kept = self.kept.script().await?;
        let is_kept = |coin: &Coin| kept.as_ref() == Some(&coin.output.script_pubkey);
        let height = u64::from(super::chain::tip_height(&self.rpc).await?);
        let enough = height.saturating_add(u64::from(RENEW_BLOCKS));
        let ends = |coin: &&Coin| {
            let own = owned.get(&coin.outpoint);
            own.is_some_and(|own| own.reserved_to.unwrap_or(0) < enough) && !is_kept(coin)
        };
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

/// Coins that a child may use: those that no child uses, and that nobody has reserved or that are kept for
/// fees.
fn free(owned: &BTreeMap<OutPoint, Owned>, kept: Option<&ScriptBuf>, children: &Children) -> Vec<Coin> {
    let used = |coin: &Coin| children.iter().any(|(_, child)| child.coins.contains(coin));
    let is_kept = |own: &&Owned| kept == Some(&own.coin.output.script_pubkey);
    let free = owned.values().filter(|own| (own.reserved_to.is_none() || is_kept(own)) && !used(&own.coin));
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

#[cfg(test)]
mod tests {
    use bitcoin::transaction::Version;
    use bitcoin::{TxOut, absolute::LockTime};
    use factory_engine::tx::child::Bump;
    use factory_engine::types::InstanceId;

    use super::super::toy::{HEIGHT, Toy, outpoint, script};
    use super::*;

    const DAY: u64 = HEIGHT + 144;

    /// A transaction that needs a child by some height; `number` tells it from others.
    fn raise(number: u32, deadline: u32) -> Raise {
        let output = TxOut { value: Amount::from_sat(240), script_pubkey: script(1) };
        let parent = Transaction {
            version: Version(3),
            lock_time: LockTime::from_consensus(number),
            input: vec![bitcoin::TxIn::default()],
            output: vec![output],
        };
        let bump = Bump {
            anchor: OutPoint { txid: parent.compute_txid(), vout: 0 },
            version: Version(3),
            parent_fee: Amount::ZERO,
            parent_weight: 600,
            feerate: 2_000,
            max_fee: Amount::from_sat(90_000),
        };
        Raise { instance: InstanceId([1; 32]), what: number.to_string(), parent, bump, deadline }
    }

    /// A node that keeps these coins, all reserved for a day.
    async fn keeping(coins: u32) -> (Toy, Kept<Toy>, Bumper<Toy>) {
        let toy = Toy::default();
        for number in 0..coins {
            toy.add(number, 50_000, script(7), DAY);
        }
        let kept = Kept::new(toy.clone());
        kept.begin(script(7)).await.unwrap();
        let bumper = Bumper::new(toy.clone(), Bitcoind::default(), kept.clone());
        (toy, kept, bumper)
    }

    // S27: its coin is kept as before, neither free nor longer.
    #[tokio::test]
    async fn a_refused_child_leaves_its_kept_coin_kept() {
        let (toy, _, bumper) = keeping(1).await;
        toy.refuse_children("bad-txns");
        let report = bumper.raise(&raise(1, 1_100)).await;
        assert!(matches!(report.trouble, Some(Trouble::Child(_))), "{:?}", report.trouble);
        assert_eq!(toy.reserved()[&outpoint(0)], DAY);
    }

    // S27: one that isn't kept is the wallet's again.
    #[tokio::test]
    async fn a_refused_child_gives_its_coin_back() {
        let toy = Toy::default();
        toy.add(0, 50_000, script(8), 0);
        let bumper = Bumper::new(toy.clone(), Bitcoind::default(), Kept::new(toy.clone()));
        toy.refuse_children("bad-txns");
        bumper.raise(&raise(1, 1_100)).await;
        assert_eq!((toy.called("signpsbt"), toy.reserved()[&outpoint(0)]), (1, 0));
    }

    // S27: a coin that lightningd has given to somebody else since it was listed is theirs.
    #[tokio::test]
    async fn a_coin_that_is_taken_meanwhile_stays_its_takers() {
        let toy = Toy::default();
        toy.add(0, 50_000, script(8), 0);
        let bumper = Bumper::new(toy.clone(), Bitcoind::default(), Kept::new(toy.clone()));
        let taker = toy.clone();
        toy.meanwhile("listfunds", async move {
            let psbt = spending(&[outpoint(0)]).unwrap().to_string();
            taker.call("reserveinputs", json!({"psbt": psbt, "reserve": 5})).await.unwrap();
        });
        let report = bumper.raise(&raise(1, 1_100)).await;
        assert!(matches!(report.trouble, Some(Trouble::Wallet(_))), "{:?}", report.trouble);
        assert_eq!((toy.called("signpsbt"), toy.reserved()[&outpoint(0)]), (0, HEIGHT + 5));
    }

    // S26: an urgent child that is refused doesn't free the coin of another that is still out.
    #[tokio::test]
    async fn a_refused_child_leaves_anothers_coin_reserved() {
        let toy = Toy::default();
        toy.add(0, 50_000, script(8), 0);
        let bumper = Bumper::new(toy.clone(), Bitcoind::default(), Kept::new(toy.clone()));
        let first = bumper.raise(&raise(1, 1_100)).await;
        assert!(first.child.is_some(), "{:?}", first.trouble);
        toy.refuse_children("bad-txns");
        let second = bumper.raise(&raise(2, 1_010)).await;
        assert!(matches!(second.trouble, Some(Trouble::Child(_))), "{:?}", second.trouble);
        assert!(toy.reserved()[&outpoint(0)] > 0);
    }

    // S27: whoever gives the coins back has them back, whatever a block reserves at the same moment.
    #[tokio::test]
    async fn keeping_and_giving_back_at_once() {
        for method in ["listfunds", "getchaininfo"] {
            let (toy, kept, bumper) = keeping(0).await;
            toy.add(0, 50_000, script(7), 0);
            let end = kept.clone();
            toy.meanwhile(method, async move { assert!(end.end().await.is_ok()) });
            bumper.settle(&BTreeSet::new()).await.unwrap();
            while kept.script().await.unwrap().is_some() {
                tokio::task::yield_now().await;
            }
            // Whatever waited for the other is through as well.
            bumper.settle(&BTreeSet::new()).await.unwrap();
            assert_eq!(toy.reserved()[&outpoint(0)], 0, "at {method}");
        }
    }

    // S26: what a child that is just being made spends is not given back under it.
    #[tokio::test]
    async fn a_child_on_its_way_keeps_its_coin() {
        let (toy, kept, bumper) = keeping(1).await;
        let end = kept.clone();
        toy.meanwhile("signpsbt", async move { assert!(end.end().await.is_ok()) });
        let report = bumper.raise(&raise(1, 1_100)).await;
        assert!(report.child.is_some(), "{:?}", report.trouble);
        while kept.script().await.unwrap().is_some() {
            tokio::task::yield_now().await;
        }
        assert!(toy.reserved()[&outpoint(0)] > 0);
        // And once it is over, it is the wallet's.
        bumper.settle(&BTreeSet::new()).await.unwrap();
        assert_eq!(toy.reserved()[&outpoint(0)], 0);
    }
}
