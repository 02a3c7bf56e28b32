//! `misbehave`, of the binary `cln-factory-faults` alone.

use factory_runtime::faults;
use serde_json::{Value, json};

use super::super::error::RpcError;
use super::super::params::Params;
use super::super::state::State;
use super::Command;

/// Name, usage and description of `misbehave`.
pub const COMMAND: Command = Command {
    name: "misbehave",
    usage: "fault",
    description: "FOR TESTS ONLY: what this node does wrong from now on, see factory-runtime/src/faults.rs",
};

/// Arms a fault, or disarms it if its name is empty.
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
