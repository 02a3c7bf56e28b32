//! `factory-status`.

use serde_json::{Value, json};

use crate::protocol::{Engine, State as FactoryState};
use crate::types::Height;

use super::super::error::Fault;
use super::super::params::Params;
use super::super::peers;
use super::super::state::State;
use super::Command;

/// For the manifest.
pub const COMMAND: Command = Command {
    name: "factory-status",
    usage: "",
    description: "Health of the plugin: peers that support factories, ceremonies under way, warnings \
                  and what to do about them",
};

/// Runs the command. It answers also when everything else is refused.
pub async fn call(state: State, params: Value) -> Result<Value, Fault> {
    Params::new(&[], &params)?;
    let mut answer = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "factory_protocols": [{
            "name": crate::wire::message::PROTOCOL_NAME,
            "factory_protocol": crate::wire::message::protocol_id().to_string(),
        }],
        "available": state.unavailable.is_none(),
    });
    let connected = peers::connected(&state.rpc, None).await?;
    let supporting = connected.iter().filter(|peer| peer.supports).map(|peer| peer.id);
    let supporting: Vec<_> = supporting.collect();
    let seen = state.runtime.read(look).await;
    let (ready, mut warnings) = match seen {
        Ok(seen) => {
            answer["ceremonies"] = seen.ceremonies.into();
            answer["factories"] = seen.factories.into();
            answer["blockheight"] = seen.height.into();
            (seen.ready, seen.warnings)
        }
        Err(refusal) => {
            let text = format!("nothing of any factory is touched: {refusal}");
            (vec![], vec![text])
        }
    };
    answer["peers"] =
        supporting.iter().map(|id| json!({"id": id.to_string(), "ready": ready.contains(id)})).collect();
    if state.config.unsafe_skip_funding_check {
        warnings.push(
            "factory-unsafe-skip-funding-check is set: an operator that lies can take what is paid \
             to this node; remove the option"
                .to_owned(),
        );
    }
    answer["warnings"] = warnings.into();
    Ok(answer)
}

struct Seen {
    ready: Vec<crate::types::NodeId>,
    ceremonies: usize,
    factories: usize,
    height: Height,
    warnings: Vec<String>,
}

fn look(engine: &Engine, height: Height) -> Seen {
    let mut warnings = Vec::new();
    for factory in engine.factories() {
        let advice = match factory.state(height) {
            FactoryState::Invited => "waits for factory-accept or factory-decline".to_owned(),
            FactoryState::Dying => {
                let end = factory.safe_end();
                format!("is dying: no payment can use it after block {end}; move out, or factory-exit")
            }
            FactoryState::Exiting => {
                "is being left; keep the node online until its state is exited".to_owned()
            }
            _ => continue,
        };
        warnings.push(format!("factory {} {advice}", factory.instance));
    }
    if engine.tip().is_none() {
        warnings.push("no block has been handled yet: wait, or look at lightningd's backend".to_owned());
    }
    Seen {
        ready: engine.peers().collect(),
        ceremonies: engine.ceremonies(),
        factories: engine.factories().count(),
        height,
        warnings,
    }
}
