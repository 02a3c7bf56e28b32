//! `factory-accept`.

use factory_engine::types::InstanceId;
use factory_engine::{Command as EngineCommand, Input};
use serde_json::{Value, json};

use super::super::error::RpcError;
use super::super::params::Params;
use super::super::state::State;
use super::{Command, factory, factory_json};

/// Name, usage and description of `factory-accept`.
pub const COMMAND: Command = Command {
    name: "factory-accept",
    usage: "factory_instance",
    description: "Accept an invitation into a channel factory",
};

/// Accepts an invitation; answers with the factory.
pub async fn call(state: State, params: Value) -> Result<Value, RpcError> {
    let instance: InstanceId = Params::new(&["factory_instance"], &params)?.required("factory_instance")?;
    state.runtime.ask(Input::Command(EngineCommand::Accept { instance })).await?;
    let (factory, height) = factory(&state, instance).await?;
    Ok(json!({"factory": factory_json::factory(&factory, &state.as_ref().into(), height)}))
}
