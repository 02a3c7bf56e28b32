//! `factory-reserve`.

use factory_engine::types::Amount;
use serde_json::{Value, json};

use super::super::error::RpcError;
use super::super::params::Params;
use super::super::state::State;
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
    let (count, made, txid) = if dry_run {
        (state.kept.count(coins, coin_sat).await?, 0, None)
    } else {
        state.kept.make(coins, coin_sat, AT_ONCE).await?
    };
    let (missing, (kept, kept_sat)) = (count.missing, count.kept);
    let total = coin_sat.to_sat().saturating_mul(missing);
    let short = total.saturating_sub(reserve.wallet.to_sat().saturating_sub(kept_sat.to_sat()));
    let mut answer = json!({
        "dry_run": dry_run,
        "coins": coins,
        "coin_sat": coin_sat.to_sat(),
        "kept": kept,
        "unconfirmed": count.unconfirmed,
        "missing": missing,
        "made": made,
        "total_sat": total,
        "reserve": reserve.json(),
    });
    if let Some(txid) = txid {
        answer["txid"] = txid.into();
    }
    answer["next_action"] = if missing == 0 && count.unconfirmed == 0 {
        "nothing: as many coins are kept".into()
    } else if missing == 0 {
        format!(
            "nothing: {} coins wait for their transaction to be confirmed, then they are kept",
            count.unconfirmed
        )
        .into()
    } else if dry_run && short > 0 {
        format!("send {short} sat and what fees take to this node's wallet first (lightning-cli newaddr)")
            .into()
    } else if dry_run {
        "say dry_run=false to make them, out of the wallet".into()
    } else if missing > made {
        "once the transaction is confirmed, call it again for the rest".into()
    } else {
        "nothing: once the transaction is confirmed the coins are kept".into()
    };
    Ok(answer)
}

/// Less pays for nothing.
const LEAST: Amount = Amount::from_sat(1_000);
