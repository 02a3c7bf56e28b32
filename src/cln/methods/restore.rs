//! `factory-restore`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use factory_engine::backup::Copy;
use factory_engine::record::encode_record;
use factory_engine::record::event::{Event, Recovered};
use factory_engine::types::{Height, InstanceId};
use factory_engine::{Engine, Factory, Folded, Role, State as FactoryState};
use factory_runtime::store::History;
use serde_json::{Value, json};

use super::super::backup::{Backup, statics};
use super::super::boot::fold_elsewhere;
use super::super::error::{NOT_RESTORED, RpcError, UNAVAILABLE};
use super::super::params::Params;
use super::super::state::State;
use super::{Command, factory_json};

/// Name, usage and description of `factory-restore`.
pub const COMMAND: Command = Command {
    name: "factory-restore",
    usage: "[file] [dry_run]",
    description: "On a node that has lost all but its hsm_secret: bring back what a backup file has of its factories \
                  (factory-backup-file; that is the default), and what connected peers keep of them. Each is exit-only \
                  from then on; lightningd has to be restarted. dry_run shows what would come back, and when it pays",
};

/// What becomes of one copy.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// This node has nothing of the factory: it comes back.
    Restored,
    /// It has records of its own, which a start compares.
    Known,
    /// It was over, and its records were put away.
    Finished,
}

impl Fate {
    fn name(self) -> &'static str {
        match self {
            Self::Restored => "restored",
            Self::Known => "known",
            Self::Finished => "finished",
        }
    }
}

/// Runs the command.
pub async fn call(state: State, params: Value) -> Result<Value, RpcError> {
    let mut params = Params::new(&["file", "dry_run"], &params)?;
    let file: Option<String> = params.optional("file")?;
    let dry_run: bool = params.optional("dry_run")?.unwrap_or(false);
    let backup = backup(&state, file)?;
    let (copies, peers) = gather(&state, backup.as_ref()).await?;
    let file = backup.as_ref().map(|backup| format!("the backup file {}", backup.path().display()));
    let keepers: Vec<String> =
        file.into_iter().chain(peers.iter().map(|peer| format!("peer {peer}"))).collect();
    let source = keepers.join(", ");
    let (copies, statics) = statics::split(copies);
    let instances: Vec<_> = copies.iter().map(|copy| copy.instance).collect();
    let look = move |engine: &Engine, height: Height| {
        let fate = |instance: &_| match () {
            () if engine.is_archived(*instance) => Fate::Finished,
            () if engine.factory(*instance).is_some() || engine.damage(*instance).is_some() => Fate::Known,
            () => Fate::Restored,
        };
        (instances.iter().map(fate).collect::<Vec<_>>(), height)
    };
    let (mut fates, height) = state.runtime.read(look).await?;
    let histories = copies.into_iter().map(|copy| (copy.instance, copy.records)).collect();
    let unread = |why| RpcError::new(UNAVAILABLE, format!("cannot read the copies: {why}"));
    let (copies, folded) = fold_elsewhere(histories).await.map_err(unread)?;
    let folded: Vec<Option<Factory>> = folded.into_iter().map(Folded::into_factory).collect();
    for (fate, ((instance, _), factory)) in fates.iter_mut().zip(copies.iter().zip(&folded)) {
        // It was forgotten since: there is nothing to bring back.
        if factory.is_none() {
            *fate = Fate::Finished;
        }
        // Brought back by this command already, and lightningd wasn't restarted.
        if *fate == Fate::Restored && !state.runtime.records(*instance).await?.is_empty() {
            *fate = Fate::Known;
        }
    }
    let shown = copies.iter().zip(&folded).zip(&fates);
    let factories: Vec<Value> =
        shown.map(|((copy, factory), fate)| describe(copy, factory.as_ref(), *fate, height)).collect();
    let reason =
        format!("this node has lost what it had of it; its records are those that its keepers had: {source}");
    let lost = copies.iter().zip(&fates).filter(|(_, fate)| **fate == Fate::Restored);
    let scbs: Vec<Vec<u8>> =
        lost.filter_map(|((instance, _), _)| statics.get(instance)).flatten().cloned().collect();
    let missing = copies.into_iter().zip(&fates).filter(|(_, fate)| **fate == Fate::Restored);
    let recovered = encode_record(&[Event::Recovered(Recovered { reason })]);
    let histories: Vec<_> = missing
        .map(|((instance, records), _)| (instance, records.into_iter().chain([recovered.clone()]).collect()))
        .collect();
    let count = histories.len();
    if !dry_run && count > 0 {
        state.runtime.recover(histories).await?;
        log::warn!("{count} factories are restored from {source}: restart lightningd");
    }
    let stubs = if dry_run || count == 0 { 0 } else { ask_to_close(&state, &scbs).await };
    let next = match (dry_run, count) {
        (_, 0) => "nothing: no factory of these copies is missing here",
        (true, _) => "run it without dry_run",
        (false, _) => {
            "restart lightningd: then the chain is read again for these factories, and each is left as its next says; \
             and connect to their other members: lightningd asks them to close"
        }
    };
    let mut answer = json!({
        "peers": peers,
        "dry_run": dry_run,
        "blockheight": height,
        "restored": if dry_run { 0 } else { count },
        "channels": scbs.len(),
        "stubs": stubs,
        "factories": factories,
        "next": next,
    });
    if let Some(backup) = backup {
        answer["file"] = backup.path().display().to_string().into();
    }
    Ok(answer)
}

/// Of each factory the copy with the most records (S39), and the peers that had some.
async fn gather(state: &State, backup: Option<&Backup>) -> Result<(Vec<Copy>, Vec<String>), RpcError> {
    let found = state.runtime.read(|engine, _| engine.found_copies()).await?;
    let mut newest: BTreeMap<InstanceId, Copy> = BTreeMap::new();
    let mut take = |copy: Copy| {
        let known = newest.get(&copy.instance).map_or(0, |known| known.records.len());
        if copy.records.len() > known {
            newest.insert(copy.instance, copy);
        }
    };
    let peers: BTreeSet<String> = found.iter().map(|(peer, _)| peer.to_string()).collect();
    let peers: Vec<String> = peers.into_iter().collect();
    let given_back = found.len();
    found.into_iter().for_each(|(_, copy)| take(copy));
    let Some(backup) = backup else {
        return match given_back {
            0 => Err(RpcError::new(
                NOT_RESTORED,
                "no connected peer has given anything back, and there is no backup file: connect to the operators of \
                 this node's factories, or name a file; nothing was restored",
            )),
            _ => Ok((newest.into_values().collect(), peers)),
        };
    };
    let refused = |why: String| RpcError::new(NOT_RESTORED, format!("{}: {why}", backup.path().display()));
    let read = backup.read().await.map_err(|why| refused(format!("{why}; nothing was restored")))?;
    let copies = read.map_or_else(Vec::new, |(_, copies)| copies);
    if copies.is_empty() && given_back == 0 {
        return Err(refused("there is no copy in it, or no such file: nothing was restored".to_owned()));
    }
    copies.into_iter().for_each(|(_, copy)| take(copy));
    Ok((newest.into_values().collect(), peers))
}

/// lightningd gets what it needs to have the channels closed by its peers. Without it there is still the timeout.
async fn ask_to_close(state: &State, scbs: &[Vec<u8>]) -> usize {
    if scbs.is_empty() {
        return 0;
    }
    match statics::recover(&state.rpc, scbs).await {
        Ok(stubs) => stubs,
        Err(error) => {
            log::warn!("lightningd asks nobody to close the restored channels: {error}");
            0
        }
    }
}

/// The file that is named, or the node's own if it has one.
fn backup(state: &State, file: Option<String>) -> Result<Option<Backup>, RpcError> {
    let key = state.copy_key.clone();
    let key = key.ok_or_else(|| RpcError::new(NOT_RESTORED, "this node's secret isn't known yet"))?;
    match file {
        Some(file) if file.starts_with('/') => Ok(Some(Backup::new(PathBuf::from(file), key))),
        Some(file) => {
            Err(RpcError::parameter(format!("file: should be an absolute path: invalid token '{file}'")))
        }
        None => Ok(state.backup.clone()),
    }
}

/// What a copy holds, and what comes of it.
fn describe((instance, records): &History, factory: Option<&Factory>, fate: Fate, height: Height) -> Value {
    let mut object = json!({
        "factory_instance": instance.to_string(),
        "records": records.len(),
        "outcome": fate.name(),
    });
    let Some(factory) = factory else { return object };
    object["role"] = factory_json::role(factory).into();
    object["lsp"] = factory.lsp().to_string().into();
    object["state"] = factory.state(height).name().into();
    object["timeout_block"] = factory.current.terms.timeout_height.into();
    if let Role::Client { index, .. } = factory.current.role {
        object["capacity_msat"] = factory.capacity(index).to_sat().saturating_mul(1_000).into();
    }
    if fate == Fate::Restored {
        object["next"] = next(factory, height).into();
    }
    object
}

/// When this node has its money of a factory that it gets back.
fn next(factory: &Factory, height: Height) -> String {
    let timeout = factory.current.terms.timeout_height;
    match (factory.state(height), factory.current.role) {
        (FactoryState::Closed | FactoryState::Left | FactoryState::Declined, _) => {
            "nothing of this node's is in it any more".to_owned()
        }
        (_, Role::Client { .. }) => format!(
            "if the operator closes the channel, its balance is paid then; otherwise this node publishes the \
             distribution by itself from block {timeout} on, which pays it its whole capacity"
        ),
        (_, Role::Lsp) => {
            let from = factory.next_eviction().unwrap_or(timeout);
            format!(
                "clients close their channels, which pays this node its balance in them; whoever doesn't is taken on \
                 chain by itself from block {from} on"
            )
        }
    }
}
