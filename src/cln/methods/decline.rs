//! `factory-decline`.

use factory_engine::types::InstanceId;
use factory_engine::{Command as EngineCommand, Input};
use serde_json::{Value, json};

use super::super::error::RpcError;
use super::super::params::Params;
use super::super::state::State;
use super::Command;

/// Name, usage and description of `factory-decline`.
pub const COMMAND: Command = Command {
    name: "factory-decline",
    usage: "factory_instance [reason]",
    description: "Decline an invitation into a channel factory; the operator is told the reason",
};

/// Declines an invitation; answers with its factory_instance.
pub async fn call(state: State, params: Value) -> Result<Value, RpcError> {
    let mut params = Params::new(&["factory_instance", "reason"], &params)?;
    let instance: InstanceId = params.required("factory_instance")?;
    let reason: Option<String> = params.optional("reason")?;
    let reason = reason.unwrap_or_else(|| "declined by its operator".to_owned());
    state.runtime.ask(Input::Command(EngineCommand::Decline { instance, reason })).await?;
    Ok(json!({"factory_instance": instance.to_string()}))
}
