//! `sendrawtransaction`, and what its refusals mean.

use bitcoin::{Amount, OutPoint, Transaction};
use factory_engine::io::fees::Refused;
use serde_json::json;

use super::client::{Call, CallError};

/// Hands a transaction to lightningd's backend. One that its mempool has already is no error.
///
/// bitcoind's own limit on feerates is off: what is sent was signed beforehand, or is a child that pays what
/// we decided, at most what is at stake (S26), and in a storm that is more than a wallet's user would want.
///
/// # Errors
/// Why it is not taken. lightningd reports that as a result, not as an error.
pub async fn send<C: Call>(rpc: &C, tx: &Transaction) -> Result<(), Refused> {
    let hex = bitcoin::consensus::encode::serialize_hex(tx);
    let params = json!({"tx": hex, "allowhighfees": true});
    let answer = rpc.call("sendrawtransaction", params).await;
    let answer = answer.map_err(|error| Refused::Backend(error.to_string()))?;
    if answer["success"] == true {
        return Ok(());
    }
    match refused(answer["errmsg"].as_str().unwrap_or_default()) {
        Some(refused) => Err(refused),
        None => Ok(()),
    }
}

/// What a text means, made of the whole of it.
type Meaning = fn(String) -> Refused;

/// Bitcoin Core's texts and what they mean, the more special ones first. They are the same in Knots.
const TEXTS: &[(&str, Meaning)] = &[
    ("outputs already in utxo set", |_| Refused::Confirmed),
    ("already in block chain", |_| Refused::Confirmed),
    ("txn-already-known", |_| Refused::Confirmed),
    ("bad-txns-inputs-missingorspent", |_| Refused::MissingInputs),
    ("missing inputs", |_| Refused::MissingInputs),
    ("missing-inputs", |_| Refused::MissingInputs),
    ("non-bip68-final", |_| Refused::NotFinal),
    ("non-final", |_| Refused::NotFinal),
    ("less fees than conflicting txs", Refused::LessThanReplaced),
    ("not enough additional fees to relay", Refused::LessThanReplaced),
    ("<= old feerate", Refused::LowerFeerate),
    ("insufficient fee", Refused::Conflict),
    ("replacement-failed", Refused::Conflict),
    ("txn-mempool-conflict", Refused::Conflict),
    ("too many potential replacements", Refused::Conflict),
    ("bad-txns-spends-conflicting-tx", Refused::Conflict),
    ("mempool min fee not met", Refused::FeeTooLow),
    ("min relay fee not met", Refused::FeeTooLow),
    ("mempool full", Refused::FeeTooLow),
    ("error code: -1\n", Refused::Backend),
    ("error code: -28\n", Refused::Backend),
    ("could not connect", Refused::Backend),
    ("connection refused", Refused::Backend),
    // bitcoin-cli's own.
    ("no response from server", Refused::Backend),
    ("couldn't parse reply from server", Refused::Backend),
    ("server returned http error", Refused::Backend),
];

/// Whether something in the mempool or in the chain spends an output.
///
/// # Errors
/// When lightningd or its backend can't be asked.
pub async fn is_spent<C: Call>(rpc: &C, outpoint: OutPoint) -> Result<bool, CallError> {
    let params = json!({"txid": outpoint.txid.to_string(), "vout": outpoint.vout});
    let answer = rpc.call("getutxout", params).await?;
    Ok(answer["amount"].is_null())
}

/// What a refusal of bitcoind means; nothing if it has the transaction already.
pub fn refused(text: &str) -> Option<Refused> {
    let lower = text.to_lowercase();
    if lower.contains("txn-already-in-mempool") || lower.contains("txn-same-nonwitness-data-in-mempool") {
        return None;
    }
    let known = TEXTS.iter().find(|(known, _)| lower.contains(known));
    let plain = plain(text);
    Some(known.map_or_else(|| Refused::Other(plain.clone()), |(_, make)| make(plain.clone())))
}

/// Without bitcoin-cli's frame: "error code: -26", "error message:".
fn plain(text: &str) -> String {
    let frame = |line: &&str| !line.starts_with("error code:") && !line.starts_with("error message:");
    let lines: Vec<&str> =
        text.lines().map(str::trim).filter(|line| !line.is_empty()).filter(frame).collect();
    match lines.as_slice() {
        [] => "refused without a reason".to_owned(),
        lines => lines.join(" "),
    }
}

/// How much more a replacement has to pay that was refused as [`Refused::LessThanReplaced`]: bitcoind
/// says "…; 0.00000050 < 0.00000163", in BTC.
pub fn shortfall(text: &str) -> Option<Amount> {
    let (have, need) = text.rsplit_once(';')?.1.split_once('<')?;
    let amount = |text: &str| Amount::from_str_in(text.trim(), bitcoin::Denomination::Bitcoin).ok();
    amount(need)?.checked_sub(amount(have)?)
}

/// The feerate, sat/kvB, that a replacement has to exceed that was refused as [`Refused::LowerFeerate`]:
/// bitcoind says "new feerate 0.00012263 BTC/kvB <= old feerate 0.00012269 BTC/kvB".
pub fn old_feerate(text: &str) -> Option<u64> {
    let (_, old) = text.rsplit_once("<= old feerate ")?;
    let old = old.split_whitespace().next()?;
    Some(Amount::from_str_in(old, bitcoin::Denomination::Bitcoin).ok()?.to_sat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(code: i32, message: &str) -> String {
        format!("error code: {code}\nerror message:\n{message}\n")
    }

    /// What Bitcoin Knots 29 said through lightningd's bcli (26.06).
    #[test]
    fn bitcoinds_own_words() {
        let replaced = "insufficient fee, rejecting replacement 88ee5408d160ab464e8542056e60be54a400de45016ed3c18378739c34c2e146";
        let feerate = format!("{replaced}; new feerate 0.00012263 BTC/kvB <= old feerate 0.00012269 BTC/kvB");
        let relay = format!("{replaced}, not enough additional fees to relay; 0.0000005 < 0.00000163");
        let less = format!("{replaced}, less fees than conflicting txs; 0.00001000 < 0.00005");
        let min = "min relay fee not met, 5 < 110";
        let pool = "mempool min fee not met, 110 < 543";
        let cases = [
            (-27, "Transaction outputs already in utxo set", Refused::Confirmed),
            (-25, "bad-txns-inputs-missingorspent", Refused::MissingInputs),
            (-26, "non-final", Refused::NotFinal),
            (-26, "non-BIP68-final", Refused::NotFinal),
            (-26, "txn-mempool-conflict", Refused::Conflict("txn-mempool-conflict".into())),
            (-26, &feerate, Refused::LowerFeerate(feerate.clone())),
            (-26, &relay, Refused::LessThanReplaced(relay.clone())),
            (-26, &less, Refused::LessThanReplaced(less.clone())),
            (-26, min, Refused::FeeTooLow(min.into())),
            (-26, pool, Refused::FeeTooLow(pool.into())),
            (-22, "TX decode failed.", Refused::Other("TX decode failed.".into())),
        ];
        for (code, message, expected) in cases {
            assert_eq!(refused(&framed(code, message)), Some(expected), "{message}");
        }
        assert_eq!(refused(&framed(-26, "txn-already-in-mempool")), None);
        let warming = refused(&framed(-28, "Loading block index…"));
        assert_eq!(warming, Some(Refused::Backend("Loading block index…".into())));
        let gone = "Error broadcasting transaction: error: couldn't parse reply from server";
        assert!(matches!(refused(gone), Some(Refused::Backend(_))));
        assert_eq!(refused(""), Some(Refused::Other("refused without a reason".into())));
        assert_eq!(shortfall(&relay), Some(Amount::from_sat(113)));
        assert_eq!(shortfall(&less), Some(Amount::from_sat(4_000)));
        assert_eq!(shortfall(&feerate), None);
        assert_eq!(old_feerate(&feerate), Some(12_269));
        assert_eq!(old_feerate(&less), None);
    }
}
