//! `factory-ladder`.

mod preview;

use factory_engine::ladder::decide::{Decision, Due};
use factory_engine::types::Height;
use factory_engine::{Engine, Factory, Ladder, LadderStanding, State as FactoryState};
use serde_json::{Value, json};

use super::super::error::{RpcError, WRONG_STATE};
use super::super::params::{Parameter, Params};
use super::super::state::State;
use super::Command;
use super::planning::parse_feerate;

/// Name, usage and description of `factory-ladder`.
pub const COMMAND: Command = Command {
    name: "factory-ladder",
    usage: "[command] [rung_blocks] [rungs] [lifetime_blocks] [dying_blocks] [smallest] [largest] [enough_percent] \
            [wait_blocks] [fill_percent] [max_capacity_sat] [stock_sat] [feerate] [dry_run] [clients] \
            [capacity_sat]",
    description: "Show or set the schedule by which this node, as operator, renews its factories by itself: command \
                  is show, set, pause, resume or stop; dry_run shows what a schedule takes, and changes nothing",
};

const NAMES: &[&str] = &[
    "command",
    "rung_blocks",
    "rungs",
    "lifetime_blocks",
    "dying_blocks",
    "smallest",
    "largest",
    "enough_percent",
    "wait_blocks",
    "fill_percent",
    "max_capacity_sat",
    "stock_sat",
    "feerate",
    "dry_run",
    "clients",
    "capacity_sat",
];

/// What is to be done with the ladder.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Show,
    Set,
    Pause,
    Resume,
    Stop,
}

impl Parameter for What {
    const EXPECTED: &'static str = "'show', 'set', 'pause', 'resume' or 'stop'";

    fn parse(value: &Value) -> Option<Self> {
        Some(match value.as_str()? {
            "show" => Self::Show,
            "set" => Self::Set,
            "pause" => Self::Pause,
            "resume" => Self::Resume,
            "stop" => Self::Stop,
            _ => return None,
        })
    }
}

/// A share, as a parameter.
struct Percent(u8);

impl Parameter for Percent {
    const EXPECTED: &'static str = "an integer from 1 to 100";

    fn parse(value: &Value) -> Option<Self> {
        let percent = u32::parse(value)?;
        u8::try_from(percent).ok().filter(|percent| (1..=100).contains(percent)).map(Self)
    }
}

/// Shows the ladder, or changes it; with a preview where it is set.
pub async fn call(state: State, params: Value) -> Result<Value, RpcError> {
    let mut params = Params::new(NAMES, &params)?;
    let what: What = params.optional("command")?.unwrap_or(What::Show);
    let now = state.runtime.read(|engine, _| engine.ladder()).await?;
    if what == What::Set {
        let dry_run = params.optional("dry_run")?.unwrap_or(false);
        let supposed = preview::Supposed::parse(&mut params)?;
        if supposed.is_some() && !dry_run {
            return Err(RpcError::parameter(
                "clients: a ladder renews the factories that there are; suppose others with dry_run=true alone",
            ));
        }
        let ladder = wanted(&state, now, &mut params).await?;
        let preview = preview::preview(&state, ladder, supposed).await?;
        if !dry_run {
            state.runtime.set_ladder(Some(ladder)).await?;
        }
        let mut answer = if dry_run { settings(&ladder) } else { standing(&state).await? };
        answer["preview"] = preview;
        return Ok(answer);
    }
    if let Some(name) = params.left() {
        return Err(RpcError::parameter(format!("{name}: it goes with factory-ladder set alone")));
    }
    let paused = match what {
        What::Show | What::Set => None,
        What::Pause => Some(true),
        What::Resume => Some(false),
        What::Stop => {
            state.runtime.set_ladder(None).await?;
            None
        }
    };
    if let Some(paused) = paused {
        let none = || RpcError::new(WRONG_STATE, "no ladder is set", "factory-ladder set begins one");
        let ladder = Ladder { paused, ..now.ok_or_else(none)? };
        state.runtime.set_ladder(Some(ladder)).await?;
    }
    standing(&state).await
}

/// The ladder that is asked for: what isn't given stays as it is.
async fn wanted(state: &State, now: Option<Ladder>, params: &mut Params) -> Result<Ladder, RpcError> {
    let before = now.unwrap_or_default();
    let mut ladder = before;
    let number = |params: &mut Params, name: &str, to: &mut u32| -> Result<(), RpcError> {
        *to = params.optional(name)?.unwrap_or(*to);
        Ok(())
    };
    number(params, "lifetime_blocks", &mut ladder.lifetime_blocks)?;
    number(params, "dying_blocks", &mut ladder.dying_blocks)?;
    number(params, "smallest", &mut ladder.smallest)?;
    number(params, "largest", &mut ladder.largest)?;
    let rungs: Option<u32> = params.optional("rungs")?;
    let rung_blocks: Option<u32> = params.optional("rung_blocks")?;
    ladder.rung_blocks = match (rung_blocks, rungs) {
        (Some(_), Some(_)) => return Err(RpcError::parameter("rungs: give it, or rung_blocks, not both")),
        (Some(blocks), None) => blocks,
        (None, Some(rungs)) => ladder.lifetime_blocks.checked_div(rungs).unwrap_or(0),
        (None, None) => before.rung_blocks,
    };
    let same = ladder.rung_blocks == before.rung_blocks;
    let wait_blocks = if same { before.wait_blocks } else { ladder.rung_blocks / 2 };
    ladder.wait_blocks = params.optional("wait_blocks")?.unwrap_or(wait_blocks);
    let percent = |given: Option<Percent>, before: u8| given.map_or(before, |Percent(percent)| percent);
    ladder.enough_percent = percent(params.optional("enough_percent")?, before.enough_percent);
    ladder.fill_percent = percent(params.optional("fill_percent")?, before.fill_percent);
    ladder.max_capacity = params.optional("max_capacity_sat")?.unwrap_or(before.max_capacity);
    ladder.stock = params.optional("stock_sat")?.unwrap_or(before.stock);
    ladder.tree_feerate = match params.optional::<Value>("feerate")? {
        None => before.tree_feerate,
        Some(feerate) if feerate == "auto" => None,
        Some(feerate) => Some(parse_feerate(state, &feerate).await?),
    };
    if now.is_none() || !same {
        let height = state.runtime.read(|_, height| height).await?;
        ladder.begins = height.saturating_add(1);
    }
    ladder.check().map_err(|error| RpcError::parameter(error.to_string()))?;
    Ok(ladder)
}

/// A ladder's settings.
fn settings(ladder: &Ladder) -> Value {
    let mut object = json!({
        "state": if ladder.paused { "paused" } else { "running" },
        "rung_blocks": ladder.rung_blocks,
        "rungs": ladder.lifetime_blocks.checked_div(ladder.rung_blocks),
        "lifetime_blocks": ladder.lifetime_blocks,
        "dying_blocks": ladder.dying_blocks,
        "smallest": ladder.smallest,
        "largest": ladder.largest,
        "enough_percent": ladder.enough_percent,
        "wait_blocks": ladder.wait_blocks,
        "fill_percent": ladder.fill_percent,
        "max_capacity_sat": ladder.max_capacity.to_sat(),
        "stock_sat": ladder.stock.to_sat(),
        "begins_block": ladder.begins,
    });
    if let Some(feerate) = ladder.tree_feerate {
        object["feerate_perkw"] = feerate.into();
    }
    object
}

/// How the ladder stands now.
pub async fn standing(state: &State) -> Result<Value, RpcError> {
    let now = factory_runtime::now();
    let look = move |engine: &Engine, height: Height| {
        let rungs: Vec<Value> = engine.factories().filter_map(|factory| rung(factory, height)).collect();
        let standing = engine.ladder_standing(height, now);
        let due: Vec<Value> = standing.due.iter().map(|client| due(engine, client)).collect();
        (engine.ladder(), standing, due, rungs)
    };
    let (ladder, standing, due, factories) = state.runtime.read(look).await?;
    let Some(ladder) = ladder else {
        return Ok(json!({"state": "none", "factories": factories, "next_action": "factory-ladder set"}));
    };
    let mut object = settings(&ladder);
    object["factories"] = factories.into();
    object["due"] = due.into();
    object["next_action"] = next_action(&standing).into();
    if let Some(rung) = standing.rung {
        object["rung"] = json!({
            "number": rung.number,
            "opens_block": rung.opens,
            "latest_block": rung.latest,
            "next_block": rung.ends,
            "factories": standing.made.factories,
            "failed": standing.made.failed,
        });
    }
    if let Some((height, reason)) = standing.refused {
        object["failed"] = json!({"block": height, "reason": reason});
    }
    Ok(object)
}

fn next_action(standing: &LadderStanding) -> String {
    match &standing.decision {
        Decision::Begin(clients) => {
            format!("a factory of {} clients begins at the next block", clients.len())
        }
        Decision::Wait(wait) => wait.to_string(),
    }
}

fn due(engine: &Engine, due: &Due) -> Value {
    let mut object = json!({
        "id": due.node.to_string(),
        "factory_instance": due.instance.to_string(),
        "evicted": due.was_evicted(),
        "connected": due.here,
        "capacity_sat": due.next.to_sat(),
    });
    if !due.was_evicted() {
        object["by_block"] = due.by.into();
        object["last_block"] = due.last.into();
    }
    let factory = engine.factory(due.instance);
    if let Some(woken) = factory.and_then(|factory| factory.woken.get(&factory.client_of(due.node)?)) {
        object["woken_block"] = (*woken).into();
    }
    object
}

/// A factory that the ladder has begun.
fn rung(factory: &Factory, height: Height) -> Option<Value> {
    let rung = factory.rung?;
    let terms = &factory.current.terms;
    let handed_over = (0..terms.clients()).filter(|client| factory.has_handed_over(*client)).count();
    let state: FactoryState = factory.state(height);
    Some(json!({
        "factory_instance": factory.instance.to_string(),
        "rung": rung.number,
        "state": state.name(),
        "clients": terms.clients(),
        "handed_over": handed_over,
        "due_block": terms.timeout_height.saturating_sub(terms.dying_blocks),
        "timeout_block": terms.timeout_height,
        "funding_sat": factory.current.layout.funding_value().to_sat(),
    }))
}
