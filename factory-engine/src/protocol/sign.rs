//! Applying a step: memory changes, nonces are consumed, effects come out.

use crate::tx::tree::Tree;
use crate::types::InstanceId;
use crate::wire::message::Propose;

use super::Engine;
use super::ceremony::{Change, Phase};
use super::event::Event;
use super::factory::Factory;
use super::io::{Effect, Level, Step};
use super::signing::{SignAs, SignJob};
use super::state::State;

impl Engine {
    /// Takes a step whose events are stored, and returns what is to be done now.
    pub fn apply(&mut self, step: Step) -> Vec<Effect> {
        let Step { events, changes, mut effects, .. } = step;
        let mut trees = std::collections::BTreeMap::new();
        for change in &changes {
            if let Change::Tree(instance, tree) = change {
                trees.insert(*instance, tree.clone());
            }
        }
        for (instance, events) in events {
            for event in events {
                self.apply_event(instance, &event, &trees, &mut effects);
            }
        }
        for change in changes {
            self.apply_change(change, &mut effects);
        }
        self.show_states(&mut effects);
        effects
    }

    fn apply_event(
        &mut self,
        instance: InstanceId,
        event: &Event,
        trees: &std::collections::BTreeMap<InstanceId, std::sync::Arc<Tree>>,
        effects: &mut Vec<Effect>,
    ) {
        self.ledger.record(event.ledger());
        let result = match self.factories.get_mut(&instance) {
            None => Factory::begin(instance, event).map(|factory| {
                self.factories.insert(instance, factory);
            }),
            Some(factory) => factory.apply(event, trees.get(&instance).cloned()),
        };
        // `handle` made the event from the very state that it is applied to.
        if let Err(error) = result {
            effects.push(Effect::Log { level: Level::Broken, text: format!("{instance}: {error}") });
        }
        if matches!(event, Event::Forgotten(_)) {
            self.factories.remove(&instance);
            self.lsp.remove(&instance);
            self.client.remove(&instance);
        }
    }

    fn apply_change(&mut self, change: Change, effects: &mut Vec<Effect>) {
        match change {
            Change::PeerUp(peer) => {
                self.peers.insert(peer);
            }
            Change::PeerDown(peer) => {
                self.peers.remove(&peer);
            }
            Change::Tip(height, hash) => self.tip = Some((height, hash)),
            Change::ReorgTip(height) => {
                // The hash of the common block is that of the next block's parent: the chain
                // follower knows it, the engine needs only the height.
                if let Some((tip, _)) = &mut self.tip {
                    *tip = height.min(*tip);
                }
            }
            Change::StartLsp(instance, ceremony) => {
                self.lsp.insert(instance, ceremony);
            }
            Change::StartClient(instance, ceremony) => {
                self.client.insert(instance, ceremony);
            }
            Change::End(instance) => {
                self.lsp.remove(&instance);
                self.client.remove(&instance);
            }
            Change::Extend(instance, deadline) => {
                if let Some(ceremony) = self.client.get_mut(&instance) {
                    ceremony.deadline = deadline;
                }
            }
            Change::Hold(instance, propose) => {
                if let Some(ceremony) = self.client.get_mut(&instance) {
                    ceremony.held = Some(propose);
                }
            }
            Change::Open(instance, open) => {
                if let Some(ceremony) = self.client.get_mut(&instance) {
                    ceremony.open = open;
                }
            }
            Change::Sign(instance, job) => self.sign(instance, *job, effects),
            Change::Tree(..) => {}
            Change::Sale(instance, coin, change) => self.apply_sale_change(instance, coin, change, effects),
            Change::Fees(change) => self.fees.apply(change),
            lsp => self.apply_lsp_change(lsp),
        }
    }

    fn apply_lsp_change(&mut self, change: Change) {
        let instance = match &change {
            Change::Phase(instance, ..)
            | Change::Joined(instance, ..)
            | Change::FundingKey(instance, ..)
            | Change::Unjoined(instance, ..)
            | Change::Expecting(instance, ..)
            | Change::Script(instance, ..)
            | Change::Funding(instance, ..)
            | Change::Partials(instance, ..)
            | Change::Stored(instance, ..) => *instance,
            _ => return,
        };
        // A step may end the ceremony that it also changes.
        let Some(ceremony) = self.lsp.get_mut(&instance) else {
            return;
        };
        match change {
            Change::Phase(_, phase, deadline) => {
                ceremony.phase = phase;
                ceremony.deadline = deadline;
            }
            Change::Joined(_, client, join, nonces) => {
                ceremony.keys.insert(join.factory_key.x_only_public_key().0.serialize());
                ceremony.signing.join(client, nonces);
                ceremony.joins.insert(client, join);
            }
            Change::FundingKey(_, key) => ceremony.funding_key = Some(key),
            Change::Unjoined(_, client) => {
                ceremony.signing.unjoin(client);
                if let Some(join) = ceremony.joins.remove(&client) {
                    ceremony.keys.remove(&join.factory_key.x_only_public_key().0.serialize());
                }
            }
            Change::Expecting(_, client) => {
                ceremony.expecting.insert(client);
            }
            Change::Script(_, client, script) => {
                ceremony.scripts.insert(client, script);
            }
            Change::Funding(_, funding) => ceremony.funding = Some(funding),
            Change::Partials(_, client, partials) => ceremony.signing.signed(client, partials),
            Change::Stored(_, client) => {
                ceremony.stored.insert(client);
            }
            _ => {}
        }
    }

    /// Makes this node's partial signatures. Their ledger entries are durable by now (S8, S10).
    fn sign(&mut self, instance: InstanceId, job: SignJob<Propose>, effects: &mut Vec<Effect>) {
        let SignJob { transcript, role, deadline } = job;
        let Some(factory) = self.factories.get(&instance) else { return };
        match role {
            SignAs::Lsp(opened) => {
                let key = self.factory_key(instance, factory.attempt);
                let Some(ceremony) = self.lsp.get_mut(&instance) else { return };
                ceremony.phase = Phase::Signing;
                ceremony.deadline = deadline;
                if let Err(error) = ceremony.signing.sign(opened, transcript, &key) {
                    // The phase's deadline ends the attempt; its retry has fresh nonces.
                    let text = format!("{instance}: our own signature failed: {error}");
                    effects.push(Effect::Log { level: Level::Broken, text });
                }
            }
            SignAs::Member { plan, request } => {
                let (lsp, attempt) = (factory.lsp(), factory.attempt);
                let Some(salt) = self.client.get(&instance).map(|ceremony| ceremony.salt) else { return };
                let key = self.client_key(instance, attempt, &salt);
                let Some(ceremony) = self.client.get_mut(&instance) else { return };
                ceremony.deadline = deadline;
                effects.push(match ceremony.signing.sign(&plan, request, transcript, &key) {
                    Ok(answer) => Effect::Send { peer: lsp, message: answer.into() },
                    Err(error) => {
                        let text = format!("{instance}: could not sign: {error}");
                        Effect::Log { level: Level::Unusual, text }
                    }
                });
            }
        }
    }

    /// One line and one notification per transition.
    fn show_states(&mut self, effects: &mut Vec<Effect>) {
        let height = self.tip.map_or(0, |(height, _)| height);
        for (instance, factory) in &self.factories {
            let new = factory.state(height);
            let old = self.shown.insert(*instance, new);
            if old != Some(new) {
                effects.push(state_changed(*instance, old, new, factory.failure.as_deref()));
                effects.push(Effect::StateChanged { instance: *instance, old, new });
            }
        }
        // Every factory that is there was shown: if there are no more, none is gone.
        if self.shown.len() > self.factories.len() {
            self.shown.retain(|instance, _| self.factories.contains_key(instance));
        }
    }
}

fn state_changed(instance: InstanceId, old: Option<State>, new: State, failure: Option<&str>) -> Effect {
    let from = old.map_or_else(|| "new".to_owned(), |old| old.to_string());
    let why = failure.map_or_else(String::new, |failure| format!(": {failure}"));
    Effect::Log { level: Level::Info, text: format!("{instance}: {from} -> {new}{why}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::io::Answer;
    use crate::protocol::{Config, event};
    use crate::terms::{Kind, Leaf, Shape, Terms};
    use crate::tx::musig::MasterSecret;
    use crate::types::{Amount, NodeId};
    use crate::wire::message::PROTOCOL_ID;

    fn instance(number: u16) -> InstanceId {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&number.to_be_bytes());
        InstanceId(bytes)
    }

    fn invited(number: u16) -> (InstanceId, Vec<Event>) {
        let leaf = Leaf { kind: Kind::Static, sub_factories: 1, clients_per_sub: 2 };
        let terms = Terms {
            instance: instance(number),
            lsp: NodeId([2; 33]),
            shape: Shape { levels: vec![], leaf },
            capacities: vec![Amount::from_sat(100_000); 2],
            stock: Amount::ZERO,
            push_msat: 1_000,
            state_step: 144,
            state_count: 4,
            stock_csv: 720,
            tree_feerate: 1_000,
            timeout_height: 5_000,
            dying_blocks: 2_016,
            confirm_blocks: 6,
            margin_blocks: 12,
            funding_confirmations: 3,
        };
        let (attempt, client, price_msat, height, protocol) = (1, 1, 0, 800, PROTOCOL_ID);
        let event = event::Invited { attempt, terms, client, price_msat, height, protocol };
        (instance(number), vec![event.into()])
    }

    fn forgotten(number: u16) -> (InstanceId, Vec<Event>) {
        (instance(number), vec![event::Forgotten { reason: "over".to_owned() }.into()])
    }

    /// What a step of these events shows, each line with its notification.
    fn shown(engine: &mut Engine, events: Vec<(InstanceId, Vec<Event>)>) -> Vec<(u16, Option<State>, State)> {
        let step = Step { events, answer: Ok(Answer::Done), changes: vec![], effects: vec![] };
        let effects = engine.apply(step);
        let pairs = effects.chunks_exact(2).map(|pair| match pair {
            [Effect::Log { text, .. }, Effect::StateChanged { instance, old, new }] => {
                assert!(text.starts_with(&instance.to_string()), "{text}");
                (u16::from_be_bytes([instance.0[0], instance.0[1]]), *old, *new)
            }
            other => panic!("{other:?}"),
        });
        assert_eq!(effects.len() % 2, 0, "{effects:?}");
        pairs.collect()
    }

    #[test]
    fn each_state_is_shown_once_in_the_order_of_factories() {
        let mut engine = Engine::new(NodeId([3; 33]), MasterSecret::new([7; 32]), Config::default());
        let all = shown(&mut engine, [3, 1, 2, 260].map(invited).to_vec());
        assert_eq!(all, [1, 2, 3, 260].map(|number| (number, None, State::Invited)));
        assert_eq!(shown(&mut engine, vec![]), []);
        // One of them is over, and another is no longer an invitation.
        let accepted = (instance(3), vec![event::Accepted {}.into()]);
        let changed = shown(&mut engine, vec![forgotten(2), accepted]);
        assert_eq!(changed, [(3, Some(State::Invited), State::Joining)]);
        // What was forgotten is new when it comes again, also beside one that goes in the same step.
        assert_eq!(shown(&mut engine, vec![forgotten(1), invited(2)]), [(2, None, State::Invited)]);
        assert_eq!(shown(&mut engine, vec![invited(1)]), [(1, None, State::Invited)]);
        assert_eq!(shown(&mut engine, vec![forgotten(1), invited(1)]), []);
        assert!(engine.shown.keys().eq(engine.factories.keys()));
    }
}
