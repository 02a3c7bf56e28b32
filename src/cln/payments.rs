//! What liquidity costs, over Lightning: the operator's invoices, and a client's payments of them.

use std::time::Duration;

use factory_engine::Invoice;
use factory_engine::types::{ChannelId, NodeId, PaymentHash};
use serde_json::{Value, json};

use super::client::{Call, CallError, field};

/// Code of `waitsendpay` while nothing is decided: lightningd's `PAY_IN_PROGRESS`.
const IN_PROGRESS: i32 = 200;
/// lightningd's codes for a payment that failed for good: `PAY_UNPARSEABLE_ONION`,
/// `PAY_DESTINATION_PERM_FAIL`, `PAY_TRY_OTHER_ROUTE`, `PAY_NO_SUCH_PAYMENT`.
const FAILED: [i32; 4] = [202, 203, 204, 208];
/// Code of `waitinvoice` on one that can't be paid any more: lightningd's `INVOICE_EXPIRED_DURING_WAIT`.
const EXPIRED: i32 = 903;
/// How long one `waitsendpay` waits, seconds.
const WAIT_SECONDS: u64 = 60;
/// Between two looks at a lightningd that gives no clear answer.
const PAUSE: Duration = Duration::from_secs(5);

/// `invoice`, with what it takes to pay it over one hop.
pub async fn make_invoice<C: Call>(
    rpc: &C,
    label: &str,
    amount_msat: u64,
    description: &str,
    expiry: Duration,
) -> Result<Invoice, CallError> {
    let params = json!({
        "amount_msat": amount_msat,
        "label": label,
        "description": description,
        "expiry": expiry.as_secs().max(1),
    });
    let made = rpc.call("invoice", params).await?;
    let bolt11: String = field("invoice", &made, "bolt11")?;
    let decoded = rpc.call("decode", json!({"string": bolt11})).await?;
    Ok(Invoice {
        amount_msat,
        payment_hash: hex("invoice", &made, "payment_hash")?,
        payment_secret: hex("invoice", &made, "payment_secret")?,
        min_final_cltv_expiry: field("decode", &decoded, "min_final_cltv_expiry")?,
    })
}

fn hex<T: std::str::FromStr>(method: &str, answer: &Value, name: &str) -> Result<T, CallError> {
    let text: String = field(method, answer, name)?;
    text.parse().map_err(|_| CallError::new(method, format!("unexpected `{name}` in its result: '{text}'")))
}

/// Whether an invoice was paid, once it is or can't be any more. An error when that isn't known, or the
/// invoice was deleted meanwhile.
pub async fn wait_invoice<C: Call>(rpc: &C, label: &str) -> Result<bool, CallError> {
    match rpc.call("waitinvoice", json!({"label": label})).await {
        Ok(_) => Ok(true),
        Err(error) if error.code == Some(EXPIRED) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Deletes an invoice unless it is paid, and says whether it is.
pub async fn end_invoice<C: Call>(rpc: &C, label: &str) -> Result<bool, CallError> {
    let Err(error) = rpc.call("delinvoice", json!({"label": label, "status": "unpaid"})).await else {
        return Ok(false);
    };
    let answer = rpc.call("listinvoices", json!({"label": label})).await?;
    let list: Vec<Value> = field("listinvoices", &answer, "invoices")?;
    match list.first().and_then(|invoice| invoice["status"].as_str()) {
        Some("paid") => Ok(true),
        None | Some("expired") => Ok(false),
        Some(_) => Err(error),
    }
}

/// Pays a peer over one of the channels with it that `usable` allows. Returns when it is known for good
/// what became of it; the error says why it failed.
pub async fn pay<C: Call>(
    rpc: &C,
    peer: NodeId,
    invoice: &Invoice,
    usable: impl Fn(ChannelId) -> bool,
) -> Result<(), String> {
    let channel = channel(rpc, peer, invoice.amount_msat, usable).await?;
    // One block may come in before the operator's node looks at it. What a factory's channel needs beyond
    // that the `rpc_command` hook adds (S15).
    let delay = invoice.min_final_cltv_expiry.saturating_add(1);
    let hop = json!({
        "amount_msat": invoice.amount_msat,
        "id": peer.to_string(),
        "delay": delay,
        "channel": channel,
    });
    let params = json!({
        "route": [hop],
        "payment_hash": invoice.payment_hash.to_string(),
        "payment_secret": invoice.payment_secret.to_string(),
        "label": "cln-factory: liquidity",
    });
    match rpc.call("sendpay", params).await {
        Ok(_) => wait(rpc, invoice.payment_hash).await,
        // lightningd refused it.
        Err(error) if error.code.is_some() => Err(error.to_string()),
        Err(_) => look(rpc, invoice.payment_hash).await,
    }
}

/// The short_channel_id, or alias, of the smallest channel with the peer that holds enough.
async fn channel<C: Call>(
    rpc: &C,
    peer: NodeId,
    amount_msat: u64,
    usable: impl Fn(ChannelId) -> bool,
) -> Result<String, String> {
    let answer = rpc.call("listpeerchannels", json!({"id": peer.to_string()})).await;
    let answer = answer.map_err(|error| error.to_string())?;
    let list: Vec<Value> =
        field("listpeerchannels", &answer, "channels").map_err(|error| error.to_string())?;
    let usable = |channel: &&Value| {
        channel["state"] == "CHANNELD_NORMAL"
            && channel["channel_id"].as_str().and_then(|text| text.parse().ok()).is_some_and(&usable)
    };
    let spendable = |channel: &Value| channel["spendable_msat"].as_u64().unwrap_or(0);
    let most = list.iter().filter(usable).map(spendable).max().unwrap_or(0);
    let enough = list.iter().filter(usable).filter(|channel| spendable(channel) >= amount_msat);
    let name = enough.min_by_key(|channel| spendable(channel)).and_then(|channel| {
        let scid = channel["short_channel_id"].as_str();
        scid.or_else(|| channel["alias"]["local"].as_str()).map(str::to_owned)
    });
    name.ok_or_else(|| {
        format!(
            "{amount_msat} msat have to be paid over one channel with {peer}, and the most that one can \
             send is {most} msat"
        )
    })
}

/// What became of a payment that was begun, or perhaps not.
pub async fn look<C: Call>(rpc: &C, payment_hash: PaymentHash) -> Result<(), String> {
    loop {
        let params = json!({"payment_hash": payment_hash.to_string()});
        let answer = rpc.call("listsendpays", params).await;
        match answer.and_then(|answer| field::<Vec<Value>>("listsendpays", &answer, "payments")) {
            Ok(list) if list.iter().any(|payment| payment["status"] == "complete") => return Ok(()),
            Ok(list) if list.iter().any(|payment| payment["status"] == "pending") => {
                return wait(rpc, payment_hash).await;
            }
            Ok(list) if list.is_empty() => return Err("it was interrupted before it left".to_owned()),
            Ok(_) => return Err("it failed on its way".to_owned()),
            Err(error) => log::debug!("what became of payment {payment_hash}: {error}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Until it is known for good what becomes of a payment; the error says why it failed.
pub async fn wait<C: Call>(rpc: &C, payment_hash: PaymentHash) -> Result<(), String> {
    loop {
        let params = json!({"payment_hash": payment_hash.to_string(), "timeout": WAIT_SECONDS});
        match rpc.call("waitsendpay", params).await {
            Ok(_) => return Ok(()),
            Err(error) if error.code.is_some_and(|code| FAILED.contains(&code)) => {
                return Err(error.to_string());
            }
            Err(error) if error.code == Some(IN_PROGRESS) => {}
            // lightningd is going down, or says something new: only what is clear counts.
            Err(error) => {
                log::debug!("what becomes of payment {payment_hash}: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
