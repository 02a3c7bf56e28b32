//! `factory-move`.

use std::time::Duration;

use factory_engine::types::{ChannelId, InstanceId};
use factory_engine::{CannotMove, Command as EngineCommand, Engine, Input, MovePlan, Refusal};
use serde_json::{Value, json};

use super::super::balances;
use super::super::error::{NOT_MOVED, RpcError};
use super::super::params::Params;
use super::super::state::State;
use super::Command;

/// Name, usage and description of `factory-move`.
pub const COMMAND: Command = Command {
    name: "factory-move",
    usage: "from to [amount_msat] [dry_run]",
    description: "Move this node's balance from one of its channels with a factory's operator to another, \
                  factories' or ordinary ones, at no cost. Without amount_msat all that can go. dry_run shows what \
                  it would take",
};

/// What to do when nothing has moved.
const AGAIN: &str = "nothing has moved: dry_run=true shows what can go now";

/// Between two looks at what has become of it.
const PAUSE: Duration = Duration::from_millis(50);
/// After so long it answers, whatever is missing: the move goes on by itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// Moves a balance; answers once it is there, or what it waits for.
pub async fn call(state: State, params: Value) -> Result<Value, RpcError> {
    let mut params = Params::new(&["from", "to", "amount_msat", "dry_run"], &params)?;
    let from: String = params.required("from")?;
    let to: String = params.required("to")?;
    let amount_msat: Option<u64> = params.optional("amount_msat")?;
    let dry_run = params.optional("dry_run")?.unwrap_or(false);
    let (from, to) = (channel(&state, "from", &from).await?, channel(&state, "to", &to).await?);
    look(&state, &[from, to]).await?;
    let plan = move |engine: &Engine, height| engine.plan_move(from, to, amount_msat, height);
    let instance = match state.runtime.read(plan).await? {
        Ok(plan) if dry_run => return Ok(planned(from, to, &plan)),
        Ok(plan) => {
            state.runtime.ask(Input::Command(EngineCommand::Move { from, to, amount_msat })).await?;
            plan.instance
        }
        // Asked for again, after a stop or by somebody else: what becomes of it is the answer to both.
        Err(CannotMove::UnderWay { from: other, to: there }) if (other, there) == (from, to) && !dry_run => {
            let kept = move |engine: &Engine, _| kept(engine, from);
            state.runtime.read(kept).await?.ok_or(Refusal::Move(CannotMove::NoSuchChannel(from)))?
        }
        Err(why) => return Err(Refusal::Move(why).into()),
    };
    let begun = tokio::time::Instant::now();
    loop {
        let patient = begun.elapsed() < PATIENCE;
        let seen = state.runtime.read(move |engine, _| outcome(engine, instance, from, patient)).await?;
        match seen {
            Outcome::Open => tokio::time::sleep(PAUSE).await,
            Outcome::Nothing(reason) => return Err(RpcError::new(NOT_MOVED, reason, AGAIN)),
            Outcome::Answer(mut answer) => {
                answer["from"] = from.to_string().into();
                answer["to"] = to.to_string().into();
                answer["factory_instance"] = instance.to_string().into();
                answer["dry_run"] = dry_run.into();
                return Ok(answer);
            }
        }
    }
}

/// A channel by its id, or by what lightningd calls it here.
pub(super) async fn channel(state: &State, name: &str, text: &str) -> Result<ChannelId, RpcError> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    state.channels.find(&state.rpc, text).await.ok_or_else(|| {
        RpcError::parameter(format!(
            "{name}: should be a channel_id of 64 hex digits, or a short_channel_id or local alias of one of this \
             node's channels: invalid token '{}'",
            text.chars().take(100).collect::<String>()
        ))
    })
}

/// The engine hears what these channels hold now, and all others with their peers.
pub(super) async fn look(state: &State, channels: &[ChannelId]) -> Result<(), RpcError> {
    let mut peers = Vec::new();
    for channel in channels {
        peers.extend(balances::peer_of(&state.rpc, *channel).await?.filter(|peer| !peers.contains(peer)));
    }
    let mut list = Vec::new();
    for peer in peers {
        list.extend(balances::read(&state.rpc, peer).await?);
    }
    state.runtime.ask(Input::Balances(list)).await?;
    Ok(())
}

fn planned(from: ChannelId, to: ChannelId, plan: &MovePlan) -> Value {
    json!({
        "from": from.to_string(),
        "to": to.to_string(),
        "factory_instance": plan.instance.to_string(),
        "state": "planned",
        "amount_msat": plan.amount_msat,
        "parts_msat": plan.parts,
        "fee_msat": 0,
        "stays_msat": plan.stays_msat,
        "limit": plan.limit.name(),
        "blocks": plan.blocks.first.saturating_add(plan.blocks.early),
        "dry_run": true,
    })
}

enum Outcome {
    Open,
    /// Why nothing has moved.
    Nothing(String),
    Answer(Value),
}

fn kept(engine: &Engine, from: ChannelId) -> Option<InstanceId> {
    engine.factories().find(|factory| factory.moves.of(from).is_some()).map(|factory| factory.instance)
}

fn outcome(engine: &Engine, instance: InstanceId, from: ChannelId, patient: bool) -> Outcome {
    let gone = || Outcome::Nothing("the factory is gone".to_owned());
    let Some(factory) = engine.factory(instance) else { return gone() };
    if let Some(open) = factory.moves.of(from) {
        if patient {
            return Outcome::Open;
        }
        let mut answer = json!({"state": "waiting", "moved_msat": open.moved_msat, "htlcs": open.parts});
        if let Some(why) = engine.move_waits_for(from) {
            answer["reason"] = why.into();
        }
        return Outcome::Answer(answer);
    }
    let Some((over, reason)) = factory.moves.last(from) else { return gone() };
    match reason {
        Some(reason) if over.moved_msat == 0 => Outcome::Nothing(reason.to_owned()),
        Some(reason) => Outcome::Answer(json!({
            "state": "short", "moved_msat": over.moved_msat, "htlcs": over.parts, "reason": reason,
        })),
        None => Outcome::Answer(json!({"state": "done", "moved_msat": over.moved_msat, "htlcs": over.parts})),
    }
}
