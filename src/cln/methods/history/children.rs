//! Children that raised fees: no record has them, lightningd's wallet has.

use std::collections::BTreeMap;

use bitcoin::{Amount, OutPoint, Txid};
use factory_engine::report::history::Child;
use serde_json::{Value, json};

use super::super::super::client::{Call, CallError};

/// Transactions that the wallet keeps.
pub(super) struct Wallet(Vec<Kept>);

impl Wallet {
    /// Asks for them.
    pub(super) async fn ask<C: Call>(rpc: &C) -> Result<Self, CallError> {
        let mut answer = rpc.call("listtransactions", json!({})).await?;
        let Some(Value::Array(transactions)) = answer.get_mut("transactions").map(Value::take) else {
            return Err(CallError::new("listtransactions", "unexpected `transactions` in its result"));
        };
        // Each goes as soon as it is read: with all its bytes it is many times what is kept of it.
        Ok(Self(transactions.into_iter().filter_map(|transaction| kept(&transaction)).collect()))
    }

    /// What of these anchors, with their values, confirmed ones have spent.
    pub(super) fn children(&self, anchors: &BTreeMap<OutPoint, Amount>) -> BTreeMap<OutPoint, Child> {
        children(&self.0, anchors)
    }
}

/// A transaction that the wallet keeps, because it was paid by it, or has paid.
struct Kept {
    txid: Txid,
    confirmed: bool,
    spends: Vec<OutPoint>,
    pays: Vec<Amount>,
}

fn kept(transaction: &Value) -> Option<Kept> {
    let spent = |input: &Value| {
        let txid = input["txid"].as_str()?.parse().ok()?;
        Some(OutPoint { txid, vout: u32::try_from(input["index"].as_u64()?).ok()? })
    };
    let paid = |output: &Value| Some(Amount::from_sat(output["amount_msat"].as_u64()? / 1_000));
    Some(Kept {
        txid: transaction["hash"].as_str()?.parse().ok()?,
        confirmed: transaction["blockheight"].as_u64()? > 0,
        spends: transaction["inputs"].as_array()?.iter().map(spent).collect::<Option<_>>()?,
        pays: transaction["outputs"].as_array()?.iter().map(paid).collect::<Option<_>>()?,
    })
}

fn children(all: &[Kept], anchors: &BTreeMap<OutPoint, Amount>) -> BTreeMap<OutPoint, Child> {
    if anchors.is_empty() {
        return BTreeMap::new();
    }
    let by_txid: BTreeMap<Txid, &Kept> = all.iter().map(|kept| (kept.txid, kept)).collect();
    let of_wallet = |spent: &OutPoint| {
        let vout = usize::try_from(spent.vout).ok()?;
        by_txid.get(&spent.txid)?.pays.get(vout).copied()
    };
    let value = |spent: &OutPoint| anchors.get(spent).copied().or_else(|| of_wallet(spent));
    let fee = |kept: &Kept| {
        let spent = total(kept.spends.iter().map(&value).collect::<Option<Vec<_>>>()?)?;
        spent.checked_sub(total(kept.pays.iter().copied())?)
    };
    let mut found = BTreeMap::new();
    for kept in all.iter().filter(|kept| kept.confirmed) {
        // Each has one parent that waits.
        if let Some(anchor) = kept.spends.iter().find(|spent| anchors.contains_key(*spent)) {
            found.insert(*anchor, Child { txid: kept.txid, fee: fee(kept) });
        }
    }
    found
}

fn total(amounts: impl IntoIterator<Item = Amount>) -> Option<Amount> {
    amounts.into_iter().try_fold(Amount::ZERO, Amount::checked_add)
}

#[cfg(test)]
mod tests {
    use bitcoin::hashes::Hash;

    use super::*;

    fn txid(of: u8) -> Txid {
        Txid::from_byte_array([of; 32])
    }

    fn transaction(of: u8, blockheight: u32, spends: &[(u8, u32)], pays: &[u64]) -> Value {
        let input =
            |(of, index): &(u8, u32)| json!({"txid": txid(*of).to_string(), "index": index, "sequence": 0});
        let output = |sat: &u64| json!({"index": 0, "amount_msat": sat * 1_000, "scriptPubKey": "51"});
        json!({
            "hash": txid(of).to_string(),
            "rawtx": "00",
            "blockheight": blockheight,
            "txindex": 1,
            "locktime": 0,
            "version": 3,
            "inputs": spends.iter().map(input).collect::<Vec<_>>(),
            "outputs": pays.iter().map(output).collect::<Vec<_>>(),
        })
    }

    #[derive(Clone)]
    struct Node(Result<Value, CallError>);

    impl Call for Node {
        async fn call(&self, method: &str, _: Value) -> Result<Value, CallError> {
            assert_eq!(method, "listtransactions");
            self.0.clone()
        }
    }

    fn anchors() -> BTreeMap<OutPoint, Amount> {
        [(1, 3), (2, 0), (9, 0)]
            .map(|(of, vout)| (OutPoint { txid: txid(of), vout }, Amount::from_sat(240)))
            .into()
    }

    /// The wallet's own coins are worth what the transactions say that made them.
    #[tokio::test]
    async fn what_a_child_pays_follows_from_the_wallet() {
        let all = json!({"transactions": [
            transaction(5, 100, &[(77, 0)], &[9_000, 50_000]),
            // Was replaced, and never confirmed.
            transaction(6, 0, &[(1, 3), (5, 1)], &[50_100]),
            transaction(7, 101, &[(1, 3), (5, 1)], &[49_000]),
            // Of what it spends nothing is known.
            transaction(8, 102, &[(2, 0), (78, 0)], &[1_000]),
            // Spends none of them.
            transaction(10, 103, &[(1, 2)], &[1_000]),
        ]});
        let found = Wallet::ask(&Node(Ok(all))).await.unwrap().children(&anchors());
        let expected = [
            (
                OutPoint { txid: txid(1), vout: 3 },
                Child { txid: txid(7), fee: Some(Amount::from_sat(1_240)) },
            ),
            (OutPoint { txid: txid(2), vout: 0 }, Child { txid: txid(8), fee: None }),
        ];
        assert_eq!(found, BTreeMap::from(expected));
    }

    /// What the wallet doesn't say is no zero.
    #[tokio::test]
    async fn a_wallet_that_does_not_say_is_an_error() {
        let dead = Node(Err(CallError::new("listtransactions", "gone")));
        assert!(Wallet::ask(&dead).await.is_err());
        assert!(Wallet::ask(&Node(Ok(json!({})))).await.is_err());
    }
}
