//! `factory-export`.

use bitcoin::consensus::encode::serialize_hex;
use factory_engine::chain::package::path_left_out;
use factory_engine::io::SignedReceipt;
use factory_engine::types::{Amount, InstanceId, OutPoint};
use factory_engine::{Packaged, package};
use factory_runtime::store::tower::TowerStore;
use serde_json::{Value, json};

use super::super::datastore;
use super::super::error::{RpcError, WRONG_STATE};
use super::super::params::Params;
use super::super::state::State;
use super::{Command, factory, factory_json};

/// Name, usage and description of `factory-export`.
pub const COMMAND: Command = Command {
    name: "factory-export",
    usage: "factory_instance",
    description: "Show every finished transaction that this node holds of a factory, and what each waits for: kept \
                  elsewhere, it lets anybody publish them with bitcoin-cli alone, should plugin and node be gone \
                  (docs/recovery.md). There is no key in it",
};

/// Answers with an exit package.
pub async fn call(state: State, params: Value) -> Result<Value, RpcError> {
    let instance: InstanceId = Params::new(&["factory_instance"], &params)?.required("factory_instance")?;
    let (factory, height) = factory(&state, instance).await?;
    let all = package(&factory);
    if all.is_empty() {
        let state = factory.state(height).name();
        let text = format!("factory {instance} is {state}: this node holds nothing of it to be published");
        return Err(RpcError::new(
            WRONG_STATE,
            text,
            "keep a package from its signing on, and a new one after each purchase",
        ));
    }
    let mut answer = json!({
        "factory_instance": instance.to_string(),
        "role": factory_json::role(&factory),
        "state": factory.state(height).name(),
        "blockheight": height,
        "timeout_block": factory.current.terms.timeout_height,
        "transactions": all.iter().map(transaction).collect::<Vec<_>>(),
    });
    if let Some(why) = path_left_out(&factory) {
        answer["path_left_out"] = why.to_string().into();
    }
    if factory.current.terms.stock > Amount::ZERO {
        answer["stock_csv"] = factory.current.terms.stock_csv.into();
    }
    if let Some(funding) = factory.funding() {
        answer["funding"] = outpoint(funding);
    }
    let store = TowerStore::new(datastore::keys(state.rpc.clone()));
    match store.receipts(instance).await {
        Ok(receipts) if receipts.is_empty() => {}
        Ok(receipts) => answer["receipts"] = receipts.iter().map(receipt).collect(),
        // What it holds is worth more than what others have signed.
        Err(error) => log::warn!("what towers have signed of {instance} can't be read: {error}"),
    }
    Ok(answer)
}

fn transaction(packaged: &Packaged) -> Value {
    let Packaged { part, name, tx, txid, input, fee, input_depth, from_block, publish_by, anchor, pays } =
        packaged;
    let paid = |point: &OutPoint| {
        let output = usize::try_from(point.vout).ok().and_then(|vout| tx.output.get(vout))?;
        Some(json!({"outnum": point.vout, "amount_sat": output.value.to_sat()}))
    };
    let mut object = json!({
        "part": part.name(),
        "name": name,
        "txid": txid.to_string(),
        "input": outpoint(*input),
        "input_confirmations": input_depth,
        "vbytes": tx.vsize(),
        "fee_sat": fee.to_sat(),
        "pays": pays.iter().filter_map(paid).collect::<Vec<_>>(),
        "tx": serialize_hex(tx),
    });
    if let Some(height) = from_block {
        object["from_block"] = (*height).into();
    }
    if let Some(height) = publish_by {
        object["publish_by_block"] = (*height).into();
    }
    if let Some(anchor) = anchor {
        object["anchor"] = outpoint(*anchor);
    }
    object
}

fn receipt(signed: &SignedReceipt) -> Value {
    json!({"id": signed.tower.to_string(), "message": signed.text, "zbase": signed.zbase})
}

fn outpoint(point: OutPoint) -> Value {
    json!({"txid": point.txid.to_string(), "outnum": point.vout})
}
