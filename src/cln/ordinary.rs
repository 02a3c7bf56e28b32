//! Ordinary channels, on chain: whether lightningd's record of one is what the chain has (S22).

use bitcoin::{Amount, TxOut};
use factory_engine::CheckFailure;
use factory_engine::types::{ChannelId, NodeId, OutPoint};
use serde_json::{Value, json};

use super::client::{Call, CallError, field};
use super::funding_script;
use super::wallet_db::WalletDb;

/// Compares the output on chain that a channel stands on with the keys that lightningd has for it.
///
/// # Errors
/// What is wrong; [`CheckFailure::NotYet`] while the output isn't there.
pub async fn check<C: Call>(
    rpc: &C,
    database: &WalletDb,
    peer: NodeId,
    channel_id: ChannelId,
) -> Result<(), CheckFailure> {
    let found = output(rpc, peer, channel_id).await;
    let found = found.map_err(|error| CheckFailure::Unavailable(error.to_string()))?;
    let (outpoint, output) = found.ok_or(CheckFailure::NotYet)?;
    funding_script::check(database, channel_id, outpoint, &output).await
}

/// The output that a channel stands on, if it is in the chain and nobody has spent it.
async fn output<C: Call>(
    rpc: &C,
    peer: NodeId,
    channel_id: ChannelId,
) -> Result<Option<(OutPoint, TxOut)>, CallError> {
    let method = "listpeerchannels";
    let answer = rpc.call(method, json!({"id": peer.to_string()})).await?;
    let list: Vec<Value> = field(method, &answer, "channels")?;
    let id = channel_id.to_string();
    let Some(channel) = list.iter().find(|channel| channel["channel_id"] == id.as_str()) else {
        return Ok(None);
    };
    let outpoint = OutPoint {
        txid: field(method, channel, "funding_txid")?,
        vout: field(method, channel, "funding_outnum")?,
    };
    let method = "getutxout";
    let params = json!({"txid": outpoint.txid.to_string(), "vout": outpoint.vout});
    let answer = rpc.call(method, params).await?;
    // There is none for one that is spent.
    if answer["amount"].is_null() {
        return Ok(None);
    }
    let unclear = || CallError::new(method, format!("amount {} is none", answer["amount"]));
    let value = in_sat(&answer["amount"]).ok_or_else(unclear)?;
    let script: String = field(method, &answer, "script")?;
    let script_pubkey = bitcoin::ScriptBuf::from_hex(&script)
        .map_err(|error| CallError::new(method, format!("script is no script: {error}")))?;
    Ok(Some((outpoint, TxOut { value, script_pubkey })))
}

/// An amount as lightningd's backends give it: a number of satoshi, or text such as `1000sat`.
fn in_sat(amount: &Value) -> Option<Amount> {
    let text = amount.as_str().map(|text| text.strip_suffix("sat").unwrap_or(text));
    let sat = amount.as_u64().or_else(|| text?.parse().ok());
    sat.map(Amount::from_sat)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_of_a_backend() {
        for amount in [json!(111_200), json!("111200sat"), json!("111200")] {
            assert_eq!(in_sat(&amount), Some(Amount::from_sat(111_200)), "{amount}");
        }
        for amount in [json!(null), json!("111200msat"), json!("0.5btc"), json!(-1), json!(1.5)] {
            assert_eq!(in_sat(&amount), None, "{amount}");
        }
    }
}
