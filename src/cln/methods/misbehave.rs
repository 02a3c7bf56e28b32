//! `misbehave`, of the binary `cln-factory-faults` alone.

use serde_json::{Value, json};

use factory_runtime::faults;

use super::super::error::Fault;
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
pub async fn call(_: State, params: Value) -> Result<Value, Fault> {
    let mut params = Params::new(&["fault"], &params)?;
    let name: String = params.required("fault")?;
    if name.is_empty() {
        faults::disarm();
    } else {
        faults::arm(&name).map_err(Fault::parameter)?;
    }
    Ok(json!({"fault": name}))
}
