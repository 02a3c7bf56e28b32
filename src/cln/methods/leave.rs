//! `factory-leave`.

use std::time::Duration;

use factory_engine::types::InstanceId;
use factory_engine::{Command as EngineCommand, Engine, Input, LeavePlan, Role};
use serde_json::{Value, json};

use super::super::balances;
use super::super::error::{NOT_LEFT, RpcError};
use super::super::params::Params;
use super::super::state::State;
use super::{Command, factory, ways};

/// Name, usage and description of `factory-leave`.
pub const COMMAND: Command = Command {
    name: "factory-leave",
    usage: "factory_instance [dry_run] [max_price_msat]",
    description: "Leave a channel factory with its operator's help: this node's balance goes to an ordinary channel \
                  with it, one that is there or one that the operator opens, and its key to the operator. dry_run \
                  shows what that costs beside factory-exit. A channel that costs more than max_price_msat is \
                  refused: without it, whatever isn't free",
};

/// What to do without the operator.
const OTHERWISE: &str = "nothing has changed: try again (dry_run=true shows what it costs), or leave by \
                         factory-exit, which needs nobody";

/// Between two looks at what has become of it.
const PAUSE: Duration = Duration::from_millis(100);

/// Begins to leave, or shows what it would take; answers once there is a channel to go to, or why there is none. All
/// that follows goes on by itself.
pub async fn call(state: State, params: Value) -> Result<Value, RpcError> {
    let mut params = Params::new(&["factory_instance", "dry_run", "max_price_msat"], &params)?;
    let instance: InstanceId = params.required("factory_instance")?;
    let dry_run = params.optional("dry_run")?.unwrap_or(false);
    let max_price_msat: u64 = params.optional("max_price_msat")?.unwrap_or(0);
    let (known, _) = factory(&state, instance).await?;
    if let Role::Client { lsp, .. } = known.current.role {
        let list = balances::read(&state.rpc, lsp).await?;
        state.runtime.ask(Input::Balances(list)).await?;
    }
    let plan = plan(&state, instance).await?;
    if dry_run {
        let plan = match plan.amount {
            Some(_) => priced(&state, instance).await?,
            None => plan,
        };
        return answer(&state, instance, &plan, true).await;
    }
    state.runtime.ask(Input::Command(EngineCommand::Leave { instance, max_price_msat })).await?;
    wait_for_channel(&state, instance).await?;
    answer(&state, instance, &plan, false).await
}

async fn plan(state: &State, instance: InstanceId) -> Result<LeavePlan, RpcError> {
    Ok(state.runtime.read(move |engine, height| engine.plan_leave(instance, height)).await??)
}

/// With what the operator asks for a channel.
async fn priced(state: &State, instance: InstanceId) -> Result<LeavePlan, RpcError> {
    state.runtime.ask(Input::Command(EngineCommand::AskLeave { instance })).await?;
    let patience = Duration::from_millis(state.config.ceremony_timeout);
    let answered = async {
        loop {
            let plan = plan(state, instance).await?;
            if plan.priced.as_ref().is_none_or(|priced| priced.answer.is_some()) {
                return Ok(plan);
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    let silent = || RpcError::new(NOT_LEFT, "the operator didn't answer in time", OTHERWISE);
    tokio::time::timeout(patience, answered).await.unwrap_or_else(|_| Err(silent()))
}

/// What has become of what was asked for.
enum Outcome {
    Waiting,
    Begun,
    Refused(String),
}

fn outcome(engine: &Engine, instance: InstanceId) -> Outcome {
    let Some(factory) = engine.factory(instance) else { return Outcome::Begun };
    match (factory.leaves.wish(), factory.leaves.over()) {
        (Some(wish), _) if wish.to.is_some() || factory.has_left() => Outcome::Begun,
        (Some(_), _) => Outcome::Waiting,
        (None, Some((_, reason))) => Outcome::Refused(reason.to_owned()),
        (None, None) => Outcome::Begun,
    }
}

/// Until the operator has opened a channel, or says that it doesn't. Otherwise it goes on by itself.
async fn wait_for_channel(state: &State, instance: InstanceId) -> Result<(), RpcError> {
    let patience = Duration::from_millis(state.config.ceremony_timeout);
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < patience {
        match state.runtime.read(move |engine, _| outcome(engine, instance)).await? {
            Outcome::Waiting => tokio::time::sleep(PAUSE).await,
            Outcome::Begun => break,
            Outcome::Refused(reason) => return Err(RpcError::new(NOT_LEFT, reason, OTHERWISE)),
        }
    }
    Ok(())
}

async fn answer(
    state: &State,
    instance: InstanceId,
    plan: &LeavePlan,
    dry_run: bool,
) -> Result<Value, RpcError> {
    let (factory, height) = factory(state, instance).await?;
    let mut object = json!({
        "factory_instance": instance.to_string(),
        "dry_run": dry_run,
        "ways": ways::both(&factory, Ok(plan), height, &state.config),
    });
    let leave = state.runtime.read(move |engine, height| {
        engine.factory(instance).and_then(|factory| engine.leave(factory, height))
    });
    if let Some(leave) = leave.await?.filter(|_| !dry_run) {
        object["stage"] = leave.stage.name().into();
        object["waits_for"] = leave.stage.to_string().into();
        object["price_msat"] = leave.price_msat.into();
        if let Some(to) = leave.to {
            object["channel_id"] = to.to_string().into();
        }
    }
    Ok(object)
}
