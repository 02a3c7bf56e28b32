//! `factory-accept`.

use factory_engine::types::{InstanceId, TermsHash};
use factory_engine::{Command as EngineCommand, Input};
use serde_json::{Value, json};

use super::super::error::RpcError;
use super::super::params::{Parameter, Params};
use super::super::state::State;
use super::{Command, factory, factory_json, moving};

/// Name, usage and description of `factory-accept`.
pub const COMMAND: Command = Command {
    name: "factory-accept",
    usage: "factory_instance terms_hash [move_from]",
    description: "Accept an invitation into a channel factory, on the terms that factory-invitations shows \
                  with this terms_hash and no others. move_from is an ordinary channel with its operator: once the \
                  factory is there for good its balance moves into it, and it is closed",
};

impl Parameter for TermsHash {
    const EXPECTED: &'static str = "a terms_hash of 64 hex digits, as factory-invitations shows it";

    fn parse(value: &Value) -> Option<Self> {
        value.as_str()?.parse().ok()
    }
}

/// Accepts an invitation on the terms that were read (S32); answers with the factory.
pub async fn call(state: State, params: Value) -> Result<Value, RpcError> {
    let mut params = Params::new(&["factory_instance", "terms_hash", "move_from"], &params)?;
    let instance: InstanceId = params.required("factory_instance")?;
    let terms: TermsHash = params.required("terms_hash")?;
    let from: Option<String> = params.optional("move_from")?;
    let from = match from {
        Some(text) => {
            let channel = moving::channel(&state, "move_from", &text).await?;
            moving::look(&state, &[channel]).await?;
            Some(channel)
        }
        None => None,
    };
    state.runtime.ask(Input::Command(EngineCommand::Accept { instance, terms, from })).await?;
    let (factory, height) = factory(&state, instance).await?;
    Ok(json!({"factory": factory_json::factory(&factory, &state.as_ref().into(), height)}))
}
