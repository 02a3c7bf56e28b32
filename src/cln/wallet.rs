//! The factory's funding transaction, from lightningd's wallet.

use std::collections::BTreeMap;

use bitcoin::absolute::LockTime;
use bitcoin::address::NetworkUnchecked;
use bitcoin::psbt::Psbt;
use bitcoin::transaction::Version;
use bitcoin::{Address, Amount, OutPoint, ScriptBuf, Transaction, TxOut, Witness};
use factory_engine::PreparedFunding;
use factory_engine::tx::child::Coin;
use factory_engine::tx::layout::fee;
use factory_engine::tx::reclaim::{KEY_PATH_WEIGHT, input};
use factory_engine::tx::scripts::DUST;
use factory_engine::types::Txid;
use serde_json::{Value, json};

use super::client::{Call, CallError, field};
use super::psbt::{self, spending};
use super::sent;

/// How long inputs stay reserved for a ceremony, which takes minutes. A node that dies before it has
/// stored which they are leaves them reserved, and nobody but this number gives them back.
const CEREMONY_BLOCKS: u32 = 12;
/// Once the funding is sent, inputs stay reserved for a day at a time; whoever sends it again reserves
/// anew.
const RESERVE_BLOCKS: u32 = 144;
/// More than was ever reserved: reservations add up, and releasing subtracts.
const RELEASE_BLOCKS: u32 = 100_000;
/// Largest transaction that relays, weight units.
const MOST_WEIGHT: u64 = 400_000;
/// Version, lock time, counts and segwit marker of a transaction, plus one P2TR output.
const START_WEIGHT: u64 = 4 * (4 + 4 + 1 + 1 + 43) + 2;
/// A P2TR output, weight units.
const OUTPUT_WEIGHT: u64 = 4 * 43;
/// The least that the wallet is asked for where it has to add anything.
const LEAST: Amount = Amount::from_sat(1_000);
/// What is paid for a transaction.
const FEERATE: &str = "normal";

/// Reserves inputs and makes the unsigned transaction that pays `amount` to `script`, and spends `reclaims`
/// beside what it needs of the wallet: nothing of that where they are enough.
///
/// Inputs are native segwit only, so that the txid is final before anybody signs.
pub async fn prepare<C: Call>(
    rpc: &C,
    script: ScriptBuf,
    amount: Amount,
    reclaims: &[Coin],
) -> Result<PreparedFunding, CallError> {
    let output = TxOut { value: amount, script_pubkey: script };
    let brought = reclaims.iter().map(|coin| coin.output.value).try_fold(Amount::ZERO, Amount::checked_add);
    let brought = brought.ok_or_else(|| malformed("what it takes back is more money than there is"))?;
    let count = u64::try_from(reclaims.len()).unwrap_or(u64::MAX);
    let weight = START_WEIGHT.saturating_add(count.saturating_mul(KEY_PATH_WEIGHT));
    if brought > amount
        && let Some(prepared) = alone(rpc, &output, reclaims, (brought, weight)).await?
    {
        return Ok(prepared);
    }
    let asked = match reclaims {
        [] => amount,
        _ => amount.checked_sub(brought).unwrap_or(LEAST).max(LEAST),
    };
    let funded = rpc
        .call(
            "fundpsbt",
            json!({
                "satoshi": format!("{}sat", asked.to_sat()),
                "feerate": FEERATE,
                "startweight": weight,
                "nonwrapped": true,
                "excess_as_change": true,
                // Keeps back what lightningd wants for the anchors of its channels.
                "opening_anchor_channel": true,
                "reserve": CEREMONY_BLOCKS,
            }),
        )
        .await?;
    let reserved: String = field("fundpsbt", &funded, "psbt")?;
    let weight = funded["estimated_final_weight"].as_u64().unwrap_or(0);
    let prepared = if weight > MOST_WEIGHT {
        Err(malformed(format!(
            "it would need so many small coins that it weighs {weight} units, and {MOST_WEIGHT} is the most \
             that relays: merge some of them first (lightning-cli withdraw)"
        )))
    } else {
        with_output(&reserved, output, reclaims)
    };
    match prepared {
        Ok(prepared) => Ok(prepared),
        Err(error) => {
            // Nothing of a failed preparation may stay behind; the first error is the one to tell.
            if let Err(second) = unreserve(rpc, &reserved).await {
                log::warn!("inputs of an unfinished funding transaction stay reserved: {second}");
            }
            Err(error)
        }
    }
}

/// Without the wallet, which gets the change: if what is taken back is enough.
async fn alone<C: Call>(
    rpc: &C,
    output: &TxOut,
    reclaims: &[Coin],
    (brought, weight): (Amount, u64),
) -> Result<Option<PreparedFunding>, CallError> {
    let rates = rpc.call("parsefeerate", json!({"feerate_str": FEERATE})).await?;
    let feerate: u32 = field("parsefeerate", &rates, "perkw")?;
    let Some(more) = brought.checked_sub(output.value) else { return Ok(None) };
    let left = |weight| fee(weight, feerate).and_then(|fee| more.checked_sub(fee));
    if left(weight).is_none() {
        return Ok(None);
    }
    let mut outputs = vec![output.clone()];
    if let Some(change) = left(weight.saturating_add(OUTPUT_WEIGHT)).filter(|change| *change >= DUST) {
        outputs.push(TxOut { value: change, script_pubkey: payout(rpc).await? });
    }
    let tx = Transaction {
        version: Version::TWO,
        lock_time: LockTime::ZERO,
        input: reclaims.iter().map(input).collect(),
        output: outputs,
    };
    let prevouts = reclaims.iter().map(|coin| coin.output.clone()).collect();
    Ok(Some(PreparedFunding { tx, prevouts, vout: 0 }))
}

fn with_output(reserved: &str, output: TxOut, reclaims: &[Coin]) -> Result<PreparedFunding, CallError> {
    let psbt = psbt::read(reserved).map_err(malformed)?;
    for (index, input) in psbt.inputs.iter().enumerate() {
        let segwit = input.witness_utxo.as_ref().is_some_and(|utxo| utxo.script_pubkey.is_witness_program());
        if !segwit {
            return Err(malformed(format!("input {index} is not native segwit: its txid may change")));
        }
    }
    let own = psbt.inputs.into_iter().filter_map(|input| input.witness_utxo);
    let prevouts = own.chain(reclaims.iter().map(|coin| coin.output.clone())).collect();
    let mut tx = psbt.unsigned_tx;
    tx.input.extend(reclaims.iter().map(input));
    tx.output.insert(0, output);
    Ok(PreparedFunding { tx, prevouts, vout: 0 })
}

/// Gives the inputs back to the wallet.
pub async fn release<C: Call>(rpc: &C, inputs: &[OutPoint]) -> Result<(), CallError> {
    unreserve(rpc, &spending(inputs).map_err(malformed)?.to_string()).await
}

async fn unreserve<C: Call>(rpc: &C, psbt: &str) -> Result<(), CallError> {
    rpc.call("unreserveinputs", json!({"psbt": psbt, "reserve": RELEASE_BLOCKS})).await.map(drop)
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

/// The wallet's confirmed native segwit coins, reserved or not.
pub async fn coins<C: Call>(rpc: &C) -> Result<BTreeMap<OutPoint, Owned>, CallError> {
    let funds = rpc.call("listfunds", json!({})).await?;
    let outputs: Vec<Value> = field("listfunds", &funds, "outputs")?;
    let read = |output: &Value| {
        let txid = output["txid"].as_str()?.parse().ok()?;
        let outpoint = OutPoint { txid, vout: u32::try_from(output["output"].as_u64()?).ok()? };
        let script_pubkey = ScriptBuf::from_hex(output["scriptpubkey"].as_str()?).ok()?;
        let value = Amount::from_sat(output["amount_msat"].as_u64()? / 1000);
        let native = script_pubkey.is_p2wpkh() || script_pubkey.is_p2tr();
        let reserved_to = (output["reserved"] == true).then(|| output["reserved_to_block"].as_u64());
        let coin = Coin { outpoint, output: TxOut { value, script_pubkey } };
        (native && output["status"] == "confirmed")
            .then_some((outpoint, Owned { coin, reserved_to: reserved_to.map(Option::unwrap_or_default) }))
    };
    Ok(outputs.iter().filter_map(read).collect())
}

/// What the wallet can spend now: confirmed, unreserved, native segwit.
pub async fn spendable<C: Call>(rpc: &C) -> Result<Amount, CallError> {
    let free = coins(rpc).await?.into_values().filter(|own| own.reserved_to.is_none());
    let add = |sum: Amount, own: Owned| sum.checked_add(own.coin.output.value).unwrap_or(Amount::MAX_MONEY);
    Ok(free.fold(Amount::ZERO, add))
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

    use bitcoin::hashes::Hash;
    use factory_engine::tx::reclaim::witness;
    use serde_json::Value;

    use super::*;

    /// A wallet that notes what it is asked, and has one coin of this value.
    #[derive(Clone, Default)]
    struct Wallet(Arc<Mutex<Vec<(String, Value)>>>);

    const OWN: u64 = 250_000;

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
                "fundpsbt" => {
                    let mut psbt = spending(&[outpoint(1)]).unwrap();
                    psbt.inputs[0].witness_utxo = Some(output(OWN, 1));
                    psbt.unsigned_tx.output.push(output(1_000, 8));
                    psbt.outputs.push(Default::default());
                    json!({"psbt": psbt.to_string(), "estimated_final_weight": 900})
                }
                "parsefeerate" => json!({"perkw": 1_000}),
                "newaddr" => {
                    json!({"p2tr": "bcrt1p5cyxnuxmeuwuvkwfem96lqzszd02n6xdcjrs20cac6yqjjwudpxqvg32hk"})
                }
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

    /// S38: what is taken back stands beside the wallet's inputs, which make up what is missing.
    #[tokio::test]
    async fn the_wallet_adds_what_is_missing() {
        let wallet = Wallet::default();
        let back = [coin(100_000, 5), coin(60_000, 6)];
        let funding = prepare(&wallet, script(9), Amount::from_sat(300_000), &back).await.unwrap();
        let asked = wallet.asked("fundpsbt").unwrap();
        assert_eq!(asked["satoshi"], "140000sat");
        assert_eq!(asked["startweight"], START_WEIGHT + 2 * KEY_PATH_WEIGHT);
        let spent: Vec<OutPoint> = funding.tx.input.iter().map(|input| input.previous_output).collect();
        assert_eq!(spent, [outpoint(1), outpoint(5), outpoint(6)]);
        assert_eq!(funding.prevouts, [output(OWN, 1), output(100_000, 5), output(60_000, 6)]);
        assert_eq!(funding.tx.output[0], output(300_000, 9));
        // The wallet reserves and signs its own; the others are finished.
        let witnesses = [(outpoint(5), witness(&[1; 64])), (outpoint(6), witness(&[2; 64]))];
        let txid = send(&wallet, funding.tx.clone(), funding.prevouts, &witnesses).await.unwrap();
        assert_eq!(txid, funding.tx.compute_txid());
        let reserved: Psbt =
            wallet.asked("reserveinputs").unwrap()["psbt"].as_str().unwrap().parse().unwrap();
        assert_eq!(reserved.unsigned_tx.input.len(), 1);
        let asked = wallet.asked("signpsbt").unwrap();
        assert_eq!(asked["signonly"], json!([0]));
        let signed: Psbt = asked["psbt"].as_str().unwrap().parse().unwrap();
        let finished = signed.inputs.iter().map(|input| input.final_script_witness.clone());
        assert_eq!(finished.collect::<Vec<_>>(), [None, Some(witness(&[1; 64])), Some(witness(&[2; 64]))]);
    }

    /// S38: where it is enough the wallet isn't asked for anything but a script for the change.
    #[tokio::test]
    async fn what_is_taken_back_may_be_enough() {
        let wallet = Wallet::default();
        let back = [coin(400_000, 5)];
        let funding = prepare(&wallet, script(9), Amount::from_sat(300_000), &back).await.unwrap();
        assert_eq!(wallet.asked("fundpsbt"), None);
        assert_eq!((funding.tx.input.len(), funding.tx.output.len()), (1, 2));
        let mut signed = funding.tx.clone();
        signed.input[0].witness = witness(&[1; 64]);
        let paid = 400_000 - signed.output.iter().map(|output| output.value.to_sat()).sum::<u64>();
        assert!(paid.abs_diff(signed.weight().to_wu()) <= 8, "{paid} sat for {} WU", signed.weight().to_wu());
        let witnesses = [(outpoint(5), witness(&[1; 64]))];
        send(&wallet, funding.tx, funding.prevouts, &witnesses).await.unwrap();
        let sent = wallet.asked("sendrawtransaction").unwrap();
        assert_eq!(sent["tx"], bitcoin::consensus::encode::serialize_hex(&signed));
        assert_eq!(wallet.asked("signpsbt"), None);
        // Not quite enough: the wallet is asked after all.
        let back = [coin(300_100, 5)];
        prepare(&wallet, script(9), Amount::from_sat(300_000), &back).await.unwrap();
        assert_eq!(wallet.asked("fundpsbt").unwrap()["satoshi"], "1000sat");
    }
}
