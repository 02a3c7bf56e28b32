//! lightningd's wallet: its coins, and what is spent of them.

use std::collections::BTreeMap;

use bitcoin::address::NetworkUnchecked;
use bitcoin::psbt::Psbt;
use bitcoin::{Address, Amount, OutPoint, ScriptBuf, Transaction, TxOut};
use factory_engine::tx::child::Coin;
use factory_engine::types::Txid;
use serde_json::{Value, json};

use super::client::{Call, CallError, field};
use super::psbt::spending;

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

/// Signs and broadcasts. May be repeated, also after a restart: it is the same transaction.
pub async fn send<C: Call>(rpc: &C, tx: Transaction, prevouts: Vec<TxOut>) -> Result<Txid, CallError> {
    let expected = tx.compute_txid();
    // Without their parents, which lightningd doesn't need for segwit inputs: those may be megabytes.
    let mut psbt = Psbt::from_unsigned_tx(tx).map_err(malformed)?;
    for (input, prevout) in psbt.inputs.iter_mut().zip(prevouts) {
        input.witness_utxo = Some(prevout);
    }
    let psbt = psbt.to_string();
    // lightningd signs only what is reserved, and a reservation may have run out since.
    rpc.call("reserveinputs", json!({"psbt": psbt, "exclusive": false, "reserve": RESERVE_BLOCKS})).await?;
    let signed = rpc.call("signpsbt", json!({"psbt": psbt})).await?;
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
