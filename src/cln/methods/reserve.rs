//! `factory-reserve`.

use bitcoin::{Address, Network};
use factory_engine::types::Amount;
use serde_json::{Value, json};

use super::super::client::{Call, field};
use super::super::error::RpcError;
use super::super::params::Params;
use super::super::state::State;
use super::super::wallet;
use super::Command;
use super::fees::Reserve;

/// Name, usage and description of `factory-reserve`.
pub const COMMAND: Command = Command {
    name: "factory-reserve",
    usage: "[coins] [coin_sat] [dry_run]",
    description: "Make coins of the wallet that pay the fees of an exit, one for each transaction, and keep \
                  them apart; dry_run, which is the default, shows what it would do",
};

/// Coins that are made with one transaction.
const AT_ONCE: u64 = 200;
/// No more than what lightningd is asked for in one go needs.
const MOST: u32 = 5_000;

/// Shows what is missing, or makes it.
pub async fn call(state: State, params: Value) -> Result<Value, RpcError> {
    let mut params = Params::new(&["coins", "coin_sat", "dry_run"], &params)?;
    let wanted: Option<u32> = params.optional("coins")?;
    let size: Option<Amount> = params.optional("coin_sat")?;
    let dry_run = params.optional("dry_run")?.unwrap_or(true);
    if let Some(wanted) = wanted.filter(|wanted| *wanted > MOST) {
        let text = format!("coins: should be an integer from 0 to {MOST}: invalid token '{wanted}'");
        return Err(RpcError::parameter(text));
    }
    let reserve = Reserve::now(&state).await?;
    let coins = wanted.map_or(reserve.coins.number, u64::from);
    let coin_sat = size.unwrap_or(reserve.coins.each);
    if let Some(size) = size.filter(|size| coins > 0 && *size < LEAST) {
        return Err(RpcError::parameter(format!(
            "coin_sat: should be a satoshi amount from {} to {}: invalid token '{}'",
            LEAST.to_sat(),
            Amount::MAX_MONEY.to_sat(),
            size.to_sat()
        )));
    }
    if wanted == Some(0) {
        let given_back = if dry_run { state.kept.coins().await?.len() } else { state.kept.end().await? };
        return Ok(json!({"dry_run": dry_run, "given_back": given_back, "reserve": reserve.json()}));
    }
    let kept = state.kept.coins().await?;
    let ready = kept.iter().filter(|own| own.coin.output.value >= coin_sat).count();
    let missing = coins.saturating_sub(u64::try_from(ready).unwrap_or(u64::MAX));
    let now = missing.min(AT_ONCE);
    let total = coin_sat.to_sat().saturating_mul(missing);
    let kept_sat = kept.iter().map(|own| own.coin.output.value.to_sat()).fold(0, u64::saturating_add);
    let short = total.saturating_sub(reserve.wallet.to_sat().saturating_sub(kept_sat));
    let mut answer = json!({
        "dry_run": dry_run,
        "coins": coins,
        "coin_sat": coin_sat.to_sat(),
        "kept": kept.len(),
        "missing": missing,
        "made": if dry_run { 0 } else { now },
        "total_sat": total,
        "reserve": reserve.json(),
    });
    if !dry_run && now > 0 {
        answer["txid"] = make(&state, now, coin_sat).await?.into();
    }
    answer["next_action"] = if missing == 0 {
        "nothing: as many coins are kept".into()
    } else if dry_run && short > 0 {
        format!("send {short} sat and what fees take to this node's wallet first (lightning-cli newaddr)")
            .into()
    } else if dry_run {
        "say dry_run=false to make them, out of the wallet".into()
    } else if missing > now {
        "once the transaction is confirmed, call it again for the rest".into()
    } else {
        "nothing: once the transaction is confirmed the coins are kept".into()
    };
    Ok(answer)
}

/// Less pays for nothing.
const LEAST: Amount = Amount::from_sat(1_000);

/// Sends coins of one size to the script on which they are kept.
async fn make(state: &State, number: u64, size: Amount) -> Result<String, RpcError> {
    let info = state.rpc.call("getinfo", json!({})).await?;
    let network: String = field("getinfo", &info, "network")?;
    let network: Network = network.parse().map_err(|_| RpcError::internal(COMMAND.name))?;
    let script = match state.kept.script().await? {
        Some(script) => script,
        None => {
            let script = wallet::payout(&state.rpc).await?;
            state.kept.begin(script.clone()).await?;
            script
        }
    };
    let address = Address::from_script(&script, network).map_err(|_| RpcError::internal(COMMAND.name))?;
    let output = json!({address.to_string(): format!("{}sat", size.to_sat())});
    let outputs: Vec<Value> = (0..number).map(|_| output.clone()).collect();
    let prepared = state.rpc.call("txprepare", json!({"outputs": outputs})).await?;
    let txid: String = field("txprepare", &prepared, "txid")?;
    match state.rpc.call("txsend", json!({"txid": txid})).await {
        Ok(_) => Ok(txid),
        Err(error) => {
            // Its inputs are the wallet's again; the first error is the one to tell.
            if let Err(second) = state.rpc.call("txdiscard", json!({"txid": txid})).await {
                log::warn!("inputs of {txid}, which was not sent, stay reserved: {second}");
            }
            Err(error.into())
        }
    }
}
