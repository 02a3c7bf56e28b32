//! Children that raise fees: coins of lightningd's wallet, reserved, signed, broadcast and replaced.
//!
//! A child's inputs are the parent's anchor, which needs no signature, and confirmed coins. lightningd
//! signs (`signpsbt`); we put the witnesses in and broadcast, because its own `sendpsbt` wants every
//! input to be its own. What is out is also in the datastore, so that a restart replaces it instead of
//! building a second one. Reservations run out by themselves if all of that is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bitcoin::psbt::Psbt;
use bitcoin::{Amount, OutPoint, ScriptBuf, Transaction, TxOut, Txid, Witness};
use factory_engine::io::fees::{ChildOut, Raise, Refused, Report, Trouble};
use factory_engine::tx::child::{Child, Children, Coin, Least};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::children::Records;
use super::client::{Call, CallError, field};
use super::sent::{is_spent, send, shortfall};
use super::wallet::{payout, spending};

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
    /// One after the other: two children must not want one coin. Nothing before the records are read.
    children: Arc<Mutex<Option<Children>>>,
}

/// A coin of lightningd's wallet that is confirmed, with what is left of its reservation.
struct Owned {
    coin: Coin,
    reserved_to: Option<u64>,
}

impl<C: Call> Bumper<C> {
    /// A bumper that hasn't read its records yet.
    pub fn new(rpc: C) -> Self {
        Self { rpc, children: Arc::default() }
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
        if let Err(refused) = send(&self.rpc, &raise.parent).await {
            report.trouble = Some(Trouble::Parent(refused));
            return report;
        }
        let mut children = self.children.lock().await;
        let outcome = match self.loaded(&mut children).await {
            Ok(children) => self.child(raise, parent, children).await,
            Err(error) => Err(Trouble::Wallet(error.to_string())),
        };
        match outcome {
            Ok(child) => report.trouble = raise.bump.beyond_cap(&child).map(Trouble::Capped),
            Err(trouble) => report.trouble = Some(trouble),
        }
        report.child = children
            .as_ref()
            .and_then(|children| children.of(parent))
            .map(|child| ChildOut { txid: child.tx.compute_txid(), fee: child.fee });
        report
    }

    async fn loaded<'a>(&self, children: &'a mut Option<Children>) -> Result<&'a mut Children, CallError> {
        if children.is_none() {
            *children = Some(self.records().load().await?);
        }
        Ok(children.get_or_insert_default())
    }

    fn records(&self) -> Records<'_, C> {
        Records(&self.rpc)
    }

    /// The child that is out if it will do, or a new one.
    async fn child(&self, raise: &Raise, parent: Txid, children: &mut Children) -> Result<Child, Trouble> {
        let wallet = |error: CallError| Trouble::Wallet(error.to_string());
        let owned = self.owned().await.map_err(wallet)?;
        let ours = |coin: &Coin| owned.contains_key(&coin.outpoint);
        // Its coins may have been spent otherwise: then it is none any more.
        let old = children.of(parent).filter(|old| old.coins.iter().all(ours)).cloned();
        let mut is_out = false;
        if let Some(old) = &old {
            is_out = send(&self.rpc, &old.tx).await.is_ok();
            if is_out && raise.bump.is_served_by(old) {
                self.renew(old, &owned).await.map_err(wallet)?;
                return Ok(old.clone());
            }
        }
        let first = old.as_ref().map(|old| old.coins.clone()).unwrap_or_default();
        let free: Vec<Coin> =
            owned.values().filter(|own| own.reserved_to.is_none()).map(|own| own.coin.clone()).collect();
        let change = match old.as_ref().and_then(|old| old.tx.output.first()) {
            Some(output) => output.script_pubkey.clone(),
            None => payout(&self.rpc).await.map_err(wallet)?,
        };
        let mut least = match &old {
            Some(old) if is_out => old.beaten_by(),
            _ => Least::default(),
        };
        for _ in 0..RAISES {
            let new = raise.bump.child(&first, &free, change.clone(), least).map_err(Trouble::NoChild)?;
            match self.publish(&new, &first).await? {
                Ok(child) => {
                    self.records().put(parent, &child).await.map_err(wallet)?;
                    children.replace(parent, child.clone());
                    return Ok(child);
                }
                // Somebody's large child pays more in all, and less for its size: outbid it.
                Err(Refused::LessThanReplaced(text)) => match shortfall(&text) {
                    Some(more) => least = least.and(new.fee.checked_add(more).unwrap_or(Amount::MAX_MONEY)),
                    None => return Err(Trouble::Child(Refused::LessThanReplaced(text))),
                },
                Err(refused) => return Err(Trouble::Child(refused)),
            }
        }
        Err(Trouble::Child(Refused::Conflict("others keep outbidding it".to_owned())))
    }

    /// Reserves, signs and broadcasts. What it alone reserved is given back if it isn't taken.
    async fn publish(&self, new: &Child, held: &[Coin]) -> Result<Result<Child, Refused>, Trouble> {
        let psbt = psbt(new).map_err(Trouble::Wallet)?;
        let result = match self.reserve(&new.tx, RESERVE_BLOCKS).await {
            Ok(()) => self.sign(new, &psbt).await,
            Err(error) => Err(error),
        };
        let sent = match &result {
            Ok(tx) => send(&self.rpc, tx).await,
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
        let signed: String = field("signpsbt", &signed, "signed_psbt")?;
        let old = self.rpc.call("setpsbtversion", json!({"psbt": signed, "version": 0})).await?;
        let text: String = field("setpsbtversion", &old, "psbt")?;
        let failed = |message: String| CallError { method: "signpsbt".to_owned(), code: None, message };
        let signed: Psbt = text.parse().map_err(|error| failed(format!("unreadable PSBT: {error}")))?;
        let mut tx = child.tx.clone();
        if signed.unsigned_tx != tx {
            return Err(failed("it signed another transaction".to_owned()));
        }
        for index in own {
            let witness = signed.inputs.get(index).and_then(witness);
            let witness = witness.ok_or_else(|| failed(format!("no signature for input {index}")))?;
            if let Some(input) = tx.input.get_mut(index) {
                input.witness = witness;
            }
        }
        Ok(tx)
    }

    /// Confirmed native segwit coins, reserved or not.
    async fn owned(&self) -> Result<BTreeMap<OutPoint, Owned>, CallError> {
        let funds = self.rpc.call("listfunds", json!({})).await?;
        let outputs: Vec<Value> = field("listfunds", &funds, "outputs")?;
        let read = |output: &Value| {
            let txid = output["txid"].as_str()?.parse().ok()?;
            let outpoint = OutPoint { txid, vout: u32::try_from(output["output"].as_u64()?).ok()? };
            let script_pubkey = ScriptBuf::from_hex(output["scriptpubkey"].as_str()?).ok()?;
            let value = Amount::from_sat(output["amount_msat"].as_u64()? / 1000);
            let native = script_pubkey.is_p2wpkh() || script_pubkey.is_p2tr();
            let reserved_to = (output["reserved"] == true).then(|| output["reserved_to_block"].as_u64());
            let coin = Coin { outpoint, output: TxOut { value, script_pubkey } };
            (native && output["status"] == "confirmed").then_some((
                outpoint,
                Owned { coin, reserved_to: reserved_to.map(Option::unwrap_or_default) },
            ))
        };
        Ok(outputs.iter().filter_map(read).collect())
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
    /// them. After each block.
    pub async fn settle(&self, waiting: &BTreeSet<Txid>) -> Result<(), CallError> {
        let mut guard = self.children.lock().await;
        let children = self.loaded(&mut guard).await?;
        let ended = children.ended(waiting);
        if ended.is_empty() {
            return Ok(());
        }
        let owned = self.owned().await?;
        for parent in ended {
            let Some(child) = children.of(parent) else { continue };
            let here: Vec<OutPoint> = child
                .coins
                .iter()
                .map(|coin| coin.outpoint)
                .filter(|coin| owned.contains_key(coin))
                .collect();
            if let Some(first) = here.first()
                && is_spent(&self.rpc, *first).await?
            {
                // The child waits for its block.
                continue;
            }
            self.release(&here).await?;
            self.records().remove(parent).await?;
            children.remove(parent);
        }
        Ok(())
    }
}

fn malformed(error: impl std::fmt::Display) -> CallError {
    CallError { method: "child".to_owned(), code: None, message: error.to_string() }
}

fn psbt(child: &Child) -> Result<Psbt, String> {
    let mut psbt = Psbt::from_unsigned_tx(child.tx.clone()).map_err(|error| error.to_string())?;
    for (input, prevout) in psbt.inputs.iter_mut().zip(child.prevouts()) {
        input.witness_utxo = Some(prevout);
    }
    Ok(psbt)
}

/// A signed input's witness: P2TR key path or P2WPKH.
fn witness(input: &bitcoin::psbt::Input) -> Option<Witness> {
    if let Some(witness) = &input.final_script_witness {
        return Some(witness.clone());
    }
    if let Some(signature) = &input.tap_key_sig {
        return Some(Witness::p2tr_key_spend(signature));
    }
    let (key, signature) = input.partial_sigs.first_key_value()?;
    Some(Witness::p2wpkh(signature, &key.inner))
}
