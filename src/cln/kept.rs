//! Coins that are kept for fees (`factory-reserve`): all on one script of lightningd's wallet, to which the
//! change of children goes back. They stay reserved, so that lightningd spends them on nothing else.

use std::sync::Arc;

use bitcoin::{Amount, OutPoint, ScriptBuf, TxOut};
use serde_json::{Value, json};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::chain::tip_height;
use super::children::Records;
use super::client::{Call, CallError, field};
use super::psbt::spending;
use super::spend;
use super::wallet::{self, Owned, coins, payout};

/// A day at a time.
const BLOCKS: u32 = 144;
/// Renewed when fewer are left.
const RENEW_BLOCKS: u32 = 36;
/// Coins that are reserved with one call.
const AT_ONCE: usize = 500;
/// lightningd's code for a key that isn't there.
const NO_SUCH_KEY: i32 = 1200;

/// Where they are. A cheap clone.
#[derive(Clone)]
pub struct Kept<C> {
    rpc: C,
    /// The script, if there is one; nothing before the datastore was asked.
    script: Arc<Mutex<Option<Option<ScriptBuf>>>>,
    turn: Arc<Mutex<()>>,
}

/// Who has it chooses coins of the wallet, or reserves and gives back those that are kept; nobody else of ours
/// does meanwhile. Between a look at the wallet and a reservation another look would see what isn't so.
pub struct Turn {
    _guard: OwnedMutexGuard<()>,
}

/// Coins of one size that are wanted, and what there is of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// Confirmed coins that are kept, of whatever size: how many, and what they are worth.
    pub kept: (u64, Amount),
    /// Coins of that size whose transaction waits for its block.
    pub unconfirmed: u64,
    /// Coins of that size that are still to be made.
    pub missing: u64,
}

fn key() -> Value {
    json!(["cln-factory", "reserve"])
}

impl<C: Call> Kept<C> {
    /// Nothing is known yet.
    pub fn new(rpc: C) -> Self {
        Self { rpc, script: Arc::default(), turn: Arc::default() }
    }

    /// Waits until nobody else has it.
    pub async fn turn(&self) -> Turn {
        Turn { _guard: Arc::clone(&self.turn).lock_owned().await }
    }

    /// The script of coins that are kept, if any ever were.
    pub async fn script(&self) -> Result<Option<ScriptBuf>, CallError> {
        let mut known = self.script.lock().await;
        if let Some(script) = &*known {
            return Ok(script.clone());
        }
        let answer = self.rpc.call("listdatastore", json!({"key": key()})).await?;
        let entries: Vec<Value> = field("listdatastore", &answer, "datastore")?;
        let text = entries.first().and_then(|entry| entry["string"].as_str());
        let script = text.and_then(|text| ScriptBuf::from_hex(text).ok());
        *known = Some(script.clone());
        Ok(script)
    }

    /// Keeps coins on this script from now on.
    pub async fn begin(&self, script: ScriptBuf) -> Result<(), CallError> {
        let params = json!({"key": key(), "string": script.to_hex_string(), "mode": "create-or-replace"});
        self.rpc.call("datastore", params).await?;
        *self.script.lock().await = Some(Some(script));
        Ok(())
    }

    /// Gives all of them back to the wallet; those that children spend are given back with these, or lightningd
    /// would spend them otherwise while a deadline hangs on the child (S26).
    pub async fn end(&self) -> Result<usize, CallError> {
        let _turn = self.turn().await;
        let (kept, used) = (self.coins().await?, Records(&self.rpc).load().await?.spent());
        let free = kept.iter().filter(|own| !used.contains(&own.coin.outpoint));
        let outpoints: Vec<OutPoint> = free.map(|own| own.coin.outpoint).collect();
        // In this order: should the second fail, the next block keeps them as before.
        wallet::release(&self.rpc, &outpoints).await?;
        match self.rpc.call("deldatastore", json!({"key": key()})).await {
            Err(error) if error.code != Some(NO_SUCH_KEY) => return Err(error),
            _ => *self.script.lock().await = Some(None),
        }
        Ok(outpoints.len())
    }

    /// What there is towards so many coins of a size. Those whose transaction has no block yet count: nobody
    /// makes them twice.
    pub async fn count(&self, coins: u64, size: Amount) -> Result<Count, CallError> {
        let script = self.script().await?;
        let all = wallet::outputs(&self.rpc).await?.into_iter();
        let on_it: Vec<_> =
            all.filter(|output| script.as_ref() == Some(&output.own.coin.output.script_pubkey)).collect();
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let large = |confirmed: bool| {
            let is = |output: &&wallet::Output| {
                output.confirmed == confirmed && output.own.coin.output.value >= size
            };
            number(on_it.iter().filter(is).count())
        };
        let confirmed = on_it.iter().filter(|output| output.confirmed);
        let add = |sum: Amount, output: &wallet::Output| {
            sum.checked_add(output.own.coin.output.value).unwrap_or(Amount::MAX_MONEY)
        };
        let kept = (number(confirmed.clone().count()), confirmed.fold(Amount::ZERO, add));
        let unconfirmed = large(false);
        let missing = coins.saturating_sub(large(true)).saturating_sub(unconfirmed);
        Ok(Count { kept, unconfirmed, missing })
    }

    /// Makes what is missing to so many coins of a size, `most` with this transaction, on the script on which
    /// they are kept. Gives what there was, how many are made, and the transaction that does, if any. Two that
    /// ask for the same at once get it once.
    pub async fn make(
        &self,
        coins: u64,
        size: Amount,
        most: u64,
    ) -> Result<(Count, u64, Option<String>), CallError> {
        let _turn = self.turn().await;
        let count = self.count(coins, size).await?;
        let now = count.missing.min(most);
        if now == 0 {
            return Ok((count, 0, None));
        }
        let script = match self.script().await? {
            Some(script) => script,
            None => {
                let script = payout(&self.rpc).await?;
                self.begin(script.clone()).await?;
                script
            }
        };
        let txid = self.split(&script, now, size).await?;
        Ok((count, now, Some(txid)))
    }

    async fn split(&self, script: &ScriptBuf, number: u64, size: Amount) -> Result<String, CallError> {
        let output = TxOut { value: size, script_pubkey: script.clone() };
        let outputs = (0..number).map(|_| output.clone()).collect();
        let made = spend::prepare(&self.rpc, Some(script), outputs, &[]).await?;
        let inputs: Vec<OutPoint> = made.tx.input.iter().map(|input| input.previous_output).collect();
        match wallet::send(&self.rpc, made.tx, made.prevouts, &[]).await {
            Ok(txid) => Ok(txid.to_string()),
            Err(error) => {
                // Its inputs are the wallet's again; the first error is the one to tell.
                if let Err(second) = wallet::release(&self.rpc, &inputs).await {
                    log::warn!("inputs of a transaction that was not sent stay reserved: {second}");
                }
                Err(error)
            }
        }
    }

    /// Those that are confirmed.
    pub async fn coins(&self) -> Result<Vec<Owned>, CallError> {
        let Some(script) = self.script().await? else { return Ok(vec![]) };
        let all = coins(&self.rpc).await?.into_values();
        Ok(all.filter(|own| own.coin.output.script_pubkey == script).collect())
    }

    /// After each block: whatever is there and not reserved for long is reserved again, also what children
    /// use.
    pub async fn keep(&self, _turn: &Turn) -> Result<(), CallError> {
        let kept = self.coins().await?;
        if kept.is_empty() {
            return Ok(());
        }
        let enough = u64::from(tip_height(&self.rpc).await?.saturating_add(RENEW_BLOCKS));
        let ends = kept.iter().filter(|own| own.reserved_to.is_none_or(|to| to < enough));
        let outpoints: Vec<OutPoint> = ends.map(|own| own.coin.outpoint).collect();
        for some in outpoints.chunks(AT_ONCE) {
            let psbt = spending(some).map_err(|error| CallError::new("reserveinputs", error.to_string()))?;
            let params = json!({"psbt": psbt.to_string(), "exclusive": false, "reserve": BLOCKS});
            self.rpc.call("reserveinputs", params).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use factory_engine::tx::child::{Child, Coin};

    use super::super::toy::{HEIGHT, Toy, outpoint, script};
    use super::*;

    /// A child that spends the first coin.
    fn child() -> Child {
        let output = bitcoin::TxOut { value: Amount::from_sat(5_000), script_pubkey: script(7) };
        let psbt = spending(&[outpoint(0)]).unwrap();
        let coins = vec![Coin { outpoint: outpoint(0), output }];
        Child { tx: psbt.unsigned_tx, coins, fee: Amount::from_sat(500), weight: 600 }
    }

    // S26: a child that is out goes on; what it spends isn't the wallet's again.
    #[tokio::test]
    async fn what_a_child_spends_stays_apart() {
        let toy = Toy::default();
        toy.add(0, 5_000, script(7), HEIGHT + 144);
        toy.add(1, 5_000, script(7), HEIGHT + 144);
        let kept = Kept::new(toy.clone());
        kept.begin(script(7)).await.unwrap();
        Records(&toy).put(bitcoin::hashes::Hash::all_zeros(), &child()).await.unwrap();
        assert_eq!(kept.end().await.unwrap(), 1);
        let left = toy.reserved();
        assert_eq!((left[&outpoint(0)], left[&outpoint(1)]), (HEIGHT + 144, 0));
    }

    /// S27: who asks twice gets the coins once, at the same moment, before their block and after it.
    #[tokio::test]
    async fn two_that_make_coins_at_once_make_them_once() {
        let size = Amount::from_sat(20_000);
        let toy = Toy::default();
        toy.add(0, 500_000, script(8), 0);
        let kept = Kept::new(toy.clone());
        let other = kept.clone();
        let (done, mut second) = tokio::sync::mpsc::unbounded_channel();
        toy.meanwhile("signpsbt", async move {
            done.send(other.make(3, size, 200).await.unwrap()).unwrap();
        });
        let (count, made, txid) = kept.make(3, size, 200).await.unwrap();
        assert_eq!((count.missing, made, txid.is_some()), (3, 3, true));
        let (count, made, txid) = second.recv().await.unwrap();
        assert_eq!((count.unconfirmed, count.missing, made, txid), (3, 0, 0, None));
        assert_eq!(toy.on(&kept.script().await.unwrap().unwrap()).len(), 3);
        toy.confirm();
        let (count, made, _) = kept.make(4, size, 200).await.unwrap();
        assert_eq!((count.kept, count.unconfirmed, made), ((3, Amount::from_sat(60_000)), 0, 1));
    }
}
