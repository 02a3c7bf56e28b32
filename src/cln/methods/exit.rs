//! `factory-exit`.

use std::collections::BTreeSet;

use factory_engine::report::drawing;
use factory_engine::tx::layout::{NodeIndex, NodeKind};
use factory_engine::types::{Height, InstanceId};
use factory_engine::{Command as EngineCommand, Factory, Input, Role, Sold, exit_allowed};
use serde_json::{Value, json};

use super::super::error::RpcError;
use super::super::params::Params;
use super::super::state::State;
use super::super::{balances, feerates, words};
use super::exit_cost::{SaleCost, exit, sales};
use super::{Command, factory, factory_json, ways};

/// Name, usage and description of `factory-exit`.
pub const COMMAND: Command = Command {
    name: "factory-exit",
    usage: "factory_instance [dry_run]",
    description: "Leave a channel factory without anybody's help: publish this node's path and close \
                  its channel on chain",
};

/// Begins this node's exit, or shows what it would take.
pub async fn call(state: State, params: Value) -> Result<Value, RpcError> {
    let mut params = Params::new(&["factory_instance", "dry_run"], &params)?;
    let instance: InstanceId = params.required("factory_instance")?;
    let dry_run = params.optional("dry_run")?.unwrap_or(false);
    if !dry_run {
        state.runtime.ask(Input::Command(EngineCommand::Exit { instance })).await?;
        // What is at stake is what is in the channels now, not at the last block.
        let (_, fees) = feerates::look(&state.rpc, &state.bitcoind, &state.feerates).await;
        state.runtime.input(Input::Fees(fees));
    }
    let (factory, height) = factory(&state, instance).await?;
    let mut answer = shown(&factory, height, dry_run)?;
    if dry_run && let Role::Client { lsp, .. } = factory.current.role {
        let list = balances::read(&state.rpc, lsp).await?;
        state.runtime.ask(Input::Balances(list)).await?;
        let plan = state.runtime.read(move |engine, height| engine.plan_leave(instance, height)).await?;
        answer["ways"] = ways::both(&factory, plan.as_ref().map_err(words::refusal), height, &state.config);
    }
    Ok(answer)
}

/// What it takes this node to leave, if it can: this alone changes nothing.
pub fn shown(factory: &Factory, height: Height, dry_run: bool) -> Result<Value, RpcError> {
    exit_allowed(factory, height)?;
    Ok(json!({
        "factory_instance": factory.instance.to_string(),
        "state": factory.state(height).name(),
        "dry_run": dry_run,
        "exit": exit(factory),
        "path": path(factory),
        "next_action": words::next_action(factory.next_action(height), height),
    }))
}

/// The transactions that this node publishes, in order.
fn path(factory: &Factory) -> Vec<Value> {
    let nodes: BTreeSet<NodeIndex> =
        factory_json::own_clients(factory).flat_map(|client| factory.current.layout.path(client)).collect();
    let steps = nodes.into_iter().filter_map(|index| step(factory, index));
    steps.chain(sales(factory).map(|(sold, cost)| sale_step(factory, sold, &cost))).collect()
}

fn sale_step(factory: &Factory, sold: &Sold, cost: &SaleCost) -> Value {
    let mut object = json!({
        "kind": "sale",
        "sale": sold.sale.number,
        "vbytes": cost.vbytes,
        "fee_sat": cost.fee.to_sat(),
        "wait_blocks": 0,
        "txid": sold.txid().to_string(),
    });
    if let Some(height) = factory.confirmed.get(&sold.txid()) {
        object["confirmed_height"] = (*height).into();
    }
    object
}

/// One transaction of a path.
pub fn step(factory: &Factory, index: NodeIndex) -> Option<Value> {
    let node = factory.current.layout.node(index)?;
    let mut object = json!({
        "index": index,
        "kind": drawing::kind(node.kind),
        "vbytes": node.vbytes,
        "fee_sat": node.fee.to_sat(),
        "wait_blocks": if node.kind == NodeKind::State { node.sequence } else { 0 },
    });
    if let Some(tx) = factory.current.tree.as_ref().and_then(|tree| tree.node_tx(index)) {
        let txid = tx.compute_txid();
        object["txid"] = txid.to_string().into();
        if let Some(height) = factory.confirmed.get(&txid) {
            object["confirmed_height"] = (*height).into();
        }
    }
    Some(object)
}
