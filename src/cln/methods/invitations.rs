//! `factory-invitations`.

use factory_engine::policy::Because;
use factory_engine::types::Height;
use factory_engine::{Bound, Engine, Factory, Role, State as FactoryState};
use serde_json::{Value, json};

use super::super::error::RpcError;
use super::super::params::Params;
use super::super::state::State;
use super::planning::shape_json;
use super::{Command, factory_json};

/// Name, usage and description of `factory-invitations`.
pub const COMMAND: Command = Command {
    name: "factory-invitations",
    usage: "",
    description: "List what this node is invited to: every term, how far it is from what this node takes, and \
                  what an exit would cost; factory-accept takes the terms_hash",
};

/// Lists the invitations that nobody has answered.
pub async fn call(state: State, params: Value) -> Result<Value, RpcError> {
    Params::new(&[], &params)?;
    let look = |engine: &Engine, height| {
        let open = engine.factories().filter(|factory| factory.state(height) == FactoryState::Invited);
        open.filter_map(|factory| invitation(engine, factory, height)).collect::<Vec<_>>()
    };
    let invitations = state.runtime.read(look).await?;
    Ok(json!({"invitations": invitations}))
}

fn invitation(engine: &Engine, factory: &Factory, height: Height) -> Option<Value> {
    let Role::Client { lsp, index } = factory.current.role else { return None };
    let terms = &factory.current.terms;
    let price_msat = factory.current.price_msat;
    let bounds = engine.bounds_of(factory, height);
    Some(json!({
        "terms_hash": factory.current.terms_hash()?.to_string(),
        "factory_protocol": factory_engine::wire::message::protocol_id().to_string(),
        "factory_instance": factory.instance.to_string(),
        "lsp": lsp.to_string(),
        "attempt": factory.current.number,
        "client": index,
        "price_msat": price_msat,
        "capacity_sat": factory.capacity(index).to_sat(),
        "push_msat": terms.push_msat,
        "clients": terms.clients(),
        "funding_sat": factory.current.layout.funding_value().to_sat(),
        "stock_sat": terms.stock.to_sat(),
        "stock_csv": terms.stock_csv,
        "shape": shape_json(&terms.shape),
        "state_step": terms.state_step,
        "state_count": terms.state_count,
        "feerate_perkw": terms.tree_feerate,
        "confirm_blocks": terms.confirm_blocks,
        "margin_blocks": terms.margin_blocks,
        "blocks_early": factory.current.layout.blocks_early(index),
        "max_blocks_early": factory.current.layout.worst_blocks_early(),
        "lifetime_blocks": terms.timeout_height.saturating_sub(height),
        "dying_blocks": terms.dying_blocks,
        "dying_block": terms.timeout_height.saturating_sub(terms.dying_blocks),
        "timeout_block": terms.timeout_height,
        "funding_confirmations": terms.funding_confirmations,
        "exit": factory_json::exit_cost(&factory.current.layout.exit_cost(index)),
        "bounds": bounds.iter().map(bound).collect::<Vec<_>>(),
    }))
}

/// One number, and what this node takes.
fn bound(bound: &Bound) -> Value {
    let mut object = json!({
        "term": bound.term.name(),
        "value": bound.value,
        "least": bound.least,
        "most": bound.most,
        "fit": bound.fit().name(),
        "least_from": match bound.because {
            Because::Setting => "option",
            Because::Mempool => "mempool",
            Because::Estimate => "estimate",
        },
    });
    let settings = [bound.term.least_setting(), bound.term.most_setting()];
    let options = settings.into_iter().flatten().map(|setting| format!("factory-{setting}"));
    object["options"] = options.collect();
    object
}
