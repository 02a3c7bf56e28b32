//! `factory-create`.

use std::collections::BTreeSet;
use std::time::Duration;

use factory_engine::report::counting::counted;
use factory_engine::types::{Amount, InstanceId, NodeId};
use factory_engine::{
    Answer, Command as EngineCommand, Create, Engine, Factory, Input, State as FactoryState, fees,
};
use factory_runtime::Transition;
use serde_json::{Value, json};
use tokio::sync::broadcast;

use super::super::error::{BAD_CLIENT, CANNOT_AFFORD, NOT_CREATED, RpcError};
use super::super::params::Params;
use super::super::progress::Reporter;
use super::super::requests::Request;
use super::super::state::State;
use super::super::{peers, wallet};
use super::fees::Reserve;
use super::planning::{Plan, Wishes, client, list, now, plan};
use super::{Command, factory, factory_json};

/// Name, usage and description of `factory-create`.
pub const COMMAND: Command = Command {
    name: "factory-create",
    usage: "clients capacity_sat [stock_sat] [profile] [lifetime_blocks] [dying_blocks] [feerate] [dry_run] \
            [ignore_reserve] [group] [push_msat]",
    description: "Create a channel factory with these clients, a channel of capacity_sat for each; \
                  answers once its funding is broadcast. Clients that are online at the same times share a \
                  sub-factory, unless group=false",
};

const NAMES: &[&str] = &[
    "clients",
    "capacity_sat",
    "stock_sat",
    "profile",
    "lifetime_blocks",
    "dying_blocks",
    "feerate",
    "dry_run",
    "ignore_reserve",
    "group",
    "push_msat",
];

/// What to do when there is no factory.
const AGAIN: &str =
    "nothing went on chain: mend that, or leave out whom it is about, and call factory-create again";

/// Looked at without a change of state after this long: clients answer in between.
const POLL: Duration = Duration::from_millis(250);

/// Creates a factory; answers once its funding is broadcast, or creation has failed.
pub async fn call(state: State, request: Request) -> Result<Value, RpcError> {
    let mut params = Params::new(NAMES, &request.params)?;
    let clients: Value = params.required("clients")?;
    let capacity: Option<Amount> = params.optional("capacity_sat")?;
    let clients: Vec<(NodeId, Amount)> =
        list(clients)?.iter().map(|value| client(value, capacity)).collect::<Result<_, _>>()?;
    let wishes = Wishes::parse(&state, &mut params).await?;
    let dry_run = params.optional("dry_run")?.unwrap_or(false);
    let ignore_reserve = params.optional("ignore_reserve")?.unwrap_or(false);

    let now = now(&state, &clients, &wishes).await?;
    let plan = plan(state.me, &now, clients, &state.online.get(), &wishes)?;
    check_clients(&state, &plan.create).await?;
    let wallet = check_wallet(&state, &plan).await?;
    let reserve = reserve_after(&state, &plan).await?;
    if dry_run {
        let mut answer = plan.json();
        answer["wallet_sat"] = wallet.to_sat().into();
        answer["reserve"] = reserve.sums();
        return Ok(answer);
    }
    if !ignore_reserve && !reserve.is_paid_for() {
        return Err(beyond_reserve(&reserve));
    }

    // Listen before anything can happen.
    let transitions = state.runtime.transitions();
    let command = EngineCommand::Create(plan.create);
    let Answer::Created(instance) = state.runtime.ask(Input::Command(command)).await? else {
        return Err(RpcError::internal(COMMAND.name));
    };
    let reporter = Reporter::new(state.outbox.clone(), request.id);
    funded(&state, instance, transitions, reporter).await?;
    let (factory, height) = factory(&state, instance).await?;
    Ok(json!({"factory": factory_json::factory(&factory, &state.as_ref().into(), height)}))
}

/// Every client that can't take part is named at once.
async fn check_clients(state: &State, create: &Create) -> Result<(), RpcError> {
    let connected = peers::connected(&state.rpc, None).await?;
    let mut problems = Vec::new();
    let mut seen = BTreeSet::new();
    for (node, _) in &create.clients {
        let peer = connected.iter().find(|peer| peer.id == *node);
        if *node == state.me {
            problems.push(format!("{node} is this node itself"));
        } else if !seen.insert(*node) {
            problems.push(format!("{node} is named twice"));
        } else if peer.is_none() {
            problems.push(format!("{node} is not connected"));
        } else if peer.is_some_and(|peer| !peer.supports) {
            problems.push(format!("{node} has no factory plugin: it sets neither feature bit 270 nor 271"));
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(RpcError::new(
        BAD_CLIENT,
        problems.join("; "),
        "connect to those that are away, and leave others out",
    ))
}

async fn check_wallet(state: &State, plan: &Plan) -> Result<Amount, RpcError> {
    let kept = state.kept.script().await?;
    let have = wallet::spendable(&state.rpc, kept.as_ref()).await?;
    let need = plan.layout.funding_value();
    if have <= need {
        return Err(RpcError::new(
            CANNOT_AFFORD,
            format!(
                "the factory needs {} sat and a fee, the wallet has {} sat that are confirmed and free",
                need.to_sat(),
                have.to_sat()
            ),
            "send it more (newaddr), or wait until what it has is confirmed and free (listfunds)",
        ));
    }
    Ok(have)
}

/// What an exit of everything would take, with this factory, and what would be left in the wallet.
async fn reserve_after(state: &State, plan: &Plan) -> Result<Reserve, RpcError> {
    let mut reserve = Reserve::soon(state).await?;
    let layout = &plan.layout;
    let nodes = (0u32..).zip(layout.nodes()).map(|(node, _)| node);
    let new = fees::reserve(layout, nodes, reserve.feerate);
    let add = |sum: Amount, more: Amount| sum.checked_add(more).unwrap_or(Amount::MAX_MONEY);
    reserve.needed = [reserve.needed, new].into_iter().fold(Amount::ZERO, add);
    let capacities = plan.create.clients.iter().map(|(_, capacity)| *capacity);
    reserve.channels = capacities
        .map(|capacity| fees::channel_reserve(capacity, reserve.feerate))
        .fold(reserve.channels, add);
    reserve.wallet = reserve.wallet.checked_sub(layout.funding_value()).unwrap_or(Amount::ZERO);
    Ok(reserve)
}

fn beyond_reserve(reserve: &Reserve) -> RpcError {
    let text = format!(
        "{} sat would be left in the wallet; to leave every factory at {} sat/kw and settle its channels takes {} \
         sat in fees",
        reserve.wallet.to_sat(),
        reserve.feerate,
        reserve.all().to_sat()
    );
    RpcError::new(
        CANNOT_AFFORD,
        text,
        "add to the wallet, lower factory-reserve-feerate, or say ignore_reserve=true",
    )
}

/// Waits until the funding is released, or creation has failed.
async fn funded(
    state: &State,
    instance: InstanceId,
    mut transitions: broadcast::Receiver<Transition>,
    mut reporter: Reporter,
) -> Result<(), RpcError> {
    reporter.say(&format!("factory {instance}"));
    let mut left_out = 0;
    loop {
        let look = move |engine: &Engine, height| {
            let factory = engine.factory(instance)?;
            Some((factory.state(height), factory.left_out.clone(), engine.progress_of(instance)))
        };
        // A factory that was forgotten had failed.
        let Some((reached, without, progress)) = state.runtime.read(look).await? else {
            return Err(RpcError::new(NOT_CREATED, format!("factory {instance} was not created"), AGAIN));
        };
        for (node, reason) in without.iter().skip(left_out) {
            reporter.say(&format!("{node} is left out: {reason}"));
        }
        left_out = without.len();
        if let Some(progress) = progress
            && reporter.show(&progress)
        {
            let clients = counted(progress.of, "client");
            reporter.say(&format!("attempt {} with {clients}", progress.attempt));
        }
        match reached {
            FactoryState::Aborted | FactoryState::Declined => {
                let (factory, _) = factory(state, instance).await?;
                return Err(not_created(&factory));
            }
            reached if !reached.is_creating() => {
                reporter.finish();
                return Ok(());
            }
            _ => {}
        }
        // Whatever it is that comes, or if nothing does: look again.
        let _ = tokio::time::timeout(POLL, transitions.recv()).await;
    }
}

fn not_created(factory: &Factory) -> RpcError {
    let mut text = format!("factory {} was not created", factory.instance);
    if let Some(failure) = factory.failure() {
        text = format!("{text}: {failure}");
    }
    for (node, reason) in &factory.left_out {
        text = format!("{text}; {node} was left out: {reason}");
    }
    RpcError::new(NOT_CREATED, text, AGAIN)
}
