//! Coins that are kept for fees (`factory-reserve`): all on one script of lightningd's wallet, to which the
//! change of children goes back. They stay reserved, so that lightningd spends them on nothing else.

use std::sync::Arc;

use bitcoin::{OutPoint, ScriptBuf};
use factory_engine::tx::child::Children;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::chain::tip_height;
use super::children::Records;
use super::client::{Call, CallError, field};
use super::psbt::spending;
use super::wallet::{Owned, coins};

/// A day at a time.
const BLOCKS: u32 = 144;
/// Renewed when fewer are left.
const RENEW_BLOCKS: u32 = 36;
/// More than was ever reserved: reservations add up, and releasing subtracts.
const RELEASE_BLOCKS: u32 = 100_000;
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
}

fn key() -> Value {
    json!(["cln-factory", "reserve"])
}

impl<C: Call> Kept<C> {
    /// Nothing is known yet.
    pub fn new(rpc: C) -> Self {
        Self { rpc, script: Arc::default() }
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
        let (kept, children) = (self.coins().await?, Records(&self.rpc).load().await?);
        let free = kept.iter().filter(|own| !is_used(own, &children));
        let outpoints: Vec<OutPoint> = free.map(|own| own.coin.outpoint).collect();
        match self.rpc.call("deldatastore", json!({"key": key()})).await {
            Err(error) if error.code != Some(NO_SUCH_KEY) => return Err(error),
            _ => *self.script.lock().await = Some(None),
        }
        self.each("unreserveinputs", &outpoints, json!({"reserve": RELEASE_BLOCKS})).await?;
        Ok(outpoints.len())
    }

    /// Those that are confirmed.
    pub async fn coins(&self) -> Result<Vec<Owned>, CallError> {
        let Some(script) = self.script().await? else { return Ok(vec![]) };
        let all = coins(&self.rpc).await?.into_values();
        Ok(all.filter(|own| own.coin.output.script_pubkey == script).collect())
    }

    /// After each block: whatever is there and not reserved for long is reserved again, but for what children
    /// use, whose reservations are their own.
    pub async fn keep(&self, children: &Children) -> Result<(), CallError> {
        let kept = self.coins().await?;
        if kept.is_empty() {
            return Ok(());
        }
        let enough = u64::from(tip_height(&self.rpc).await?.saturating_add(RENEW_BLOCKS));
        let ends =
            kept.iter().filter(|own| own.reserved_to.is_none_or(|to| to < enough) && !is_used(own, children));
        let outpoints: Vec<OutPoint> = ends.map(|own| own.coin.outpoint).collect();
        self.each("reserveinputs", &outpoints, json!({"exclusive": false, "reserve": BLOCKS})).await
    }

    async fn each(&self, method: &str, coins: &[OutPoint], params: Value) -> Result<(), CallError> {
        for coins in coins.chunks(AT_ONCE) {
            let psbt = spending(coins).map_err(|error| CallError::new(method, error.to_string()))?;
            let mut params = params.clone();
            params["psbt"] = psbt.to_string().into();
            self.rpc.call(method, params).await?;
        }
        Ok(())
    }
}

fn is_used(own: &Owned, children: &Children) -> bool {
    children.iter().any(|(_, child)| child.coins.contains(&own.coin))
}

#[cfg(test)]
mod tests {
    use super::*;
    use factory_engine::tx::child::{Child, Coin};

    /// A node with coins on one script, and a child that spends the first.
    #[derive(Clone)]
    struct Node(Arc<std::sync::Mutex<Vec<String>>>);

    fn script() -> ScriptBuf {
        ScriptBuf::from_bytes([vec![0x51, 0x20], vec![7; 32]].concat())
    }

    fn outpoint(vout: u32) -> OutPoint {
        OutPoint { vout, ..OutPoint::null() }
    }

    fn child() -> Child {
        let output = bitcoin::TxOut { value: bitcoin::Amount::from_sat(5_000), script_pubkey: script() };
        let psbt = spending(&[outpoint(0)]).unwrap();
        let coins = vec![Coin { outpoint: outpoint(0), output }];
        Child { tx: psbt.unsigned_tx, coins, fee: bitcoin::Amount::from_sat(500), weight: 600 }
    }

    impl Call for Node {
        async fn call(&self, method: &str, params: Value) -> Result<Value, CallError> {
            let coin = |vout: u32| {
                json!({"txid": outpoint(vout).txid.to_string(), "output": vout, "status": "confirmed",
                    "amount_msat": 5_000_000, "reserved": true, "reserved_to_block": 500,
                    "scriptpubkey": script().to_hex_string()})
            };
            Ok(match (method, params["key"][1].as_str()) {
                ("listfunds", _) => json!({"outputs": [coin(0), coin(1)]}),
                ("listdatastore", Some("reserve")) => {
                    json!({"datastore": [{"string": script().to_hex_string()}]})
                }
                ("listdatastore", _) => {
                    let stored = self.0.lock().unwrap().first().cloned().unwrap_or_default();
                    let parent = "11".repeat(32);
                    json!({"datastore": [{"key": ["cln-factory", "child", parent], "string": stored}]})
                }
                ("datastore", _) => {
                    self.0.lock().unwrap().push(params["string"].as_str().unwrap_or_default().to_owned());
                    json!({})
                }
                ("unreserveinputs", _) => {
                    self.0.lock().unwrap().push(params["psbt"].as_str().unwrap().to_owned());
                    json!({})
                }
                _ => json!({}),
            })
        }
    }

    // S26: a child that is out goes on; what it spends isn't the wallet's again.
    #[tokio::test]
    async fn what_a_child_spends_stays_apart() {
        let node = Node(Arc::default());
        Records(&node).put(bitcoin::hashes::Hash::all_zeros(), &child()).await.unwrap();
        assert_eq!(Kept::new(node.clone()).end().await.unwrap(), 1);
        let released = node.0.lock().unwrap().pop().unwrap();
        assert_eq!(released, spending(&[outpoint(1)]).unwrap().to_string());
    }
}
