//! The children that are out, in lightningd's datastore: a restart goes on with them.

use bitcoin::{Amount, OutPoint, ScriptBuf, TxOut, Txid};
use factory_engine::tx::child::{Child, Children, Coin};
use serde_json::{Value, json};

use super::client::{Call, CallError, field};

/// Keys are `["cln-factory", "child", <txid of the parent>]`.
const ROOT: &str = "cln-factory";
const CHILD: &str = "child";
/// lightningd's code for a key that isn't there.
const NO_SUCH_KEY: i32 = 1200;

/// The records. Losing one costs a child that is built anew, and coins that stay reserved until their
/// reservation runs out.
pub struct Records<'a, C>(pub &'a C);

impl<C: Call> Records<'_, C> {
    /// Everything that is there. A record that isn't understood is left alone.
    pub async fn load(&self) -> Result<Children, CallError> {
        let answer = self.0.call("listdatastore", json!({"key": [ROOT, CHILD]})).await?;
        let entries: Vec<Value> = field("listdatastore", &answer, "datastore")?;
        let mut children = Children::default();
        for entry in &entries {
            match read(entry) {
                Some((parent, child)) => drop(children.replace(parent, child)),
                None => log::warn!("a stored child is not understood: {}", entry["key"]),
            }
        }
        Ok(children)
    }

    /// Stores the child of a parent.
    pub async fn put(&self, parent: Txid, child: &Child) -> Result<(), CallError> {
        let coin = |coin: &Coin| {
            json!({
                "outpoint": coin.outpoint.to_string(),
                "sat": coin.output.value.to_sat(),
                "script": coin.output.script_pubkey.to_hex_string(),
            })
        };
        let record = json!({
            "tx": bitcoin::consensus::encode::serialize_hex(&child.tx),
            "coins": child.coins.iter().map(coin).collect::<Vec<_>>(),
            "fee_sat": child.fee.to_sat(),
            "weight": child.weight,
        });
        let params = json!({
            "key": [ROOT, CHILD, parent.to_string()],
            "string": record.to_string(),
            "mode": "create-or-replace",
        });
        self.0.call("datastore", params).await.map(drop)
    }

    /// Forgets the child of this parent; that there is none is no error.
    pub async fn remove(&self, parent: Txid) -> Result<(), CallError> {
        match self.0.call("deldatastore", json!({"key": [ROOT, CHILD, parent.to_string()]})).await {
            Err(error) if error.code != Some(NO_SUCH_KEY) => Err(error),
            _ => Ok(()),
        }
    }
}

fn read(entry: &Value) -> Option<(Txid, Child)> {
    let parent = entry["key"][2].as_str()?.parse().ok()?;
    let record: Value = serde_json::from_str(entry["string"].as_str()?).ok()?;
    let coin = |coin: &Value| {
        let outpoint: OutPoint = coin["outpoint"].as_str()?.parse().ok()?;
        let script_pubkey = ScriptBuf::from_hex(coin["script"].as_str()?).ok()?;
        Some(Coin {
            outpoint,
            output: TxOut { value: Amount::from_sat(coin["sat"].as_u64()?), script_pubkey },
        })
    };
    let child = Child {
        tx: bitcoin::consensus::encode::deserialize_hex(record["tx"].as_str()?).ok()?,
        coins: record["coins"].as_array()?.iter().map(coin).collect::<Option<_>>()?,
        fee: Amount::from_sat(record["fee_sat"].as_u64()?),
        weight: record["weight"].as_u64()?,
    };
    Some((parent, child))
}
