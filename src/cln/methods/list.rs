//! `factory-list`.

use factory_engine::types::InstanceId;
use factory_engine::{Engine, Factory, State as FactoryState};
use serde_json::{Value, json};

use super::super::error::RpcError;
use super::super::params::{Parameter, Params};
use super::super::state::State;
use super::super::words;
use super::{Command, factory_json, fees, fresh_channels, urgent};

/// Name, usage and description of `factory-list`.
pub const COMMAND: Command = Command {
    name: "factory-list",
    usage: "[factory_instance] [state]",
    description: "List the channel factories of this node, or one of them, or those in a state; closed ones \
                  leave the list at the next start, or a day later, and are found by their state or instance until \
                  their records are deleted (factory-keep-finished-blocks)",
};

impl Parameter for FactoryState {
    const EXPECTED: &'static str = "a state of a factory, such as 'active'";

    fn parse(value: &Value) -> Option<Self> {
        value.as_str()?.parse().ok()
    }
}

/// Lists factories: all, one, or those in a state.
pub async fn call(state: State, params: Value) -> Result<Value, RpcError> {
    let mut params = Params::new(&["factory_instance", "state"], &params)?;
    let instance: Option<InstanceId> = params.optional("factory_instance")?;
    let wanted: Option<FactoryState> = params.optional("state")?;
    fresh_channels(&state).await;
    shown(&state, instance, wanted).await
}

/// Factories: all, one, or those in a state; channels as they were looked at last.
pub async fn shown(
    state: &State,
    instance: Option<InstanceId>,
    wanted: Option<FactoryState>,
) -> Result<Value, RpcError> {
    let node = factory_json::Node::from(state.as_ref());
    let fits = move |factory: &Factory, height| {
        instance.is_none_or(|instance| factory.instance == instance)
            && wanted.is_none_or(|wanted| factory.state(height) == wanted)
    };
    let shown = node.clone();
    let look = move |engine: &Engine, height| {
        let has_records = |instance: &InstanceId| engine.archived().any(|archived| archived == *instance);
        let archived: Vec<InstanceId> = match (instance, wanted) {
            (Some(instance), _) => Some(instance).filter(has_records).into_iter().collect(),
            (None, Some(FactoryState::Closed)) => engine.archived().collect(),
            (None, _) => vec![],
        };
        let unreadable: Vec<Value> = match wanted {
            Some(_) => vec![],
            None => engine
                .unreadable()
                .filter(|(unreadable, _)| instance.is_none_or(|instance| instance == *unreadable))
                .map(|(instance, why)| json!({"factory_instance": instance.to_string(), "damaged": why, "next_action": words::MEND}))
                .collect(),
        };
        if let Some(instance) = instance.filter(|instance| engine.factory(*instance).is_none())
            && unreadable.is_empty()
            && archived.is_empty()
        {
            return Err(engine.missing(instance));
        }
        let factories = engine.factories().filter(|factory| fits(factory, height)).map(|factory| {
            let mut object = factory_json::factory(factory, &shown, height);
            fees::add_trouble(engine, factory, &mut object);
            urgent::add(engine, factory, height, &mut object);
            object
        });
        Ok((factories.collect::<Vec<_>>(), archived, height, unreadable))
    };
    let (mut factories, archived, height, unreadable) = state.runtime.read(look).await??;
    let archived = super::archived(state, archived).await?;
    let archived = archived.iter().filter(|factory| fits(factory, height));
    factories.extend(archived.map(|factory| factory_json::factory(factory, &node, height)));
    let mut answer = json!({"factories": factories});
    if !unreadable.is_empty() {
        answer["unreadable"] = unreadable.into();
    }
    Ok(answer)
}
