//! `factory-plan`.

use factory_engine::tx::layout::MAX_CLIENTS;
use factory_engine::tx::plan::PlanError;
use factory_engine::types::{Amount, NodeId};
use serde_json::Value;

use super::super::error::RpcError;
use super::super::params::{Parameter, Params};
use super::super::state::State;
use super::Command;
use super::planning::{Wishes, client, list, now, plan};

/// Name, usage and description of `factory-plan`.
pub const COMMAND: Command = Command {
    name: "factory-plan",
    usage: "clients capacity_sat [stock_sat] [profile] [feerate] [group]",
    description: "Choose a shape for a channel factory with so many clients, and show what it needs, what \
                  one client's exit costs, and which other shapes there are; changes nothing",
};

/// Chooses a shape; answers with what it needs and costs, and with other shapes.
pub async fn call(state: State, params: Value) -> Result<Value, RpcError> {
    let names = ["clients", "capacity_sat", "stock_sat", "profile", "feerate", "group"];
    let mut params = Params::new(&names, &params)?;
    let clients: Value = params.required("clients")?;
    let capacity: Option<Amount> = params.optional("capacity_sat")?;
    let clients = match u32::parse(&clients) {
        Some(count) => anybody(count, capacity)?,
        None => list(clients)?.iter().map(|value| client(value, capacity)).collect::<Result<_, _>>()?,
    };
    let wishes = Wishes::parse(&state, &mut params).await?;
    let now = now(&state, &clients, &wishes).await?;
    let plan = plan(state.me, &now, clients, &state.online.get(), &wishes)?;
    let mut answer = plan.json();
    answer["alternatives"] = plan.alternatives().into();
    Ok(answer)
}

/// Clients that nobody knows yet.
fn anybody(count: u32, capacity: Option<Amount>) -> Result<Vec<(NodeId, Amount)>, RpcError> {
    let missing = "missing required parameter: capacity_sat: the satoshi of each client's channel";
    let capacity = capacity.ok_or_else(|| RpcError::parameter(missing))?;
    if count > MAX_CLIENTS {
        return Err(RpcError::parameter(PlanError::TooManyClients { clients: count }.to_string()));
    }
    Ok((0..count).map(|_| (NodeId([0; 33]), capacity)).collect())
}
