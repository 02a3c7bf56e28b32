//! The factory's funding transaction, from lightningd's wallet.

use bitcoin::address::NetworkUnchecked;
use bitcoin::psbt::Psbt;
use bitcoin::{Address, Amount, OutPoint, ScriptBuf, Transaction, TxOut};
use factory_engine::PreparedFunding;
use factory_engine::types::Txid;
use serde_json::json;

use super::client::{Call, CallError, field};

/// How long inputs stay reserved for a ceremony, which takes minutes. A node that dies before it has
/// stored which they are leaves them reserved, and nobody but this number gives them back.
const CEREMONY_BLOCKS: u32 = 12;
/// Once the funding is sent, inputs stay reserved for a day at a time; whoever sends it again reserves
/// anew.
const RESERVE_BLOCKS: u32 = 144;
/// More than was ever reserved: reservations add up, and releasing subtracts.
const RELEASE_BLOCKS: u32 = 100_000;
/// Version, lock time, counts and segwit marker of a transaction, plus one P2TR output.
const START_WEIGHT: u32 = 4 * (4 + 4 + 1 + 1 + 43) + 2;

/// Reserves inputs and makes the unsigned transaction that pays `amount` to `script`.
///
/// Inputs are native segwit only, so that the txid is final before anybody signs.
pub async fn prepare<C: Call>(
    rpc: &C,
    script: ScriptBuf,
    amount: Amount,
) -> Result<PreparedFunding, CallError> {
    let funded = rpc
        .call(
            "fundpsbt",
            json!({
                "satoshi": format!("{}sat", amount.to_sat()),
                "feerate": "normal",
                "startweight": START_WEIGHT,
                "nonwrapped": true,
                "excess_as_change": true,
                // Keeps back what lightningd wants for the anchors of its channels.
                "opening_anchor_channel": true,
                "reserve": CEREMONY_BLOCKS,
            }),
        )
        .await?;
    let reserved: String = field("fundpsbt", &funded, "psbt")?;
    match with_output(rpc, &reserved, TxOut { value: amount, script_pubkey: script }).await {
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

async fn with_output<C: Call>(rpc: &C, reserved: &str, output: TxOut) -> Result<PreparedFunding, CallError> {
    // Version 0, the only one that the `bitcoin` crate reads, and the only one with a whole
    // transaction in it.
    let version0 = rpc.call("setpsbtversion", json!({"psbt": reserved, "version": 0})).await?;
    let text: String = field("setpsbtversion", &version0, "psbt")?;
    let psbt = parse(&text)?;
    for (index, input) in psbt.inputs.iter().enumerate() {
        let segwit = input.witness_utxo.as_ref().is_some_and(|utxo| utxo.script_pubkey.is_witness_program());
        if !segwit {
            return Err(malformed(format!("input {index} is not native segwit: its txid may change")));
        }
    }
    let prevouts = psbt.inputs.into_iter().filter_map(|input| input.witness_utxo).collect();
    let mut tx = psbt.unsigned_tx;
    tx.output.insert(0, output);
    Ok(PreparedFunding { tx, prevouts, vout: 0 })
}

/// Gives the inputs back to the wallet.
pub async fn release<C: Call>(rpc: &C, inputs: &[OutPoint]) -> Result<(), CallError> {
    unreserve(rpc, &spending(inputs).map_err(unreadable)?.to_string()).await
}

async fn unreserve<C: Call>(rpc: &C, psbt: &str) -> Result<(), CallError> {
    rpc.call("unreserveinputs", json!({"psbt": psbt, "reserve": RELEASE_BLOCKS})).await.map(drop)
}

/// Signs and broadcasts. May be repeated, also after a restart: it is the same transaction.
pub async fn send<C: Call>(rpc: &C, tx: Transaction, prevouts: Vec<TxOut>) -> Result<Txid, CallError> {
    let expected = tx.compute_txid();
    // Without their parents, which lightningd doesn't need for segwit inputs: those may be megabytes.
    let mut psbt = Psbt::from_unsigned_tx(tx).map_err(unreadable)?;
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

/// What the wallet can spend now: confirmed, unreserved, native segwit.
pub async fn spendable<C: Call>(rpc: &C) -> Result<Amount, CallError> {
    let funds = rpc.call("listfunds", json!({})).await?;
    let outputs: Vec<serde_json::Value> = field("listfunds", &funds, "outputs")?;
    let msat = outputs
        .iter()
        .filter(|output| output["status"] == "confirmed" && output["reserved"] == false)
        .filter(|output| output.get("redeemscript").is_none())
        .filter_map(|output| output["amount_msat"].as_u64())
        .fold(0u64, u64::saturating_add);
    Ok(Amount::from_sat(msat / 1000))
}

fn parse(psbt: &str) -> Result<Psbt, CallError> {
    psbt.parse().map_err(unreadable)
}

fn unreadable(error: impl std::fmt::Display) -> CallError {
    malformed(format!("unreadable PSBT: {error}"))
}

/// A PSBT that names coins, for `unreserveinputs`.
pub fn spending(coins: &[OutPoint]) -> Result<Psbt, bitcoin::psbt::Error> {
    let input = |previous_output: &OutPoint| bitcoin::TxIn {
        previous_output: *previous_output,
        ..Default::default()
    };
    Psbt::from_unsigned_tx(Transaction {
        version: bitcoin::transaction::Version::TWO,
        lock_time: bitcoin::absolute::LockTime::ZERO,
        input: coins.iter().map(input).collect(),
        output: vec![],
    })
}

fn malformed(message: String) -> CallError {
    CallError { method: "funding".to_owned(), code: None, message }
}

/// A fresh script of the wallet.
pub async fn payout<C: Call>(rpc: &C) -> Result<ScriptBuf, CallError> {
    let answer = rpc.call("newaddr", json!({"addresstype": "p2tr"})).await?;
    let address: Address<NetworkUnchecked> = field("newaddr", &answer, "p2tr")?;
    // lightningd made it for its own network.
    Ok(address.assume_checked().script_pubkey())
}
