//! `factory-status`.

use factory_engine::io::Keeper;
use factory_engine::report::counting::counted;
use factory_engine::types::{Amount, Height, NodeId};
use factory_engine::{Engine, Failure, Leave, Progress, Renewal, Role};
use factory_runtime::clock;
use serde_json::{Value, json};

use super::super::error::RpcError;
use super::super::params::Params;
use super::super::state::State;
use super::super::{channel_state, feerates, peers, words};
use super::fees::{self, Reserve};
use super::towers::{self, Towers};
use super::warning::Warning;
use super::warnings::{self, Node};
use super::{Command, factory_json, lost, purse};

/// Name, usage and description of `factory-status`.
pub const COMMAND: Command = Command {
    name: "factory-status",
    usage: "",
    description: "Health of the plugin: peers that support factories, ceremonies under way, warnings \
                  and what to do about them",
};

/// Runs the command. It answers also when everything else is refused.
pub async fn call(state: State, params: Value) -> Result<Value, RpcError> {
    Params::new(&[], &params)?;
    now(&state).await
}

/// How the node stands.
pub async fn now(state: &State) -> Result<Value, RpcError> {
    let mut answer = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "factory_protocols": [{
            "name": factory_engine::wire::message::PROTOCOL_NAME,
            "factory_protocol": factory_engine::wire::message::protocol_id().to_string(),
        }],
        "available": state.unavailable.borrow().is_none(),
    });
    let scan = state.scan.get();
    answer["chain"] = json!({
        "blockheight": scan.next.saturating_sub(1),
        "first_block": scan.first,
        "tip": scan.tip,
        "behind": scan.behind(),
        "done": scan.next.saturating_sub(scan.first),
    });
    if let Some(missing) = scan.missing {
        answer["chain"]["missing_block"] = missing.into();
    }
    let node = Node {
        peers: peers::connected(&state.rpc, None).await?,
        unconfirmed: state.mirror.last(unconfirmed).await,
        height: *state.news.borrow(),
    };
    let supporting: Vec<NodeId> =
        node.peers.iter().filter(|peer| peer.supports).map(|peer| peer.id).collect();
    let seen = state.runtime.read(move |engine, height| look(engine, height, &node)).await;
    let (ready, mut warnings) = match seen {
        Ok(seen) => {
            answer["ceremonies"] = seen.ceremonies.into();
            answer["factories"] = seen.factories.into();
            answer["blockheight"] = seen.height.into();
            answer["publishing"] = seen.publishing.into();
            answer["renewals"] = seen.renewals.into();
            answer["leaves"] = seen.leaves.into();
            answer["backup"] = copies(state, seen.copies);
            let mut warnings = seen.warnings;
            warnings.extend(seen.towers.warning(state));
            seen.towers.add(&mut answer);
            (seen.ready, warnings)
        }
        Err(refusal) => {
            let action = "see what lightningd's datastore says; it is read again every few seconds, and until \
                          then no deadline of any factory is seen, no channel that isn't on chain takes an HTLC, and \
                          none is closed or pays: keep this node online";
            (vec![], vec![Warning::new("unavailable", refusal.to_string(), action)])
        }
    };
    let restoring = *state.restoring.borrow();
    if let Some(search) = restoring {
        answer["restoring"] = json!({"addresses": search.addresses, "payouts_left": search.left});
    }
    let kept = state.mirror.last(channel_state::kept_for_ever).await;
    if !kept.is_empty() {
        answer["closed_channels"] = kept.len().into();
        warnings.push(Warning::new(
            "closed_channels",
            format!(
                "lightningd keeps {} that both sides have closed and that never come on chain: each costs it one \
                 call of its backend a block, and nothing else",
                counted(kept.len(), "channel")
            ),
            "nothing has to be done; started with --developer, lightningd is told to forget those whose factory's \
             output was spent 100 blocks ago",
        ));
    }
    answer["peers"] =
        supporting.iter().map(|id| json!({"id": id.to_string(), "ready": ready.contains(id)})).collect();
    if state.unavailable.borrow().is_none() {
        let told = warnings.iter().filter(|one| one.code == "newer_copy");
        let told: Vec<_> = told.map(|one| one.instance).collect();
        let lost = lost::warnings(&state.rpc, &state.runtime).await?;
        warnings.extend(lost.into_iter().filter(|one| !told.contains(&one.instance)));
        purse::add(state, &mut answer).await?;
        let reserve = Reserve::now(state).await?;
        warnings.extend(reserve.warning());
        answer["reserve"] = reserve.json();
        warnings.extend(state.database.trouble().await.map(|reason| {
            let action = "see docs/install.md, PostgreSQL; until it can be read this node relies on no new channel of a \
                          factory, and leaves for each received HTLC that is about to fail, too, as if it were to claim it";
            Warning::new("wallet_db", reason.to_string(), action)
        }));
        let (bitcoin_rpc, problem) = state.bitcoind.look().await;
        answer["bitcoin_rpc"] = bitcoin_rpc;
        if let Some(decided) = state.feerates.get() {
            answer["feerates"] = feerates::shown(&decided);
        }
        warnings.extend(problem.map(|problem| {
            let action = "correct factory-bitcoin-rpc; until then a transaction below the mempool's minimum waits \
                          until fees fall";
            Warning::new("bitcoin_rpc", format!("bitcoind can't be asked: {problem}"), action)
        }));
    }
    if let Some(missing) = scan.missing {
        warnings.push(Warning::new(
            "block_missing",
            format!("the bitcoin backend does not give block {missing}: nothing after it is watched"),
            "its node has pruned the block: let it fetch it again (bitcoin-cli getblockfrompeer), or point \
             lightningd to one that has it, and keep prune= well above the length of an outage",
        ));
    } else if let Some(problem) = state.chain_problem.borrow().clone() {
        let action = "look at lightningd's bitcoin backend; it is asked again every few seconds, and until it \
                      answers this node sees no deadline";
        warnings.push(Warning::new("backend", problem, action));
    }
    for (code, option, problem) in [
        ("metrics", "factory-metrics-bind", &state.metrics_problem),
        ("web", "factory-web-bind", &state.web_problem),
    ] {
        if let Some(problem) = problem.borrow().clone() {
            let action = format!(
                "end what has that port, or change {option} and restart; it is tried again every few seconds, and nothing \
                 else waits for it"
            );
            warnings.push(Warning::new(code, problem, action));
        }
    }
    if !state.important {
        warnings.push(Warning::new(
            "not_important",
            "lightningd goes on if the plugin dies, and then nobody guards its factories",
            "load it with important-plugin in place of plugin",
        ));
    }
    if state.config.unsafe_skip_funding_check {
        warnings.push(Warning::new(
            "unsafe_option",
            "factory-unsafe-skip-funding-check is set: an operator that lies can take what is paid to \
             this node",
            "remove the option",
        ));
    }
    answer["warnings"] = warnings.iter().map(Warning::json).collect();
    Ok(answer)
}

/// Channels in use that have no place on chain yet, as of the last block.
fn unconfirmed(channels: &[Value]) -> Vec<(NodeId, Amount, String)> {
    let in_use = channels
        .iter()
        .filter(|channel| channel["state"] == "CHANNELD_NORMAL" && channel.get("short_channel_id").is_none());
    let read = |channel: &Value| {
        let peer = channel["peer_id"].as_str()?.parse().ok()?;
        let capacity = Amount::from_sat(channel["total_msat"].as_u64()? / 1000);
        Some((peer, capacity, channel["channel_id"].as_str()?.to_owned()))
    };
    in_use.filter_map(read).collect()
}

struct Seen {
    ready: Vec<NodeId>,
    ceremonies: Vec<Value>,
    factories: usize,
    height: Height,
    publishing: Vec<Value>,
    renewals: Vec<Value>,
    leaves: Vec<Value>,
    copies: Copies,
    towers: Towers,
    warnings: Vec<Warning>,
}

/// Factories of which others should have a copy of what is stored (S39).
struct Copies {
    /// All of them.
    wanted: usize,
    /// Those of which at least one keeper has all.
    kept: usize,
    /// Those of which two have.
    twice: usize,
    /// Connected peers that keep copies.
    peers: Vec<Value>,
    /// Those in which this node binds itself to nothing before a copy is there.
    waiting: Vec<String>,
    /// Why the backup file takes no copy, of some factory or of any.
    trouble: Option<String>,
}

fn look(engine: &Engine, height: Height, node: &Node) -> Seen {
    let now = clock::now();
    let ceremony = |progress: Progress| {
        let factory = engine.factory(progress.instance)?;
        let mut object = json!({
            "factory_instance": progress.instance.to_string(),
            "role": factory_json::role(factory),
            "state": factory.state(height).name(),
            "attempt": progress.attempt,
            "waiting_for": progress.waiting_for.iter().map(NodeId::to_string).collect::<Vec<_>>(),
            "seconds_left": progress.deadline.saturating_sub(now) / 1000,
        });
        if let (Some(phase), Role::Lsp) = (progress.phase, factory.current.role) {
            object["stage"] = words::waits_for(phase).into();
        }
        Some(object)
    };
    Seen {
        ready: engine.peers().collect(),
        ceremonies: engine.progress().into_iter().filter_map(ceremony).collect(),
        factories: engine.factories().count(),
        height,
        publishing: fees::publishing(engine),
        renewals: engine.renewals(height).map(|renewal| one_renewal(&renewal, height)).collect(),
        leaves: engine.leaves(height).map(|leave| one_leave(&leave)).collect(),
        copies: copies_of(engine),
        towers: towers::look(engine, height),
        warnings: warnings::look(engine, height, node),
    }
}

fn copies_of(engine: &Engine) -> Copies {
    let all = engine.worth_keeping();
    let kept: Vec<_> = all.iter().filter_map(|instance| Some((*instance, engine.kept(*instance)?))).collect();
    let by = |least: usize| kept.iter().filter(|(_, kept)| kept.keepers.len() >= least).count();
    let has = |keeper: Keeper| kept.iter().filter(|(_, kept)| kept.keepers.contains(&keeper)).count();
    let peer = |keeper: NodeId| {
        let mut object = json!({"id": keeper.to_string(), "copied": has(Keeper::Peer(keeper))});
        if let Some(why) = engine.keeper_trouble(Keeper::Peer(keeper)) {
            object["trouble"] = why.into();
        }
        object
    };
    Copies {
        wanted: all.len(),
        kept: by(1),
        twice: by(2),
        waiting: kept.iter().filter(|(_, kept)| kept.waits).map(|(of, _)| of.to_string()).collect(),
        peers: engine.keeping_peers().map(peer).collect(),
        trouble: engine.keeper_trouble(Keeper::File).map(str::to_owned),
    }
}

fn copies(state: &State, copies: Copies) -> Value {
    let mut object = json!({
        "factories": copies.wanted,
        "copied": copies.kept,
        "copied_twice": copies.twice,
        "waiting": copies.waiting,
        "peers": copies.peers,
    });
    if let Some(backup) = &state.backup {
        object["file"] = backup.path().display().to_string().into();
        if let Some(why) = copies.trouble {
            object["trouble"] = why.into();
        }
    }
    if copies.kept < copies.wanted {
        object["next"] =
            "nobody has a copy of some: name a file on another disk (factory-backup-file), or connect to \
                          their operators"
                .into();
    } else if copies.twice < copies.wanted {
        object["next"] =
            "some have one keeper alone: name a file on another disk (factory-backup-file), or a peer that \
                          serves (factory-keeper)"
                .into();
    }
    object
}

/// Where the renewal of a factory is, what it waits for, by which height, and what failed last.
fn one_renewal(renewal: &Renewal, height: Height) -> Value {
    let mut object = json!({
        "factory_instance": renewal.instance.to_string(),
        "lsp": renewal.lsp.to_string(),
        "connected": renewal.connected,
        "stage": renewal.stage.name(),
        "waits_for": renewal.stage.to_string(),
        "since_block": renewal.due,
        "by_block": renewal.by,
        "blocks_left": renewal.by.saturating_sub(height),
        "level": words::level(renewal.urgency(height)),
        "advice": renewal.advice(),
        "otherwise": renewal.otherwise(),
    });
    if let Some(next) = renewal.stage.next() {
        object["next_factory_instance"] = next.to_string().into();
    }
    if let Some(price_msat) = renewal.price_msat {
        object["price_msat"] = price_msat.into();
    }
    let failure = |failed: &Failure| json!({"block": failed.height, "message": failed.what});
    if let Some(failed) = &renewal.failed {
        object["failed"] = failure(failed);
        object["failures"] = renewal.failures.iter().map(failure).collect();
    }
    object
}

/// How far leaving a factory is, and what it waits for.
fn one_leave(leave: &Leave) -> Value {
    let mut object = json!({
        "factory_instance": leave.instance.to_string(),
        "lsp": leave.lsp.to_string(),
        "connected": leave.connected,
        "stage": leave.stage.name(),
        "waits_for": leave.stage.to_string(),
        "since_block": leave.since,
        "price_msat": leave.price_msat,
    });
    if let Some(to) = leave.to {
        object["channel_id"] = to.to_string().into();
    }
    if let Some(failed) = &leave.failed {
        object["failed"] = json!({"block": failed.height, "message": failed.what});
    }
    object
}
