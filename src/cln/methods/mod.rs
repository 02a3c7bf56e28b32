//! The `factory-*` commands, one file each. A command parses its parameters, asks the runtime, and
//! turns what it hears into JSON.

pub mod accept;
pub mod buy;
pub mod create;
pub mod decline;
pub mod evict;
pub mod exit;
pub mod factory_json;
mod fees;
pub mod invitations;
pub mod list;
#[cfg(feature = "faults")]
pub mod misbehave;
pub mod plan;
pub mod planning;
pub mod price;
pub mod show;
pub mod status;
mod urgent;
pub mod verify;
pub mod warnings;

use crate::protocol::Factory;
use crate::types::{Height, InstanceId};

use super::error::{Fault, UNKNOWN_FACTORY};
use super::state::State;

/// What the manifest says of a command.
#[derive(Debug, Clone, Copy)]
pub struct Command {
    /// Its name.
    pub name: &'static str,
    /// Its parameters, in lightningd's notation.
    pub usage: &'static str,
    /// What it does.
    pub description: &'static str,
}

/// A copy of one factory, and the height that goes with it.
async fn factory(state: &State, instance: InstanceId) -> Result<(Factory, Height), Fault> {
    let found = state.runtime.read(move |engine, height| (engine.factory(instance).cloned(), height)).await?;
    match found {
        (Some(factory), height) => Ok((factory, height)),
        (None, _) => Err(unknown(instance)),
    }
}

/// So that short channel ids are what lightningd says now; without an answer, what it said last.
async fn fresh_channels(state: &State) {
    if let Err(error) = state.channels.refresh(&state.rpc).await {
        log::debug!("{error}");
    }
}

fn unknown(instance: InstanceId) -> Fault {
    let text = format!("unknown factory_instance {instance}: see factory-list and factory-invitations");
    Fault::new(UNKNOWN_FACTORY, text)
}
