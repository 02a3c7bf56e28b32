//! Applying a step: memory changes, nonces are consumed, effects come out.

use crate::engine::Engine;
use std::collections::BTreeSet;

use crate::io::{Effect, Level, StaleStep};
use crate::memory::Volatile;
use crate::memory::ceremony::LspStage;
use crate::record::event::Event;
use crate::record::factory::Factory;
use crate::record::state::State;
use crate::signing::{SignAs, SignError, SignJob};
use crate::step::Step;
use crate::tx::tree::Tree;
use crate::types::{InstanceId, NodeId};
use crate::wire::message::{Message, Propose};

impl Engine {
    /// Takes a step whose events are stored, and returns what is to be done now.
    ///
    /// # Errors
    /// When another step was applied since this one was made. Nothing has changed then: whoever handles and
    /// applies in turn never sees it.
    pub fn apply(&mut self, step: Step) -> Result<Vec<Effect>, StaleStep> {
        let Step { generation, events, volatile, mut effects, .. } = step;
        if generation != self.generation {
            return Err(StaleStep { made_at: generation, applied: self.generation });
        }
        self.next_generation();
        let mut trees = std::collections::BTreeMap::new();
        for change in &volatile {
            if let Volatile::Tree(instance, tree) = change {
                trees.insert(*instance, tree.clone());
            }
        }
        let mut written = BTreeSet::new();
        for (instance, events) in events {
            // One record each.
            self.keeping.add_records(instance, 1);
            written.insert(instance);
            for event in events {
                self.apply_event(instance, &event, &trees, &mut effects);
            }
        }
        for change in volatile {
            self.apply_volatile(change, &mut effects);
        }
        self.show_states(&mut effects);
        if self.towers.ready().next().is_some() {
            effects.extend(written.iter().map(|instance| Effect::Appoint { instance: *instance }));
        }
        Ok(self.hold_back(effects, &written))
    }

    fn apply_event(
        &mut self,
        instance: InstanceId,
        event: &Event,
        trees: &std::collections::BTreeMap<InstanceId, std::sync::Arc<Tree>>,
        effects: &mut Vec<Effect>,
    ) {
        self.ledger.record(event.ledger());
        self.changed.insert(instance);
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
            self.closes.forget(instance);
            // Its records go: another of its id would be counted, as it is stored, from the first (S39).
            self.keeping.forget(instance);
        }
    }

    fn apply_volatile(&mut self, change: Volatile, effects: &mut Vec<Effect>) {
        match change {
            Volatile::PeerUp(peer, channels) => {
                if channels {
                    self.friends.insert(peer);
                }
                self.peers.insert(peer);
                self.open_since.get_or_insert(self.tip.map_or(0, |(height, _)| height));
            }
            Volatile::PeerDown(peer) => {
                self.peers.remove(&peer);
                self.friends.remove(&peer);
                self.keeping.gone(peer, effects);
                self.towers.gone(peer);
            }
            Volatile::Tip(height, hash) => self.tip = Some((height, hash)),
            Volatile::ReorgTip(height) => {
                // The hash of the common block is that of the next block's parent: the chain
                // follower knows it, the engine needs only the height.
                if let Some((tip, _)) = &mut self.tip {
                    *tip = height.min(*tip);
                }
            }
            Volatile::StartLsp(instance, ceremony) => {
                self.lsp.insert(instance, ceremony);
            }
            Volatile::StartClient(instance, ceremony) => {
                self.client.insert(instance, ceremony);
            }
            Volatile::End(instance) => {
                self.lsp.remove(&instance);
                self.client.remove(&instance);
            }
            // A step may end the ceremony that it also changes.
            Volatile::Lsp(instance, change) => {
                if let Some(ceremony) = self.lsp.get_mut(&instance) {
                    ceremony.apply(change);
                }
            }
            Volatile::Client(instance, change) => {
                if let Some(ceremony) = self.client.get_mut(&instance) {
                    ceremony.apply(change);
                }
            }
            Volatile::Sign(instance, job) => self.sign(instance, *job, effects),
            Volatile::Tree(..) => {}
            Volatile::Sale(instance, coin, change) => {
                self.apply_volatile_sale(instance, coin, change, effects);
            }
            Volatile::Balances(list) => self.balances.take(&list),
            Volatile::Leaving(change) => self.leaving.apply(change),
            Volatile::Close(change) => self.apply_volatile_close(change, effects),
            Volatile::Move(change) => self.moving.apply(change),
            Volatile::Climbing(change) => self.climbing.apply(change),
            Volatile::Fees(change) => self.fees.apply(change),
            Volatile::Reclaim(change) => self.reclaims.apply(change),
            Volatile::Keeping(change) => self.keeping.apply(change),
            Volatile::Towers(change) => self.towers.apply(change),
            Volatile::Watching(change) => self.watching.apply(change),
            Volatile::NotOpened(instance, client, height) => {
                self.not_opened.insert((instance, client), height);
            }
            Volatile::Offence(peer, now) => self.offences.note(peer, now),
            Volatile::Forgive(peer) => self.offences.forgive(peer),
        }
    }

    /// Makes this node's partial signatures. Their ledger entries are durable by now (S8, S10).
    fn sign(&mut self, instance: InstanceId, job: SignJob<Propose>, effects: &mut Vec<Effect>) {
        let SignJob { transcript, role, deadline } = job;
        let Some(factory) = self.factories.get(&instance) else { return };
        match role {
            SignAs::Lsp(opened) => {
                let key = self.factory_key(instance, factory.current.number);
                let Some(ceremony) = self.lsp.get_mut(&instance) else { return };
                ceremony.stage = LspStage::Signing;
                ceremony.deadline = deadline;
                // Otherwise the phase's deadline ends the attempt; its retry has fresh nonces.
                let signed = ceremony.signing.sign(opened, transcript, &key);
                effects.extend(as_lsp(instance, "", signed));
            }
            SignAs::Member { plan, request } => {
                let (lsp, attempt) = (factory.lsp(), factory.current.number);
                let Some(salt) = self.client.get(&instance).map(|ceremony| ceremony.salt) else { return };
                let key = self.client_key(instance, attempt, &salt);
                let Some(ceremony) = self.client.get_mut(&instance) else { return };
                ceremony.deadline = deadline;
                let signed = ceremony.signing.sign(&plan, request, transcript, &key);
                effects.push(as_member(instance, "", lsp, signed));
            }
        }
    }

    /// One line and one notification per transition.
    fn show_states(&mut self, effects: &mut Vec<Effect>) {
        // Without a height a factory's state isn't known: after a restart it would seem to wait for its funding.
        let Some((height, _)) = self.tip else { return };
        let changed = std::mem::take(&mut self.changed);
        // A state follows from the factory and the height: most steps change neither of most factories.
        let instances: Vec<InstanceId> = match self.shown_at.replace(height) == Some(height) {
            true => changed.into_iter().collect(),
            false => self.factories.keys().copied().collect(),
        };
        for instance in instances {
            let Some(factory) = self.factories.get(&instance) else { continue };
            let new = factory.state(height);
            let old = self.shown.insert(instance, new);
            if old != Some(new) {
                effects.push(state_changed(instance, old, new, factory.failure()));
                effects.push(Effect::StateChanged { instance, old, new });
            }
        }
        // Every factory that is there was shown: if there are no more, none is gone.
        if self.shown.len() > self.factories.len() {
            self.shown.retain(|instance, _| self.factories.contains_key(instance));
        }
    }
}

/// What is to be done once L has signed `what` (" of a sale"), or could not.
pub(super) fn as_lsp(instance: InstanceId, what: &str, signed: Result<(), SignError>) -> Option<Effect> {
    let text = |error| format!("{instance}: our own signature{what} failed: {error}");
    signed.err().map(|error| Effect::Log { level: Level::Broken, text: text(error) })
}

/// What is to be done once a member has signed `what` (" a sale") for `lsp`, or could not.
pub(super) fn as_member<A: Into<Message>>(
    instance: InstanceId,
    what: &str,
    lsp: NodeId,
    signed: Result<A, SignError>,
) -> Effect {
    match signed {
        Ok(answer) => Effect::Send { peer: lsp, message: answer.into() },
        Err(error) => {
            let text = format!("{instance}: could not sign{what}: {error}");
            Effect::Log { level: Level::Unusual, text }
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
    use bitcoin::BlockHash;
    use bitcoin::hashes::Hash;

    use super::*;
    use crate::io::{Answer, Input, Keeper};
    use crate::memory::keeping::VolatileKeeping;
    use crate::policy::Config;
    use crate::record::event;
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
        let (answer, volatile, effects) = (Ok(Answer::Done), vec![], vec![]);
        let step = Step { generation: engine.generation, events, answer, volatile, effects };
        let effects = engine.apply(step).unwrap();
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

    /// S14: what a step follows from may be gone once another was applied.
    #[test]
    fn a_stale_step_changes_nothing() {
        struct Zeros;
        impl crate::io::Entropy for Zeros {
            fn bytes32(&mut self) -> [u8; 32] {
                [0; 32]
            }
        }
        let mut engine = Engine::new(NodeId([3; 33]), MasterSecret::new([7; 32]), Config::default());
        let peer = NodeId([2; 33]);
        let up = engine.handle(Input::PeerUp { peer, channels: true }, 0, 0, &mut Zeros);
        let down = engine.handle(Input::PeerDown { peer }, 0, 0, &mut Zeros);
        engine.apply(up).unwrap();
        let stale = engine.apply(down).unwrap_err();
        assert_eq!(stale, StaleStep { made_at: 0, applied: 1 });
        assert!(engine.peers().eq([peer]));
        let again = engine.handle(Input::PeerDown { peer }, 0, 0, &mut Zeros);
        // Neither does one that was made before other records were loaded.
        engine.load(instance(1), [invited(1).1]).unwrap();
        assert!(engine.apply(again).is_err());
    }

    /// S39: what was forgotten and comes again is counted from its first record, as a copy of it is.
    #[test]
    fn what_was_forgotten_is_counted_anew() {
        let mut engine = Engine::new(NodeId([3; 33]), MasterSecret::new([7; 32]), Config::default());
        let id = instance(1);
        engine.tip = Some((800, BlockHash::all_zeros()));
        shown(&mut engine, vec![invited(1), (id, vec![event::Accepted { from: None }.into()])]);
        assert_eq!(engine.keeping.records(id), 2);
        engine.keeping.apply(VolatileKeeping::Kept(Keeper::File, vec![(id, 2)]));
        shown(&mut engine, vec![forgotten(1)]);
        shown(&mut engine, vec![invited(1)]);
        assert_eq!(engine.keeping.records(id), 1);
        assert!(engine.keeping.keepers(id, 1).is_empty(), "that was a copy of another");
    }

    #[test]
    fn each_state_is_shown_once_in_the_order_of_factories() {
        let mut engine = Engine::new(NodeId([3; 33]), MasterSecret::new([7; 32]), Config::default());
        assert_eq!(shown(&mut engine, vec![invited(1)]), [], "no block is known");
        engine.tip = Some((800, BlockHash::all_zeros()));
        let all = shown(&mut engine, [3, 2, 260].map(invited).to_vec());
        assert_eq!(all, [1, 2, 3, 260].map(|number| (number, None, State::Invited)));
        assert_eq!(shown(&mut engine, vec![]), []);
        // One of them is over, and another is no longer an invitation.
        let accepted = (instance(3), vec![event::Accepted { from: None }.into()]);
        let changed = shown(&mut engine, vec![forgotten(2), accepted]);
        assert_eq!(changed, [(3, Some(State::Invited), State::Joining)]);
        // What was forgotten is new when it comes again, also beside one that goes in the same step.
        assert_eq!(shown(&mut engine, vec![forgotten(1), invited(2)]), [(2, None, State::Invited)]);
        assert_eq!(shown(&mut engine, vec![invited(1)]), [(1, None, State::Invited)]);
        assert_eq!(shown(&mut engine, vec![forgotten(1), invited(1)]), []);
        assert!(engine.shown.keys().eq(engine.factories.keys()));
    }
}
