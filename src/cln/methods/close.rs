//! `factory-close`.

use std::time::Duration;

use factory_engine::types::{Height, InstanceId, ScriptBuf};
use factory_engine::{
    CannotClose, ChannelBalance, ClosePlan, Closing, Command as EngineCommand, Engine, Factory, Input,
    Refusal,
};
use serde_json::{Value, json};

use super::super::balances;
use super::super::error::{NOT_CLOSED, RpcError};
use super::super::params::Params;
use super::super::state::State;
use super::super::words;
use super::{Command, factory};

/// Name, usage and description of `factory-close`.
pub const COMMAND: Command = Command {
    name: "factory-close",
    usage: "factory_instance [dry_run]",
    description: "Operator: close a factory together with everybody who has not handed over, by one transaction to \
                  what each has. All of them have to be connected, and no payment may be under way. dry_run shows who \
                  would get what",
};

/// Between two looks at what has become of it.
const PAUSE: Duration = Duration::from_millis(50);
/// After so long it answers, whatever is missing.
const PATIENCE: Duration = Duration::from_secs(120);

/// Closes a factory, or shows what that would be.
pub async fn call(state: State, params: Value) -> Result<Value, RpcError> {
    let mut params = Params::new(&["factory_instance", "dry_run"], &params)?;
    let instance: InstanceId = params.required("factory_instance")?;
    let dry_run = params.optional("dry_run")?.unwrap_or(false);
    let (before, height) = factory(&state, instance).await?;
    if dry_run {
        return preview(&state, before, height).await;
    }
    state.runtime.ask(Input::Command(EngineCommand::Close { instance })).await?;
    let begun = tokio::time::Instant::now();
    loop {
        let look = move |engine: &Engine, _| {
            let finished = engine.factory(instance).and_then(|factory| finished(factory).cloned());
            let failed = engine.close_failure(instance).map(|failure| failure.what.clone());
            (finished, failed, engine.is_close_under_way(instance))
        };
        match state.runtime.read(look).await? {
            (Some(close), ..) => {
                let (factory, height) = factory(&state, instance).await?;
                return Ok(closed(&factory, height, &close));
            }
            (None, Some(why), false) => return Err(not_closed(&state, instance, &why).await),
            (None, None, false) => return Err(not_closed(&state, instance, "it ended").await),
            (None, ..) if begun.elapsed() > PATIENCE => {
                return Err(not_closed(&state, instance, "it takes long, and goes on").await);
            }
            (None, ..) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// The close, once it has its signature.
fn finished(factory: &Factory) -> Option<&Closing> {
    factory.current.close.as_deref().filter(|close| close.signature.is_some())
}

async fn not_closed(state: &State, instance: InstanceId, why: &str) -> RpcError {
    let next = match factory(state, instance).await {
        Ok((factory, height)) if factory.is_closing(height) => {
            "some may have signed: this node tries again at each block at which all are connected \
             (factory-status)"
        }
        _ => "everything goes on as before: call it again, or use factory-evict",
    };
    RpcError::new(NOT_CLOSED, format!("factory {instance} is not closed: {why}"), next)
}

/// What it would be: nothing is asked of anybody.
async fn preview(state: &State, factory: Factory, height: Height) -> Result<Value, RpcError> {
    let mut list: Vec<ChannelBalance> = vec![];
    for peer in &factory.current.clients {
        list.extend(balances::read(&state.rpc, *peer).await?);
    }
    let instance = factory.instance;
    let look = move |engine: &Engine, height| {
        let factory = engine.factory(instance).ok_or(Refusal::Unknown(instance))?;
        // As large as the script of its wallet will be.
        let rest = factory.stock_payout.clone().unwrap_or_else(|| ScriptBuf::from_bytes(taproot()));
        let away = match engine.may_close(factory, height) {
            Err(CannotClose::Away(away)) => away,
            Ok(_) | Err(_) => vec![],
        };
        engine.plan_close(factory, &list, &rest, height).map(|plan| (plan, away)).map_err(Refusal::Close)
    };
    let (plan, away) = state.runtime.read(look).await??;
    let ClosePlan { shares, rest, fee, vbytes, .. } = plan;
    let clients = shares.iter().map(|share| {
        let id = factory.node_of(share.client);
        json!({
            "client": share.client,
            "id": id.map(|id| id.to_string()),
            "balance_sat": share.balance.to_sat(),
            "paid_sat": share.output().map_or(0, |output| output.value.to_sat()),
            "connected": id.is_none_or(|id| !away.contains(&id)),
        })
    });
    Ok(json!({
        "factory_instance": instance.to_string(),
        "state": factory.state(height).name(),
        "dry_run": true,
        "clients": clients.collect::<Vec<_>>(),
        "operator_sat": rest.to_sat(),
        "fee_sat": fee.to_sat(),
        "vbytes": vbytes,
        "next_action": words::next_action(factory.next_action(height), height),
    }))
}

fn taproot() -> Vec<u8> {
    [&[0x51, 0x20][..], &[1; 32]].concat()
}

fn closed(factory: &Factory, height: Height, close: &Closing) -> Value {
    let clients = close.shares.iter().map(|share| {
        json!({
            "client": share.client,
            "id": factory.node_of(share.client).map(|id| id.to_string()),
            "balance_sat": share.balance.to_sat(),
            "paid_sat": share.output().map_or(0, |output| output.value.to_sat()),
            "connected": true,
        })
    });
    let outputs = close.outputs();
    let rest = outputs.iter().filter(|output| close.owner(&output.script_pubkey).is_none());
    let paid: u64 = close.session.tx.output.iter().map(|output| output.value.to_sat()).sum();
    let vbytes = close.signed_tx().map_or(0, |tx| tx.weight().to_vbytes_ceil());
    json!({
        "factory_instance": factory.instance.to_string(),
        "state": factory.state(height).name(),
        "dry_run": false,
        "clients": clients.collect::<Vec<_>>(),
        "operator_sat": rest.map(|output| output.value.to_sat()).sum::<u64>(),
        "fee_sat": close.session.prevout.value.to_sat().saturating_sub(paid),
        "vbytes": vbytes,
        "txid": close.txid().to_string(),
        "next_action": words::next_action(factory.next_action(height), height),
    })
}
