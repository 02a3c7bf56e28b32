//! `factory-exit`.

use std::collections::BTreeSet;

use factory_engine::report::drawing;
use factory_engine::tx::layout::{NodeIndex, NodeKind};
use factory_engine::types::InstanceId;
use factory_engine::{Command as EngineCommand, Factory, Input, Role, exit_allowed};
use serde_json::{Value, json};

use super::super::error::RpcError;
use super::super::params::Params;
use super::super::state::State;
use super::super::{feerates, words};
use super::{Command, factory, factory_json};

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
        let (_, fees) = feerates::look(&state.rpc, &state.bitcoind).await;
        state.runtime.input(Input::Fees(fees));
    }
    let (factory, height) = factory(&state, instance).await?;
    exit_allowed(&factory, height)?;
    Ok(json!({
        "factory_instance": instance.to_string(),
        "state": factory.state(height).name(),
        "dry_run": dry_run,
        "exit": exit(&factory),
        "path": path(&factory),
        "next_action": words::next_action(factory.next_action(height), height),
    }))
}

/// The transactions that this node publishes, in order.
fn path(factory: &Factory) -> Vec<Value> {
    let nodes: BTreeSet<NodeIndex> =
        factory_json::own_clients(factory).flat_map(|client| factory.current.layout.path(client)).collect();
    nodes.into_iter().filter_map(|index| step(factory, index)).collect()
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

/// What this node's exit takes: a client's own, or L's of everybody.
pub fn exit(factory: &Factory) -> Value {
    match factory.current.role {
        Role::Client { index, .. } => {
            factory_json::exit_cost(&factory.current.layout.exit_cost(index)).into()
        }
        Role::Lsp => {
            let nodes = factory.current.layout.nodes();
            json!({
                "transactions": nodes.len(),
                "vbytes": nodes.iter().map(|node| node.vbytes).fold(0, u64::saturating_add),
                "blocks": factory.current.layout.worst_blocks_early(),
                "fee_sat": nodes.iter().map(|node| node.fee.to_sat()).fold(0, u64::saturating_add),
            })
        }
    }
}
