//! What the page shows, in one JSON: what the commands answer, by what answers them, and of lightningd what they rest on.
//! Nothing is counted here, and nothing changed.

use std::cmp::Reverse;

use factory_engine::types::{Height, InstanceId};
use factory_engine::{Engine, Factory, State as FactoryState};
use serde_json::{Map, Value, json};

use crate::cln::client::Call;
use crate::cln::error::RpcError;
use crate::cln::methods::{self, exit, ladder, list, show, status};
use crate::cln::state::State;

use super::channels::Balances;
use super::names::{self, Names};

/// Factories that are shown, and about how many bytes of them; the first always is.
const FACTORIES: usize = 64;
const LIST_BYTES: usize = 2_000_000;
/// Trees that are shown, and about how many bytes of them; the first one may have as many as the list.
const TREES: usize = 8;
const TREE_BYTES: usize = 1_000_000;
/// Entries of each list in what says how the node stands.
const ENTRIES: usize = 200;
/// What is another at each look, although nothing has happened.
const AGES: [&str; 2] = ["seconds_left", "seconds_old"];

/// What is remembered from one look to the next.
#[derive(Debug, Default)]
pub struct Looks {
    balances: Balances,
    names: Names,
}

impl Looks {
    /// All that is shown, as of now.
    pub async fn look(&mut self, state: &State) -> Result<Value, RpcError> {
        let info = state.rpc.call("getinfo", json!({})).await?;
        let mut status = status::now(state).await?;
        let seen = match see(state).await {
            Ok(seen) => seen,
            // It says why.
            Err(_) if status["available"] != true => Seen::default(),
            Err(error) => return Err(error),
        };
        let mut ladder = ladder::standing(state).await.unwrap_or(Value::Null);
        let channels = self.balances.look(&state.rpc, &status["peers"], &seen.factories).await;
        let aliases = self.names.look(&state.rpc, &seen.factories).await;
        let mut left_out = Map::new();
        shorten("status", &mut status, &mut left_out);
        shorten("ladder", &mut ladder, &mut left_out);
        let mut shown = json!({
            "node_id": state.me.to_string(),
            "alias": names::shown(info["alias"].as_str().unwrap_or_default()),
            "blockheight": info["blockheight"],
            "version": env!("CARGO_PKG_VERSION"),
            "factories_left_out": seen.factories_left_out,
            "trees_left_out": seen.trees_left_out,
        });
        // Large ones, which the macro would copy.
        shown["status"] = status;
        shown["ladder"] = ladder;
        shown["factories"] = seen.factories.into();
        shown["trees"] = seen.trees.into();
        shown["exits"] = seen.exits.into();
        shown["channels"] = channels.into();
        shown["aliases"] = aliases.into();
        shown["left_out"] = left_out.into();
        if !seen.unreadable.is_empty() {
            shown["unreadable"] = seen.unreadable.into();
        }
        Ok(shown)
    }
}

/// What is shown, without what only ages: as long as this is the same nothing is new.
pub fn lasting(mut shown: Value) -> Value {
    forget_ages(&mut shown);
    shown
}

fn forget_ages(shown: &mut Value) {
    match shown {
        Value::Object(object) => {
            for age in AGES {
                object.remove(age);
            }
            object.values_mut().for_each(forget_ages);
        }
        Value::Array(list) => list.iter_mut().for_each(forget_ages),
        _ => {}
    }
}

/// What there is to see of factories.
#[derive(Debug, Default)]
struct Seen {
    factories: Vec<Value>,
    factories_left_out: usize,
    unreadable: Vec<Value>,
    trees: Map<String, Value>,
    trees_left_out: usize,
    exits: Map<String, Value>,
}

/// One after the other: the engine does other things in between.
async fn see(state: &State) -> Result<Seen, RpcError> {
    let chosen = state.runtime.read(choose).await?;
    let mut seen = Seen::default();
    let mut bytes: usize = 0;
    for Chosen { instance, .. } in chosen.iter().take(FACTORIES) {
        // One that has gone meanwhile is missing at the next look, too.
        let Ok(mut answer) = list::shown(state, Some(*instance), None).await else { continue };
        let size = length(&answer["factories"]);
        if bytes > 0 && bytes.saturating_add(size) > LIST_BYTES {
            break;
        }
        bytes = bytes.saturating_add(size);
        seen.factories.extend(taken(&mut answer["factories"]));
        seen.unreadable.extend(taken(&mut answer["unreadable"]));
    }
    let shown = seen.factories.len().saturating_add(seen.unreadable.len());
    seen.factories_left_out = chosen.len().saturating_sub(shown);
    let living: Vec<InstanceId> =
        chosen.iter().filter(|chosen| chosen.lives).map(|chosen| chosen.instance).collect();
    let mut bytes: usize = 0;
    for instance in living.iter().take(TREES) {
        let Ok((factory, height)) = methods::factory(state, *instance).await else { continue };
        let tree = show::tree(&factory, state, height);
        let size = length(&tree);
        let most = if bytes > 0 { TREE_BYTES } else { LIST_BYTES };
        bytes = bytes.saturating_add(size);
        if bytes > most {
            break;
        }
        seen.trees.insert(instance.to_string(), tree);
        // Of those that can be left, and others have none.
        if let Ok(exit) = exit::shown(&factory, height, true) {
            seen.exits.insert(instance.to_string(), exit);
        }
    }
    seen.trees_left_out = living.len().saturating_sub(seen.trees.len());
    Ok(seen)
}

/// A factory that may be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Chosen {
    instance: InstanceId,
    /// Whether it isn't over.
    lives: bool,
}

/// All of them, the most urgent first.
fn choose(engine: &Engine, height: Height) -> Vec<Chosen> {
    let unreadable = engine.unreadable().map(|(instance, _)| Chosen { instance, lives: false });
    let mut ranked: Vec<_> =
        engine.factories().map(|factory| (rank(engine, factory, height), factory.instance)).collect();
    ranked.sort_unstable();
    let rest =
        ranked.into_iter().map(|((rank, ..), instance)| Chosen { instance, lives: rank != Rank::Over });
    unreadable.chain(rest).collect()
}

/// How soon somebody should look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// Something is wrong, or has to be done, or is being done.
    Urgent,
    /// It is being created.
    Coming,
    /// It has time.
    InUse,
    Over,
}

/// And within that which block comes first, and of two the one that began later.
type Place = (Rank, Height, Reverse<Option<Height>>);

fn rank(engine: &Engine, factory: &Factory, height: Height) -> Place {
    let state = factory.state(height);
    let born = Reverse(factory.birth);
    let htlc = engine.urgent_htlcs(factory, height).first().map(|htlc| htlc.exit_block);
    let damaged = factory.damage().map(|_| 0);
    let block = [htlc, damaged, factory.deadline(height)].into_iter().flatten().min();
    let block = block.unwrap_or(factory.current.terms.timeout_height);
    let ends = matches!(state, FactoryState::Dying | FactoryState::Exiting | FactoryState::Closing);
    if htlc.is_some() || damaged.is_some() || ends {
        (Rank::Urgent, block, born)
    } else if state <= FactoryState::Funding {
        (Rank::Coming, 0, born)
    } else if state < FactoryState::Left {
        (Rank::InUse, block, born)
    } else {
        (Rank::Over, 0, born)
    }
}

fn taken(list: &mut Value) -> Vec<Value> {
    match list.take() {
        Value::Array(list) => list,
        _ => vec![],
    }
}

fn length(value: &Value) -> usize {
    value.to_string().len()
}

/// Long lists end early, and it is said by how much.
fn shorten(name: &str, object: &mut Value, left_out: &mut Map<String, Value>) {
    let Some(object) = object.as_object_mut() else { return };
    for (key, value) in object {
        let Some(list) = value.as_array_mut().filter(|list| list.len() > ENTRIES) else { continue };
        let more = list.len().saturating_sub(ENTRIES);
        list.truncate(ENTRIES);
        left_out.insert(format!("{name}.{key}"), more.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_ages_does_not_last() {
        let at = |seconds: u32, blockheight: u32| {
            json!({
                "blockheight": blockheight,
                "status": {"ceremonies": [{"seconds_left": seconds}], "feerates": {"seconds_old": seconds}},
                "factories": [{"held_htlcs": [{"amount_msat": 5, "seconds_left": seconds}]}],
            })
        };
        assert_eq!(lasting(at(1, 100)), lasting(at(2, 100)));
        assert_ne!(lasting(at(1, 100)), lasting(at(1, 101)));
        assert_eq!(lasting(at(1, 100))["factories"], json!([{"held_htlcs": [{"amount_msat": 5}]}]));
    }

    #[test]
    fn long_lists_end_early_and_it_is_said() {
        let list: Vec<usize> = (0..ENTRIES + 3).collect();
        let mut status = json!({"peers": list, "warnings": [1], "factories": 7});
        let mut left_out = Map::new();
        shorten("status", &mut status, &mut left_out);
        assert_eq!(status["peers"].as_array().unwrap().len(), ENTRIES);
        assert_eq!((&status["warnings"], &status["factories"]), (&json!([1]), &json!(7)));
        assert_eq!(Value::from(left_out), json!({"status.peers": 3}));
        let mut nothing = Value::Null;
        shorten("ladder", &mut nothing, &mut Map::new());
        assert_eq!(nothing, Value::Null);
    }

    #[test]
    fn what_is_urgent_comes_first() {
        let order: [Place; 6] = [
            (Rank::Urgent, 100, Reverse(Some(1))),
            (Rank::Urgent, 200, Reverse(None)),
            (Rank::Coming, 0, Reverse(Some(8))),
            (Rank::Coming, 0, Reverse(Some(5))),
            (Rank::InUse, 150, Reverse(Some(4))),
            (Rank::Over, 0, Reverse(Some(9))),
        ];
        let mut sorted = order;
        sorted.reverse();
        sorted.sort_unstable();
        assert_eq!(sorted, order);
    }
}
