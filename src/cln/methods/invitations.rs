//! `factory-invitations`.

use factory_engine::types::Height;
use factory_engine::{Engine, Factory, Role, State as FactoryState};
use serde_json::{Value, json};

use super::super::error::RpcError;
use super::super::params::Params;
use super::super::state::State;
use super::{Command, factory_json};

/// Name, usage and description of `factory-invitations`.
pub const COMMAND: Command = Command {
    name: "factory-invitations",
    usage: "",
    description: "List what this node is invited to, with the terms and what an exit would cost",
};

/// Lists the invitations that nobody has answered.
pub async fn call(state: State, params: Value) -> Result<Value, RpcError> {
    Params::new(&[], &params)?;
    let look = |engine: &Engine, height| {
        let open = engine.factories().filter(|factory| factory.state(height) == FactoryState::Invited);
        open.filter_map(|factory| invitation(factory, height)).collect::<Vec<_>>()
    };
    let invitations = state.runtime.read(look).await?;
    Ok(json!({"invitations": invitations}))
}

fn invitation(factory: &Factory, height: Height) -> Option<Value> {
    let Role::Client { lsp, index } = factory.current.role else { return None };
    let terms = &factory.current.terms;
    Some(json!({
        "factory_protocol": factory_engine::wire::message::protocol_id().to_string(),
        "factory_instance": factory.instance.to_string(),
        "lsp": lsp.to_string(),
        "price_msat": factory.current.price_msat,
        "capacity_sat": factory.capacity(index).to_sat(),
        "push_msat": terms.push_msat,
        "clients": terms.clients(),
        "blocks_early": factory.current.layout.blocks_early(index),
        "lifetime_blocks": terms.timeout_height.saturating_sub(height),
        "dying_block": terms.timeout_height.saturating_sub(terms.dying_blocks),
        "timeout_block": terms.timeout_height,
        "funding_confirmations": terms.funding_confirmations,
        "exit": factory_json::exit_cost(&factory.current.layout.exit_cost(index)),
    }))
}
