//! lightningd's wallet: its coins, and what is spent of them.

use std::collections::BTreeMap;

use bitcoin::address::NetworkUnchecked;
use bitcoin::psbt::Psbt;
use bitcoin::{Address, Amount, OutPoint, ScriptBuf, Transaction, TxOut, Witness};
use factory_engine::tx::child::Coin;
use factory_engine::types::Txid;
use serde_json::{Value, json};

use super::client::{Call, CallError, field};
use super::psbt::spending;
use super::sent;

/// Once the funding is sent, inputs stay reserved for a day at a time; whoever sends it again reserves
/// anew.
const RESERVE_BLOCKS: u32 = 144;
/// More than was ever reserved: reservations add up, and releasing subtracts.
const RELEASE_BLOCKS: u32 = 100_000;
/// lightningd loads the whole parent transaction of each coin that is given back, which holds up everything else
/// that it does: so many coins with one call.
const RELEASED_AT_ONCE: usize = 25;

/// What can be spent now, but for what is on the script `apart`.
pub async fn free<C: Call>(rpc: &C, apart: Option<&ScriptBuf>) -> Result<Vec<Coin>, CallError> {
    let is_free = |own: &Owned| own.reserved_to.is_none() && apart != Some(&own.coin.output.script_pubkey);
    Ok(coins(rpc).await?.into_values().filter(is_free).map(|own| own.coin).collect())
}

/// Gives the inputs back to the wallet.
pub async fn release<C: Call>(rpc: &C, inputs: &[OutPoint]) -> Result<(), CallError> {
    for some in inputs.chunks(RELEASED_AT_ONCE) {
        let psbt = spending(some).map_err(malformed)?.to_string();
        rpc.call("unreserveinputs", json!({"psbt": psbt, "reserve": RELEASE_BLOCKS})).await?;
    }
    Ok(())
}

/// Signs and broadcasts. May be repeated, also after a restart: it is the same transaction. Inputs that aren't
/// the wallet's come with their witnesses.
pub async fn send<C: Call>(
    rpc: &C,
    mut tx: Transaction,
    prevouts: Vec<TxOut>,
    witnesses: &[(OutPoint, Witness)],
) -> Result<Txid, CallError> {
    let expected = tx.compute_txid();
    let finished = |outpoint: OutPoint| witnesses.iter().find(|(of, _)| *of == outpoint);
    let inputs: Vec<OutPoint> = tx.input.iter().map(|input| input.previous_output).collect();
    let own = |(_, outpoint): &(usize, &OutPoint)| finished(**outpoint).is_none();
    let (places, own): (Vec<usize>, Vec<OutPoint>) =
        inputs.iter().enumerate().filter(own).map(|(place, outpoint)| (place, *outpoint)).unzip();
    if own.is_empty() {
        for input in &mut tx.input {
            if let Some((_, witness)) = finished(input.previous_output) {
                input.witness = witness.clone();
            }
        }
        sent::send(rpc, &tx).await.map_err(malformed)?;
        return Ok(expected);
    }
    // Without their parents, which lightningd doesn't need for segwit inputs: those may be megabytes.
    let mut psbt = Psbt::from_unsigned_tx(tx).map_err(malformed)?;
    for ((input, prevout), outpoint) in psbt.inputs.iter_mut().zip(prevouts).zip(&inputs) {
        input.witness_utxo = Some(prevout);
        input.final_script_witness = finished(*outpoint).map(|(_, witness)| witness.clone());
    }
    let psbt = psbt.to_string();
    // lightningd signs only what is reserved, and a reservation may have run out since. It reserves and signs
    // nothing that it doesn't know.
    let reserve = spending(&own).map_err(malformed)?.to_string();
    rpc.call("reserveinputs", json!({"psbt": reserve, "exclusive": false, "reserve": RESERVE_BLOCKS}))
        .await?;
    let mut sign = json!({"psbt": psbt});
    if !witnesses.is_empty() {
        sign["signonly"] = places.into();
    }
    let signed = rpc.call("signpsbt", sign).await?;
    let signed: String = field("signpsbt", &signed, "signed_psbt")?;
    let sent = rpc.call("sendpsbt", json!({"psbt": signed, "reserve": RESERVE_BLOCKS})).await?;
    let txid: Txid = field("sendpsbt", &sent, "txid")?;
    if txid != expected {
        return Err(malformed(format!("the wallet sent {txid} instead of {expected}")));
    }
    Ok(txid)
}

/// A confirmed native segwit coin of the wallet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    /// Outpoint, value and script.
    pub coin: Coin,
    /// The block up to which somebody has reserved it, if anybody has.
    pub reserved_to: Option<u64>,
}

/// A native segwit output of the wallet that nothing has spent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The coin.
    pub own: Owned,
    /// Whether its transaction is in a block.
    pub confirmed: bool,
}

/// The wallet's native segwit outputs, reserved or not.
pub async fn outputs<C: Call>(rpc: &C) -> Result<Vec<Output>, CallError> {
    let funds = rpc.call("listfunds", json!({})).await?;
    let outputs: Vec<Value> = field("listfunds", &funds, "outputs")?;
    let read = |output: &Value| {
        let txid = output["txid"].as_str()?.parse().ok()?;
        let outpoint = OutPoint { txid, vout: u32::try_from(output["output"].as_u64()?).ok()? };
        let script_pubkey = ScriptBuf::from_hex(output["scriptpubkey"].as_str()?).ok()?;
        let value = Amount::from_sat(output["amount_msat"].as_u64()? / 1000);
        let native = script_pubkey.is_p2wpkh() || script_pubkey.is_p2tr();
        let confirmed = output["status"] == "confirmed";
        let reserved_to = (output["reserved"] == true).then(|| output["reserved_to_block"].as_u64());
        let reserved_to = reserved_to.map(Option::unwrap_or_default);
        let own = Owned { coin: Coin { outpoint, output: TxOut { value, script_pubkey } }, reserved_to };
        let is_there = confirmed || output["status"] == "unconfirmed";
        (native && is_there).then_some(Output { own, confirmed })
    };
    Ok(outputs.iter().filter_map(read).collect())
}

/// The wallet's confirmed native segwit coins, reserved or not.
pub async fn coins<C: Call>(rpc: &C) -> Result<BTreeMap<OutPoint, Owned>, CallError> {
    let confirmed = outputs(rpc).await?.into_iter().filter(|output| output.confirmed);
    Ok(confirmed.map(|output| (output.own.coin.outpoint, output.own)).collect())
}

/// What the wallet can spend now: confirmed, unreserved, native segwit, and not on the script `apart`.
pub async fn spendable<C: Call>(rpc: &C, apart: Option<&ScriptBuf>) -> Result<Amount, CallError> {
    let add = |sum: Amount, coin: Coin| sum.checked_add(coin.output.value).unwrap_or(Amount::MAX_MONEY);
    Ok(free(rpc, apart).await?.into_iter().fold(Amount::ZERO, add))
}

fn malformed(error: impl std::fmt::Display) -> CallError {
    CallError::new("funding", error.to_string())
}

/// A fresh script of the wallet.
pub async fn payout<C: Call>(rpc: &C) -> Result<ScriptBuf, CallError> {
    let answer = rpc.call("newaddr", json!({"addresstype": "p2tr"})).await?;
    let address: Address<NetworkUnchecked> = field("newaddr", &answer, "p2tr")?;
    // lightningd made it for its own network.
    Ok(address.assume_checked().script_pubkey())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use bitcoin::absolute::LockTime;
    use bitcoin::hashes::Hash;
    use bitcoin::transaction::Version;
    use factory_engine::tx::child::unsigned_input;
    use factory_engine::tx::reclaim::witness;
    use serde_json::Value;

    use super::*;

    /// A wallet that notes what it is asked.
    #[derive(Clone, Default)]
    struct Wallet(Arc<Mutex<Vec<(String, Value)>>>);

    fn script(of: u8) -> ScriptBuf {
        ScriptBuf::from_bytes([vec![0x51, 0x20], vec![of; 32]].concat())
    }

    fn output(sat: u64, of: u8) -> TxOut {
        TxOut { value: Amount::from_sat(sat), script_pubkey: script(of) }
    }

    fn outpoint(of: u8) -> OutPoint {
        OutPoint { txid: Txid::from_byte_array([of; 32]), vout: 0 }
    }

    fn coin(sat: u64, of: u8) -> Coin {
        Coin { outpoint: outpoint(of), output: output(sat, of) }
    }

    impl Wallet {
        fn asked(&self, method: &str) -> Option<Value> {
            let calls = self.0.lock().unwrap();
            calls.iter().find(|(called, _)| called == method).map(|(_, params)| params.clone())
        }
    }

    impl Call for Wallet {
        async fn call(&self, method: &str, params: Value) -> Result<Value, CallError> {
            self.0.lock().unwrap().push((method.to_owned(), params.clone()));
            Ok(match method {
                "signpsbt" => json!({"signed_psbt": params["psbt"]}),
                "sendpsbt" => {
                    let psbt: Psbt = params["psbt"].as_str().unwrap().parse().unwrap();
                    json!({"txid": psbt.unsigned_tx.compute_txid().to_string()})
                }
                "sendrawtransaction" => json!({"success": true}),
                _ => json!({}),
            })
        }
    }

    fn spending_all(coins: &[Coin]) -> (Transaction, Vec<TxOut>) {
        let tx = Transaction {
            version: Version::TWO,
            lock_time: LockTime::ZERO,
            input: coins.iter().map(|coin| unsigned_input(coin.outpoint)).collect(),
            output: vec![output(300_000, 9)],
        };
        (tx, coins.iter().map(|coin| coin.output.clone()).collect())
    }

    /// S38: the wallet reserves and signs its own inputs; those that are taken back are finished.
    #[tokio::test]
    async fn the_wallet_signs_its_own() {
        let wallet = Wallet::default();
        let (tx, prevouts) = spending_all(&[coin(250_000, 1), coin(100_000, 5), coin(60_000, 6)]);
        let witnesses = [(outpoint(5), witness(&[1; 64])), (outpoint(6), witness(&[2; 64]))];
        let txid = send(&wallet, tx.clone(), prevouts, &witnesses).await.unwrap();
        assert_eq!(txid, tx.compute_txid());
        let reserved: Psbt =
            wallet.asked("reserveinputs").unwrap()["psbt"].as_str().unwrap().parse().unwrap();
        assert_eq!(reserved.unsigned_tx.input.len(), 1);
        let asked = wallet.asked("signpsbt").unwrap();
        assert_eq!(asked["signonly"], json!([0]));
        let signed: Psbt = asked["psbt"].as_str().unwrap().parse().unwrap();
        let finished = signed.inputs.iter().map(|input| input.final_script_witness.clone());
        assert_eq!(finished.collect::<Vec<_>>(), [None, Some(witness(&[1; 64])), Some(witness(&[2; 64]))]);
    }

    /// S38: of a transaction in which nothing is the wallet's, it has nothing to sign.
    #[tokio::test]
    async fn the_wallet_is_not_asked_where_nothing_is_its_own() {
        let wallet = Wallet::default();
        let (mut tx, prevouts) = spending_all(&[coin(400_000, 5)]);
        let witnesses = [(outpoint(5), witness(&[1; 64]))];
        send(&wallet, tx.clone(), prevouts, &witnesses).await.unwrap();
        tx.input[0].witness = witness(&[1; 64]);
        let sent = wallet.asked("sendrawtransaction").unwrap();
        assert_eq!(sent["tx"], bitcoin::consensus::encode::serialize_hex(&tx));
        assert_eq!(wallet.asked("signpsbt"), None);
    }
}
