//! `factory-list`.

use serde_json::{Value, json};

use crate::protocol::State as FactoryState;
use crate::types::InstanceId;

use super::super::error::Fault;
use super::super::params::{Parameter, Params};
use super::super::state::State;
use super::{Command, factory_json, fees, fresh_channels, unknown, urgent};

/// For the manifest.
pub const COMMAND: Command = Command {
    name: "factory-list",
    usage: "[factory_instance] [state]",
    description: "List the channel factories of this node, or one of them, or those in a state",
};

impl Parameter for FactoryState {
    const EXPECTED: &'static str = "a state of a factory, such as 'active'";

    fn parse(value: &Value) -> Option<Self> {
        value.as_str()?.parse().ok()
    }
}

/// Runs the command.
pub async fn call(state: State, params: Value) -> Result<Value, Fault> {
    let mut params = Params::new(&["factory_instance", "state"], &params)?;
    let instance: Option<InstanceId> = params.optional("factory_instance")?;
    let wanted: Option<FactoryState> = params.optional("state")?;
    fresh_channels(&state).await;
    let node = factory_json::Node::from(state.as_ref());
    let look = move |engine: &crate::protocol::Engine, height| {
        if let Some(instance) = instance.filter(|instance| engine.factory(*instance).is_none()) {
            return Err(unknown(instance));
        }
        Ok(engine
            .factories()
            .filter(|factory| instance.is_none_or(|instance| factory.instance == instance))
            .filter(|factory| wanted.is_none_or(|wanted| factory.state(height) == wanted))
            .map(|factory| {
                let mut object = factory_json::factory(factory, &node, height);
                fees::add_trouble(engine, factory, &mut object);
                urgent::add(engine, factory, height, &mut object);
                object
            })
            .collect::<Vec<_>>())
    };
    let factories = state.runtime.read(look).await??;
    Ok(json!({"factories": factories}))
}
