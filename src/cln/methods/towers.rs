//! Who watches this node's factories while it is off, and whom it watches for: of `factory-status`.

use factory_engine::types::{Height, NodeId};
use factory_engine::{Engine, Factory, Role};
use serde_json::{Value, json};

use super::super::state::State;
use super::warning::Warning;

/// What the engine knows of it.
pub struct Towers {
    /// Of each factory that a connected tower watches.
    watched: Vec<Value>,
    /// Towers that are connected and watch.
    ready: Vec<NodeId>,
    /// Whether there is something to be watched.
    wanted: bool,
    /// Peers that this node watches for.
    watches: Vec<Value>,
}

fn is_ours(factory: &&Factory) -> bool {
    matches!(factory.current.role, Role::Client { .. })
}

/// Looks, at this height.
pub fn look(engine: &Engine, height: Height) -> Towers {
    let (mut watched, mut ready) = (vec![], vec![]);
    for factory in engine.factories().filter(is_ours) {
        for watcher in engine.watchers(factory.instance, height) {
            let mut object = json!({
                "factory_instance": factory.instance.to_string(),
                "id": watcher.peer.to_string(),
                "appointments": watcher.appointments,
                "missing": watcher.missing,
                "blockheight": watcher.height,
                "until_block": watcher.until,
                "pays_msat": watcher.pays_sat.saturating_mul(1_000),
            });
            if let Some(why) = watcher.refused {
                object["trouble"] = why.into();
            }
            watched.push(object);
            if !ready.contains(&watcher.peer) {
                ready.push(watcher.peer);
            }
        }
    }
    let watches = engine.watches().into_iter().map(
        |(peer, appointments, due)| json!({"id": peer.to_string(), "appointments": appointments, "due": due}),
    );
    let wanted = engine.factories().any(|factory| factory.is_bound() && is_ours(&factory));
    Towers { watched, ready, wanted, watches: watches.collect() }
}

impl Towers {
    /// Of `factory-status`.
    pub fn add(self, answer: &mut Value) {
        answer["towers"] = self.watched.into();
        answer["watches_for"] = self.watches.into();
    }

    /// That nobody watches who should.
    pub fn warning(&self, state: &State) -> Option<Warning> {
        let towers = &state.config.towers;
        let away = towers.iter().filter(|tower| !self.ready.contains(tower)).count();
        (away > 0 && self.wanted).then(|| {
            Warning::new(
                "tower_away",
                format!("{away} of {} towers have not said that they watch for this node", towers.len()),
                "connect to them, and ask whether they name this node (factory-watch-for); what they had before they \
                 still have",
            )
        })
    }
}
