//! `factory-restore`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use bitcoin::ScriptBuf;
use factory_engine::backup::{Comparison, Copy, compare};
use factory_engine::io::Keeper;
use factory_engine::record::encode_record;
use factory_engine::record::event::{Event, Recovered};
use factory_engine::types::{Height, InstanceId};
use factory_engine::{Engine, Factory, Folded, Input, Refusal, Role, State as FactoryState};
use factory_runtime::Handle;
use factory_runtime::store::History;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::super::backup::payouts::{self, Search};
use super::super::backup::{Backup, statics};
use super::super::boot::fold_elsewhere;
use super::super::client::Call;
use super::super::datastore;
use super::super::error::{NOT_RESTORED, RpcError, UNAVAILABLE};
use super::super::params::Params;
use super::super::progress::Reporter;
use super::super::requests::Request;
use super::super::state::State;
use super::{Command, factory_json};

#[cfg(test)]
mod tests;

/// Name, usage and description of `factory-restore`.
pub const COMMAND: Command = Command {
    name: "factory-restore",
    usage: "[file] [dry_run]",
    description: "On a node that has lost all but its hsm_secret: bring back what a backup file has of its factories \
                  (factory-backup-file; that is the default), and what connected peers keep of them. Each is exit-only \
                  from then on; lightningd has to be restarted. dry_run shows what would come back, and when it pays",
};

/// What becomes of one copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// This node has nothing of the factory: it comes back.
    Restored,
    /// It came back before, without its channels: lightningd may not have taken them then.
    Lost,
    /// This node has fewer records than the copy has: the rest comes back. Whether its channels are lost.
    Newer { lost: bool },
    /// It has all that the copy has, or another course of things, which a start compares.
    Known,
    /// What it has can't be read.
    Damaged,
    /// It was over, and its records were put away.
    Finished,
}

impl Fate {
    fn name(self) -> &'static str {
        match self {
            Self::Restored => "restored",
            Self::Newer { .. } => "newer",
            Self::Lost | Self::Known | Self::Damaged => "known",
            Self::Finished => "finished",
        }
    }

    /// Whether lightningd has none of the factory's channels of its own.
    fn is_lost(self) -> bool {
        matches!(self, Self::Restored | Self::Lost | Self::Newer { lost: true })
    }
}

/// The one restore that is under way, and how far it is; over when this is dropped.
struct Running<'a>(&'a watch::Sender<Option<Search>>);

impl<'a> Running<'a> {
    /// Nothing if there is one already.
    fn begin(now: &'a watch::Sender<Option<Search>>) -> Option<Self> {
        let begins = now.send_if_modified(|now| {
            let begins = now.is_none();
            now.get_or_insert_default();
            begins
        });
        begins.then(|| Self(now))
    }

    fn show(&self, search: Search) {
        self.0.send_replace(Some(search));
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.send_replace(None);
    }
}

/// What the engine knows of the factories that copies are of, and of all that came back before.
struct Known {
    /// Of each copy.
    fates: Vec<Fate>,
    /// Whether there are any whose channels are lost, whoever has a copy of them.
    lost: bool,
    /// Scripts that those pay this node.
    scripts: BTreeSet<ScriptBuf>,
    height: Height,
}

/// Runs the command.
pub async fn call(state: State, request: Request) -> Result<Value, RpcError> {
    let mut params = Params::new(&["file", "dry_run"], &request.params)?;
    let file: Option<String> = params.optional("file")?;
    let dry_run: bool = params.optional("dry_run")?.unwrap_or(false);
    let backup = backup(&state, file)?;
    let reporter = Reporter::new(state.outbox.clone(), request.id);
    let tell = move |search: Search| {
        if search.addresses == 0 {
            reporter.say(&format!(
                "{} payout scripts are unknown to lightningd's wallet: it is asked for up to {} addresses, until they \
                 have come up",
                search.left,
                payouts::MOST
            ));
        }
        reporter.count(search.addresses, payouts::MOST);
    };
    restore(&state.rpc, &state.runtime, backup.as_ref(), dry_run, &state.restoring, tell).await
}

/// Wherever it is interrupted, another call goes on from there.
async fn restore<C: Call>(
    rpc: &C,
    runtime: &Handle,
    backup: Option<&Backup>,
    dry_run: bool,
    restoring: &watch::Sender<Option<Search>>,
    mut tell: impl FnMut(Search) + Send,
) -> Result<Value, RpcError> {
    let running = if dry_run { None } else { Some(Running::begin(restoring).ok_or_else(under_way)?) };
    let Gathered { copies, keepers, peers } = gather(runtime, backup).await?;
    let (here, open) = runtime.read(here_without_channels).await?;
    let (copies, mut backups) = statics::split_with(copies, &here);
    let instances: Vec<InstanceId> = copies.iter().map(|copy| copy.instance).collect();
    let look = move |engine: &Engine, height| known(engine, &instances, height);
    let Known { mut fates, mut lost, mut scripts, height } = runtime.read(look).await?;
    if copies.is_empty() && !lost {
        return Err(nothing(backup));
    }
    let histories = copies.into_iter().map(|copy| (copy.instance, copy.records)).collect();
    let unread = |why: String| {
        let next = "nothing was restored: please report it as a bug, and keep the copies";
        RpcError::new(UNAVAILABLE, format!("cannot read the copies: {why}"), next)
    };
    let (copies, folded) = fold_elsewhere(histories).await.map_err(unread)?;
    let folded: Vec<Option<Factory>> = folded.into_iter().map(Folded::into_factory).collect();
    for (fate, (copy, factory)) in fates.iter_mut().zip(copies.iter().zip(&folded)) {
        // It was forgotten since: there is nothing to bring back.
        *fate = if factory.is_none() { Fate::Finished } else { beside_stored(runtime, *fate, copy).await? };
        lost |= fate.is_lost();
    }
    let mut store = datastore::store(rpc.clone());
    // What was seen of a channel first counts.
    let unread = |error| {
        RpcError::new(
            UNAVAILABLE,
            format!("cannot read which lost channels lightningd hasn't taken: {error}"),
            "nothing was restored: see lightningd's log, and run it again",
        )
    };
    let mut scbs =
        if lost { statics::left(&mut store).await.map_err(unread)? } else { statics::Statics::new() };
    let of_copies = copies.iter().zip(&folded).zip(&fates);
    for (((instance, _), factory), _) in of_copies.clone().filter(|(_, fate)| fate.is_lost()) {
        scripts.extend(factory.iter().flat_map(payouts::of));
        for (id, scb) in statics::by_channel(backups.remove(instance).unwrap_or_default()) {
            scbs.entry(id).or_insert(scb);
        }
    }
    backups.retain(|instance, _| open.contains(instance));
    for (id, scb) in unknown_to(rpc, backups.into_values().flatten().collect()).await? {
        scbs.entry(id).or_insert(scb);
    }
    let factories: Vec<Value> =
        of_copies.map(|((copy, factory), fate)| describe(copy, factory.as_ref(), *fate, height)).collect();
    let source = source(backup, &peers);
    let reason =
        format!("this node has lost what it had of it; its records are those that its keepers had: {source}");
    let recovered = encode_record(&[Event::Recovered(Recovered { reason })]);
    let (mut histories, mut newer): (Vec<History>, Vec<(Keeper, Copy)>) = (vec![], vec![]);
    for ((instance, mut records), fate) in copies.into_iter().zip(&fates) {
        match fate {
            Fate::Restored => {
                records.push(recovered.clone());
                histories.push((instance, records));
            }
            Fate::Newer { .. } => {
                let keeper = keepers.get(&instance).copied().unwrap_or(Keeper::File);
                newer.push((keeper, Copy { instance, records }));
            }
            Fate::Lost | Fate::Known | Fate::Damaged | Fate::Finished => {}
        }
    }
    let (count, more) = (histories.len(), newer.len());
    let (mut stubs, mut unknown, mut refused) = (0, BTreeSet::new(), vec![]);
    if let Some(running) = running.filter(|_| lost || more > 0) {
        // Before the records: a peer that has given them back may be gone by the next call.
        if !scbs.is_empty() {
            statics::keep(&mut store, &scbs).await;
        }
        if count > 0 {
            bring_back(runtime, histories).await?;
            log::warn!("{count} factories are restored from {source}: restart lightningd");
        }
        refused = catch_up(runtime, newer).await?;
        stubs = statics::ask_to_close(rpc, &mut store, &scbs).await;
        let both = |search| {
            running.show(search);
            tell(search);
        };
        unknown = payouts::learn(rpc, scripts, both).await;
    }
    let mut next = what_now(dry_run, count.saturating_add(more), lost).to_owned();
    if !dry_run && stubs < scbs.len() {
        next += &format!(
            "; lightningd has taken {stubs} of {} channels, its log says why: run this again",
            scbs.len()
        );
    }
    if !unknown.is_empty() {
        next += "; the wallet doesn't see what is paid to unknown_payouts: run this again, which tries \
                 further addresses of hsm_secret";
    }
    if !refused.is_empty() {
        next += &format!(
            "; what the copies have more of these can't be brought back, the log says why, and both stay as they are: {}",
            refused.iter().map(InstanceId::to_string).collect::<Vec<_>>().join(", ")
        );
    }
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
    if !unknown.is_empty() {
        answer["unknown_payouts"] = unknown.iter().map(|script| script.to_hex_string()).collect();
    }
    Ok(answer)
}

fn under_way() -> RpcError {
    RpcError::new(
        NOT_RESTORED,
        "another factory-restore is under way, and nothing was restored by this one",
        "wait for it: factory-status says how far it is (restoring)",
    )
}

/// Factories that came back without their channels, and those of them whose channels may still be closed.
fn here_without_channels(engine: &Engine, height: Height) -> (Vec<InstanceId>, BTreeSet<InstanceId>) {
    let here: Vec<&Factory> = engine.factories().filter(|factory| factory.has_lost_channels()).collect();
    let open = here.iter().filter(|factory| is_lost(factory, height)).map(|factory| factory.instance);
    (here.iter().map(|factory| factory.instance).collect(), open.collect())
}

/// Whether a copy has records that go on from those that are stored.
fn has_more(copied: &[Vec<u8>], stored: &[Vec<u8>]) -> bool {
    matches!(compare(copied, stored, Keeper::File), Comparison::Newer(_) | Comparison::Later(_))
}

/// What becomes of a copy, now that it is known what is stored of its factory.
async fn beside_stored(runtime: &Handle, fate: Fate, (instance, records): &History) -> Result<Fate, Refusal> {
    if matches!(fate, Fate::Finished | Fate::Damaged) {
        return Ok(fate);
    }
    let stored = runtime.records(*instance).await?;
    Ok(match fate {
        // Brought back by this command already, and lightningd wasn't restarted.
        Fate::Restored if !stored.is_empty() => Fate::Lost,
        Fate::Lost if has_more(records, &stored) => Fate::Newer { lost: true },
        Fate::Known if has_more(records, &stored) => Fate::Newer { lost: false },
        fate => fate,
    })
}

/// Gives the engine what a keeper has more of factories that are here (S9), as a start does, or whoever keeps the file. Of
/// which it doesn't fit.
async fn catch_up(runtime: &Handle, copies: Vec<(Keeper, Copy)>) -> Result<Vec<InstanceId>, Refusal> {
    let mut refused = vec![];
    for (keeper, Copy { instance, records }) in copies {
        let copy = Copy { instance, records: records.clone() };
        runtime.input(Input::KeeperHas { keeper, copy });
        if has_more(&records, &runtime.records(instance).await?) {
            refused.push(instance);
        }
    }
    Ok(refused)
}

/// Those of these static channel backups whose channels lightningd never had.
async fn unknown_to<C: Call>(rpc: &C, scbs: Vec<Vec<u8>>) -> Result<statics::Statics, RpcError> {
    let mut scbs = statics::by_channel(scbs);
    if !scbs.is_empty() {
        let known = statics::known(rpc, &scbs).await?;
        scbs.retain(|id, _| !known.contains(id));
    }
    Ok(scbs)
}

/// What a person does then.
fn what_now(dry_run: bool, count: usize, lost: bool) -> &'static str {
    match (dry_run, count, lost) {
        (_, 0, false) => "nothing: no factory of these copies is missing here",
        (true, 0, true) => {
            "nothing is missing here; without dry_run lightningd is asked again to have lost channels closed"
        }
        (true, ..) => "run it without dry_run",
        (false, 0, true) => {
            "nothing more is missing here: restart lightningd, if it wasn't since the factories came back, \
             and connect to the other members of those whose channels are lost: lightningd asks them to close"
        }
        (false, ..) => {
            "restart lightningd: then the chain is read again for these factories, and each is left as its \
             next says; and connect to their other members: lightningd asks them to close"
        }
    }
}

/// Stores what comes back. That the chain is to be read again comes first: a node that stops in between reads
/// it for nothing then; the other way round it would follow a factory without what has become of it.
async fn bring_back(runtime: &Handle, histories: Vec<History>) -> Result<(), Refusal> {
    runtime.recover(vec![]).await?;
    runtime.recover(histories).await
}

fn known(engine: &Engine, instances: &[InstanceId], height: Height) -> Known {
    // Of one that is over, too: what it has paid may be what the wallet doesn't see yet.
    let lost: Vec<&Factory> = engine.factories().filter(|factory| factory.has_lost_channels()).collect();
    Known {
        fates: instances.iter().map(|instance| fate(engine, *instance, height)).collect(),
        lost: !lost.is_empty(),
        scripts: lost.into_iter().flat_map(payouts::of).collect(),
        height,
    }
}

fn fate(engine: &Engine, instance: InstanceId, height: Height) -> Fate {
    if engine.is_archived(instance) {
        return Fate::Finished;
    }
    match engine.factory(instance) {
        Some(factory) if is_lost(factory, height) => Fate::Lost,
        _ if engine.damage(instance).is_some() => Fate::Damaged,
        Some(_) => Fate::Known,
        None => Fate::Restored,
    }
}

/// Whether it came back without its channels, and those may still be closed.
pub fn is_lost(factory: &Factory, height: Height) -> bool {
    let is_over = matches!(
        factory.state(height),
        FactoryState::Closed
            | FactoryState::Distributed
            | FactoryState::Reclaimed
            | FactoryState::Left
            | FactoryState::Declined
            | FactoryState::Aborted
    );
    factory.has_lost_channels() && !is_over
}

/// What there is of copies.
struct Gathered {
    /// Of each factory the one with the most records (S39). Of as many it is what a peer has given back first.
    copies: Vec<Copy>,
    /// Who had each of them.
    keepers: BTreeMap<InstanceId, Keeper>,
    /// The peers that had some.
    peers: Vec<String>,
}

async fn gather(runtime: &Handle, backup: Option<&Backup>) -> Result<Gathered, RpcError> {
    let found = runtime.read(|engine, _| engine.found_copies()).await?;
    let peers: BTreeSet<String> = found.iter().map(|(peer, _)| peer.to_string()).collect();
    let in_file = match backup {
        None => None,
        Some(backup) => backup.read().await.map_err(|why| {
            let why = format!("{}: {why}", backup.path().display());
            RpcError::new(NOT_RESTORED, why, "nothing was restored: name another file, or mend that")
        })?,
    };
    let in_file = in_file.map_or_else(Vec::new, |(_, copies)| copies);
    let mut newest: BTreeMap<InstanceId, (Keeper, Copy)> = BTreeMap::new();
    let given_back = found.into_iter().map(|(peer, copy)| (Keeper::Peer(peer), copy));
    for (keeper, copy) in given_back.chain(in_file.into_iter().map(|(_, copy)| (Keeper::File, copy))) {
        let known = newest.get(&copy.instance).map_or(0, |(_, known)| known.records.len());
        if copy.records.len() > known {
            newest.insert(copy.instance, (keeper, copy));
        }
    }
    let keepers = newest.iter().map(|(instance, (keeper, _))| (*instance, *keeper)).collect();
    let copies = newest.into_values().map(|(_, copy)| copy).collect();
    Ok(Gathered { copies, keepers, peers: peers.into_iter().collect() })
}

/// Nobody has a copy, and nothing came back before.
fn nothing(backup: Option<&Backup>) -> RpcError {
    let why = match backup {
        None => "no connected peer has given anything back, and there is no backup file".to_owned(),
        Some(backup) => format!("{}: there is no copy in it, or no such file", backup.path().display()),
    };
    RpcError::new(
        NOT_RESTORED,
        why,
        "nothing was restored: connect to the operators of this node's factories, or name the file",
    )
}

/// Who had the copies, for people.
fn source(backup: Option<&Backup>, peers: &[String]) -> String {
    let file = backup.map(|backup| format!("the backup file {}", backup.path().display()));
    let peers = peers.iter().map(|peer| format!("peer {peer}"));
    file.into_iter().chain(peers).collect::<Vec<_>>().join(", ")
}

/// The file that is named, or the node's own if it has one.
fn backup(state: &State, file: Option<String>) -> Result<Option<Backup>, RpcError> {
    let key = state.copy_key.clone();
    let unknown = || {
        let why = "this node's secret isn't known: the plugin has not started as it should";
        RpcError::new(NOT_RESTORED, why, "factory-status says why (warnings)")
    };
    let key = key.ok_or_else(unknown)?;
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
