//! lightningd's wallet and datastore in memory, for tests: as much of both as coins and fees need.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};

use bitcoin::hashes::Hash;
use bitcoin::psbt::Psbt;
use bitcoin::{Address, Amount, Network, OutPoint, ScriptBuf, Transaction, Txid, Witness};
use serde_json::{Value, json};

use super::client::{Call, CallError};

/// Height of the chain.
pub const HEIGHT: u64 = 1_000;

/// What happens once, in the middle of a call of this name.
type Meanwhile = (&'static str, Pin<Box<dyn Future<Output = ()> + Send>>);

/// A coin of the wallet.
#[derive(Clone)]
pub struct ToyCoin {
    /// Satoshi.
    pub sat: u64,
    /// Whose it is.
    pub script: ScriptBuf,
    /// What `listfunds` says of it.
    pub status: &'static str,
    /// The block up to which it is reserved.
    pub reserved_to: u64,
}

#[derive(Default)]
struct Inner {
    coins: BTreeMap<OutPoint, ToyCoin>,
    datastore: BTreeMap<Vec<String>, String>,
    sent: BTreeSet<Txid>,
    addresses: u8,
    refuse_children: Option<String>,
    meanwhile: Option<Meanwhile>,
    calls: Vec<(String, Value)>,
}

/// A node. A cheap clone.
#[derive(Clone, Default)]
pub struct Toy(Arc<Mutex<Inner>>);

/// A P2TR script.
pub fn script(byte: u8) -> ScriptBuf {
    ScriptBuf::from_bytes([vec![0x51, 0x20], vec![byte; 32]].concat())
}

/// The `number`th coin.
pub fn outpoint(number: u32) -> OutPoint {
    OutPoint { txid: Txid::from_byte_array([9; 32]), vout: number }
}

impl Toy {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// A confirmed coin, reserved up to a block or not (0).
    pub fn add(&self, number: u32, sat: u64, script: ScriptBuf, reserved_to: u64) {
        self.lock().coins.insert(outpoint(number), ToyCoin { sat, script, status: "confirmed", reserved_to });
    }

    /// What waits for its block has one.
    pub fn confirm(&self) {
        self.lock().coins.values_mut().for_each(|coin| coin.status = "confirmed");
    }

    /// Children are refused with this text from now on.
    pub fn refuse_children(&self, text: &str) {
        self.lock().refuse_children = Some(text.to_owned());
    }

    /// In the middle of the next call of this name, as far as it comes without it.
    pub fn meanwhile(&self, method: &'static str, other: impl Future<Output = ()> + Send + 'static) {
        self.lock().meanwhile = Some((method, Box::pin(other)));
    }

    /// The block up to which each coin is reserved, or 0.
    pub fn reserved(&self) -> BTreeMap<OutPoint, u64> {
        self.lock().coins.iter().map(|(outpoint, coin)| (*outpoint, coin.reserved_to)).collect()
    }

    /// How often this was called.
    pub fn called(&self, method: &str) -> usize {
        self.lock().calls.iter().filter(|(called, _)| called == method).count()
    }

    /// Every coin on this script.
    pub fn on(&self, script: &ScriptBuf) -> Vec<ToyCoin> {
        self.lock().coins.values().filter(|coin| coin.script == *script).cloned().collect()
    }
}

impl Call for Toy {
    async fn call(&self, method: &str, params: Value) -> Result<Value, CallError> {
        self.lock().calls.push((method.to_owned(), params.clone()));
        let answer = self.lock().answer(method, &params);
        let other = {
            let mut inner = self.lock();
            let due = inner.meanwhile.as_ref().is_some_and(|(at, _)| *at == method);
            inner.meanwhile.take_if(|_| due)
        };
        if let Some((_, other)) = other {
            tokio::spawn(other);
            // As far as it comes: nothing here waits for anything else.
            for _ in 0..200 {
                tokio::task::yield_now().await;
            }
        }
        answer
    }
}

impl Inner {
    fn answer(&mut self, method: &str, params: &Value) -> Result<Value, CallError> {
        let failed = |text: &str| Err(CallError::new(method, text));
        Ok(match method {
            "listfunds" => {
                json!({"outputs": self.coins.iter().map(|(outpoint, coin)| listed(*outpoint, coin)).collect::<Vec<_>>()})
            }
            "getinfo" => json!({"network": "regtest", "blockheight": HEIGHT}),
            "getchaininfo" => json!({"blockcount": HEIGHT}),
            "parsefeerate" => json!({"perkw": 1_000}),
            "listconfigs" => json!({"configs": {"min-emergency-msat": {"value_msat": 25_000_000}}}),
            "newaddr" => {
                self.addresses += 1;
                let address = Address::from_script(&script(0x40 + self.addresses), Network::Regtest);
                json!({"p2tr": address.unwrap().to_string()})
            }
            "reserveinputs" => {
                let named = inputs(params);
                let is_reserved =
                    |coin: &OutPoint| self.coins.get(coin).is_some_and(|own| own.reserved_to > 0);
                if params["exclusive"] != false && named.iter().any(is_reserved) {
                    return Err(CallError {
                        code: Some(-32602),
                        ..CallError::new(method, "already reserved")
                    });
                }
                self.each(&named, |coin| {
                    coin.reserved_to = coin.reserved_to.max(HEIGHT) + params["reserve"].as_u64().unwrap();
                })
            }
            "unreserveinputs" => self.each(&inputs(params), |coin| {
                let left = coin.reserved_to.saturating_sub(params["reserve"].as_u64().unwrap());
                coin.reserved_to = if left > HEIGHT { left } else { 0 };
            }),
            "signpsbt" => {
                let mut psbt: Psbt = params["psbt"].as_str().unwrap().parse().unwrap();
                for input in &mut psbt.inputs {
                    input.final_script_witness = Some(Witness::from_slice(&[[1u8; 64]]));
                }
                json!({"signed_psbt": psbt.to_string()})
            }
            "sendrawtransaction" => {
                assert_eq!(params["allowhighfees"], true, "in a storm bitcoind's own limit is too low");
                self.send(params["tx"].as_str().unwrap())
            }
            "getutxout" => json!({"amount": 1_000}),
            "sendpsbt" => {
                let tx = params["psbt"].as_str().unwrap().parse::<Psbt>().unwrap().unsigned_tx;
                for input in &tx.input {
                    self.coins.remove(&input.previous_output);
                }
                let txid = tx.compute_txid();
                for (vout, output) in (0u32..).zip(tx.output) {
                    let (sat, script) = (output.value.to_sat(), output.script_pubkey);
                    let coin = ToyCoin { sat, script, status: "unconfirmed", reserved_to: 0 };
                    self.coins.insert(OutPoint { txid, vout }, coin);
                }
                json!({"txid": txid.to_string()})
            }
            "datastore" => {
                let text = params["string"].as_str().unwrap().to_owned();
                self.datastore.insert(key(params), text);
                json!({})
            }
            "deldatastore" => match self.datastore.remove(&key(params)) {
                Some(_) => json!({}),
                None => {
                    return Err(CallError { code: Some(1200), ..CallError::new(method, "no such key") });
                }
            },
            "listdatastore" => {
                let asked = key(params);
                let found = self.datastore.iter().filter(|(key, _)| key.starts_with(&asked));
                json!({"datastore": found.map(|(key, text)| json!({"key": key, "string": text})).collect::<Vec<_>>()})
            }
            _ => return failed("unknown command"),
        })
    }

    fn send(&mut self, hex: &str) -> Value {
        let tx: Transaction = bitcoin::consensus::encode::deserialize_hex(hex).unwrap();
        let is_child = tx.input.iter().any(|input| self.coins.contains_key(&input.previous_output));
        match self.refuse_children.as_ref().filter(|_| is_child) {
            Some(text) => json!({"success": false, "errmsg": text}),
            None => {
                self.sent.insert(tx.compute_txid());
                json!({"success": true, "errmsg": ""})
            }
        }
    }

    fn each(&mut self, named: &[OutPoint], change: impl Fn(&mut ToyCoin)) -> Value {
        for coin in named {
            if let Some(coin) = self.coins.get_mut(coin) {
                change(coin);
            }
        }
        json!({"reservations": []})
    }
}

fn listed(outpoint: OutPoint, coin: &ToyCoin) -> Value {
    let mut output = json!({
        "txid": outpoint.txid.to_string(),
        "output": outpoint.vout,
        "amount_msat": Amount::from_sat(coin.sat).to_sat() * 1_000,
        "scriptpubkey": coin.script.to_hex_string(),
        "status": coin.status,
        "reserved": coin.reserved_to > 0,
    });
    if coin.reserved_to > 0 {
        output["reserved_to_block"] = coin.reserved_to.into();
    }
    output
}

fn key(params: &Value) -> Vec<String> {
    serde_json::from_value(params["key"].clone()).unwrap()
}

fn inputs(params: &Value) -> Vec<OutPoint> {
    let psbt: Psbt = params["psbt"].as_str().unwrap().parse().unwrap();
    psbt.unsigned_tx.input.iter().map(|input| input.previous_output).collect()
}
