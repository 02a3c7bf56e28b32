//! `factory-evict`.

use bitcoin::hex::FromHex;
use factory_engine::terms::ClientIndex;
use factory_engine::types::{Height, InstanceId, NodeId};
use factory_engine::{
    Command as EngineCommand, Eviction, Factory, Input, State as FactoryState, evictable, eviction,
};
use serde_json::{Value, json};

use super::super::error::RpcError;
use super::super::params::{Parameter, Params};
use super::super::state::State;
use super::super::words;
use super::planning::{list, parse_feerate};
use super::{Command, exit, factory};

/// Name, usage and description of `factory-evict`.
pub const COMMAND: Command = Command {
    name: "factory-evict",
    usage: "factory_instance [clients] [dry_run] [feerate]",
    description: "Operator: put the channels of these clients (or of all that are still in) on chain by \
                  themselves, where they go on",
};

/// Evicts clients, or shows what that would take.
pub async fn call(state: State, params: Value) -> Result<Value, RpcError> {
    let mut params = Params::new(&["factory_instance", "clients", "dry_run", "feerate"], &params)?;
    let instance: InstanceId = params.required("factory_instance")?;
    let wanted: Vec<Value> = match params.optional::<Value>("clients")? {
        Some(clients) => list(clients)?,
        None => vec![],
    };
    let dry_run = params.optional("dry_run")?.unwrap_or(false);
    let feerate = match params.optional::<Value>("feerate")? {
        Some(feerate) => Some(parse_feerate(&state, &feerate).await?),
        None => None,
    };
    let (before, height) = factory(&state, instance).await?;
    let named: Vec<ClientIndex> =
        wanted.iter().map(|value| place(&before, value)).collect::<Result<_, _>>()?;
    let mut clients = evictable(&before, &named, height)?;
    if !dry_run {
        let command = EngineCommand::Evict { instance, clients: named.clone() };
        state.runtime.ask(Input::Command(command)).await?;
    }
    let (factory, height) = factory(&state, instance).await?;
    if clients.is_empty() {
        // Already under way: say how far it is.
        clients = factory.current.evicting.iter().copied().collect();
    }
    let feerate = feerate.unwrap_or(factory.current.terms.tree_feerate);
    let plan = eviction(&factory, clients);
    let whole = eviction(&factory, 0..factory.current.terms.clients());
    Ok(json!({
        "factory_instance": instance.to_string(),
        "state": factory.state(height).name(),
        "dry_run": dry_run,
        "clients": plan.clients.iter().map(|client| self::client(&factory, *client)).collect::<Vec<_>>(),
        "eviction": cost(&plan, &factory, height, feerate),
        "whole_tree": cost(&whole, &factory, height, feerate),
        "path": plan.nodes.iter().filter_map(|node| exit::step(&factory, *node)).collect::<Vec<_>>(),
        "next_action": words::next_action(factory.next_action(height), height),
    }))
}

/// A client by its place, or by its node.
fn place(factory: &Factory, value: &Value) -> Result<ClientIndex, RpcError> {
    let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
    if let Some(client) = number.and_then(|number| ClientIndex::try_from(number).ok()) {
        return Ok(client);
    }
    let node = value.as_str().filter(|text| <[u8; 33]>::from_hex(text).is_ok());
    let node = node.and_then(|text| NodeId::parse(&text.into()));
    let found = node.and_then(|node| factory.client_of(node));
    found.ok_or_else(|| {
        RpcError::parameter(format!(
            "clients: {value} is neither a client's number nor the id of a client's node: see factory-show"
        ))
    })
}

fn client(factory: &Factory, client: ClientIndex) -> Value {
    let mut object = json!({"client": client, "latest_block": factory.eviction_height(client)});
    if let Some(node) = factory.node_of(client) {
        object["id"] = node.to_string().into();
    }
    object
}

/// vB, what they carry, what is missing at a feerate (sat/kw), and when it would be over.
fn cost(plan: &Eviction, factory: &Factory, height: Height, feerate: u32) -> Value {
    let wanted = plan.vbytes.saturating_mul(4).saturating_mul(u64::from(feerate)).div_ceil(1000);
    let blocks =
        plan.clients.iter().map(|client| factory.current.layout.exit_cost(*client).blocks).max().unwrap_or(0);
    let begin = if factory.state(height) == FactoryState::Funding {
        height.saturating_add(u32::from(factory.current.terms.funding_confirmations))
    } else {
        height
    };
    json!({
        "transactions": plan.nodes.len(),
        "vbytes": plan.vbytes,
        "fee_sat": plan.fees.to_sat(),
        "feerate_perkw": feerate,
        "extra_fee_sat": wanted.saturating_sub(plan.fees.to_sat()),
        "begin_block": begin,
        "latest_block": plan.latest,
        "end_block": begin.saturating_add(blocks),
    })
}
