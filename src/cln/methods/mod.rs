//! The `factory-*` commands, one file each. A command parses its parameters, asks the runtime, and
//! turns what it hears into JSON.

use factory_engine::types::{Height, InstanceId};
use factory_engine::{Engine, Factory, Refusal};

use crate::cln::datastore;

use super::boot::read_archived;
use super::error::{RpcError, UNAVAILABLE};
use super::state::State;

pub mod accept;
pub mod buy;
pub mod close;
pub mod create;
pub mod decline;
pub mod evict;
pub mod exit;
mod exit_cost;
pub mod export;
pub mod factory_json;
pub mod fees;
pub mod history;
pub mod invitations;
pub mod ladder;
pub mod leave;
pub mod list;
mod lost;
#[cfg(feature = "faults")]
pub mod misbehave;
pub mod moving;
pub mod plan;
pub mod planning;
pub mod price;
mod purse;
pub mod reserve;
pub mod restore;
pub mod show;
pub mod status;
mod towers;
mod urgent;
pub mod verify;
pub mod warning;
mod warnings;
mod ways;

/// What the manifest says of a command.
#[derive(Debug, Clone, Copy)]
pub struct Command {
    /// Name of the command, by which it is called.
    pub name: &'static str,
    /// Its parameters, in lightningd's notation.
    pub usage: &'static str,
    /// What it does, for `help`.
    pub description: &'static str,
}

/// A copy of one factory, and the height that goes with it.
pub(super) async fn factory(state: &State, instance: InstanceId) -> Result<(Factory, Height), RpcError> {
    let look = move |engine: &Engine, height| {
        let found = engine.factory(instance).cloned();
        let unreadable = engine.damage(instance).filter(|_| found.is_none()).map(str::to_owned);
        (found, unreadable, engine.is_archived(instance), engine.missing(instance), height)
    };
    let (found, unreadable, is_archived, missing, height) = state.runtime.read(look).await?;
    if let Some(why) = unreadable {
        return Err(Refusal::Damaged { instance, why }.into());
    }
    let archived = if is_archived { archived(state, vec![instance]).await? } else { vec![] };
    let found = found.or_else(|| archived.into_iter().next());
    found.map(|factory| (factory, height)).ok_or_else(|| missing.into())
}

/// Factories that were archived, from the store.
pub(super) async fn archived(state: &State, instances: Vec<InstanceId>) -> Result<Vec<Factory>, RpcError> {
    if instances.is_empty() {
        return Ok(Vec::new());
    }
    let mut store = datastore::store(state.rpc.clone());
    let read = read_archived(&mut store, instances).await;
    let unread = |error| {
        let next = "see lightningd's log, and try again";
        RpcError::new(UNAVAILABLE, format!("cannot read closed factories: {error}"), next)
    };
    read.map_err(unread)
}

/// So that short channel ids are what lightningd says now; without an answer, what it said last.
async fn fresh_channels(state: &State) {
    if let Err(error) = state.channels.refresh(&state.rpc).await {
        log::debug!("{error}");
    }
}
