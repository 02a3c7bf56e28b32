//! Transactions that spend lightningd's wallet. Which coins they spend is chosen here: `fundpsbt` looks at the
//! whole wallet for each coin that it adds, and puts each one's parent transaction into its answer. Among hundreds
//! of small coins that holds up everything else that lightningd does for seconds.

use bitcoin::absolute::LockTime;
use bitcoin::transaction::Version;
use bitcoin::{Amount, OutPoint, ScriptBuf, Transaction, TxOut};
use factory_engine::tx::child::{Coin, unsigned_input};
use factory_engine::tx::coins::{Chosen, Payment};
use factory_engine::tx::reclaim::KEY_PATH_WEIGHT;
use serde_json::json;

use super::client::{Call, CallError, field};
use super::psbt::spending;
use super::wallet::{free, payout, release};

/// How long inputs stay reserved for a ceremony, which takes minutes. A node that dies before it has
/// stored which they are leaves them reserved, and nobody but this number gives them back.
const CEREMONY_BLOCKS: u32 = 12;
/// How often coins are chosen anew because lightningd has taken one of them meanwhile.
const TRIES: usize = 5;
/// Version, lock time, counts and segwit marker of a transaction of up to 252 inputs and outputs; with more of
/// one or the other two bytes each are added. Weight units.
const START_WEIGHT: u64 = 4 * (4 + 4 + 1 + 1 + 2 + 2) + 2;
/// Value and length of an output, bytes.
const OUTPUT_BYTES: usize = 8 + 1;
/// lightningd's default `min-emergency-msat`, should `listconfigs` not say.
const EMERGENCY_MSAT: u64 = 25_000_000;
/// What an ordinary channel pays to: P2WSH.
const CHANNEL_OUTPUT: u64 = 4 * (8 + 1 + 34);

/// A transaction without its signatures, whose inputs are reserved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsigned {
    /// The transaction: the outputs that were asked for, in order, and then the change, if there is any.
    pub tx: Transaction,
    /// What its inputs spend, in order.
    pub prevouts: Vec<TxOut>,
}

/// Reserves inputs and makes the transaction that has these outputs, at lightningd's feerate for openings. Coins
/// on the script `apart` are left alone, and what lightningd wants for the anchors of its channels is left.
/// `reclaims` are spent first, by key path: they aren't the wallet's, and where they are enough nothing of it is.
///
/// Inputs are native segwit only, so that the txid is final before anybody signs. Whoever calls has the turn
/// ([`Kept::turn`](super::kept::Kept::turn)).
pub async fn prepare<C: Call>(
    rpc: &C,
    apart: Option<&ScriptBuf>,
    outputs: Vec<TxOut>,
    reclaims: &[Coin],
) -> Result<Unsigned, CallError> {
    let add = |sum: Amount, output: &TxOut| sum.checked_add(output.value);
    let amount = outputs.iter().try_fold(Amount::ZERO, add).unwrap_or(Amount::MAX);
    let weight = |output: &TxOut| {
        u64::try_from(output.script_pubkey.len().saturating_add(OUTPUT_BYTES))
            .unwrap_or(u64::MAX)
            .saturating_mul(4)
    };
    let weight = outputs.iter().map(weight).fold(START_WEIGHT, u64::saturating_add);
    let key_paths = u64::try_from(reclaims.len()).unwrap_or(u64::MAX).saturating_mul(KEY_PATH_WEIGHT);
    let brought = reclaims.iter().map(|coin| coin.output.value).try_fold(Amount::ZERO, Amount::checked_add);
    let mut payment = payment(rpc, amount).await?;
    payment.weight = weight.saturating_add(key_paths);
    payment.brought = brought.ok_or_else(|| failed("what it takes back is more money than there is"))?;
    let chosen = reserve_some(rpc, apart, &payment).await?;
    let outpoints: Vec<OutPoint> = chosen.coins.iter().map(|coin| coin.outpoint).collect();
    let inputs: Vec<Coin> = chosen.coins.into_iter().chain(reclaims.iter().cloned()).collect();
    match finish(rpc, &inputs, chosen.change, outputs).await {
        Ok(tx) => Ok(Unsigned { tx, prevouts: inputs.into_iter().map(|coin| coin.output).collect() }),
        Err(error) => {
            // Nothing of a failed preparation may stay behind; the first error is the one to tell.
            if let Err(second) = release(rpc, &outpoints).await {
                log::warn!("inputs of an unfinished transaction stay reserved: {second}");
            }
            Err(error)
        }
    }
}

/// Coins that pay for an ordinary channel of this size, for `fundchannel`: nothing if it is better left to
/// lightningd. They aren't reserved.
pub async fn for_channel<C: Call>(rpc: &C, apart: Option<&ScriptBuf>, amount: Amount) -> Option<Vec<String>> {
    let mut payment = payment(rpc, amount).await.ok()?;
    payment.weight = START_WEIGHT.saturating_add(CHANNEL_OUTPUT);
    // lightningd may reckon a little more for inputs, and asks for the feerate once more.
    payment.feerate = payment.feerate.saturating_add(payment.feerate / 4);
    let chosen = payment.choose(&free(rpc, apart).await.ok()?).ok()?;
    Some(chosen.coins.iter().map(|coin| coin.outpoint.to_string()).collect())
}

async fn payment<C: Call>(rpc: &C, amount: Amount) -> Result<Payment, CallError> {
    let method = "parsefeerate";
    let feerate = rpc.call(method, json!(["normal"])).await?;
    let feerate = field::<Option<u32>>(method, &feerate, "perkw")?;
    let feerate = feerate.ok_or_else(|| failed("lightningd has no estimate of fees yet: try again later"))?;
    let name = "min-emergency-msat";
    let configs = rpc.call("listconfigs", json!({"config": name})).await?;
    let msat = configs["configs"][name]["value_msat"].as_u64().unwrap_or(EMERGENCY_MSAT);
    Ok(Payment {
        amount,
        brought: Amount::ZERO,
        weight: 0,
        feerate,
        left: Amount::from_sat(msat.div_ceil(1000)),
    })
}

async fn reserve_some<C: Call>(
    rpc: &C,
    apart: Option<&ScriptBuf>,
    payment: &Payment,
) -> Result<Chosen, CallError> {
    let mut tries = 0;
    loop {
        let chosen = payment.choose(&free(rpc, apart).await?).map_err(failed)?;
        let outpoints: Vec<OutPoint> = chosen.coins.iter().map(|coin| coin.outpoint).collect();
        if outpoints.is_empty() {
            return Ok(chosen);
        }
        match reserve(rpc, &outpoints).await {
            Ok(()) => return Ok(chosen),
            Err(error) if tries == TRIES => return Err(error),
            // Most likely one that somebody else's command has reserved in between.
            Err(error) => log::debug!("choosing other coins: {error}"),
        }
        tries += 1;
    }
}

/// All of them, or none: if one is reserved or spent already.
async fn reserve<C: Call>(rpc: &C, outpoints: &[OutPoint]) -> Result<(), CallError> {
    let psbt = spending(outpoints).map_err(failed)?;
    let params = json!({"psbt": psbt.to_string(), "exclusive": true, "reserve": CEREMONY_BLOCKS});
    rpc.call("reserveinputs", params).await.map(drop)
}

async fn finish<C: Call>(
    rpc: &C,
    inputs: &[Coin],
    change: Option<Amount>,
    mut outputs: Vec<TxOut>,
) -> Result<Transaction, CallError> {
    // lightningd's own word: its backend may be away for the moment, and isn't needed for this.
    let height = field("getinfo", &rpc.call("getinfo", json!({})).await?, "blockheight")?;
    if let Some(value) = change {
        outputs.push(TxOut { value, script_pubkey: payout(rpc).await? });
    }
    Ok(Transaction {
        version: Version::TWO,
        // As other wallets do: no miner gains by rewriting the last block.
        lock_time: LockTime::from_height(height).map_err(failed)?,
        input: inputs.iter().map(|coin| unsigned_input(coin.outpoint)).collect(),
        output: outputs,
    })
}

fn failed(error: impl std::fmt::Display) -> CallError {
    CallError::new("wallet", error.to_string())
}
