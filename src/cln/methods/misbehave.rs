//! `misbehave`, of the binary `cln-factory-faults` alone.

use factory_runtime::faults;
use serde_json::{Value, json};

use super::super::error::RpcError;
use super::super::params::Params;
use super::super::state::State;
use super::Command;

/// For the manifest.
pub const COMMAND: Command = Command {
    name: "misbehave",
    usage: "fault",
    description: "FOR TESTS ONLY: what this node does wrong from now on, see factory-runtime/src/faults.rs",
};

/// Runs the command.
pub async fn call(_: State, params: Value) -> Result<Value, RpcError> {
    let mut params = Params::new(&["fault"], &params)?;
    let name: String = params.required("fault")?;
    if name.is_empty() {
        faults::disarm();
    } else {
        faults::arm(&name).map_err(RpcError::parameter)?;
    }
    Ok(json!({"fault": name}))
}
